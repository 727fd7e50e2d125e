//! Keeps this process's memory, which may contain Secrets, out of cores.

use nix::errno::Errno;
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::stderr::report;

/// Makes this process leave no core when it crashes.
pub(super) fn forbid() {
    if let Err(errno) = try_forbid() {
        report!("warning: a crash may write Secrets to a core: {errno}");
    }
}

fn try_forbid() -> Result<(), Errno> {
    // The kernel ignores this limit for cores that it pipes to a program (core(5)), but such programs respect it. Child
    // processes inherit it, and may raise it again.
    let (_, maximum) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, maximum)?;
    // Only root can trace this process or read its memory now. execve(2) resets this.
    set_dumpable(false)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use super::*;

    const IN_CHILD: &str = "MICROKUBE_TEST_LEAVES_NO_CORE";
    const CODE: i32 = 7;

    #[test]
    fn a_process_leaves_no_core_and_its_own_files_in_proc_stay_usable() {
        if std::env::var_os(IN_CHILD).is_none() {
            // Use a separate process, because other tests must stay dumpable.
            let mut child = Command::new(std::env::current_exe().unwrap());
            let name = "cli::cores::tests::a_process_leaves_no_core_and_its_own_files_in_proc_stay_usable";
            child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, "yes");
            assert_eq!(child.status().unwrap().code(), Some(CODE));
            return;
        }
        try_forbid().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap().0, 0);
        assert!(!nix::sys::prctl::get_dumpable().unwrap());
        // Several modules use these functions.
        let root = std::fs::File::open("/").unwrap();
        let path = format!("/proc/self/fd/{}/proc", root.as_raw_fd());
        assert!(std::fs::metadata(path).unwrap().is_dir());
        std::fs::File::open("/proc/self/exe").unwrap();
        std::process::exit(CODE);
    }
}
