//! Address leases: one file per leased address, in a directory that all microkube processes on the host share.
//!
//! `leases/<address>` contains the UID of the Pod. A lease is written to a temporary file and linked into place, so it
//! appears complete or not at all: a process that is killed leaves either no lease or one that names its owner. Nothing
//! is synced. After a power cut no VM is running, the next sweep releases leases that lost their content, and
//! their Pods get new addresses with their next VMs.
//!
//! The directory has one format version, in the file `version`. Without that file it is version 0, whose leases have
//! the same form.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use super::cidr::Ipv4Cidr;

/// A leased address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    /// UID of the Pod; `None` if the file does not contain one, which only file-system damage can cause.
    pub pod_uid: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The UID is not valid.
    #[error("\"{0}\" cannot be a Pod's uid: it must be 1 to 63 letters, digits and dashes")]
    BadUid(String),
    /// All addresses are leased.
    #[error(
        "all {count} addresses of the Pod network {subnet} are in use; delete some Pods, or delete all Pods and set MICROKUBE_POD_CIDR to a larger network"
    )]
    Exhausted {
        /// The Pod network.
        subnet: Ipv4Cidr,
        /// How many addresses it has for Pods.
        count: u32,
    },
    /// The leases were written by a later build, in an unknown format.
    #[error(
        "{}: the leases were written by a newer microkube, in format version {found}; this one reads versions up to {FORMAT_VERSION}; use the newer microkube",
        path.display()
    )]
    Newer {
        /// The file with the version.
        path: PathBuf,
        /// The version.
        found: u64,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl LeaseError {
    /// The file or directory that the error is about, if any.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } | Self::Newer { path, .. } => Some(path),
            Self::BadUid(_) | Self::Exhausted { .. } => None,
        }
    }
}

/// The format version that is written. Earlier versions can be read.
const FORMAT_VERSION: u32 = 1;

/// A lease file contains only a UID; a larger one is damaged.
const MAX_LEASE_FILE_BYTES: u64 = 256;

/// The lease directory, locked against all other processes while this value exists. The kernel releases the lock if the
/// process dies.
#[derive(Debug)]
pub struct LeaseStore {
    root: PathBuf,
    _lock: File,
}

impl LeaseStore {
    /// Opens the store below `root`, creating it if it is missing, and waits for its lock, which is only held for a few
    /// file operations at a time.
    pub fn open(root: &Path) -> Result<Self, LeaseError> {
        for directory in [root.join("leases"), root.join("new")] {
            fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        }
        let path = root.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io_error("open", &path))?;
        lock.lock().map_err(io_error("lock", &path))?;
        if known_version(root)? < FORMAT_VERSION {
            let (new, path) = (root.join("version.new"), root.join("version"));
            fs::write(&new, FORMAT_VERSION.to_string()).map_err(io_error("write", &new))?;
            fs::rename(&new, &path).map_err(io_error("write", &path))?;
        }
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// Leases an address to the Pod: its current one, or the next free one after the last that was leased. An address
    /// is thus reused as late as possible, because neighbours may still have its old owner in their caches.
    pub fn acquire(&self, subnet: Ipv4Cidr, pod_uid: &str) -> Result<Ipv4Addr, LeaseError> {
        check_uid(pod_uid)?;
        let held = self
            .list()?
            .into_iter()
            .find(|lease| lease.pod_uid.as_deref() == Some(pod_uid));
        if let Some(lease) = held {
            if subnet.pod_index(lease.address).is_some() {
                return Ok(lease.address);
            }
            // The address belongs to a network that was configured earlier.
            self.remove(lease.address)?;
        }
        let new = self.root.join("new").join(pod_uid);
        fs::write(&new, pod_uid).map_err(io_error("write", &new))?;
        let result = self.link_next_free(subnet, &new);
        remove_if_there(&new)?;
        result
    }

    fn link_next_free(&self, subnet: Ipv4Cidr, new: &Path) -> Result<Ipv4Addr, LeaseError> {
        let count = subnet.pod_address_count();
        let cursor_path = self.root.join("last");
        // The cursor is only a hint: if it is missing or damaged, the search starts at the first address.
        let last = read_bounded(&cursor_path)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let start = last
            .and_then(|last| subnet.pod_index(last))
            .map_or(0, |index| index.wrapping_add(1) % count);
        for step in 0..count {
            let index = (u64::from(start) + u64::from(step)) % u64::from(count);
            let Some(address) = u32::try_from(index).ok().and_then(|index| subnet.pod_address(index)) else {
                continue;
            };
            let path = self.lease_path(address);
            match fs::hard_link(new, &path) {
                Ok(()) => {
                    // Write it in place instead of renaming, because a torn cursor does no harm.
                    fs::write(&cursor_path, address.to_string()).map_err(io_error("write", &cursor_path))?;
                    return Ok(address);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("create", &path)(error)),
            }
        }
        Err(LeaseError::Exhausted { subnet, count })
    }

    /// Releases the Pod's lease. Having none is not an error.
    pub fn release(&self, pod_uid: &str) -> Result<(), LeaseError> {
        check_uid(pod_uid)?;
        remove_if_there(&self.root.join("new").join(pod_uid))?;
        for lease in self.list()? {
            if lease.pod_uid.as_deref() == Some(pod_uid) {
                self.remove(lease.address)?;
            }
        }
        Ok(())
    }

    /// Releases an address, whichever Pod holds it.
    pub fn remove(&self, address: Ipv4Addr) -> Result<(), LeaseError> {
        remove_if_there(&self.lease_path(address))
    }

    /// All leases, ordered by address.
    pub fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        list(&self.root)
    }

    fn lease_path(&self, address: Ipv4Addr) -> PathBuf {
        self.root.join("leases").join(address.to_string())
    }
}

/// All leases below `root`, ordered by address, without taking the lock or creating anything.
pub fn list(root: &Path) -> Result<Vec<Lease>, LeaseError> {
    known_version(root)?;
    let directory = root.join("leases");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("list", &directory)(error)),
    };
    let mut leases = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", &directory))?;
        // Ignore files that are not named like an address.
        let Some(address) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<Ipv4Addr>().ok())
        else {
            continue;
        };
        match read_bounded(&entry.path()) {
            Ok(text) => {
                let pod_uid = Some(text.trim().to_owned()).filter(|uid| check_uid(uid).is_ok());
                leases.push(Lease { address, pod_uid });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::InvalidData => leases.push(Lease { address, pod_uid: None }),
            Err(error) => return Err(io_error("read", &entry.path())(error)),
        }
    }
    leases.sort_by_key(|lease| lease.address);
    Ok(leases)
}

/// The format version of the leases; 0 if there is none, as in early builds, or if a power cut has torn the file.
fn known_version(root: &Path) -> Result<u32, LeaseError> {
    let path = root.join("version");
    let text = match read_bounded(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => String::new(),
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    let found = text.trim().parse::<u64>().unwrap_or(0);
    match u32::try_from(found) {
        Ok(version) if version <= FORMAT_VERSION => Ok(version),
        _ => Err(LeaseError::Newer { path, found }),
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_LEASE_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn remove_if_there(path: &Path) -> Result<(), LeaseError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Whether this is a valid Pod UID. It becomes a file name, so only the characters of a UUID (or of a static Pod's
/// hash) are allowed.
pub fn is_pod_uid(uid: &str) -> bool {
    (1..=63).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns an error if the UID is not valid.
pub fn check_uid(uid: &str) -> Result<(), LeaseError> {
    if is_pod_uid(uid) {
        Ok(())
    } else {
        Err(LeaseError::BadUid(uid.to_owned()))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LeaseError {
    let path = path.to_owned();
    move |source| LeaseError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn subnet(text: &str) -> Ipv4Cidr {
        text.parse().unwrap()
    }

    fn acquire(root: &Path, cidr: &str, uid: &str) -> Result<Ipv4Addr, LeaseError> {
        LeaseStore::open(root)?.acquire(subnet(cidr), uid)
    }

    #[test]
    fn addresses_are_not_reused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let first = acquire(root.path(), "10.1.0.0/24", "a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 1, 0, 2));
        LeaseStore::open(root.path()).unwrap().release("a").unwrap();
        assert_eq!(
            acquire(root.path(), "10.1.0.0/24", "b").unwrap(),
            Ipv4Addr::new(10, 1, 0, 3)
        );
    }

    #[test]
    fn a_pod_keeps_its_address_and_release_is_idempotent() {
        let root = tempfile::tempdir().unwrap();
        let first = acquire(root.path(), "10.1.0.0/24", "a").unwrap();
        assert_eq!(acquire(root.path(), "10.1.0.0/24", "a").unwrap(), first);
        let store = LeaseStore::open(root.path()).unwrap();
        store.release("a").unwrap();
        store.release("a").unwrap();
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(fs::read_dir(root.path().join("new")).unwrap().count(), 0);
    }

    #[test]
    fn address_exhaustion_is_reported_and_ends_with_a_release() {
        let root = tempfile::tempdir().unwrap();
        for uid in ["a", "b", "c", "d", "e"] {
            acquire(root.path(), "10.1.0.0/29", uid).unwrap();
        }
        let error = acquire(root.path(), "10.1.0.0/29", "f").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("all 5 addresses of the Pod network 10.1.0.0/29 are in use")
        );
        LeaseStore::open(root.path()).unwrap().release("c").unwrap();
        assert_eq!(
            acquire(root.path(), "10.1.0.0/29", "f").unwrap(),
            Ipv4Addr::new(10, 1, 0, 4)
        );
    }

    #[test]
    fn concurrent_pods_never_share_an_address() {
        let root = tempfile::tempdir().unwrap();
        let addresses: Vec<Ipv4Addr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let root = root.path();
                    scope.spawn(move || {
                        (0..20)
                            .map(|n| acquire(root, "10.1.0.0/24", &format!("{thread}-{n}")).unwrap())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(addresses.iter().collect::<HashSet<_>>().len(), 160);
        assert_eq!(list(root.path()).unwrap().len(), 160);
    }

    #[test]
    fn damaged_files_are_tolerated() {
        let root = tempfile::tempdir().unwrap();
        acquire(root.path(), "10.1.0.0/24", "a").unwrap();
        fs::write(root.path().join("leases/10.1.0.3"), "").unwrap();
        fs::write(root.path().join("leases/10.1.0.4"), [0xff; 9]).unwrap();
        fs::write(root.path().join("leases/10.1.0.5"), "../../x").unwrap();
        fs::write(root.path().join("leases/README"), "a").unwrap();
        fs::write(root.path().join("last"), "nonsense").unwrap();
        let store = LeaseStore::open(root.path()).unwrap();
        let owners: Vec<_> = store.list().unwrap().into_iter().map(|lease| lease.pod_uid).collect();
        assert_eq!(owners, [Some("a".to_owned()), None, None, None]);
        assert_eq!(
            store.acquire(subnet("10.1.0.0/24"), "b").unwrap(),
            Ipv4Addr::new(10, 1, 0, 6)
        );
    }

    #[test]
    fn unversioned_leases_are_kept_and_newer_ones_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("leases")).unwrap();
        fs::write(root.path().join("leases/10.1.0.2"), "a").unwrap();
        assert_eq!(
            acquire(root.path(), "10.1.0.0/24", "a").unwrap(),
            Ipv4Addr::new(10, 1, 0, 2)
        );
        let version = root.path().join("version");
        assert_eq!(fs::read_to_string(&version).unwrap(), "1");
        fs::write(&version, "2").unwrap();
        let said = format!(
            "{}: the leases were written by a newer microkube, in format version 2; this one reads versions up to 1; \
             use the newer microkube",
            version.display()
        );
        assert_eq!(LeaseStore::open(root.path()).unwrap_err().to_string(), said);
        assert_eq!(list(root.path()).unwrap_err().to_string(), said);
        for torn in [&b""[..], b"\xff", b"-1", b"x"] {
            fs::write(&version, torn).unwrap();
            assert_eq!(list(root.path()).unwrap().len(), 1);
        }
    }

    #[test]
    fn uids_with_path_traversal_are_refused() {
        let root = tempfile::tempdir().unwrap();
        for uid in ["", "..", "a/b", "a\n", &"a".repeat(64)] {
            assert!(matches!(
                acquire(root.path(), "10.1.0.0/24", uid),
                Err(LeaseError::BadUid(_))
            ));
        }
    }

    #[test]
    fn a_changed_network_gives_a_new_address() {
        let root = tempfile::tempdir().unwrap();
        acquire(root.path(), "10.1.0.0/24", "a").unwrap();
        assert_eq!(
            acquire(root.path(), "10.2.0.0/24", "a").unwrap(),
            Ipv4Addr::new(10, 2, 0, 2)
        );
        assert_eq!(list(root.path()).unwrap().len(), 1);
    }
}
