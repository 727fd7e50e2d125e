//! The contract between microkube's host side and the agent in the guest: messages, service, versions,
//! ports and stream framing.
//!
//! Both sides use this crate and share nothing else. Anything that only one side needs does not belong here.

mod capabilities;
mod redacted;
mod stream_header;
mod versions;

pub use capabilities::CAPABILITIES;
pub use stream_header::{
    DataStream, MAX_STREAM_HEADER_BYTES, Stdio, StreamHeaderError, decode_stream_header, encode_stream_header,
};
pub use versions::{NoCommonVersion, Versions};

#[allow(
    missing_debug_implementations,
    missing_docs,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::cast_possible_truncation
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}

pub use generated::{agent as messages, agent_ttrpc as service};

/// The versions of this contract that this build supports. `docs/decisions/versions.md` says when to raise which.
pub const AGENT_VERSIONS: Versions = Versions { oldest: 0, newest: 6 };

/// The first version with file volumes.
pub const FILE_VOLUMES_VERSION: u32 = 2;

/// The first version with `AddLayers` and `pid_namespace_of`, for containers that join a running Pod.
pub const ADDED_CONTAINERS_VERSION: u32 = 3;
/// The first version with `share_process_namespace`, `sysctls`, `fs_group` of an emptyDir volume, `seccomp_programs`,
/// `propagation` and `recursive_read_only`.
pub const SECURITY_CONTEXT_VERSION: u32 = 3;

/// The first version with `ReadVolumeFile`.
pub const VOLUME_FILES_VERSION: u32 = 4;

/// The first version with `user_namespace`, `unmasked_proc` and `share`.
pub const USER_NAMESPACES_VERSION: u32 = 5;

/// The first version with image volumes.
pub const IMAGE_VOLUMES_VERSION: u32 = 6;

/// The first version with `WatchStorage`.
pub const STORAGE_VERSION: u32 = 6;

/// The first version with `ConnectPort`.
pub const PORT_FORWARD_VERSION: u32 = 6;

/// The tag of the VM's virtio-fs device.
pub const SHARES_TAG: &str = "microkube";

/// Well-known context id of the host (`VMADDR_CID_HOST`, vsock(7)).
pub const HOST_CID: u32 = 2;

/// vsock port of the ttrpc API. The agent dials it on the host and listens on it in the guest.
pub const CONTROL_PORT: u32 = 1024;

/// vsock port on the host to which the agent opens one connection per data stream.
pub const STREAM_PORT: u32 = 1025;

/// Largest ttrpc message that either side accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Maximum length of a file in a file volume, in bytes. A ConfigMap or Secret holds 1 MiB; certificates of several
/// ClusterTrustBundles may be more. A message must be able to contain the file and its path.
pub const MAX_FILE_BYTES: usize = 3 << 20;

/// Maximum number of files in a file volume. A ConfigMap of 1 MiB may have 10,000 keys, and a projected volume combines
/// several.
pub const MAX_VOLUME_FILES: usize = 65_536;

/// Maximum total length of the files in a file volume, in bytes.
pub const MAX_VOLUME_BYTES: usize = 32 << 20;

/// Maximum bytes of a container's output that the agent sends ahead of what the host has
/// confirmed, and keeps until then.
pub const OUTPUT_WINDOW_BYTES: usize = 1 << 20;
