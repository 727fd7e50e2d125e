//! The file in which a container leaves its termination message (`terminationMessagePath`).

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Maximum bytes read from it; the same as in the kubelet (`MaxContainerTerminationMessageLength`).
pub const MAX_BYTES: u64 = 4096;

/// Creates the empty file. As with the kubelet's, every user of the container may write to it.
pub fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))
}

/// Reads the beginning of the file as the container left it.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A privileged container could have replaced it with anything.
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
    fn any_user_may_write_the_message_and_only_its_start_is_read() {
        let directory = TestDirectory::new("message-long");
        let message = directory.join("message");
        create(&message).unwrap();
        assert_eq!(fs::metadata(&message).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(read(&message).unwrap(), b"");
        fs::write(&message, [&[b'x'; 4096][..], b"too much"].concat()).unwrap();
        assert_eq!(read(&message).unwrap(), [b'x'; 4096]);
    }

    #[test]
    fn only_a_regular_file_is_read() {
        let directory = TestDirectory::new("message-odd");
        let message = directory.join("message");
        std::os::unix::fs::symlink("/etc/passwd", &message).unwrap();
        assert!(read(&message).is_err());
        fs::remove_file(&message).unwrap();
        nix::unistd::mkfifo(&message, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&message).is_err());
    }
}
