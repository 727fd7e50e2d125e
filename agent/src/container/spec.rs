//! The specification that the agent passes to the helper that becomes a process of a container, and the helper's
//! reports.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::user::User;

/// First argument of the agent's program when it is started as the helper.
pub const HELPER_ARGUMENT: &str = "container-init";
/// The name of the program when it is started as the process that holds a shared PID namespace: the first element of its
/// command line.
pub const PAUSE_PROGRAM: &str = "/pause";

/// Descriptor from which the helper reads its [`HelperSpec`] as JSON.
pub const SPEC_FD: i32 = 3;

/// Descriptor to which the helper writes [`Report`]s, one JSON object per line.
pub const REPORT_FD: i32 = 4;

/// Descriptor through which the helper sends the master of a terminal, if one was requested.
pub const TERMINAL_FD: i32 = 5;

/// Descriptor of the process whose container the helper joins (pidfd_open(2)), if it joins one; for a new container in a
/// user namespace, of the process whose PID namespace it joins.
pub const CONTAINER_FD: i32 = 6;

/// Descriptor of a pipe. If the helper has to wait for its turn, it executes the command when it can read a byte, and
/// ends if the pipe ends without one.
pub const TURN_FD: i32 = 7;

/// Descriptor of the user namespace of a new container, if its Pod has one.
pub const USER_NAMESPACE_FD: i32 = 8;

/// The process that a helper becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperSpec {
    /// The file system of a new container; `None` for a process that joins one.
    pub root: Option<RootSpec>,
    pub process: ProcessSpec,
    /// Whether it waits for [`TURN_FD`] before it executes the command.
    pub waits_for_turn: bool,
    /// Whether the process runs in a user namespace: that at [`USER_NAMESPACE_FD`], or that of the container it joins.
    pub in_user_namespace: bool,
}

/// The file system of a container, with all names resolved to paths in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSpec {
    /// Mounted layers, lowest first.
    pub layers: Vec<PathBuf>,
    /// Writable layer of the overlay.
    pub upper_dir: PathBuf,
    /// Working directory of the overlay, on the same file system.
    pub work_dir: PathBuf,
    /// Directory with the Pod's hosts, resolv.conf and hostname.
    pub etc_dir: PathBuf,
    /// The Pod's /dev/shm.
    pub shm_dir: PathBuf,
    pub mounts: Vec<VolumeMount>,
    /// The file for the termination message, and its path in the container.
    pub termination_message: Option<(PathBuf, PathBuf)>,
    /// Whether the container's own root file system is read-only.
    pub read_only_rootfs: bool,
    /// Whether the container gets all devices, and no masked or read-only paths.
    pub privileged: bool,
    /// Whether it has no masked or read-only paths.
    pub unmasked_proc: bool,
    /// Whether it joins the PID namespace of the process at [`CONTAINER_FD`].
    pub joins_pid_namespace: bool,
}

/// A process in a container.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// An absolute path.
    pub working_dir: PathBuf,
    /// The user that it runs as.
    pub user: WantedUser,
    /// Names of capabilities.
    pub capabilities: Vec<String>,
    pub seccomp: SeccompSpec,
    /// Whether execve may grant privileges.
    pub no_new_privileges: bool,
    /// The oom_score_adj of Linux.
    pub oom_score_adj: i32,
    /// Whether descriptor 0 is the stdin pipe; otherwise it is /dev/null.
    pub stdin: bool,
    /// If set, stdin, stdout and stderr are a terminal of this size.
    pub terminal: Option<Size>,
}

/// Omits arguments and environment, which may contain Secrets.
impl fmt::Debug for ProcessSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSpec")
            .field("args", &format_args!("({})", self.args.len()))
            .field("env", &format_args!("({})", self.env.len()))
            .field("working_dir", &self.working_dir)
            .field("user", &self.user)
            .field("capabilities", &self.capabilities)
            .field("seccomp", &self.seccomp)
            .field("no_new_privileges", &self.no_new_privileges)
            .field("oom_score_adj", &self.oom_score_adj)
            .field("stdin", &self.stdin)
            .field("terminal", &self.terminal)
            .finish()
    }
}

/// The system calls that a process may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompSpec {
    /// All calls.
    Unconfined,
    /// The calls of the default profile.
    Default,
    /// The calls that all these BPF programs allow. Each number is a `struct sock_filter` (linux/filter.h),
    /// little-endian.
    Programs(Vec<Vec<u64>>),
}

/// Size of a terminal in characters. Zeros mean that it is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// The user that a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedUser {
    /// A user to look up in the container's files.
    Named {
        /// USER as given by the image or the manifest: a name or a number, with or without a group.
        spec: String,
        /// Supplementary groups.
        supplemental_gids: Vec<u32>,
        /// Whether to leave out the groups that the image gives the user.
        without_image_groups: bool,
    },
    /// The resolved user of the container's first process. It is not looked up again, because the container may have
    /// changed its files since.
    Resolved(User),
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    pub volume: String,
    /// The volume's directory in the guest.
    pub source: PathBuf,
    /// Path inside the volume.
    pub sub_path: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether writes to mounts inside the volume are refused as well.
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    /// Whether the volume shows an image: its files belong to the Pod's users already, and nothing can be created in it.
    pub is_image: bool,
}

/// How mounts that appear in a volume reach other containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Propagation {
    /// Mounts do not propagate.
    #[default]
    Private,
    /// The container receives the mounts of others.
    Slave,
    /// The container receives the mounts of others, and others receive those of this container.
    Shared,
}

/// A report of the helper. End of file after [`Report::Executing`] means that the command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The helper has prepared a container in a user namespace, and started this process, a child of the agent, to become
    /// the container. The helper itself ends.
    Forked {
        /// Its PID in the VM's PID namespace.
        pid: i32,
    },
    /// execve is the next call.
    Executing {
        /// CLOCK_BOOTTIME in nanoseconds.
        boottime_ns: u64,
        /// The user that the process runs as.
        user: User,
    },
    /// The container cannot be started.
    Failed {
        kind: FailureKind,
        /// The error chain.
        message: String,
    },
}

/// The kinds of failure that callers distinguish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The command does not exist.
    NotFound,
    /// The command may not be executed.
    PermissionDenied,
    /// The image does not have the user or the group.
    UnknownUser,
    /// The `subPath` of a volume mount cannot be used. Nothing was created; the message is the kubelet's.
    SubPath,
    /// An image volume does not have the `subPath` of a mount. Nothing was created; the message is containerd's.
    ImageVolume,
    /// Anything else.
    Internal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_process_shows_neither_arguments_nor_environment() {
        let process = ProcessSpec {
            args: vec!["--password=hunter2".to_owned()],
            env: vec!["PASSWORD=hunter2".to_owned(), "USER=hunter2".to_owned()],
            working_dir: PathBuf::from("/srv"),
            user: WantedUser::Named {
                spec: String::new(),
                supplemental_gids: Vec::new(),
                without_image_groups: false,
            },
            capabilities: Vec::new(),
            seccomp: SeccompSpec::Default,
            no_new_privileges: true,
            oom_score_adj: 0,
            stdin: false,
            terminal: None,
        };
        let shown = format!("{process:?}");
        assert!(shown.contains(r#"args: (1), env: (2), working_dir: "/srv""#), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
