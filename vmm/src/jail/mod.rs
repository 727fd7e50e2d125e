//! The jail: before the guest runs, the process gives up the file system, the network, privileges, and every system
//! call that its threads do not need.
//!
//! [`enter`] is called while the process has one thread and after everything is opened. Each thread installs its own
//! filter from [`seccomp`] before the guest's first instruction.

use crate::config::JailConfig;

pub mod descriptors;
mod error;
mod namespaces;
pub mod seccomp;

pub use error::JailError;
use error::check;

/// Maximum number of descriptors of a VMM: 1024 connections, another one in transit for each, the 1024 segments of its
/// disk, the files that the file server passes ([`crate::devices::fs::open_files::MAX_FILES`]), and the others that it has.
const MAX_DESCRIPTORS: libc::rlim_t = 4096;

/// Confines the process, except for its system calls. The process dies with its supervisor unless
/// `outlives_supervisor`, and cannot write a file beyond `largest_file` bytes.
pub fn enter(config: &JailConfig, outlives_supervisor: bool, largest_file: u64) -> Result<(), JailError> {
    // SAFETY: getppid(2) takes nothing and always succeeds.
    let parent = unsafe { libc::getppid() };
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(JailError::Threads(threads));
    }
    limit(
        libc::RLIMIT_CORE,
        0,
        "forbid core dumps, which would contain guest memory",
    )?;
    limit(libc::RLIMIT_NOFILE, MAX_DESCRIPTORS, "limit the number of descriptors")?;
    limit_file_size(largest_file)?;
    keep_out_of_swap()?;
    namespaces::leave_file_system_and_network()?;
    drop_privileges(config)?;
    if outlives_supervisor {
        return Ok(());
    }
    die_with(parent)
}

/// Locks all pages that this process has and will get, once it or the guest uses them: they may contain Secrets. A host
/// without swap space may forbid it, as containers do by default.
fn keep_out_of_swap() -> Result<(), JailError> {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // For mappings that are made without privileges.
    // SAFETY: reads an rlimit.
    let mut result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    if result == 0 {
        // SAFETY: mlockall(2) takes flags only.
        result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    }
    let checked = check(result, "lock memory, so that it is not written to swap space");
    // The first line is a heading.
    let has_swap = std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().nth(1).is_some());
    if has_swap { checked } else { Ok(()) }
}

/// Makes the kernel kill this process when its parent ends. A change of user clears this setting if the parent
/// requested it (prctl(2), `PR_SET_PDEATHSIG`), so it is requested here, after the change.
fn die_with(parent: libc::pid_t) -> Result<(), JailError> {
    // SAFETY: this option of prctl(2) takes integers only.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    check(result, "arrange to be killed with the supervisor")?;
    // SAFETY: getppid(2) takes nothing and always succeeds.
    if unsafe { libc::getppid() } != parent {
        return Err(JailError::Orphaned);
    }
    Ok(())
}

/// The type of a limit's name, which differs between C libraries.
#[cfg(target_env = "gnu")]
type RlimitResource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type RlimitResource = libc::c_int;

/// Lowers a limit; a limit that is lower already stays.
fn limit(resource: RlimitResource, value: libc::rlim_t, what: &'static str) -> Result<(), JailError> {
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

/// Makes writes beyond `bytes` fail (`EFBIG`): a process that the guest has taken over can write no more than the
/// guest's disk holds.
fn limit_file_size(bytes: u64) -> Result<(), JailError> {
    const WHAT: &str = "limit the size of files";
    // Without this, such a write ends the process.
    // SAFETY: no handler is installed.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return check(-1, WHAT);
    }
    limit(libc::RLIMIT_FSIZE, bytes, WHAT)
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
            // The first capability that does not exist ends the list.
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
        check(no_new, "set PR_SET_NO_NEW_PRIVS")?;
        check(
            libc::prctl(libc::PR_SET_DUMPABLE, ZERO, ZERO, ZERO, ZERO),
            "forbid other processes to inspect it",
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_file_cannot_be_written_beyond_the_limit_and_the_attempt_is_an_error() {
        const LIMIT: u64 = 8192;
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        let fd = file.as_raw_fd();
        // SAFETY: the child only makes system calls, and exits without running any of the parent's code.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above; the pointers are those of locals.
            unsafe {
                let mut limit = std::mem::zeroed::<libc::rlimit>();
                let set = limit_file_size(LIMIT).is_ok() && libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) == 0;
                let inside = libc::pwrite(fd, c"x".as_ptr().cast(), 1, 8191) == 1;
                let outside = libc::pwrite(fd, c"x".as_ptr().cast(), 1, 8192);
                let refused = outside < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFBIG);
                let grown = libc::fallocate(fd, 0, 0, 16384) == 0;
                let as_said = set && limit.rlim_cur == LIMIT && limit.rlim_max == LIMIT && inside && refused && !grown;
                libc::_exit(if as_said { 0 } else { 1 });
            }
        }
        let mut status = 0;
        // SAFETY: waits for our child and writes its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(
            libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
            "status {status:#x}"
        );
        assert_eq!(file.metadata().unwrap().len(), LIMIT);
    }
}
