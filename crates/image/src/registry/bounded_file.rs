//! Files of the host's configuration, which have a size that is no surprise.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads a file of the host's configuration, which must not be larger than that.
pub(super) fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
    }
    Ok(bytes)
}
