//! Power cuts for tests: records the store's operations on its disk, and derives which state they may leave.
//!
//! The model is harsher than any file system in use: any combination of a directory's changes since its last sync may
//! survive, and a file that was not synced is torn.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use microkube_base::lock::lock;

/// A file or directory, independent of its names.
pub(crate) type Node = usize;

/// Records the operations of a store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    turn: Mutex<()>,
    record: Mutex<Record>,
}

/// The operations so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Record {
    /// The content of files; `None` for directories. The first one, which is not listed, is the root.
    nodes: BTreeMap<Node, Option<Vec<u8>>>,
    /// Each directory's entries as processes see them.
    entries: BTreeMap<Node, BTreeMap<String, Node>>,
    pub log: Vec<Operation>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Put {
        directory: Node,
        name: String,
        node: Node,
    },
    Remove {
        directory: Node,
        name: String,
    },
    /// Sync of a file or a directory.
    Sync {
        node: Node,
    },
    /// A write of this object was reported as done.
    Answered {
        name: String,
        version: u64,
    },
}

const ROOT: Node = 0;

/// The error of a thread that is dead.
pub(crate) const KILLED: &str = "killed";

thread_local! {
    /// How many more operations this thread survives.
    static LIFE: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Runs a write and kills it before this operation. No later operation takes place.
pub(crate) fn killed_before<T>(operation: Option<u32>, write: impl FnOnce() -> T) -> T {
    LIFE.set(operation);
    let result = write();
    LIFE.set(None);
    result
}

impl Recorder {
    pub(crate) fn root(&self) -> Node {
        ROOT
    }

    /// Keeps other threads from operating until the result is dropped. Fails if this thread is dead.
    pub(crate) fn turn(&self) -> io::Result<MutexGuard<'_, ()>> {
        match LIFE.get() {
            Some(0) => return Err(io::Error::other(KILLED)),
            Some(left) => LIFE.set(Some(left - 1)),
            None => {}
        }
        Ok(lock(&self.0.turn))
    }

    pub(crate) fn record(&self) -> Record {
        lock(&self.0.record).clone()
    }

    pub(crate) fn child(&self, directory: Node, name: &str) -> Node {
        let record = lock(&self.0.record);
        record.entries[&directory][name]
    }

    pub(crate) fn made_directory(&self, directory: Node, name: &str) {
        let mut record = lock(&self.0.record);
        let node = record.new_node(None);
        record.entries.insert(node, BTreeMap::new());
        record.put(directory, name, node);
    }

    pub(crate) fn wrote(&self, content: &[u8]) -> Node {
        lock(&self.0.record).new_node(Some(content.to_owned()))
    }

    pub(crate) fn linked(&self, directory: Node, name: &str, node: Node) {
        lock(&self.0.record).put(directory, name, node);
    }

    pub(crate) fn removed(&self, directory: Node, name: &str) {
        let mut record = lock(&self.0.record);
        record.entries.get_mut(&directory).unwrap().remove(name).unwrap();
        record.log.push(Operation::Remove {
            directory,
            name: name.to_owned(),
        });
    }

    pub(crate) fn synced(&self, node: Node) {
        lock(&self.0.record).log.push(Operation::Sync { node });
    }

    pub(crate) fn answered(&self, name: &str, version: u64) {
        lock(&self.0.record).log.push(Operation::Answered {
            name: name.to_owned(),
            version,
        });
    }
}

impl Record {
    fn new_node(&mut self, content: Option<Vec<u8>>) -> Node {
        let node = self.nodes.len() + 1;
        self.nodes.insert(node, content);
        node
    }

    fn put(&mut self, directory: Node, name: &str, node: Node) {
        let entries = self.entries.entry(directory).or_default();
        entries.insert(name.to_owned(), node);
        self.log.push(Operation::Put {
            directory,
            name: name.to_owned(),
            node,
        });
    }

    /// The files that were given names before a moment, with their content.
    pub(crate) fn named_before(&self, moment: usize) -> Vec<(&str, &[u8])> {
        let named = self.log[..moment].iter().filter_map(|operation| match operation {
            Operation::Put { name, node, .. } => Some((name.as_str(), self.nodes[node].as_deref()?)),
            _ => None,
        });
        named.collect()
    }

    /// Writes to `target` the files that are left if the power is cut before operation number `moment`. `survives`
    /// decides for each change that is not durable.
    pub(crate) fn cut(&self, moment: usize, target: &Path, mut survives: impl FnMut() -> bool) {
        let mut last_sync = BTreeMap::new();
        for (index, operation) in self.log[..moment].iter().enumerate() {
            if let Operation::Sync { node } = operation {
                last_sync.insert(*node, index);
            }
        }
        let mut left: BTreeMap<Node, BTreeMap<&str, Node>> = BTreeMap::new();
        for (index, operation) in self.log[..moment].iter().enumerate() {
            let (Operation::Put { directory, .. } | Operation::Remove { directory, .. }) = operation else {
                continue;
            };
            if last_sync.get(directory).is_none_or(|synced| index > *synced) && !survives() {
                continue;
            }
            let entries = left.entry(*directory).or_default();
            match operation {
                Operation::Put { name, node, .. } => entries.insert(name, *node),
                Operation::Remove { name, .. } => entries.remove(name.as_str()),
                _ => None,
            };
        }
        self.write(ROOT, &left, &last_sync, target);
    }

    fn write(
        &self,
        directory: Node,
        left: &BTreeMap<Node, BTreeMap<&str, Node>>,
        last_sync: &BTreeMap<Node, usize>,
        target: &Path,
    ) {
        for (name, node) in left.get(&directory).into_iter().flatten() {
            let path = target.join(name);
            match &self.nodes[node] {
                None => {
                    std::fs::create_dir(&path).unwrap();
                    self.write(*node, left, last_sync, &path);
                }
                Some(content) => {
                    let is_whole = last_sync.contains_key(node);
                    let content = if is_whole {
                        &content[..]
                    } else {
                        &content[..content.len() / 2]
                    };
                    std::fs::write(&path, content).unwrap();
                }
            }
        }
    }
}
