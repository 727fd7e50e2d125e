//! The socket device (section 5.10): stream connections between the guest and sockets of the host.
//!
//! vsock ends here: each connection is one end of a socket pair, and the client of [`crate::vsock_control`] has the
//! other end. `packet` is the format, `connection` the rules of one connection without any I/O, `table` all
//! connections, `budget` the limit on the data that they hold together, `payload` their bytes, `client` the socket to
//! the supervisor.

pub mod budget;
pub mod client;
pub mod connection;
pub mod device;
pub mod packet;
mod payload;
pub mod table;
pub mod worker;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
