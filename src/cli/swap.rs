//! Keeps this process's memory, which may contain Secrets, out of swap space.
//!
//! The kubelet forbids Pods to use swap by default. A VMM locks its guest's memory by itself.

use nix::errno::Errno;
use nix::unistd::geteuid;

use crate::stderr::report;

/// Locks all pages that this process has and will get, once it uses them. Only root has Secrets. Child processes are not
/// locked (mlockall(2)).
pub(super) fn forbid() {
    if !geteuid().is_root() {
        return;
    }
    // SAFETY: mlockall(2) takes flags only.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    if let Err(errno) = Errno::result(result)
        && std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| has_swap(&swaps))
    {
        report!("warning: memory with Secrets may be written to swap space, because it cannot be locked: {errno}");
    }
}

/// Whether `/proc/swaps` has an entry below its heading.
fn has_swap(swaps: &str) -> bool {
    swaps.lines().nth(1).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_alone_is_no_swap_space() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!has_swap(heading));
        assert!(has_swap(&format!("{heading}/dev/vda2 partition\t1024\t0\t-2\n")));
        assert!(!has_swap(""));
    }
}
