//! What the agent tells the helper that becomes a process of a container, and what the helper answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::user::User;

/// First argument of the agent's program when it is started as that helper.
pub const HELPER_ARGUMENT: &str = "container-init";

/// Descriptor from which the helper reads its [`HelperSpec`] as JSON.
pub const SPEC_FD: i32 = 3;

/// Descriptor to which the helper writes [`Report`]s, one JSON object a line.
pub const REPORT_FD: i32 = 4;

/// Descriptor through which the helper sends the master of a terminal, where one is wanted.
pub const TERMINAL_FD: i32 = 5;

/// Descriptor of the process whose container the helper joins (pidfd_open(2)), where it does.
pub const CONTAINER_FD: i32 = 6;

/// Descriptor of a pipe at whose end the command may be executed, where the helper has to wait for that.
pub const TURN_FD: i32 = 7;

/// What a helper becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelperSpec {
    /// The file system of a new container; none for a process that joins one.
    pub root: Option<RootSpec>,
    /// The process.
    pub process: ProcessSpec,
    /// Whether it waits at [`TURN_FD`] before it executes the command.
    pub waits_for_turn: bool,
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
    /// Volumes.
    pub mounts: Vec<VolumeMount>,
    /// The file for the termination message and its path in the container.
    pub termination_message: Option<(PathBuf, PathBuf)>,
    /// Whether the container's own root file system is read-only.
    pub read_only_rootfs: bool,
    /// All devices, no masked or read-only paths.
    pub privileged: bool,
}

/// A process in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// The command line.
    pub args: Vec<String>,
    /// NAME=value.
    pub env: Vec<String>,
    /// Absolute.
    pub working_dir: PathBuf,
    /// Whom it runs as.
    pub user: WantedUser,
    /// Names of capabilities.
    pub capabilities: Vec<String>,
    /// Whether the default seccomp profile is left out.
    pub seccomp_unconfined: bool,
    /// Whether execve may grant privileges.
    pub no_new_privileges: bool,
    /// Linux' oom_score_adj.
    pub oom_score_adj: i32,
    /// Whether descriptor 0 is the stdin pipe; /dev/null otherwise.
    pub stdin: bool,
    /// A terminal of this size is stdin, stdout and stderr.
    pub terminal: Option<Size>,
}

/// Size of a terminal in characters. Zeros mean that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WantedUser {
    /// To be looked up in the container's files.
    Named {
        /// USER as the image or the manifest gives it, a name or a number with a group or without.
        spec: String,
        /// Further groups.
        supplemental_gids: Vec<u32>,
        /// Whether the groups that the image gives the user are left out.
        without_image_groups: bool,
    },
    /// As the container's own process was found to be: the container may have changed its files since.
    Resolved(User),
}

/// A volume in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume's name.
    pub volume: String,
    /// The volume's directory in the guest.
    pub source: PathBuf,
    /// Path inside it.
    pub sub_path: PathBuf,
    /// Path in the container.
    pub target: PathBuf,
    /// Whether writes are refused.
    pub read_only: bool,
}

/// What the helper reports. End of file after [`Report::Executing`] means that the command runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// execve is the next call.
    Executing {
        /// CLOCK_BOOTTIME.
        boottime_ns: u64,
        /// Whom the process runs as.
        user: User,
    },
    /// The container cannot be started.
    Failed {
        /// What kind of failure.
        kind: FailureKind,
        /// The error chain.
        message: String,
    },
}

/// Kinds of failures that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The command does not exist.
    NotFound,
    /// The command may not be executed.
    PermissionDenied,
    /// The image does not have the user or the group.
    UnknownUser,
    /// The `subPath` of a volume mount cannot be used. Nothing was made; the message is the kubelet's.
    SubPath,
    /// Anything else.
    Internal,
}
