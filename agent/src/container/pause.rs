//! The process that holds the PID namespace of a Pod with `shareProcessNamespace`. As the namespace's PID 1 it adopts the
//! orphans of all containers, and the kernel collects them. It is this program, started again under the name that it has
//! in Kubernetes.
//!
//! Every container of the Pod can see this process, so it keeps nothing that a container could use: no capabilities, no
//! files, an empty root directory.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{OFlag, open};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pause, pipe2, setsid};

use super::capabilities::Capabilities;
use super::launch::Launcher;
use super::seccomp::Filters;
use super::spec::SeccompSpec;
use super::user::User;
use super::{init, prepared_mounts, rootfs, spawn};
use crate::boot::CGROUP_ROOT;
use crate::mount_api::{attach, attr, new_mount};
use crate::{boot, log, priority, user_namespace};

/// Descriptor to which the process reports that it is ready, or why it is not. In a user namespace, it first reports the
/// PID of the process that it has forked there.
const REPORT_FD: i32 = 3;

/// Descriptor of the Pod's user namespace, if it has one.
const USER_NAMESPACE_FD: i32 = 4;

/// The report of a process that is ready.
const READY: &str = "ready";

/// User and group of the process, as in Kubernetes' image.
const PAUSE_ID: u32 = 65_535;

/// The oom_score_adj of sandboxes (`PodInfraOOMAdj` in `pkg/kubelet/qos`).
const PAUSE_OOM_SCORE_ADJ: i32 = -998;

impl Launcher {
    /// Starts the process in a new PID namespace and returns its PID and its pidfd (pidfd_open(2)). The VM ends with
    /// the process, because all containers end with it.
    pub fn start_pause(&self, user_namespace: Option<BorrowedFd<'_>>) -> Result<(Pid, OwnedFd)> {
        let (report, helper_report) = pipe2(OFlag::O_CLOEXEC).context("cannot create a pipe")?;
        let null =
            open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).context("cannot open /dev/null")?;
        let cgroup = File::open(CGROUP_ROOT).with_context(|| format!("cannot open {CGROUP_ROOT}"))?;
        let started = self.reaper.spawn(|| {
            spawn::start_pause(
                self.executable.as_fd(),
                cgroup.as_fd(),
                null.as_fd(),
                helper_report.as_fd(),
                user_namespace,
            )
        });
        let (mut pid, mut pidfd, mut ended) =
            started.context("cannot start the process that holds the PID namespace")?;
        drop(helper_report);
        let mut text = String::new();
        File::from(report)
            .read_to_string(&mut text)
            .context("cannot read the report of the process that holds the PID namespace")?;
        let mut report = text.as_str();
        if let Some((forked, rest)) = text.split_once('\n') {
            report = rest;
            pid = Pid::from_raw(forked.parse().context("cannot parse the PID of the forked process")?);
            let adopted = self.reaper.adopt(pid).context("cannot follow the forked process")?;
            (pidfd, ended) = adopted.context("the process that holds the PID namespace has ended")?;
        }
        ensure!(
            report == READY,
            "the process that holds the PID namespace failed: {report}"
        );
        tokio::spawn(async move {
            let status = ended.await.ok();
            let message = format_args!("the process that holds the PID namespace has ended: {status:?}");
            log::write(log::Level::Critical, &message);
            boot::power_off();
        });
        Ok((pid, pidfd))
    }
}

/// Becomes the process.
pub fn main() -> ! {
    // SAFETY: the agent starts the process with this descriptor open, and no other code here uses it.
    let mut report = unsafe { File::from_raw_fd(REPORT_FD) };
    let is_ready = prepare(&mut report);
    let text = match &is_ready {
        Ok(()) => READY.to_owned(),
        Err(error) => format!("{error:#}"),
    };
    if is_ready.is_err() || report.write_all(text.as_bytes()).is_err() {
        let _ = report.write_all(text.as_bytes());
        std::process::exit(1);
    }
    drop(report);
    loop {
        // pause(2) returns only after a signal handler, and there is none.
        pause();
    }
}

fn prepare(report: &mut File) -> Result<()> {
    nix::sys::prctl::set_dumpable(false).context("cannot hide the process from containers")?;
    nix::sys::prctl::set_name(c"pause").context("cannot set the process's name")?;
    init::set_oom_score_adj(PAUSE_OOM_SCORE_ADJ)?;
    // Without a user namespace, the agent leaves this descriptor closed.
    // SAFETY: no pointers; fcntl only reads the flags.
    if unsafe { libc::fcntl(USER_NAMESPACE_FD, libc::F_GETFD) } >= 0 {
        // SAFETY: the descriptor is open, and no other code here uses it.
        let user_namespace = unsafe { OwnedFd::from_raw_fd(USER_NAMESPACE_FD) };
        continue_in(user_namespace.as_fd(), report)?;
    }
    setsid().context("cannot start a session")?;
    init::reset_signals();
    // SAFETY: no handler is installed. The kernel collects the children of a process that ignores this signal.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.context("cannot ignore SIGCHLD")?;
    leave_root()?;
    let user = User {
        uid: PAUSE_ID,
        gid: PAUSE_ID,
        groups: Vec::new(),
        home: "/".to_owned(),
    };
    let capabilities = Capabilities::default();
    let filters = Filters::new(&SeccompSpec::Default, capabilities)?;
    priority::reset().context("cannot reset the priority")?;
    init::drop_privileges(&user, capabilities, &filters, true)?;
    // Otherwise /proc shows the process as root's.
    nix::sys::prctl::set_dumpable(true).context("cannot show the process as its user's")
}

/// Continues in a new process, the first of a PID namespace that belongs to the user namespace.
fn continue_in(user_namespace: BorrowedFd<'_>, report: &mut File) -> Result<()> {
    let (reported, reporting) = pipe2(OFlag::O_CLOEXEC).context("cannot create a pipe")?;
    user_namespace::become_root(user_namespace)?;
    if let Some(pid) = spawn::fork_sibling(true).context("cannot start the process in the user namespace")? {
        writeln!(report, "{pid}").context("cannot report the process")?;
        std::process::exit(0);
    }
    drop(reporting);
    // The PID must be the first line.
    File::from(reported)
        .read_to_end(&mut Vec::new())
        .context("cannot wait for the report of the PID")?;
    Ok(())
}

/// Replaces the root directory by an empty one.
fn leave_root() -> Result<()> {
    prepared_mounts::make_private()?;
    let attributes = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    let root = new_mount(c"tmpfs", attributes).context("cannot mount an empty directory")?;
    let place = open("/tmp", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).context("cannot open /tmp")?;
    attach(root.as_fd(), place.as_fd()).context("cannot attach the empty directory")?;
    rootfs::change_root(root.as_fd())
}
