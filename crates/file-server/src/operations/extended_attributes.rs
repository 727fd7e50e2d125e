//! SETXATTR, GETXATTR, LISTXATTR and REMOVEXATTR.
//!
//! The guest has the attributes of users, POSIX ACLs and file capabilities. All others belong to the host: labels of its
//! security modules, and what file systems such as overlayfs keep in `trusted.*`.

use std::ffi::CStr;

use rustix::fs::{AtFlags, CWD, Mode, XattrFlags, chmodat, getxattr, getxattr_query, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use crate::file_status;
use crate::file_system::{FileSystem, Node};
use crate::protocol::name::MAX_NAME_BYTES;
use crate::protocol::reply::Reply;

/// Maximum length of a value, and of a list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_BYTES: usize = 65_536;

/// Maximum length of an ACL that is set: 127 entries. The host's kernel keeps the ACLs of an inode in its memory as long
/// as the inode, which the guest can make it keep.
const MAX_ACL_BYTES: usize = 1024;

const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

fn is_allowed(name: &[u8]) -> bool {
    ACLS.contains(&name)
        || name == b"security.capability"
        || (name.starts_with(b"user.") && name.len() > b"user.".len())
}

fn check_name(name: &CStr) -> Result<(), Errno> {
    if name.count_bytes() > MAX_NAME_BYTES {
        return Err(Errno::RANGE);
    }
    if is_allowed(name.to_bytes()) {
        Ok(())
    } else {
        Err(Errno::OPNOTSUPP)
    }
}

pub fn set(
    file_system: &FileSystem,
    node: u64,
    name: &CStr,
    value: &[u8],
    flags: u32,
    drop_set_group_id: bool,
) -> Result<(), Errno> {
    let inode = file_system.writable_inode(node)?;
    check_name(name)?;
    let flags = XattrFlags::from_bits_retain(flags);
    if !(XattrFlags::CREATE | XattrFlags::REPLACE).contains(flags) {
        return Err(Errno::INVAL);
    }
    if value.len() > MAX_BYTES {
        return Err(Errno::TOOBIG);
    }
    if value.len() > MAX_ACL_BYTES && ACLS.contains(&name.to_bytes()) {
        // As ext4 answers if an ACL needs more than a block.
        return Err(Errno::NOSPC);
    }
    let path = file_system.paths.of(&*inode);
    setxattr(&path, name, value, flags)?;
    if drop_set_group_id {
        // The caller is not in the file's group. The server may keep the bit, so the host's kernel does not clear it.
        let mode = Mode::from_raw_mode(file_status::of(&*inode)?.stx_mode.into());
        if mode.contains(Mode::SGID) {
            chmodat(CWD, &path, mode - Mode::SGID, AtFlags::empty())?;
        }
    }
    Ok(())
}

pub fn get(file_system: &FileSystem, node: u64, name: &CStr, size: u32, reply: &mut Reply) -> Result<(), Errno> {
    let Node::Inode(inode) = file_system.node(node)? else {
        return Err(Errno::NODATA);
    };
    check_name(name)?;
    let path = file_system.paths.of(&*inode);
    if size == 0 {
        write_size(reply, getxattr_query(&path, name)?);
        return Ok(());
    }
    let room = reply.room(limit(size));
    let length = getxattr(&path, name, room)?;
    reply.extend(length);
    Ok(())
}

pub fn list(file_system: &FileSystem, node: u64, size: u32, reply: &mut Reply) -> Result<(), Errno> {
    let names = match file_system.node(node)? {
        Node::Root => Vec::new(),
        Node::Inode(inode) => {
            let mut all = vec![0; MAX_BYTES];
            let length = listxattr(file_system.paths.of(&*inode), all.as_mut_slice())?;
            all.truncate(length);
            let names = all.split_inclusive(|byte| *byte == 0);
            let names = names.filter(|name| is_allowed(name.strip_suffix(b"\0").unwrap_or(name)));
            names.collect::<Vec<_>>().concat()
        }
    };
    if size == 0 {
        write_size(reply, names.len());
    } else if names.len() > limit(size) {
        return Err(Errno::RANGE);
    } else {
        reply.bytes(&names);
    }
    Ok(())
}

pub fn remove(file_system: &FileSystem, node: u64, name: &CStr) -> Result<(), Errno> {
    let inode = file_system.writable_inode(node)?;
    check_name(name)?;
    removexattr(file_system.paths.of(&*inode), name)
}

fn limit(size: u32) -> usize {
    usize::try_from(size).map_or(MAX_BYTES, |size| size.min(MAX_BYTES))
}

/// Writes `struct fuse_getxattr_out`.
fn write_size(reply: &mut Reply, size: usize) {
    reply.u32(u32::try_from(size).unwrap_or(u32::MAX));
    reply.u32(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_no_attributes_of_the_host_s_own() {
        for name in [
            c"trusted.overlay.opaque",
            c"security.selinux",
            c"security.capability2",
            c"security.ima",
            c"system.nfs4_acl",
            c"user.",
            c"user",
            c"",
        ] {
            assert_eq!(check_name(name), Err(Errno::OPNOTSUPP), "{name:?}");
        }
        for name in [c"user.a", c"security.capability", c"system.posix_acl_default"] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }
}
