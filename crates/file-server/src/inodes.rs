//! The table of inodes that the guest knows, and how often it has looked each up.
//!
//! The guest forgets inodes explicitly (FORGET). The number of inodes is bounded, because each is a descriptor and keeps
//! an inode of the host in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::inode::{FileKey, FoundFile, Inode};

/// The number of the root directory (`FUSE_ROOT_ID`), which is not in the table.
pub const ROOT: u64 = 1;

#[derive(Debug)]
struct Known {
    inode: Arc<Inode>,
    /// How often the guest was told this inode and has not forgotten it.
    lookups: u64,
}

#[derive(Debug)]
struct Table {
    by_number: HashMap<u64, Known>,
    numbers: HashMap<FileKey, u64>,
    /// Numbers are not used again, so a late request cannot reach another file.
    next_number: u64,
}

/// See the module's description.
#[derive(Debug)]
pub struct Inodes {
    table: Mutex<Table>,
    limit: usize,
}

impl Inodes {
    pub fn new(limit: usize) -> Self {
        Self {
            table: Mutex::new(Table {
                by_number: HashMap::new(),
                numbers: HashMap::new(),
                next_number: ROOT + 1,
            }),
            limit,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inode of a file that the guest is told; counts one lookup.
    pub fn look_up(&self, found: FoundFile) -> Result<Arc<Inode>, Errno> {
        let mut table = self.table();
        let table = &mut *table;
        if let Some(number) = table.numbers.get(&found.key)
            && let Some(known) = table.by_number.get_mut(number)
        {
            known.lookups = known.lookups.saturating_add(1);
            return Ok(known.inode.clone());
        }
        if table.by_number.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        let number = table.next_number;
        table.next_number = number.checked_add(1).ok_or(Errno::NFILE)?;
        let key = found.key;
        let inode = Arc::new(Inode::new(number, found));
        let known = Known {
            inode: inode.clone(),
            lookups: 1,
        };
        table.by_number.insert(number, known);
        table.numbers.insert(key, number);
        Ok(inode)
    }

    /// The inode with this number, unless the guest has forgotten it.
    pub fn get(&self, number: u64) -> Result<Arc<Inode>, Errno> {
        let table = self.table();
        table
            .by_number
            .get(&number)
            .map(|known| known.inode.clone())
            .ok_or(Errno::STALE)
    }

    /// Forgets lookups, at most as many as were counted.
    pub fn forget(&self, number: u64, count: u64) {
        let mut table = self.table();
        let Some(known) = table.by_number.get_mut(&number) else {
            return;
        };
        known.lookups = known.lookups.saturating_sub(count);
        if known.lookups == 0 {
            let key = known.inode.key;
            let forgotten = table.by_number.remove(&number);
            table.numbers.remove(&key);
            // Closing a descriptor may take long.
            drop(table);
            drop(forgotten);
        }
    }

    /// Forgets all inodes.
    pub fn clear(&self) {
        let mut table = self.table();
        table.numbers.clear();
        let forgotten = std::mem::take(&mut table.by_number);
        drop(table);
        drop(forgotten);
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.table().by_number.len()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::protocol::name::Name;
    use crate::share::{Share, Shares};

    fn share_of(directory: &Path) -> Arc<Share> {
        let shares = Shares::default();
        shares
            .add("data", File::open(directory).unwrap().into(), false)
            .unwrap();
        shares.find(Name::new(c"data").unwrap()).unwrap()
    }

    fn find(share: &Arc<Share>, path: &Path) -> FoundFile {
        FoundFile::of(File::open(path).unwrap().into(), share.clone()).unwrap()
    }

    #[test]
    fn a_file_has_one_number_until_all_its_lookups_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&a, "").unwrap();
        fs::hard_link(&a, &b).unwrap();
        let share = share_of(directory.path());
        let inodes = Inodes::new(10);
        let first = inodes.look_up(find(&share, &a)).unwrap().number;
        assert_eq!(inodes.look_up(find(&share, &b)).unwrap().number, first);
        inodes.forget(first, 1);
        assert!(inodes.get(first).is_ok());
        inodes.forget(first, 1);
        assert_eq!(inodes.get(first).unwrap_err(), Errno::STALE);
        let again = inodes.look_up(find(&share, &a)).unwrap().number;
        assert_ne!(again, first);
    }

    #[test]
    fn forgetting_more_than_was_looked_up_forgets_once() {
        let directory = tempfile::tempdir().unwrap();
        let share = share_of(directory.path());
        let inodes = Inodes::new(10);
        let number = inodes.look_up(find(&share, directory.path())).unwrap().number;
        inodes.forget(number, u64::MAX);
        inodes.forget(number, u64::MAX);
        inodes.forget(12345, 1);
        assert_eq!(inodes.count(), 0);
        assert!(inodes.look_up(find(&share, directory.path())).is_ok());
    }

    #[test]
    fn the_number_of_inodes_is_bounded_and_known_ones_are_found_at_the_bound() {
        let directory = tempfile::tempdir().unwrap();
        let share = share_of(directory.path());
        let path = |number: u32| directory.path().join(number.to_string());
        let inodes = Inodes::new(3);
        for number in 0..4 {
            fs::write(path(number), "").unwrap();
            let result = inodes.look_up(find(&share, &path(number)));
            assert_eq!(result.is_ok(), number < 3);
        }
        let first = inodes.look_up(find(&share, &path(0))).unwrap();
        inodes.forget(first.number, 2);
        assert!(inodes.look_up(find(&share, &path(3))).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        LookUp(usize),
        Forget(usize, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let count = prop_oneof![0..4u64, Just(u64::MAX)];
        let step = prop_oneof![
            (0..4usize).prop_map(Step::LookUp),
            (0..4usize, count).prop_map(|(file, count)| Step::Forget(file, count)),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn an_inode_is_known_exactly_while_lookups_are_not_forgotten(steps in steps()) {
            let directory = tempfile::tempdir().unwrap();
            let share = share_of(directory.path());
            let paths: Vec<_> = (0..4).map(|file| directory.path().join(file.to_string())).collect();
            for path in &paths {
                fs::write(path, "").unwrap();
            }
            let inodes = Inodes::new(3);
            // Number and lookups of each file, as the guest counts them.
            let mut known = [None::<(u64, u64)>; 4];
            for step in steps {
                match step {
                    Step::LookUp(file) => {
                        let has_room = known[file].is_some() || known.iter().flatten().count() < 3;
                        let result = inodes.look_up(find(&share, &paths[file]));
                        prop_assert_eq!(result.is_ok(), has_room);
                        if let Ok(inode) = result {
                            let (number, lookups) = known[file].unwrap_or((inode.number, 0));
                            prop_assert_eq!(inode.number, number);
                            known[file] = Some((number, lookups + 1));
                        }
                    }
                    Step::Forget(file, count) => {
                        if let Some((number, lookups)) = known[file] {
                            inodes.forget(number, count);
                            let left = lookups.saturating_sub(count);
                            known[file] = (left > 0).then_some((number, left));
                            prop_assert_eq!(inodes.get(number).is_ok(), left > 0);
                        }
                    }
                }
                prop_assert_eq!(inodes.count(), known.iter().flatten().count());
            }
        }
    }
}
