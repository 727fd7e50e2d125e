//! The wire format of FUSE, as Linux 6.12 speaks it (`include/uapi/linux/fuse.h`, version 7.41): bytes to values and
//! values to bytes. Pure: no system calls, no state.
//!
//! Every message comes from the guest, so parsing never panics, allocates no more than the message is long, and accepts
//! only what the guest's kernel sends: a body that is too short or too long is malformed.

pub mod attributes;
pub mod bodies;
pub mod directory_entries;
pub mod fields;
pub mod header;
pub mod initialization;
pub mod locks;
pub mod name;
pub mod opcode;
pub mod reply;
pub mod request;
#[cfg(test)]
mod request_tests;
pub mod set_attributes;

/// Maximum number of bytes that one READ or WRITE transfers.
pub const MAX_DATA_BYTES: usize = 1 << 20;

/// Maximum length of a request, and of a reply: the data and the structures before it.
pub const MAX_MESSAGE_BYTES: usize = MAX_DATA_BYTES + 4096;
