//! The scratch disk of a Pod: a sparse file with an empty ext4 file system.
//!
//! Creating a file system takes longer than booting the guest, so a template is created once and copied. Only a few
//! blocks of metadata must be copied, or nothing at all if the host's file system can share blocks.
//!
//! A disk outlives its VM, and VM and host may die at any moment. The disk therefore has a journal, which the guest's
//! kernel replays at the next mount (the host never reads a guest's data), and gets its name only when it is complete.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use microkube_base::child;

pub use crate::state::Lifetime;
use crate::state::{RecordError, lock_exclusive};

/// Size of a scratch disk as the guest sees it. The file is sparse and only uses the space that was written.
pub const SCRATCH_DISK_BYTES: u64 = 16 << 30;

/// Change this with the template's content, so that older templates are not used.
const TEMPLATE_NAME: &str = "ext4-16g-v3.img";

/// Size of the journal, in MiB. It uses no space until it is written, and keeps it then. A transaction can have a
/// quarter of this size.
const JOURNAL_MIB: u32 = 32;

/// A scratch disk could not be created.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// `mke2fs` is not installed.
    #[error("cannot find mke2fs, which creates the scratch disk: install the package e2fsprogs")]
    NoMke2fs,
    /// `mke2fs` failed.
    #[error("mke2fs failed to create {path}: {stderr}")]
    Mke2fs {
        /// The file that it should create.
        path: PathBuf,
        /// Its error output.
        stderr: String,
    },
    /// A file could not be created or copied.
    #[error("cannot {action} the scratch disk {path}")]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// An existing disk could not be opened.
    #[error("cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A disk that is no longer needed could not be removed.
    #[error("cannot remove {path}")]
    Remove {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The lock that other processes use could not be taken.
    #[error(transparent)]
    Lock(#[from] RecordError),
}

/// Creates the scratch disk `path` and returns it opened for reading and writing. [`remove_scratch_disk`] removes it.
///
/// Whichever process dies meanwhile, the disk with this name is complete or does not exist.
///
/// # Errors
/// See [`ScratchError`]; no file is left behind.
pub fn create_scratch_disk(template_dir: &Path, path: &Path, lifetime: Lifetime) -> Result<File, ScratchError> {
    let template = open_template(template_dir)?;
    let unfinished = unfinished(path);
    let made = fill(&template, &unfinished, lifetime).and_then(|disk| {
        std::fs::rename(&unfinished, path)?;
        Ok(disk)
    });
    made.map_err(|source| {
        // The first error matters; a remaining file is removed with the Pod's directory.
        let _ = std::fs::remove_file(&unfinished);
        ScratchError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        }
    })
}

/// Opens the scratch disk `path` for reading and writing; `None` if it does not exist.
///
/// # Errors
/// [`ScratchError::Open`], including when the path is not a regular file: a symbolic link could lead to another Pod's
/// disk.
pub fn open_scratch_disk(path: &Path) -> Result<Option<File>, ScratchError> {
    let opened = || -> std::io::Result<File> {
        let disk = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        match disk.metadata()?.is_file() {
            true => Ok(disk),
            false => Err(std::io::ErrorKind::InvalidInput.into()),
        }
    };
    match opened() {
        Ok(disk) => Ok(Some(disk)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ScratchError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Removes a scratch disk, and an unfinished one.
///
/// # Errors
/// If one of the files exists and cannot be removed.
pub fn remove_scratch_disk(path: &Path) -> std::io::Result<()> {
    for path in [path, &unfinished(path)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn fill(template: &File, path: &Path, lifetime: Lifetime) -> std::io::Result<File> {
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    copy_sparse(template, &disk)?;
    if lifetime == Lifetime::Pod {
        // The guest's journal protects what the guest writes, but not the initial content.
        disk.sync_data()?;
    }
    Ok(disk)
}

fn open_template(dir: &Path) -> Result<File, ScratchError> {
    let path = dir.join(TEMPLATE_NAME);
    let fail = |action| {
        let path = path.clone();
        move |source| ScratchError::Io { action, path, source }
    };
    match File::open(&path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("open")(error)),
    }
    std::fs::create_dir_all(dir).map_err(fail("create the directory of"))?;
    let _lock = lock_exclusive(&dir.join("lock"))?;
    if let Ok(file) = File::open(&path) {
        return Ok(file);
    }
    // The lock keeps other processes from creating the template; an unfinished file of a dead process is overwritten.
    let unfinished = dir.join(format!("{TEMPLATE_NAME}.new"));
    make_file_system(&unfinished)?;
    let file = File::open(&unfinished).map_err(fail("open"))?;
    file.sync_all().map_err(fail("write"))?;
    std::fs::rename(&unfinished, &path).map_err(fail("write"))?;
    Ok(file)
}

fn make_file_system(path: &Path) -> Result<(), ScratchError> {
    File::create(path)
        .and_then(|file| file.set_len(SCRATCH_DISK_BYTES))
        .map_err(|source| ScratchError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        })?;
    // No reserved blocks and no room to grow. A new file contains only zeros, so they need not be written. The guest
    // counts what each volume and writable layer uses, as a project's quota without limits.
    let output = child::command("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", "scratch"])
        .args(["-O", "has_journal,^resize_inode,quota,project"])
        .args(["-J", &format!("size={JOURNAL_MIB}")])
        .args([
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard,packed_meta_blocks=1,root_owner=0:0,quotatype=prjquota",
        ])
        .arg(path)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(ScratchError::Mke2fs {
            path: path.to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(ScratchError::NoMke2fs),
        Err(source) => Err(ScratchError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        }),
    }
}

/// mke2fs is in /sbin, which is not in every user's PATH.
pub(super) fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// Makes `to` a copy of `from`: by sharing blocks if the file system can, otherwise by copying everything but holes.
fn copy_sparse(from: &File, to: &File) -> std::io::Result<()> {
    // SAFETY: FICLONE (ioctl_ficlone(2)) takes a descriptor as its argument; both descriptors are open.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) } == 0 {
        return Ok(());
    }
    let length = from.metadata()?.len();
    to.set_len(length)?;
    let mut buffer = vec![0; 256 << 10];
    let mut position = 0;
    while let Some(start) = seek(from, position, libc::SEEK_DATA)? {
        let end = seek(from, start, libc::SEEK_HOLE)?.unwrap_or(length);
        position = start;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(usize::MAX).min(buffer.len());
            let chunk = &mut buffer[..wanted];
            from.read_exact_at(chunk, position)?;
            to.write_all_at(chunk, position)?;
            position += wanted as u64;
        }
    }
    Ok(())
}

/// Calls `lseek(2)` with SEEK_DATA or SEEK_HOLE; `None` after the last data.
fn seek(file: &File, offset: u64, whence: i32) -> std::io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(std::io::Error::other)?;
    // SAFETY: lseek(2) takes only integers; the descriptor is open.
    let result = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    match u64::try_from(result) {
        Ok(position) => Ok(Some(position)),
        Err(_) => match std::io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_copy_has_the_same_bytes_and_holes() {
        let dir = tempfile::tempdir().unwrap();
        let from = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.path().join("a"))
            .unwrap();
        from.set_len(64 << 20).unwrap();
        from.write_all_at(b"first", 0).unwrap();
        from.write_all_at(b"middle", 20 << 20).unwrap();
        from.write_all_at(b"last", (64 << 20) - 4).unwrap();
        let to = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(dir.path().join("b"))
            .unwrap();
        copy_sparse(&from, &to).unwrap();
        let (a, b) = (
            std::fs::read(dir.path().join("a")).unwrap(),
            std::fs::read(dir.path().join("b")).unwrap(),
        );
        assert!(a == b);
        assert!(to.metadata().unwrap().blocks() < 4096, "holes stay holes");
    }

    #[test]
    fn a_scratch_disk_is_sparse_and_its_template_is_created_once() {
        let dir = tempfile::tempdir().unwrap();
        let templates = dir.path().join("templates");
        let disk = create_scratch_disk(&templates, &dir.path().join("one.img"), Lifetime::Boot).unwrap();
        let made = std::fs::metadata(templates.join(TEMPLATE_NAME)).unwrap();
        create_scratch_disk(&templates, &dir.path().join("two.img"), Lifetime::Pod).unwrap();
        assert_eq!(
            made.ino(),
            std::fs::metadata(templates.join(TEMPLATE_NAME)).unwrap().ino()
        );
        let metadata = disk.metadata().unwrap();
        assert_eq!(metadata.len(), SCRATCH_DISK_BYTES);
        assert!(
            metadata.blocks() * 512 < 32 << 20,
            "{} bytes are allocated",
            metadata.blocks() * 512
        );
        // The ext4 magic number, at 0x38 of the superblock (kernel: Documentation/filesystems/ext4/super.rst).
        let mut magic = [0; 2];
        disk.read_exact_at(&mut magic, 1024 + 0x38).unwrap();
        assert_eq!(magic, [0x53, 0xef]);
        // s_feature_compat: bit 2 means that there is a journal.
        let mut features = [0; 4];
        disk.read_exact_at(&mut features, 1024 + 0x5c).unwrap();
        assert_ne!(u32::from_le_bytes(features) & 4, 0);
        // s_feature_ro_compat: bit 8 means quotas, bit 13 projects.
        disk.read_exact_at(&mut features, 1024 + 0x64).unwrap();
        assert_eq!(u32::from_le_bytes(features) & 0x2100, 0x2100);
    }

    #[test]
    fn a_partial_disk_of_a_killed_process_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scratch.img");
        // Longer than a disk, so an overwrite that did not truncate it would show.
        let left = File::create(dir.path().join("scratch.new")).unwrap();
        left.set_len(SCRATCH_DISK_BYTES + 1).unwrap();
        let disk = create_scratch_disk(dir.path(), &path, Lifetime::Pod).unwrap();
        assert_eq!(disk.metadata().unwrap().len(), SCRATCH_DISK_BYTES);
        assert_eq!(disk.metadata().unwrap().ino(), std::fs::metadata(&path).unwrap().ino());
        assert!(!dir.path().join("scratch.new").exists());
        std::fs::write(dir.path().join("scratch.new"), "").unwrap();
        remove_scratch_disk(&path).unwrap();
        assert!(!path.exists() && !dir.path().join("scratch.new").exists());
    }
}
