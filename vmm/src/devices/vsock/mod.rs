//! The socket device (section 5.10): stream connections between the guest and sockets of the host.
//!
//! vsock ends here: each connection is one end of a socket pair whose other end the client of [`crate::vsock_control`] has.
//! `packet` is the format, `connection` the rules of one connection without any I/O, `table` all connections, `client` the
//! socket to the supervisor.

pub mod client;
pub mod connection;
pub mod device;
pub mod packet;
pub mod table;
pub mod worker;

#[cfg(test)]
mod tests;
