//! The scratch disk of a Pod: a sparse file with an empty ext4 file system.
//!
//! Making a file system takes longer than booting the guest, so it is made once, as a template, and copied: only the few
//! blocks of metadata that are not a hole, or nothing at all where the host's file system can share blocks.
//!
//! A disk outlives its machine, which may die at any moment, and the power of the host with it. So it has a journal (the guest's kernel
//! brings it in order when it mounts it again; nothing on the host reads what a guest wrote), and it has its name only when
//! it is complete.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use microkube_base::child;

pub use crate::state::Lifetime;
use crate::state::{RecordError, lock_exclusive};

/// Size of a scratch disk as the guest sees it. The file is sparse and takes what is written to it.
pub const SCRATCH_DISK_BYTES: u64 = 16 << 30;

/// Changes whenever the template's content would: an older template is then never used.
const TEMPLATE_NAME: &str = "ext4-16g-v2.img";

/// Size of the journal, MiB. It is a hole until it is used, and then stays as large; a transaction can have a quarter of it.
const JOURNAL_MIB: u32 = 32;

/// A scratch disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// `mke2fs` is missing.
    #[error("mke2fs is needed to make the scratch disk but was not found: install the package e2fsprogs")]
    NoMke2fs,
    /// `mke2fs` failed.
    #[error("mke2fs could not make {path}: {stderr}")]
    Mke2fs {
        /// The file it was to make.
        path: PathBuf,
        /// What it said.
        stderr: String,
    },
    /// A file could not be made or copied.
    #[error("cannot {action} the scratch disk {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// One that is there cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// One that is not needed any more stays.
    #[error("cannot remove {path}")]
    Remove {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another process cannot be waited for.
    #[error(transparent)]
    Lock(#[from] RecordError),
}

/// Makes the scratch disk `path` and returns it opened for reading and writing. [`remove_scratch_disk`] releases it.
///
/// Whatever dies meanwhile, there is a whole disk of this name or none.
///
/// # Errors
/// See [`ScratchError`]; the file is then not left behind.
pub fn create_scratch_disk(template_dir: &Path, path: &Path, lifetime: Lifetime) -> Result<File, ScratchError> {
    let template = open_template(template_dir)?;
    let unfinished = unfinished(path);
    let made = fill(&template, &unfinished, lifetime).and_then(|disk| {
        std::fs::rename(&unfinished, path)?;
        Ok(disk)
    });
    made.map_err(|source| {
        // The error that matters is the first one; a file that stays is removed with the Pod's directory.
        let _ = std::fs::remove_file(&unfinished);
        ScratchError::Io {
            action: "create",
            path: path.to_owned(),
            source,
        }
    })
}

/// Opens the scratch disk `path` for reading and writing; `None` if there is none.
///
/// # Errors
/// [`ScratchError::Open`], also of what is no file itself: a link could lead to another's.
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

/// Removes a scratch disk, and what there is of one that was never finished.
///
/// # Errors
/// One of the files is there and cannot be removed.
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
        // The guest's journal protects what the guest writes, not what it takes to be there.
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
    // Under the lock nobody else makes one; what a process that died left under this name is overwritten.
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
    // No reserved blocks and no room to grow. The file is new, so it need not be filled with zeros.
    let output = child::command("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", "scratch"])
        .args(["-O", "has_journal,^resize_inode"])
        .args(["-J", &format!("size={JOURNAL_MIB}")])
        .args([
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard,packed_meta_blocks=1,root_owner=0:0",
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

/// mke2fs lies in /sbin, which is not in everybody's PATH.
fn search_path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")
}

/// Makes `to` equal to `from`: by sharing its blocks where the file system can, else by copying what is not a hole.
fn copy_sparse(from: &File, to: &File) -> std::io::Result<()> {
    // SAFETY: FICLONE (ioctl_ficlone(2)) takes a descriptor as its argument; both are open.
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

/// `lseek(2)` with SEEK_DATA or SEEK_HOLE; `None` behind the last data.
fn seek(file: &File, offset: u64, whence: i32) -> std::io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(std::io::Error::other)?;
    // SAFETY: lseek(2) takes integers only; the descriptor is open.
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
    fn a_scratch_disk_is_sparse_and_its_template_is_made_once() {
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
        // s_feature_compat, of which bit 2 says that there is a journal.
        let mut features = [0; 4];
        disk.read_exact_at(&mut features, 1024 + 0x5c).unwrap();
        assert_ne!(u32::from_le_bytes(features) & 4, 0);
    }

    #[test]
    fn what_a_killed_process_left_of_a_disk_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scratch.img");
        // Longer than a disk, so that it would show.
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
