//! The identity with which a thread acts on files.
//!
//! The guest's kernel checks permissions, so most operations act as the server, which may do everything with files.
//! Two kinds act otherwise: what creates a file acts as the caller in the guest, so that the file belongs to the caller;
//! and a write of a caller without `CAP_FSETID` acts without it, so that the host's kernel clears set-user-ID,
//! set-group-ID and file capabilities.
//!
//! User, group, capabilities and umask are those of the calling thread only (setfsuid(2), capset(2), `CLONE_FS`).

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags, capabilities, set_capabilities, unshare_unsafe};

/// What a caller keeps of the server's capabilities, because the guest's kernel has already checked the permission to
/// write the directory and stripped set-group-ID where the caller may not set it. It knows the caller's supplementary
/// groups, the server does not. The last two are for changing back.
const CALLER: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID);

/// A user and group that no process has: setfsuid(2) ignores it.
const INVALID: u32 = u32::MAX;

/// A process in the guest that creates a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub umask: u32,
}

/// The identity of the calling thread. A value belongs to its thread.
#[derive(Debug)]
pub struct Credentials {
    uid: u32,
    gid: u32,
    capabilities: CapabilitySets,
    /// Capabilities and umask belong to a thread, so the value must stay in it.
    _of_thread: std::marker::PhantomData<*const ()>,
}

impl Credentials {
    /// Gives the calling thread its own umask, and takes its identity as the server's.
    pub fn of_thread() -> Result<Self, Errno> {
        // SAFETY: with this flag, threads get their own working directory, root directory and umask. Nothing changes
        // the first two after threads were started. Descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::FS)? };
        rustix::process::umask(Mode::empty());
        Ok(Self {
            uid: set_user(INVALID),
            gid: set_group(INVALID),
            capabilities: capabilities(None)?,
            _of_thread: std::marker::PhantomData,
        })
    }

    /// Runs `create` as a caller in the guest.
    pub fn as_caller<T>(&mut self, caller: Caller, create: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        if caller.uid == INVALID || caller.gid == INVALID {
            return Err(Errno::INVAL);
        }
        let restored = Restore(self);
        set_group(caller.gid);
        set_user(caller.uid);
        // Both calls report no errors.
        if set_user(INVALID) != caller.uid || set_group(INVALID) != caller.gid {
            return Err(Errno::PERM);
        }
        restored.0.set_effective(restored.0.capabilities.effective & CALLER)?;
        rustix::process::umask(Mode::from_bits_truncate(caller.umask & 0o777));
        create()
    }

    /// Runs `change` without the right to keep set-user-ID and set-group-ID bits and file capabilities of a file that
    /// it writes.
    pub fn without_set_id<T>(&mut self, change: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let restored = Restore(self);
        restored
            .0
            .set_effective(restored.0.capabilities.effective - CapabilitySet::FSETID)?;
        change()
    }

    fn set_effective(&self, effective: CapabilitySet) -> Result<(), Errno> {
        // Nothing to change in a process without capabilities.
        if self.capabilities.permitted.is_empty() {
            return Ok(());
        }
        set_capabilities(
            None,
            CapabilitySets {
                effective,
                ..self.capabilities
            },
        )
    }
}

/// Returns to the server's identity. A thread that cannot return must not serve anything else.
struct Restore<'a>(&'a Credentials);

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        let own = self.0;
        rustix::process::umask(Mode::empty());
        set_user(own.uid);
        set_group(own.gid);
        let is_back = set_user(INVALID) == own.uid && set_group(INVALID) == own.gid;
        if !is_back || own.set_effective(own.capabilities.effective).is_err() {
            std::process::abort();
        }
    }
}

/// Changes the thread's user for access to files; returns the previous one.
fn set_user(uid: u32) -> u32 {
    // SAFETY: takes an integer, and changes only the calling thread.
    unsafe { libc::setfsuid(uid) }.cast_unsigned()
}

/// Changes the thread's group for access to files; returns the previous one.
fn set_group(gid: u32) -> u32 {
    // SAFETY: as above.
    unsafe { libc::setfsgid(gid) }.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

    use super::*;

    /// Runs in its own thread, whose umask may change.
    fn in_thread(test: impl FnOnce(Credentials) + Send) {
        std::thread::scope(|scope| {
            scope.spawn(|| test(Credentials::of_thread().unwrap())).join().unwrap();
        });
    }

    #[test]
    fn the_caller_s_umask_applies_to_what_it_creates_and_to_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let create = |name: &str| {
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o666);
            let file = options.open(directory.path().join(name)).unwrap();
            Ok(file.metadata().unwrap().mode() & 0o7777)
        };
        in_thread(|mut credentials| {
            let caller = Caller {
                uid: credentials.uid,
                gid: credentials.gid,
                umask: 0o027,
            };
            assert_eq!(credentials.as_caller(caller, || create("as-caller")), Ok(0o640));
            assert_eq!(create("as-server"), Ok(0o666));
        });
    }

    #[test]
    fn an_identity_that_the_thread_cannot_take_is_refused() {
        in_thread(|mut credentials| {
            let (uid, gid) = (credentials.uid, credentials.gid);
            for (uid, gid) in [(INVALID, gid), (uid, INVALID)] {
                let caller = Caller { uid, gid, umask: 0 };
                assert_eq!(credentials.as_caller(caller, || Ok(())), Err(Errno::INVAL));
            }
            let other = Caller {
                uid: uid + 1,
                gid,
                umask: 0,
            };
            let result = credentials.as_caller(other, || Ok(set_user(INVALID)));
            let may_change = credentials.capabilities.effective.contains(CapabilitySet::SETUID);
            let expected = if may_change { Ok(uid + 1) } else { Err(Errno::PERM) };
            assert_eq!(result, expected);
            assert_eq!(set_user(INVALID), uid);
        });
    }
}
