//! The socket to which replies are written, whole and one after the other.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};

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

    /// Sends the reply to the request `unique`, and what is attached to it with its first bytes.
    pub fn send(&self, unique: u64, reply: &mut Reply, result: Result<(), Errno>) -> Result<(), Errno> {
        let error = result.err().map(Errno::raw_os_error);
        if error.is_some() {
            reply.clear();
        }
        let mut descriptor = reply.take_descriptor();
        let mut rest = reply.complete(unique, error);
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        while !rest.is_empty() {
            let sent = match &descriptor {
                Some(descriptor) => send_with(&socket, rest, descriptor.as_fd()),
                None => send(&*socket, rest, SendFlags::NOSIGNAL),
            };
            match sent {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    descriptor = None;
                }
                Err(Errno::INTR) => {}
                // The host does not let it pass: too many are on their way (`ETOOMANYREFS`), or a security module
                // forbids it. The file is then read through this server.
                Err(_) if descriptor.is_some() => descriptor = None,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Sends bytes with a descriptor attached to the first one.
fn send_with(socket: &OwnedFd, bytes: &[u8], descriptor: BorrowedFd<'_>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)
}
