//! What the process gives up before the guest runs: the file system, the network, privileges, and every system call that its
//! threads do not need.
//!
//! [`enter`] is called while the process has one thread, with everything opened; the filters of [`seccomp`] are installed by
//! each thread for itself, before the guest's first instruction.

use std::io;

use crate::config::JailConfig;

mod namespaces;
pub mod seccomp;

/// Why the process could not be confined. It must not run a guest then.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The supervisor ended meanwhile.
    #[error("the supervisor has ended")]
    Orphaned,
    /// A step was refused.
    #[error("cannot {what}")]
    Step {
        /// The step.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// There are threads that would escape.
    #[error("cannot jail a process that has {0} threads already")]
    Threads(usize),
    /// A filter could not be made, which is a bug.
    #[error("cannot build the system call filter of a {0} thread")]
    Filter(&'static str, #[source] seccompiler::BackendError),
}

/// Turns the result of a system call into one with the step's name.
fn check(returned: libc::c_int, what: &'static str) -> Result<(), JailError> {
    if returned < 0 {
        Err(JailError::Step {
            what,
            source: io::Error::last_os_error(),
        })
    } else {
        Ok(())
    }
}

/// Most descriptors of a VMM: 1024 connections, each with one being handed over, and its files.
const MAX_DESCRIPTORS: libc::rlim_t = 4096;

/// Confines the process, except for its system calls. It dies with its supervisor unless it is to outlive it.
pub fn enter(config: &JailConfig, outlives_supervisor: bool) -> Result<(), JailError> {
    // SAFETY: getppid(2) takes nothing and always succeeds.
    let parent = unsafe { libc::getppid() };
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(JailError::Threads(threads));
    }
    limit(
        libc::RLIMIT_CORE,
        0,
        "forbid core dumps, which would hold the guest's memory",
    )?;
    limit(libc::RLIMIT_NOFILE, MAX_DESCRIPTORS, "limit the number of descriptors")?;
    namespaces::leave_file_system_and_network()?;
    drop_privileges(config)?;
    if outlives_supervisor {
        return Ok(());
    }
    die_with(parent)
}

/// Has the kernel kill this process when its parent ends. A change of user revokes such a wish of the parent's (prctl(2),
/// `PR_SET_PDEATHSIG`), so it is made here, after it.
fn die_with(parent: libc::pid_t) -> Result<(), JailError> {
    // SAFETY: this option of prctl(2) takes integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    check(result, "ask to be killed with the supervisor")?;
    // SAFETY: getppid(2) takes nothing and always succeeds.
    if unsafe { libc::getppid() } != parent {
        return Err(JailError::Orphaned);
    }
    Ok(())
}

/// Lowers a limit; one that is lower already stays.
fn limit(resource: libc::__rlimit_resource_t, value: libc::rlim_t, what: &'static str) -> Result<(), JailError> {
    let mut current = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: writes an rlimit.
    check(unsafe { libc::getrlimit(resource, &raw mut current) }, what)?;
    let value = value.min(current.rlim_max);
    let lowered = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: reads an rlimit.
    check(unsafe { libc::setrlimit(resource, &raw const lowered) }, what)
}

/// Version 3 of the kernel's capability interface: two words of 32.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn drop_privileges(config: &JailConfig) -> Result<(), JailError> {
    const ZERO: libc::c_ulong = 0;
    // SAFETY: these calls take no pointers beyond the empty list of groups.
    unsafe {
        check(libc::setgroups(0, std::ptr::null()), "give up supplementary groups")?;
        for capability in 0..64 as libc::c_ulong {
            // The first that does not exist ends the list.
            if libc::prctl(libc::PR_CAPBSET_READ, capability, ZERO, ZERO, ZERO) < 0 {
                break;
            }
            let dropped = libc::prctl(libc::PR_CAPBSET_DROP, capability, ZERO, ZERO, ZERO);
            check(dropped, "drop capabilities from the bounding set")?;
        }
        check(
            libc::setresgid(config.gid, config.gid, config.gid),
            "change to the jail's group",
        )?;
        check(
            libc::setresuid(config.uid, config.uid, config.uid),
            "change to the jail's user",
        )?;
        let no_new = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, ZERO, ZERO, ZERO);
        check(no_new, "give up gaining privileges (PR_SET_NO_NEW_PRIVS)")?;
        check(
            libc::prctl(libc::PR_SET_DUMPABLE, ZERO, ZERO, ZERO, ZERO),
            "forbid other processes to look inside",
        )?;
    }
    let header = CapabilityHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let none = [CapabilityWord::default(), CapabilityWord::default()];
    // SAFETY: the structures are those of capset(2) for this version.
    let dropped = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    check(libc::c_int::try_from(dropped).unwrap_or(-1), "drop all capabilities")
}
