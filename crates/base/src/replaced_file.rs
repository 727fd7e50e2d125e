//! Files that are replaced as a whole. A reader sees either the old or the new content, never a part, whichever process
//! dies.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The prefix of incomplete files' names.
const PREFIX: &str = ".new-";

/// Replaces a file's content atomically and durably: after this call the new content survives a power cut.
///
/// # Errors
/// If the content cannot be written, the old content is unchanged. If only the directory cannot be synced, it is
/// replaced, but perhaps not durably.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content, true)?;
    sync_directory(directory_of(path))
}

/// Replaces a file's content atomically. The replacement survives the death of any process; it may not survive a crash
/// of the host.
///
/// # Errors
/// If the content cannot be written; the old content is then unchanged.
pub fn replace_unsynced(path: &Path, content: &[u8]) -> io::Result<()> {
    put(path, content, false)
}

/// Removes incomplete files that killed processes left in a directory. No process may replace a file in it meanwhile.
///
/// # Errors
/// If the directory cannot be read, or a file cannot be removed.
pub fn remove_leftovers(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn put(path: &Path, content: &[u8], sync: bool) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempfile_in(directory_of(path))?;
    file.write_all(content)?;
    if sync {
        file.as_file().sync_data()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// If the directory cannot be opened or synced.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_is_replaced_and_no_temporary_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"old").unwrap();
        replace_unsynced(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        replace(&path, b"").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn leftovers_are_removed_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".new-1", ".new-", ".newer", "new-1"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        remove_leftovers(dir.path()).unwrap();
        let left = std::fs::read_dir(dir.path()).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".newer", "new-1"]);
    }

    #[test]
    fn a_replacement_that_fails_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("directory");
        std::fs::create_dir(&path).unwrap();
        assert!(replace(&path, b"new").is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
