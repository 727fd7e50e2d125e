//! The entries in replies to READDIR and READDIRPLUS (`struct fuse_dirent`, `struct fuse_direntplus`).

use super::attributes::{ENTRY_BYTES, Entry, write_entry};
use super::reply::Reply;

/// Length of `struct fuse_dirent` without the name.
const FIXED_BYTES: usize = 24;

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryEntry<'a> {
    pub inode: u64,
    /// Where reading continues after this entry.
    pub next_offset: u64,
    /// One of `DT_*`.
    pub file_type: u32,
    pub name: &'a [u8],
}

/// The reply's limit is reached; the entry was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Writes entries until the reply's body has the length that the guest allows.
#[derive(Debug)]
pub struct EntryWriter<'a> {
    reply: &'a mut Reply,
    limit: usize,
}

impl<'a> EntryWriter<'a> {
    /// Writes to an empty reply.
    pub fn new(reply: &'a mut Reply, limit: usize) -> Self {
        Self { reply, limit }
    }

    pub fn is_empty(&self) -> bool {
        self.reply.body_bytes() == 0
    }

    fn check_room(&self, bytes: usize) -> Result<(), Full> {
        if self.limit.saturating_sub(self.reply.body_bytes()) < bytes {
            return Err(Full);
        }
        Ok(())
    }

    /// Writes an entry of READDIR.
    pub fn write(&mut self, entry: &DirectoryEntry<'_>) -> Result<(), Full> {
        self.check_room(aligned(FIXED_BYTES + entry.name.len()))?;
        self.write_fields(entry);
        Ok(())
    }

    /// Writes an entry of READDIRPLUS. `look_up` is called only if there is room, because it counts a lookup that the
    /// guest will forget again; if it returns nothing, the guest looks the name up when it needs it.
    pub fn write_with(
        &mut self,
        entry: &DirectoryEntry<'_>,
        look_up: impl FnOnce() -> Option<Entry>,
    ) -> Result<(), Full> {
        self.check_room(ENTRY_BYTES + aligned(FIXED_BYTES + entry.name.len()))?;
        match look_up() {
            Some(found) => write_entry(self.reply, &found),
            None => self.reply.zeros(ENTRY_BYTES),
        }
        self.write_fields(entry);
        Ok(())
    }

    fn write_fields(&mut self, entry: &DirectoryEntry<'_>) {
        self.reply.u64(entry.inode);
        self.reply.u64(entry.next_offset);
        self.reply.u32(u32::try_from(entry.name.len()).unwrap_or(0));
        self.reply.u32(entry.file_type);
        self.reply.bytes(entry.name);
        let length = FIXED_BYTES + entry.name.len();
        self.reply.zeros(aligned(length) - length);
    }
}

/// Rounds up to the alignment of entries (`FUSE_DIRENT_ALIGN`).
fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8]) -> DirectoryEntry<'_> {
        DirectoryEntry {
            inode: 5,
            next_offset: 1,
            file_type: 8,
            name,
        }
    }

    #[test]
    fn entries_are_aligned_and_end_at_the_limit() {
        let mut reply = Reply::new(Vec::new());
        let mut writer = EntryWriter::new(&mut reply, 70);
        assert_eq!(writer.write(&entry(b"a")), Ok(()));
        assert_eq!(writer.write(&entry(b"12345678")), Ok(()));
        assert_eq!(writer.write(&entry(b"b")), Err(Full));
        assert_eq!(reply.body_bytes(), 64);
    }

    #[test]
    fn an_entry_without_room_is_not_looked_up() {
        let mut reply = Reply::new(Vec::new());
        let mut writer = EntryWriter::new(&mut reply, 159);
        let result = writer.write_with(&entry(b"a"), || panic!("looked up"));
        assert_eq!(result, Err(Full));
        let mut writer = EntryWriter::new(&mut reply, 160);
        assert_eq!(writer.write_with(&entry(b"a"), || None), Ok(()));
        assert_eq!(reply.body_bytes(), 160);
    }
}
