//! Attributes of inodes and file systems in replies.

use std::time::Duration;

use super::reply::Reply;

/// `FUSE_ATTR_SUBMOUNT`: the directory is the root of another file system, which gets its own device number in the
/// guest.
const SUBMOUNT: u32 = 1;

/// Length of `struct fuse_entry_out`.
pub const ENTRY_BYTES: usize = 128;

/// A point in time, as in `struct statx_timestamp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// `struct fuse_attr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    pub inode: u64,
    pub size: u64,
    pub blocks: u64,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub block_bytes: u32,
    pub is_submount: bool,
}

fn write(reply: &mut Reply, attributes: &Attributes) {
    let times = [attributes.accessed, attributes.modified, attributes.changed];
    reply.u64(attributes.inode);
    reply.u64(attributes.size);
    reply.u64(attributes.blocks);
    for time in times {
        reply.u64(time.seconds.cast_unsigned());
    }
    for time in times {
        reply.u32(time.nanoseconds);
    }
    reply.u32(attributes.mode);
    reply.u32(attributes.links);
    reply.u32(attributes.uid);
    reply.u32(attributes.gid);
    // No device number: one of the host would name another device in the guest.
    reply.u32(0);
    reply.u32(attributes.block_bytes);
    reply.u32(if attributes.is_submount { SUBMOUNT } else { 0 });
}

/// Writes `struct fuse_attr_out`.
pub fn write_attributes(reply: &mut Reply, attributes: &Attributes, valid_for: Duration) {
    reply.u64(valid_for.as_secs());
    reply.u32(valid_for.subsec_nanos());
    reply.u32(0);
    write(reply, attributes);
}

/// An inode that the guest is told, and for how long it may use what it is told.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The number by which the guest names the inode. Numbers are never used again, so there is no generation.
    pub node: u64,
    pub name_valid_for: Duration,
    pub attributes_valid_for: Duration,
    pub attributes: Attributes,
}

/// Writes `struct fuse_entry_out`.
pub fn write_entry(reply: &mut Reply, entry: &Entry) {
    reply.u64(entry.node);
    reply.u64(0);
    reply.u64(entry.name_valid_for.as_secs());
    reply.u64(entry.attributes_valid_for.as_secs());
    reply.u32(entry.name_valid_for.subsec_nanos());
    reply.u32(entry.attributes_valid_for.subsec_nanos());
    write(reply, &entry.attributes);
}

/// `struct fuse_kstatfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileSystemStatus {
    pub blocks: u64,
    pub free_blocks: u64,
    pub available_blocks: u64,
    pub files: u64,
    pub free_files: u64,
    pub block_bytes: u32,
    pub name_bytes: u32,
    pub fragment_bytes: u32,
}

/// Writes `struct fuse_statfs_out`.
pub fn write_file_system_status(reply: &mut Reply, status: &FileSystemStatus) {
    for value in [
        status.blocks,
        status.free_blocks,
        status.available_blocks,
        status.files,
        status.free_files,
    ] {
        reply.u64(value);
    }
    for value in [status.block_bytes, status.name_bytes, status.fragment_bytes] {
        reply.u32(value);
    }
    reply.zeros(28);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernel_s_lengths() {
        let lengths = |write: &dyn Fn(&mut Reply)| {
            let mut reply = Reply::new(Vec::new());
            write(&mut reply);
            reply.body_bytes()
        };
        let attributes = Attributes::default();
        let entry = Entry {
            node: 2,
            name_valid_for: Duration::ZERO,
            attributes_valid_for: Duration::from_millis(1500),
            attributes,
        };
        assert_eq!(
            lengths(&|reply| write_attributes(reply, &attributes, Duration::ZERO)),
            104
        );
        assert_eq!(lengths(&|reply| write_entry(reply, &entry)), ENTRY_BYTES);
        let status = FileSystemStatus::default();
        assert_eq!(lengths(&|reply| write_file_system_status(reply, &status)), 80);
    }
}
