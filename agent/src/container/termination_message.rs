//! The file in which a container leaves its last words (`terminationMessagePath`).

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Most that is read of it, bytes, as by the kubelet (`MaxContainerTerminationMessageLength`).
pub const MAX_BYTES: u64 = 4096;

/// Makes the empty file. Any user of the container may write to it, as to the kubelet's.
pub fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))
}

/// What a container has left there, its first bytes.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A privileged container could have put anything in its place.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let mut message = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut message)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with the test.
    struct Place(std::path::PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("microkube-agent-message-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn file(&self) -> std::path::PathBuf {
            self.0.join("message")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn anybody_may_write_and_the_beginning_is_read() {
        let place = Place::new("long");
        create(&place.file()).unwrap();
        assert_eq!(fs::metadata(place.file()).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(read(&place.file()).unwrap(), b"");
        fs::write(place.file(), [&[b'x'; 4096][..], b"too much"].concat()).unwrap();
        assert_eq!(read(&place.file()).unwrap(), [b'x'; 4096]);
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let place = Place::new("odd");
        std::os::unix::fs::symlink("/etc/passwd", place.file()).unwrap();
        assert!(read(&place.file()).is_err());
        fs::remove_file(place.file()).unwrap();
        nix::unistd::mkfifo(&place.file(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&place.file()).is_err());
    }
}
