//! The file system device (section 5.11): passes the guest's FUSE messages to a file server, another process of the
//! host, over a connected stream socket.
//!
//! The device knows only the headers of messages: it checks their lengths and gives each request its own tag, so
//! that every answer finds its chain. The server never sees guest memory. Of files, this process has only those that the
//! guest is reading, for which the server passes descriptors; it never opens one.
//! `message` has the headers, `request` one request on its way, `open_files` the files that were passed, `attachment`
//! how a descriptor is received, `server` the socket and the requests in flight, without queues; `worker` brings the
//! queues and the server together.

pub mod attachment;
pub mod device;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code))] // Unit tests use the rest.
mod driver;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod message;
pub mod open_files;
pub mod request;
pub mod server;
pub mod worker;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod open_files_tests;
#[cfg(test)]
mod tests;
