//! The disks of PersistentVolumes: ext4 images on the host, as large as the volume. The host mounts them, so their size
//! limits what Pods can store, and several Pods can use one. Which disks exist, and for which claims, is decided elsewhere.
//!
//! A mount is attached nowhere. It, its loop device and the use of the image end with the last process that has the mount,
//! however that ends, so there is nothing to clean up. Only the host's kernel writes to the file system.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use microkube_base::causes::with_causes;
use microkube_base::{child, private_directory};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::loop_device;
use super::mount_api::NewFileSystem;
use super::scratch::search_path;
use crate::state::{LockedFile, RecordError, lock_exclusive};

/// Block size of the file systems.
const BLOCK_BYTES: u64 = 4096;

/// Size of a file system without its journal and tables; smaller images are refused by mke2fs or useless.
const MIN_BYTES: u64 = 1 << 20;

/// A disk could not be created, changed or mounted.
#[derive(Debug, thiserror::Error)]
pub enum ClaimDiskError {
    #[error("cannot find mke2fs, which creates file systems: install the package e2fsprogs")]
    NoMke2fs,
    #[error("mke2fs failed: {0}")]
    Mke2fs(String),
    #[error("{0:?} cannot be the name of a disk")]
    Name(String),
    #[error("cannot give the files of the disk {disk} to the group {group}")]
    Group {
        group: u32,
        disk: String,
        #[source]
        source: io::Error,
    },
    #[error("a disk of {0} bytes is too small for a file system")]
    TooSmall(u64),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Lock(#[from] RecordError),
}

/// The state of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimDiskSize {
    pub bytes: u64,
    /// Whether its file system is smaller than the image; mounting makes it grow.
    pub has_smaller_file_system: bool,
}

/// The disks below a directory, by their names. Callers have checked the names: they are names of files.
#[derive(Debug, Clone)]
pub struct ClaimDisks {
    complete: PathBuf,
    unfinished: PathBuf,
}

impl ClaimDisks {
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            complete: directory.join("disks"),
            unfinished: directory.join("unfinished"),
        }
    }

    /// All disks.
    ///
    /// # Errors
    /// If the directory or a disk cannot be read.
    pub fn list(&self) -> Result<BTreeMap<String, ClaimDiskSize>, ClaimDiskError> {
        let failed = |source| self.failed("list the disks in", source);
        let entries = match fs::read_dir(&self.complete) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(failed)?,
        };
        let mut disks = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            match size_of_disk(&entry.path()) {
                // Deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                size => {
                    disks.insert(name, size.map_err(failed)?);
                }
            }
        }
        Ok(disks)
    }

    /// Creates a disk with an empty file system. The size is rounded up to a block. An existing disk stays as it is.
    ///
    /// Whichever process dies meanwhile, the disk with this name is complete or does not exist.
    ///
    /// # Errors
    /// See [`ClaimDiskError`].
    pub fn create(&self, name: &str, bytes: u64) -> Result<(), ClaimDiskError> {
        let bytes = rounded(bytes.max(MIN_BYTES));
        let path = self.complete.join(name);
        let _lock = self.lock()?;
        if path.exists() {
            return Ok(());
        }
        let unfinished = self.unfinished.join("disk");
        let created = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished);
        let file = created.map_err(|source| self.failed("create a disk in", source))?;
        file.set_len(bytes)
            .map_err(|source| self.failed("create a disk in", source))?;
        make_file_system(&unfinished)?;
        empty(&unfinished)?;
        let finish = || -> io::Result<()> {
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.complete)?.sync_all()
        };
        finish().map_err(|source| self.failed("create a disk in", source))
    }

    /// Makes a disk and its file system larger, also while Pods use it. If the file system cannot grow now, it grows when
    /// it is mounted the next time.
    ///
    /// # Errors
    /// See [`ClaimDiskError`]; the image has its old size.
    pub fn grow(&self, name: &str, bytes: u64) -> Result<(), ClaimDiskError> {
        let path = self.complete.join(name);
        let grow = || -> io::Result<()> {
            let disk = open_disk(&path)?;
            let bytes = rounded(bytes);
            if disk.metadata()?.len() < bytes {
                disk.set_len(bytes)?;
                disk.sync_all()?;
            }
            Ok(())
        };
        let _lock = self.lock()?;
        grow().map_err(|source| ClaimDiskError::Io {
            action: "grow",
            path: path.clone(),
            source,
        })?;
        if let Err(error) = mount(&path, false) {
            tracing::warn!("the file system of {name} grows later: {}", with_causes(&error));
        }
        Ok(())
    }

    /// Deletes a disk. A disk that does not exist is not an error.
    ///
    /// # Errors
    /// See [`ClaimDiskError`].
    pub fn delete(&self, name: &str) -> Result<(), ClaimDiskError> {
        let path = self.complete.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| ClaimDiskError::Io {
                action: "delete",
                path,
                source,
            }),
        }
    }

    /// Mounts a disk, or opens another mount of a disk that is mounted, and returns the root (`O_PATH`). Blocks.
    ///
    /// # Errors
    /// See [`ClaimDiskError`].
    pub fn mount(&self, name: &str, read_only: bool) -> Result<OwnedFd, ClaimDiskError> {
        let path = self.complete.join(name);
        // Two processes must not create two loop devices for one disk.
        let _lock = self.lock()?;
        mount(&path, read_only)
    }

    /// Creates the directories, and takes the lock that work on disks needs.
    fn lock(&self) -> Result<LockedFile, ClaimDiskError> {
        for directory in [&self.complete, &self.unfinished] {
            private_directory::create(directory).map_err(|source| ClaimDiskError::Io {
                action: "create",
                path: directory.clone(),
                source,
            })?;
        }
        Ok(lock_exclusive(&self.unfinished.join("lock"))?)
    }

    fn failed(&self, action: &'static str, source: io::Error) -> ClaimDiskError {
        ClaimDiskError::Io {
            action,
            path: self.complete.clone(),
            source,
        }
    }
}

/// A whole number of blocks. Sizes that no file can have stay as they are, and fail later.
fn rounded(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(BLOCK_BYTES).unwrap_or(bytes)
}

fn open_disk(path: &Path) -> io::Result<File> {
    let disk = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    match disk.metadata()?.is_file() {
        true => Ok(disk),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn mount(path: &Path, read_only: bool) -> Result<OwnedFd, ClaimDiskError> {
    let failed = |action: &'static str| {
        move |source: io::Error| ClaimDiskError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let disk = open_disk(path).map_err(failed("open"))?;
    let device = loop_device::of(&disk, path).map_err(failed("attach a loop device to"))?;
    let mounted = NewFileSystem::open(c"ext4")
        .and_then(|new| {
            new.set(c"source", &device.path().to_string_lossy())?;
            // A full or broken disk of the host must not look like an intact volume.
            new.set(c"errors", "remount-ro")?;
            new.mount(NewFileSystem::NO_SUID_DEV | NewFileSystem::NO_ACCESS_TIMES)
        })
        .map_err(failed("mount"))?;
    if let Err(error) = grow_file_system(&mounted, &disk, &device) {
        // The files are more important. It needs CAP_SYS_RESOURCE, for example.
        tracing::warn!(
            "the file system in {} stays smaller than its disk: {error}",
            path.display()
        );
    }
    if read_only {
        super::mount_api::restrict(&mounted, true).map_err(failed("make read-only the mount of"))?;
    }
    Ok(mounted)
}

/// Makes a mounted file system as large as its image.
fn grow_file_system(mounted: &OwnedFd, disk: &File, device: &loop_device::LoopDevice) -> io::Result<()> {
    nix::ioctl_write_ptr!(ext4_resize, b'f', 16, u64);
    let size = size_of_file_system(disk)?;
    let wanted = disk.metadata()?.len() / BLOCK_BYTES;
    if size.blocks >= wanted {
        return Ok(());
    }
    device.update_size()?;
    let root = openat(
        mounted,
        ".",
        OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    // SAFETY: the request reads one u64, which outlives the call.
    unsafe { ext4_resize(root.as_raw_fd(), &raw const wanted) }?;
    // Other processes read the size on disk.
    Ok(nix::unistd::syncfs(&root)?)
}

#[derive(Debug, Clone, Copy)]
struct FileSystemSize {
    blocks: u64,
}

/// The size in the superblock on disk (`struct ext4_super_block`, fs/ext4/ext4.h). Mounted file systems write it when
/// they have grown.
fn size_of_file_system(disk: &File) -> io::Result<FileSystemSize> {
    const SUPERBLOCK: u64 = 1024;
    let field = |offset: u64| -> io::Result<u32> {
        let mut bytes = [0; 4];
        disk.read_exact_at(&mut bytes, SUPERBLOCK + offset)?;
        Ok(u32::from_le_bytes(bytes))
    };
    let blocks = u64::from(field(0x150)?) << 32 | u64::from(field(0x4)?);
    Ok(FileSystemSize { blocks })
}

fn size_of_disk(path: &Path) -> io::Result<ClaimDiskSize> {
    let disk = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let bytes = disk.metadata()?.size();
    Ok(ClaimDiskSize {
        bytes,
        has_smaller_file_system: size_of_file_system(&disk)?.blocks < bytes / BLOCK_BYTES,
    })
}

fn make_file_system(path: &Path) -> Result<(), ClaimDiskError> {
    // A new file contains only zeros, so they need not be written.
    let output = child::command("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-b", "4096"])
        .args(["-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"])
        .arg(path)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output();
    match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(ClaimDiskError::NoMke2fs),
        Err(source) => Err(ClaimDiskError::Io {
            action: "run mke2fs for",
            path: path.to_owned(),
            source,
        }),
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) if fs::metadata(path).is_ok_and(|metadata| metadata.len() <= MIN_BYTES) => {
            Err(ClaimDiskError::TooSmall(MIN_BYTES))
        }
        Ok(output) => Err(ClaimDiskError::Mke2fs(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

/// Removes lost+found: databases refuse to start in a directory that is not empty. e2fsck creates it when it is needed.
fn empty(path: &Path) -> Result<(), ClaimDiskError> {
    let mounted = mount(path, false)?;
    match unlinkat(&mounted, "lost+found", UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(ClaimDiskError::Io {
            action: "empty",
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}
