//! A request of the guest, from its chain in a queue to its return to the driver.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::super::virtio::GuestError;
use super::super::virtio::held::HeldRequest;
use super::super::virtio::queue::VirtQueue;
use super::message::{FileRequest, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES, ReplyHeader, RequestHeader};
use crate::memory::GuestMemory;

/// A request whose header was read.
#[derive(Debug)]
pub struct Request {
    /// Index of its queue.
    queue: usize,
    pub header: RequestHeader,
    /// The beginning of the body, as far as the device must know it: a private copy that the guest cannot change.
    known: Vec<u8>,
    /// What the request means for the files that the device can read.
    pub file_request: FileRequest,
    /// Whether the chain has the bytes that the header states, and room for the header of a reply.
    valid: bool,
    chain: Box<HeldRequest>,
}

impl Request {
    /// Takes the next request of the queue `index`; also returns the number of its descriptors.
    pub fn take_from(
        index: usize,
        queue: &mut VirtQueue,
        memory: &Arc<GuestMemory>,
    ) -> Result<Option<(Self, usize)>, GuestError> {
        let Some((mut chain, descriptors)) = HeldRequest::take_from(queue, memory, REPLY_HEADER_BYTES)? else {
            return Ok(None);
        };
        // What is missing of a short header reads as zeros.
        let mut bytes = [0; REQUEST_HEADER_BYTES];
        let whole = chain.read(&mut bytes) == REQUEST_HEADER_BYTES;
        let header = RequestHeader::parse(bytes);
        let answerable = !header.expects_reply() || chain.header_room() == REPLY_HEADER_BYTES;
        let valid = whole && answerable && header.fits(chain.readable_bytes());
        let mut known = vec![0; if valid { header.known_bytes() } else { 0 }];
        chain.read(&mut known);
        let request = Self {
            queue: index,
            header,
            file_request: header.file_request(&known),
            known,
            valid,
            chain: Box::new(chain),
        };
        Ok(Some((request, descriptors)))
    }

    /// Whether the server may get the request.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.valid
    }

    /// The beginning of the message to the server: the header with another name, and the known bytes of the body.
    #[must_use]
    pub fn beginning(&self, unique: u64) -> Vec<u8> {
        [&self.header.renamed(unique)[..], &self.known].concat()
    }

    /// Bytes after the beginning that are not sent yet.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.chain.readable_bytes()
    }

    /// Sends `prefix` and the bytes after the beginning; returns how many bytes the socket accepted.
    pub fn send_after(&mut self, prefix: &[u8], socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.chain.send_after(prefix, socket)
    }

    /// Copies the bytes after the beginning that are not sent yet, of which a valid request has a limited number.
    #[must_use]
    pub fn copy_unsent(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.chain.readable_bytes()];
        self.chain.read(&mut bytes);
        bytes
    }

    /// Prepares the chain for the body of a reply; `false` if it has not enough room.
    pub fn expect_body(&mut self, bytes: usize) -> bool {
        let fits = bytes <= self.chain.body_room();
        self.chain.truncate_body(bytes);
        fits
    }

    /// Receives a part of the body; returns its length.
    pub fn receive_body(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.chain.fill_body(socket)
    }

    /// Room for the body of a reply.
    #[must_use]
    pub fn body_room(&self) -> usize {
        self.chain.body_room()
    }

    /// Fills at most `length` bytes of the body from a file; returns their number. It consumes nothing.
    pub fn read_body_at(
        &self,
        file: BorrowedFd<'_>,
        offset: libc::off_t,
        length: usize,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        self.chain.read_body_at(file, offset, length, flags)
    }

    /// Bytes of the body that are still to be received.
    #[must_use]
    pub fn missing_bytes(&self) -> usize {
        self.chain.body_room()
    }

    /// The server has processed the request, and answered with `reply` unless no reply was due.
    pub fn finish(self, reply: Option<ReplyHeader>) -> Finished {
        Finished { request: self, reply }
    }

    /// The request succeeds with the first `body` bytes of [`Self::read_body_at`].
    pub fn succeed(self, body: usize) -> Finished {
        let reply = ReplyHeader {
            length: REPLY_HEADER_BYTES.saturating_add(body),
            error: 0,
            unique: self.header.unique,
        };
        self.finish(Some(reply))
    }

    /// The request ends with an error number, if the guest expects a reply and has left room for it.
    pub fn fail(self, error: i32) -> Finished {
        let answerable = self.header.expects_reply() && self.chain.header_room() == REPLY_HEADER_BYTES;
        let reply = answerable.then(|| ReplyHeader::failure(self.header.unique, error));
        self.finish(reply)
    }
}

/// A request to be returned to the driver.
#[derive(Debug)]
#[must_use]
pub struct Finished {
    request: Request,
    reply: Option<ReplyHeader>,
}

impl Finished {
    /// Returns the request to the driver.
    pub fn give_back(self, queues: &mut [VirtQueue]) -> Result<(), GuestError> {
        let Request {
            queue, header, chain, ..
        } = self.request;
        let Some(queue) = queues.get_mut(queue) else {
            return Ok(());
        };
        let Some(reply) = self.reply else {
            return chain.give_back(queue);
        };
        // The guest gets back the name that it gave the request.
        let reply = ReplyHeader {
            unique: header.unique,
            ..reply
        };
        chain.answer(queue, &reply.to_bytes(), reply.body().unwrap_or(0))
    }
}
