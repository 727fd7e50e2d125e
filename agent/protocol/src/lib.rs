//! The contract between microkube's host side and the agent in the guest: messages, service, versions, ports, stream framing.
//!
//! Both sides use this crate and share nothing else. What one side alone needs does not belong here.

mod capabilities;
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

/// The versions of this contract that this build speaks. `docs/decisions/versions.md` says when which is raised.
pub const AGENT_VERSIONS: Versions = Versions { oldest: 0, newest: 1 };

/// Well-known context id of the host (`VMADDR_CID_HOST`, vsock(7)).
pub const HOST_CID: u32 = 2;

/// vsock port of the ttrpc API, dialled by the agent on the host and listened on by the agent in the guest.
pub const CONTROL_PORT: u32 = 1024;

/// vsock port on the host to which the agent opens one connection a data stream.
pub const STREAM_PORT: u32 = 1025;

/// Largest ttrpc message either side accepts, bytes.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Most that the agent sends of a container's output ahead of what the host has confirmed, and keeps until then, bytes.
pub const OUTPUT_WINDOW_BYTES: usize = 1 << 20;
