//! Reads a file that a container has written to an emptyDir volume, for the host. Containers may have written anything,
//! and may change the file during the read.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// Maximum size of a file, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// openat2(2) fails with EAGAIN if something was renamed at the same time; this is the number of attempts.
const ATTEMPTS: usize = 16;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("it does not exist")]
    NotFound,
    #[error("it is outside of the volume")]
    Outside,
    #[error("it is not a regular file")]
    NotRegular,
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => Self::NotFound,
            Errno::EXDEV => Self::Outside,
            errno => Self::Io(errno.into()),
        }
    }
}

/// Reads the file at a relative path in the volume with this root. Blocks.
pub fn read(volume: &Path, path: &str) -> Result<Vec<u8>, ReadError> {
    // A FIFO opens even without a writer, and is refused below.
    let file = File::from(open_beneath(volume, path)?);
    if !file.metadata()?.is_file() {
        return Err(ReadError::NotRegular);
    }
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    match content.len() as u64 > MAX_BYTES {
        true => Err(ReadError::TooLong),
        false => Ok(content),
    }
}

/// The kernel refuses to leave the volume, whatever symbolic links exist.
fn open_beneath(volume: &Path, path: &str) -> Result<OwnedFd, Errno> {
    let root = open(
        volume,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut result = Err(Errno::EAGAIN);
    for _ in 0..ATTEMPTS {
        result = openat2(&root, path, how);
        if !matches!(result, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::test_directory::TestDirectory;

    #[test]
    fn only_regular_files_in_the_volume_are_read() {
        let directory = TestDirectory::new("volume-file");
        let volume = directory.join("volume");
        fs::create_dir_all(volume.join("sub")).unwrap();
        fs::write(directory.join("outside"), "secret").unwrap();
        fs::write(volume.join("sub/app.env"), "A='1'\n").unwrap();
        symlink("sub/app.env", volume.join("link")).unwrap();
        symlink("../outside", volume.join("escape")).unwrap();
        symlink("/etc/passwd", volume.join("absolute")).unwrap();
        nix::unistd::mkfifo(&volume.join("fifo"), Mode::S_IRWXU).unwrap();
        for path in ["sub/app.env", "link", "./sub/../link"] {
            assert_eq!(read(&volume, path).unwrap(), b"A='1'\n", "{path}");
        }
        for path in ["absent", "sub/absent", "link/below"] {
            assert!(matches!(read(&volume, path), Err(ReadError::NotFound)), "{path}");
        }
        for path in ["escape", "absolute", "../outside"] {
            assert!(matches!(read(&volume, path), Err(ReadError::Outside)), "{path}");
        }
        for path in ["fifo", "sub"] {
            assert!(matches!(read(&volume, path), Err(ReadError::NotRegular)), "{path}");
        }
    }

    #[test]
    fn a_long_file_is_refused() {
        let directory = TestDirectory::new("volume-file-long");
        let length = usize::try_from(MAX_BYTES).unwrap();
        fs::write(directory.join("fits"), vec![b'x'; length]).unwrap();
        fs::write(directory.join("long"), vec![b'x'; length + 1]).unwrap();
        assert_eq!(read(directory.path(), "fits").unwrap().len(), length);
        assert!(matches!(read(directory.path(), "long"), Err(ReadError::TooLong)));
    }
}
