//! The helper that becomes a process of a container: PID 1 of a new container, or an exec process in a running one.
//!
//! The helper is this program, started again with a single thread, so everything between the namespaces and execve is
//! ordinary code. Descriptors 0 to 2 are already the container's stdio; see [`super::spec`] for the others.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Error, Result};
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, SFlag, fstat, umask};
use nix::unistd::{Gid, Uid, chdir, dup2_stdin, fchown, getcwd, pipe2, setgroups, setresgid, setresuid, setsid};

use super::capabilities::Capabilities;
use super::exec::{self, ExecError};
use super::prepared_mounts;
use super::rootfs::{self, WorkingDirError};
use super::seccomp::Filters;
use super::spec::{
    CONTAINER_FD, FailureKind, HelperSpec, REPORT_FD, Report, RootSpec, SPEC_FD, TERMINAL_FD, TURN_FD,
    USER_NAMESPACE_FD, WantedUser,
};
use super::sub_path::{ImageSubPathError, SubPathError};
use super::user::{self, Groups, User, UserError};
use super::{dev, spawn, terminal};
use crate::boot::boottime_ns;
use crate::{priority, user_namespace};

/// Exit status of a helper that failed. Docker and containerd use it for containers that never started.
const EXIT_START_ERROR: i32 = 128;

/// Maximum length of a reported message in bytes.
const MAX_MESSAGE_BYTES: usize = 8 << 10;

/// The failed operation if the kernel refuses a filter.
const INSTALLING: &str = "cannot install the seccomp filters";

/// Limits on open files of a container: a soft limit for programs that use select(2), a hard limit for those that ask
/// for more. These are systemd's defaults, which containerd passes on.
const OPEN_FILES: (u64, u64) = (1024, 524_288);

/// Runs the helper. Does not return if the command was executed.
pub fn main() -> ! {
    // SAFETY: the agent starts the helper with these two descriptors open, and no other code here uses them.
    let (spec, mut report) = unsafe { (File::from_raw_fd(SPEC_FD), File::from_raw_fd(REPORT_FD)) };
    if let Err(error) = run(spec, &mut report) {
        let failed = Report::Failed {
            kind: kind(&error),
            message: shortened(message(&error)),
        };
        // If the report fails, the exit status still shows that the container did not start.
        let _ = send(&mut report, &failed);
    }
    std::process::exit(EXIT_START_ERROR)
}

/// Shortens a message, which may contain a command line argument of several megabytes.
fn shortened(mut message: String) -> String {
    if let Some(end) = (0..=MAX_MESSAGE_BYTES).rev().find(|end| message.is_char_boundary(*end))
        && message.len() > MAX_MESSAGE_BYTES
    {
        message.truncate(end);
        message.push('…');
    }
    message
}

fn kind(error: &Error) -> FailureKind {
    if let Some(error) = error.downcast_ref::<ExecError>() {
        error.kind()
    } else if error.is::<UserError>() {
        FailureKind::UnknownUser
    } else if error.is::<SubPathError>() {
        FailureKind::SubPath
    } else if error.is::<ImageSubPathError>() {
        FailureKind::ImageVolume
    } else {
        FailureKind::Internal
    }
}

/// The error chain; for a `subPath`, only the text of the kubelet or of containerd.
fn message(error: &Error) -> String {
    if let Some(error) = error.downcast_ref::<SubPathError>() {
        error.to_string()
    } else if let Some(error) = error.downcast_ref::<ImageSubPathError>() {
        error.to_string()
    } else {
        format!("{error:#}")
    }
}

fn send(report: &mut File, message: &Report) -> Result<()> {
    let mut line = serde_json::to_vec(message).context("cannot encode a report")?;
    line.push(b'\n');
    report.write_all(&line).context("cannot report to the agent")
}

fn run(mut spec_file: File, report: &mut File) -> Result<()> {
    fcntl(report.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("cannot protect the report pipe")?;
    let mut spec = Vec::new();
    spec_file
        .read_to_end(&mut spec)
        .context("cannot read the process's specification")?;
    drop(spec_file);
    let HelperSpec {
        root,
        process: spec,
        waits_for_turn,
        in_user_namespace,
    } = serde_json::from_slice(&spec).context("cannot parse the process's specification")?;
    let capabilities = Capabilities::parse(spec.capabilities.iter().map(String::as_str))
        .map_err(|name| Error::msg(format!("unknown capability {name}")))?;

    // The processes already in the container must not be able to inspect this process, which has more
    // rights than the container.
    nix::sys::prctl::set_dumpable(false).context("cannot hide the helper from the container")?;
    reset_signals();
    // Both need rights over the VM.
    set_oom_score_adj(spec.oom_score_adj)?;
    raise_open_files();
    umask(Mode::empty());
    let null = dev::open_null()?;
    let user = match &root {
        Some(root) => {
            // SAFETY: for a new container of a Pod with a user namespace, the agent has opened this descriptor, and no other
            // code here uses it.
            let user_namespace = in_user_namespace.then(|| unsafe { OwnedFd::from_raw_fd(USER_NAMESPACE_FD) });
            let user_namespace = user_namespace.as_ref().map(AsFd::as_fd);
            enter_new_root(root, &spec.working_dir, spec.user, user_namespace, report)?
        }
        None => {
            let user = resolved(spec.user)?;
            own_pipes(&user, in_user_namespace)?;
            join_container(in_user_namespace)?;
            user
        }
    };
    setsid().context("cannot start a session")?;
    if let Some(size) = spec.terminal {
        // SAFETY: if there is a terminal, the agent has opened this descriptor, and no other code here uses it.
        let agent = unsafe { File::from_raw_fd(TERMINAL_FD) };
        terminal::enter(&agent, size, root.is_some())?;
        own_terminal(&user)?;
    } else if root.is_some() && !spec.stdin {
        dup2_stdin(dev::open_own_null(null)).context("cannot set stdin to /dev/null")?;
    }
    chdir(&spec.working_dir).map_err(|errno| WorkingDirError::new(&spec.working_dir, errno))?;
    // The working directory must never be outside the root, where the kernel would report it as "(unreachable)".
    let cwd = getcwd().context("cannot determine the working directory")?;
    anyhow::ensure!(cwd.is_absolute(), "the working directory is outside the container");

    let mut env = spec.env;
    complete_env(&mut env, &user, spec.terminal.is_some());
    let filters = Filters::new(&spec.seccomp, capabilities)?;
    // As in runc: installing filters needs CAP_SYS_ADMIN or no_new_privs. With the latter they come last, so that a
    // profile need not allow the calls before that.
    let (early, late) = match spec.no_new_privileges {
        true => (Filters::none(), filters),
        false => (filters, Filters::none()),
    };
    drop_privileges(&user, capabilities, &early, spec.no_new_privileges)?;

    let command = spec.args.first().map(String::as_str).unwrap_or_default();
    let path = exec::find(command, &env)?;
    let (args, env) = (exec::c_strings(&spec.args)?, exec::c_strings(&env)?);
    umask(Mode::from_bits_truncate(0o022));
    close_others_on_exec()?;
    if waits_for_turn {
        // SAFETY: if there is a turn to wait for, the agent has opened this descriptor, and no other code here uses it.
        let mut turn = unsafe { File::from_raw_fd(TURN_FD) };
        turn.read_exact(&mut [0]).context("the start was cancelled")?;
    }
    // As late as possible, because a busy container must not delay what a probe starts in it.
    priority::reset().context("cannot reset the priority")?;
    late.install().context(INSTALLING)?;
    send(
        report,
        &Report::Executing {
            boottime_ns: boottime_ns(),
            user,
        },
    )?;
    Err(exec::execute(&path, &args, &env).into())
}

/// The agent leaves no other descriptor open. If one ever slips through, it must not reach the container.
fn close_others_on_exec() -> Result<()> {
    // SAFETY: no pointers; the descriptors stay open until execve.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    nix::errno::Errno::result(result)
        .map(drop)
        .context("cannot protect the helper's descriptors")
}

/// The container must not inherit the ignored and blocked signals of the Rust runtime and the agent.
pub(super) fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: the default action runs none of our code. Signals that cannot be set fail harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero signal set is a valid empty one, and the old mask is not requested.
    unsafe {
        let empty: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
    }
}

/// Sets the value for the process and everything that it starts. Must be called while /proc is still the VM's. The
/// agent's own value is zero.
pub(super) fn set_oom_score_adj(value: i32) -> Result<()> {
    match value {
        0 => Ok(()),
        value => std::fs::write("/proc/self/oom_score_adj", value.to_string())
            .with_context(|| format!("cannot set oom_score_adj to {value}")),
    }
}

/// Joins the namespaces of the process at [`CONTAINER_FD`]; that process's root directory becomes this process's.
fn join_container(in_user_namespace: bool) -> Result<()> {
    // SAFETY: for a process that joins a container, the agent has opened this descriptor, and no
    // other code here uses it.
    let container = unsafe { OwnedFd::from_raw_fd(CONTAINER_FD) };
    let mut namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP;
    if in_user_namespace {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    setns(container, namespaces).context("cannot join the container; it may have ended")?;
    match in_user_namespace {
        true => user_namespace::own_root(),
        false => Ok(()),
    }
}

/// Creates the container's file system and enters it. Looks up the user and the groups in the image, so that a volume
/// at /etc cannot change them, and the home directory in the container's own view, as runc does.
///
/// With a user namespace, returns in another process, the container's.
fn enter_new_root(
    spec: &RootSpec,
    working_dir: &Path,
    wanted: WantedUser,
    user_namespace: Option<BorrowedFd<'_>>,
    report: &mut File,
) -> Result<User> {
    // Peers of the VM's own mounts, which the next step makes private.
    let prepared = prepared_mounts::prepare(spec, user_namespace)?;
    let root = prepared_mounts::overlay(spec, user_namespace)?;
    let mut user = look_up(wanted, &root)?;
    own_pipes(&user, user_namespace.is_some())?;
    if let Some(user_namespace) = user_namespace {
        continue_in(user_namespace, spec.joins_pid_namespace, report)?;
    }
    // The process is already in the container's cgroup, which therefore becomes the root of the namespace.
    unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot create a cgroup namespace")?;
    rootfs::enter(&root, spec, prepared, working_dir)?;
    user.home = home(user.uid);
    Ok(user)
}

/// Finds the user in the files of the image.
fn look_up(wanted: WantedUser, root: &OwnedFd) -> Result<User> {
    let (spec, supplemental_gids, without_image_groups) = match wanted {
        WantedUser::Resolved(user) => return Ok(user),
        WantedUser::Named {
            spec,
            supplemental_gids,
            without_image_groups,
        } => (spec, supplemental_gids, without_image_groups),
    };
    let read = |path: &str| {
        user::read_database(root.as_fd(), path.as_ref()).with_context(|| format!("cannot read {path} of the image"))
    };
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let groups = match without_image_groups {
        true => Groups::Strict(&supplemental_gids),
        false => Groups::Merge(&supplemental_gids),
    };
    Ok(user::resolve(&spec, groups, &passwd, &group)?)
}

/// Continues in a new process, the root of the user namespace, in mount and PID namespaces that belong to it.
fn continue_in(user_namespace: BorrowedFd<'_>, joins_pid_namespace: bool, report: &mut File) -> Result<()> {
    if joins_pid_namespace {
        // SAFETY: for a container that joins a PID namespace, the agent has opened this descriptor, and no other code here
        // uses it.
        let process = unsafe { OwnedFd::from_raw_fd(CONTAINER_FD) };
        setns(process, CloneFlags::CLONE_NEWPID)
            .context("cannot join the PID namespace; its process may have ended")?;
    }
    // The agent must get the new process's PID before anything else.
    let (reported, reporting) = pipe2(OFlag::O_CLOEXEC).context("cannot create a pipe")?;
    user_namespace::become_root(user_namespace)?;
    let forked = spawn::fork_sibling(!joins_pid_namespace).context("cannot start the container's process")?;
    if let Some(pid) = forked {
        send(report, &Report::Forked { pid: pid.as_raw() })?;
        std::process::exit(0);
    }
    drop(reporting);
    File::from(reported)
        .read_to_end(&mut Vec::new())
        .context("cannot wait for the helper")?;
    Ok(())
}

/// The user's home directory according to the container's own passwd file. An unreadable file
/// does not prevent the start.
fn home(uid: u32) -> String {
    let passwd = File::open("/").and_then(|root| user::read_database(root.as_fd(), "/etc/passwd".as_ref()));
    user::home(uid, &passwd.unwrap_or_default())
}

/// The user of an exec process, which was resolved when the container started.
fn resolved(user: WantedUser) -> Result<User> {
    match user {
        WantedUser::Resolved(user) => Ok(user),
        WantedUser::Named { .. } => Err(Error::msg("an exec process uses its container's user")),
    }
}

fn complete_env(env: &mut Vec<String>, user: &User, terminal: bool) {
    let mut add = |name: &str, variable: String| {
        if !env.iter().any(|variable| variable.starts_with(name)) {
            env.push(variable);
        }
    };
    add("PATH=", exec::DEFAULT_PATH.to_owned());
    add("HOME=", format!("HOME={}", user.home));
    if terminal {
        // Docker and containerd do the same.
        add("TERM=", "TERM=xterm".to_owned());
    }
}

/// Gives the pipes to the container's user, who could not open /dev/stdout otherwise. Must be called before a user
/// namespace is entered, whose root has no rights over them.
fn own_pipes(user: &User, in_user_namespace: bool) -> Result<()> {
    let mut owner = user.uid;
    if in_user_namespace {
        for gid in &user.groups {
            user_namespace::mapped(*gid)?;
        }
        user_namespace::mapped(user.gid)?;
        owner = user_namespace::mapped(user.uid)?;
    }
    own_stdio(owner, |status| {
        SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
    })
}

/// Gives the terminal to the container's user.
fn own_terminal(user: &User) -> Result<()> {
    own_stdio(user.uid, terminal::is_slave)
}

fn own_stdio(owner: u32, is_wanted: impl Fn(&libc::stat) -> bool) -> Result<()> {
    for number in 0..=2 {
        // SAFETY: descriptors 0 to 2 are open for the life of the process.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let status = fstat(fd).with_context(|| format!("cannot examine descriptor {number}"))?;
        if is_wanted(&status) {
            fchown(fd, Some(Uid::from_raw(owner)), None)
                .with_context(|| format!("cannot give descriptor {number} to user {owner}"))?;
        }
    }
    Ok(())
}

fn raise_open_files() {
    // This fails if fs.nr_open is lower. The kernel's default then stays, which works for every program.
    let _ = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1);
}

pub(super) fn drop_privileges(
    user: &User,
    capabilities: Capabilities,
    filters: &Filters,
    no_new_privileges: bool,
) -> Result<()> {
    capabilities
        .limit_bounding_set()
        .context("cannot limit the bounding set of capabilities")?;
    if no_new_privileges {
        nix::sys::prctl::set_no_new_privs().context("cannot set no_new_privs")?;
    }
    // Installing a filter needs CAP_SYS_ADMIN, so it must happen before the capabilities are dropped. The default profile
    // allows the calls that follow.
    filters.install().context(INSTALLING)?;
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).context("cannot set the supplementary groups")?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setresgid(gid, gid, gid).with_context(|| format!("cannot change to group {gid}"))?;
    // The permitted set has to survive the change of user, so that it can be reduced to the wanted set below. execve
    // clears the flag, and for users other than root the capabilities with it.
    nix::sys::prctl::set_keepcaps(true).context("cannot keep the capabilities")?;
    setresuid(uid, uid, uid).with_context(|| format!("cannot change to user {uid}"))?;
    capabilities.apply().context("cannot set the capabilities")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            uid: 7,
            gid: 8,
            groups: Vec::new(),
            home: "/home/seven".to_owned(),
        }
    }

    #[test]
    fn path_and_home_are_added_where_missing() {
        let mut env = vec!["A=b".to_owned()];
        complete_env(&mut env, &user(), false);
        assert_eq!(env, ["A=b", exec::DEFAULT_PATH, "HOME=/home/seven"]);
    }

    #[test]
    fn path_and_home_from_the_request_are_kept() {
        let mut env = vec!["HOME=".to_owned(), "PATH=/x".to_owned()];
        complete_env(&mut env, &user(), false);
        assert_eq!(env, ["HOME=", "PATH=/x"]);
    }

    #[test]
    fn term_is_set_only_for_a_terminal_and_the_containers_value_wins() {
        let mut env = vec!["PATH=/x".to_owned(), "HOME=/".to_owned()];
        complete_env(&mut env, &user(), true);
        assert_eq!(env, ["PATH=/x", "HOME=/", "TERM=xterm"]);
        env.pop();
        env.push("TERM=vt100".to_owned());
        complete_env(&mut env, &user(), true);
        assert_eq!(env, ["PATH=/x", "HOME=/", "TERM=vt100"]);
    }

    #[test]
    fn a_message_of_any_length_fits_the_report() {
        assert_eq!(shortened("short".to_owned()), "short");
        assert!(shortened("ä".repeat(MAX_MESSAGE_BYTES)).len() <= MAX_MESSAGE_BYTES + 3);
    }

    #[test]
    fn failures_are_classified_despite_added_context() {
        let missing = Error::from(ExecError::NotInPath("x".to_owned())).context("outer");
        assert_eq!(kind(&missing), FailureKind::NotFound);
        let user = Error::from(UserError::UnknownUser("x".to_owned()));
        assert_eq!(kind(&user), FailureKind::UnknownUser);
        assert_eq!(kind(&Error::msg("disk on fire")), FailureKind::Internal);
        let sub_path = Error::from(SubPathError::Prepare {
            volume: "data".to_owned(),
            errno: nix::errno::Errno::EXDEV,
        });
        let sub_path = sub_path.context("cannot mount the volume");
        assert_eq!(kind(&sub_path), FailureKind::SubPath);
        assert_eq!(message(&sub_path), "failed to prepare subPath for volumeMount \"data\"");
        let image = Error::from(ImageSubPathError {
            volume: "model".to_owned(),
            path: "v2".into(),
            problem: "openat v2: no such file or directory".to_owned(),
        });
        let image = image.context("cannot mount the volume");
        assert_eq!(kind(&image), FailureKind::ImageVolume);
        assert_eq!(
            message(&image),
            "failed to mount image volume: ImageVolumeMountFailed: failed to ensure image subpath \"v2\" in \"model\": \
             openat v2: no such file or directory"
        );
    }
}
