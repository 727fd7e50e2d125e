//! Gives up all privileges but those about files.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};

use super::error::{ConfinementError, Step};

/// What the server does with files on behalf of any user of the guest. There is no `MKNOD`: it creates no devices.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP);

/// The user and group `nobody`. The process is root only for access to files (setfsuid(2)): processes of root would be
/// within reach of its signals.
const NOBODY: u32 = 65534;

pub(super) fn keep_those_for_files() -> Result<(), ConfinementError> {
    for number in 0..CapabilitySet::all().bits().count_ones() {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !KEPT.contains(capability) => {
                remove_capability_from_bounding_set(capability).step("drop capabilities from the bounding set")?;
            }
            Ok(_) => {}
            // The first capability that does not exist ends the list.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error).step("read the bounding set"),
        }
    }
    clear_ambient_capability_set().step("drop ambient capabilities")?;
    set_no_new_privs(true).step("set PR_SET_NO_NEW_PRIVS")?;
    set_keep_capabilities(true).step("keep capabilities across a change of user")?;
    set_thread_groups(&[]).step("give up supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_res_gid(gid, gid, gid).step("change the group")?;
    set_thread_res_uid(uid, uid, uid).step("change the user")?;
    let sets = CapabilitySets {
        effective: KEPT,
        permitted: KEPT,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).step("drop all other capabilities")?;
    access_files_as_root()?;
    // The change of the user for files has an effect on these, too (capabilities(7)).
    set_capabilities(None, sets).step("drop all other capabilities")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("forbid other processes to inspect it")
}

fn access_files_as_root() -> Result<(), ConfinementError> {
    // SAFETY: these calls take integers. The second call of each returns what the first one set.
    let is_root = unsafe {
        libc::setfsuid(0);
        libc::setfsgid(0);
        libc::setfsuid(libc::uid_t::MAX) == 0 && libc::setfsgid(libc::gid_t::MAX) == 0
    };
    let result = if is_root { Ok(()) } else { Err(Errno::PERM) };
    result.step("access files as root")
}
