//! Reads requests from the socket, one at a time, into buffers that are used again.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use crate::protocol::header::{REQUEST_HEADER_BYTES, RequestHeader};

/// After this time without a request, the memory of buffers is returned: most Pods use their shares rarely.
const IDLE: Duration = Duration::from_secs(1);

/// Buffers of one request and its reply. They only grow.
#[derive(Debug, Default)]
pub struct Buffers {
    /// Begins with the request's body.
    pub request: Vec<u8>,
    pub reply: Vec<u8>,
}

/// Why no more requests can be read.
#[derive(Debug, thiserror::Error)]
pub enum RequestsError {
    #[error("cannot read from the socket of the virtual machine")]
    Receive(#[source] Errno),
    #[error("the socket of the virtual machine ended within a request")]
    Truncated,
    #[error("a request from the virtual machine has an invalid length")]
    Length,
}

/// The requests of one virtual machine.
#[derive(Debug)]
pub struct Requests {
    /// Held while a request is read, so that each thread gets whole ones.
    socket: Mutex<OwnedFd>,
    unused: Mutex<Vec<Buffers>>,
}

impl Requests {
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket: Mutex::new(socket),
            unused: Mutex::default(),
        }
    }

    /// The next request; nothing if the virtual machine has closed the socket. `begin` is called with the request
    /// before any later one is read.
    pub fn next(
        &self,
        begin: impl FnOnce(&RequestHeader, &[u8]),
    ) -> Result<Option<(RequestHeader, Buffers)>, RequestsError> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = [0; REQUEST_HEADER_BYTES];
        let first = self.first_bytes(&socket, &mut bytes)?;
        if first == 0 {
            return Ok(None);
        }
        read_exactly(&socket, bytes.get_mut(first..).unwrap_or_default())?;
        let header = RequestHeader::parse(&bytes).map_err(|_| RequestsError::Length)?;
        let mut buffers = self.unused().pop().unwrap_or_default();
        let length = header.length - REQUEST_HEADER_BYTES;
        if buffers.request.len() < length {
            buffers.request.resize(length, 0);
        }
        let body = buffers.request.get_mut(..length).unwrap_or_default();
        read_exactly(&socket, body)?;
        begin(&header, body);
        Ok(Some((header, buffers)))
    }

    /// Returns buffers for other requests.
    pub fn return_buffers(&self, buffers: Buffers) {
        self.unused().push(buffers);
    }

    fn unused(&self) -> std::sync::MutexGuard<'_, Vec<Buffers>> {
        self.unused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next request and reads its first bytes; none at the end.
    fn first_bytes(&self, socket: &OwnedFd, bytes: &mut [u8]) -> Result<usize, RequestsError> {
        loop {
            match recv(socket, &mut *bytes, RecvFlags::DONTWAIT) {
                Ok((_, count)) => return Ok(count),
                Err(Errno::AGAIN) => self.wait(socket)?,
                Err(Errno::INTR) => {}
                // A peer that has closed its end with unread replies.
                Err(Errno::CONNRESET) => return Ok(0),
                Err(error) => return Err(RequestsError::Receive(error)),
            }
        }
    }

    fn wait(&self, socket: &OwnedFd) -> Result<(), RequestsError> {
        let has_unused = !self.unused().is_empty();
        let idle = Timespec::try_from(IDLE).ok().filter(|_| has_unused);
        let mut ready = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut ready, idle.as_ref()) {
            Ok(0) => {
                self.unused().clear();
                Ok(())
            }
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(RequestsError::Receive(error)),
        }
    }
}

fn read_exactly(socket: &OwnedFd, mut rest: &mut [u8]) -> Result<(), RequestsError> {
    while !rest.is_empty() {
        match recv(socket, &mut *rest, RecvFlags::WAITALL) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(RequestsError::Truncated),
            Ok((_, count)) => rest = rest.get_mut(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(RequestsError::Receive(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn request(length: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; REQUEST_HEADER_BYTES];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn requests() -> (UnixStream, Requests) {
        let (guest, server) = UnixStream::pair().unwrap();
        (guest, Requests::new(server.into()))
    }

    #[test]
    fn requests_are_read_whole_however_they_arrive() {
        let (mut guest, requests) = requests();
        let writer = std::thread::spawn(move || {
            let both = [request(43, b"abc"), request(40, b"")].concat();
            for byte in both {
                guest.write_all(&[byte]).unwrap();
            }
        });
        let (header, buffers) = requests.next(|_, _| ()).unwrap().unwrap();
        assert_eq!((header.length, &buffers.request[..3]), (43, b"abc".as_slice()));
        requests.return_buffers(buffers);
        let (header, _) = requests.next(|_, _| ()).unwrap().unwrap();
        assert_eq!(header.length, 40);
        writer.join().unwrap();
        assert!(requests.next(|_, _| ()).unwrap().is_none());
    }

    #[test]
    fn a_length_outside_of_the_limits_and_an_end_within_a_request_are_errors() {
        for length in [0, 39, u32::MAX] {
            let (mut guest, requests) = requests();
            guest.write_all(&request(length, b"")).unwrap();
            assert!(matches!(requests.next(|_, _| ()), Err(RequestsError::Length)));
        }
        for sent in [7, 40, 45] {
            let (mut guest, requests) = requests();
            guest.write_all(&request(50, b"0123456789")[..sent]).unwrap();
            drop(guest);
            assert!(
                matches!(requests.next(|_, _| ()), Err(RequestsError::Truncated)),
                "{sent}"
            );
        }
    }

    #[test]
    fn buffers_are_released_when_no_requests_come() {
        let (mut guest, requests) = requests();
        guest.write_all(&request(40, b"")).unwrap();
        let (_, buffers) = requests.next(|_, _| ()).unwrap().unwrap();
        requests.return_buffers(buffers);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| requests.next(|_, _| ()).unwrap());
            // The reader is idle until then.
            while !requests.unused().is_empty() {
                std::thread::yield_now();
            }
            drop(guest);
            assert!(reader.join().unwrap().is_none());
        });
    }
}
