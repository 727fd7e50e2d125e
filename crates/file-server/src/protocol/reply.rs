//! Builds a reply in place: the header's room, then the body.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::MAX_MESSAGE_BYTES;
use super::header::REPLY_HEADER_BYTES;

/// A reply that is being built. Its buffer only grows, so that it is not cleared for each reply.
#[derive(Debug)]
pub struct Reply {
    buffer: Vec<u8>,
    /// Length of header and body in the buffer.
    length: usize,
    /// Sent with the first bytes.
    descriptor: Option<Arc<OwnedFd>>,
}

impl Reply {
    /// Starts a reply in a buffer whose content is not needed any more.
    pub fn new(buffer: Vec<u8>) -> Self {
        let mut reply = Self {
            buffer,
            length: 0,
            descriptor: None,
        };
        reply.zeros(REPLY_HEADER_BYTES);
        reply
    }

    /// The next bytes of the body, which are not part of it until [`Self::extend`] is called.
    pub fn room(&mut self, count: usize) -> &mut [u8] {
        let end = self.length + count;
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer.get_mut(self.length..end).unwrap_or_default()
    }

    /// Makes the first bytes of the last [`Self::room`] part of the body.
    pub fn extend(&mut self, count: usize) {
        self.length = (self.length + count).min(self.buffer.len());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.extend(bytes.len());
    }

    pub fn zeros(&mut self, count: usize) {
        self.room(count).fill(0);
        self.extend(count);
    }

    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Passes a descriptor with a successful reply.
    pub fn attach(&mut self, descriptor: Arc<OwnedFd>) {
        self.descriptor = Some(descriptor);
    }

    pub fn take_descriptor(&mut self) -> Option<Arc<OwnedFd>> {
        self.descriptor.take()
    }

    pub fn body_bytes(&self) -> usize {
        self.length - REPLY_HEADER_BYTES
    }

    /// Removes the body and what is attached.
    pub fn clear(&mut self) {
        self.length = REPLY_HEADER_BYTES;
        self.descriptor = None;
    }

    /// Completes a reply to the request `unique`. An error has no body.
    ///
    /// # Panics
    ///
    /// If the body is too long, which is a bug: operations bound what they write.
    pub fn complete(&mut self, unique: u64, error: Option<i32>) -> &[u8] {
        if error.is_some() {
            self.clear();
        }
        assert!(self.length <= MAX_MESSAGE_BYTES, "a reply is too long");
        let length = u32::try_from(self.length).unwrap_or(u32::MAX);
        // The kernel's convention is negative numbers.
        let error = error.unwrap_or(0).wrapping_neg();
        if let Some(header) = self.buffer.first_chunk_mut::<REPLY_HEADER_BYTES>() {
            let (first, last) = header.split_at_mut(8);
            first[..4].copy_from_slice(&length.to_le_bytes());
            first[4..].copy_from_slice(&error.to_le_bytes());
            last.copy_from_slice(&unique.to_le_bytes());
        }
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// Returns the buffer for another reply.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_its_length_and_its_request_s_number() {
        let mut reply = Reply::new(vec![9; 100]);
        reply.u64(7);
        let bytes = reply.complete(0x0102, None);
        assert_eq!(bytes.len(), 24);
        assert_eq!(bytes[..8], [24, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..], [2, 1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn an_error_is_negative_and_has_no_body() {
        let mut reply = Reply::new(Vec::new());
        reply.u64(7);
        let bytes = reply.complete(1, Some(2)).to_owned();
        assert_eq!(bytes.len(), REPLY_HEADER_BYTES);
        assert_eq!(bytes[4..8], (-2i32).to_le_bytes());
    }
}
