//! The socket to which replies are written, whole and one after the other.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::protocol::reply::Reply;

/// Where replies go. Clones write to the same socket.
#[derive(Debug, Clone)]
pub struct Replies {
    socket: Arc<Mutex<OwnedFd>>,
}

impl Replies {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Arc::new(Mutex::new(socket)),
        }
    }

    /// Sends the reply to the request `unique`.
    pub fn send(&self, unique: u64, reply: &mut Reply, result: Result<(), Errno>) -> Result<(), Errno> {
        let error = result.err().map(Errno::raw_os_error);
        let mut rest = reply.complete(unique, error);
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        while !rest.is_empty() {
            match send(&*socket, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => rest = rest.get(sent..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
