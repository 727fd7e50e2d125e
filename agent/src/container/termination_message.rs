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
    use crate::test_directory::TestDirectory;

    #[test]
    fn anybody_may_write_and_the_beginning_is_read() {
        let directory = TestDirectory::new("message-long");
        let message = directory.join("message");
        create(&message).unwrap();
        assert_eq!(fs::metadata(&message).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(read(&message).unwrap(), b"");
        fs::write(&message, [&[b'x'; 4096][..], b"too much"].concat()).unwrap();
        assert_eq!(read(&message).unwrap(), [b'x'; 4096]);
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let directory = TestDirectory::new("message-odd");
        let message = directory.join("message");
        std::os::unix::fs::symlink("/etc/passwd", &message).unwrap();
        assert!(read(&message).is_err());
        fs::remove_file(&message).unwrap();
        nix::unistd::mkfifo(&message, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&message).is_err());
    }
}
