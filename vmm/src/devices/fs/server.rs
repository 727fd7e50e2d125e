//! The stream socket to the file server, and the requests that the server has.
//!
//! Each request gets a tag, which is unique on the socket; the server's reply repeats it. A request whose driver has
//! gone (a reset of the device) keeps its tag until the server has answered, so the server never has more than
//! [`MAX_IN_FLIGHT`] requests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use super::super::virtio::chain::Buffers;
use super::attachment;
use super::device::QUEUE_SIZE;
use super::message::{FileRequest, REPLY_HEADER_BYTES, ReplyHeader};
use super::open_files::OpenFiles;
use super::request::{Finished, Request};
use crate::report::report;

/// Maximum number of requests that wait for their reply.
pub const MAX_IN_FLIGHT: usize = QUEUE_SIZE as usize;

/// How many unwanted bytes are read at once.
const SKIPPED_BYTES: usize = 16 << 10;

/// The request that is being sent. The bytes of two requests never mix.
#[derive(Debug)]
enum Sending {
    /// A request whose driver is running.
    Guest {
        request: Request,
        tag: u64,
        beginning: Vec<u8>,
        /// Bytes of the beginning that are sent.
        sent: usize,
    },
    /// The rest of a request whose driver has gone: the server has its beginning, and can find the next request only
    /// after its end.
    Orphan {
        /// `None` if no reply is due.
        tag: Option<u64>,
        rest: Vec<u8>,
        /// Bytes of `rest` that are sent.
        sent: usize,
    },
}

/// The reply that is being received.
#[derive(Debug)]
enum Receiving {
    Header {
        bytes: [u8; REPLY_HEADER_BYTES],
        filled: usize,
        /// What was attached to these bytes.
        descriptor: Option<OwnedFd>,
    },
    Body {
        request: Request,
        reply: ReplyHeader,
    },
    /// This many bytes for which no request waits.
    Skip(usize),
}

const NEXT_REPLY: Receiving = Receiving::Header {
    bytes: [0; REPLY_HEADER_BYTES],
    filled: 0,
    descriptor: None,
};

/// What one system call did.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes moved.
    pub bytes: usize,
    /// The request that came to its end.
    pub finished: Option<Finished>,
}

/// A connected file server.
#[derive(Debug)]
pub struct Server {
    socket: File,
    /// Whether the socket may be readable; remembered, because events are edge-triggered.
    readable: bool,
    /// Whether the socket may be writable.
    writable: bool,
    sending: Option<Sending>,
    receiving: Receiving,
    /// The requests that the server has, by tag; `None` if the request's driver has gone.
    waiting: BTreeMap<u64, Option<Request>>,
    /// Files that the server has passed.
    files: OpenFiles,
    last_tag: u64,
    /// Whether a wrong reply has been reported. Later ones are not, because they would be the same.
    error_reported: bool,
}

impl Server {
    /// The server at the other end of a connected stream socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        if socket_type(&socket)? != libc::SOCK_STREAM {
            let message = "it is not a stream socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: File::from(OwnedFd::from(socket)),
            readable: true,
            writable: true,
            sending: None,
            receiving: NEXT_REPLY,
            waiting: BTreeMap::new(),
            files: OpenFiles::default(),
            last_tag: 0,
            error_reported: false,
        })
    }

    /// The socket's descriptor.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Remembers an event of the socket.
    pub fn note(&mut self, events: EventSet) {
        let ended = EventSet::READ_HANG_UP | EventSet::HANG_UP | EventSet::ERROR;
        self.readable |= events.intersects(EventSet::IN | ended);
        self.writable |= events.intersects(EventSet::OUT | ended);
    }

    /// Whether [`Self::receive`] may do something.
    #[must_use]
    pub fn may_receive(&self) -> bool {
        self.readable
    }

    /// Whether a request has still to be sent, completely or in part.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Whether the socket may accept bytes.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.writable
    }

    /// Whether the server may get another request.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.sending.is_none() && self.waiting.len() < MAX_IN_FLIGHT
    }

    /// The number of requests that wait for their reply.
    #[cfg(any(test, fuzzing))]
    pub fn in_flight(&self) -> usize {
        self.waiting.len()
    }

    /// The number of requests that were passed on.
    #[cfg(any(test, fuzzing))]
    pub fn submitted(&self) -> u64 {
        self.last_tag
    }

    #[cfg(any(test, fuzzing))]
    pub fn files(&mut self) -> &mut OpenFiles {
        &mut self.files
    }

    /// Serves a valid request, for which there must be room, from a file, or passes it on: then [`Self::send`] sends it.
    pub fn submit(&mut self, request: Request) -> Progress {
        match request.file_request {
            FileRequest::Read(read) => {
                if let Some(bytes) = self.files.read(read, &request) {
                    let finished = Some(request.succeed(bytes));
                    return Progress { bytes, finished };
                }
            }
            // Before the server gets the request, after which it may use the handle for another file.
            FileRequest::Release(handle) => self.close(Some(handle)),
            FileRequest::ReleaseAll => self.close(None),
            FileRequest::Other => {}
        }
        // A server that processes a million requests a second gets the last of these tags after 292,000 years.
        self.last_tag = (self.last_tag + 1) & (u64::MAX >> 1);
        self.sending = Some(Sending::Guest {
            beginning: request.beginning(self.last_tag),
            request,
            tag: self.last_tag,
            sent: 0,
        });
        Progress::default()
    }

    /// Closes the file with a handle, or all of them. A reply that is on its way opens it no more.
    fn close(&mut self, handle: Option<u64>) {
        match handle {
            Some(handle) => self.files.remove(handle),
            None => self.files.clear(),
        }
        for request in self.waiting.values_mut().flatten() {
            if let FileRequest::Read(read) = request.file_request
                && handle.is_none_or(|handle| read.handle == handle)
            {
                request.file_request = FileRequest::Other;
            }
        }
    }

    /// Sends as much of a request as the socket accepts. An error means that the server is lost.
    pub fn send(&mut self) -> io::Result<Progress> {
        let socket = self.socket.as_fd();
        let (result, left) = match &mut self.sending {
            None => return Ok(Progress::default()),
            Some(Sending::Guest {
                request,
                beginning,
                sent,
                ..
            }) => {
                let prefix = beginning.get(*sent..).unwrap_or_default();
                let (before, result) = (prefix.len(), request.send_after(prefix, socket));
                *sent += result.as_ref().map_or(0, |count| before.min(*count));
                (result, beginning.len() - *sent + request.unsent_bytes())
            }
            Some(Sending::Orphan { rest, sent, .. }) => {
                let bytes = rest.get(*sent..).unwrap_or_default();
                let result = Buffers::default().drain_to_socket_after(bytes, socket);
                *sent += result.as_ref().map_or(0, |count| bytes.len().min(*count));
                (result, rest.len() - *sent)
            }
        };
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => return unless_later(error, &mut self.writable),
        };
        let finished = if left == 0 { self.sent() } else { None };
        Ok(Progress { bytes, finished })
    }

    /// A request is sent completely; returns it if no reply is due.
    fn sent(&mut self) -> Option<Finished> {
        match self.sending.take()? {
            Sending::Guest { request, .. } if !request.header.expects_reply() => return Some(request.finish(None)),
            Sending::Guest { request, tag, .. } => {
                self.waiting.insert(tag, Some(request));
            }
            Sending::Orphan { tag, .. } => {
                self.waiting.extend(tag.map(|tag| (tag, None)));
            }
        }
        None
    }

    /// Receives a part of a reply. An error means that the server is lost.
    pub fn receive(&mut self) -> io::Result<Progress> {
        let result = match &mut self.receiving {
            Receiving::Header {
                bytes,
                filled,
                descriptor,
            } => {
                let rest = bytes.get_mut(*filled..).unwrap_or_default();
                attachment::receive(self.socket.as_fd(), rest).map(|(count, attached)| {
                    *filled += count;
                    // Parts of a header come from a server that breaks rules; each may have a descriptor.
                    *descriptor = descriptor.take().or(attached);
                    count
                })
            }
            Receiving::Body { request, .. } => request.receive_body(self.socket.as_fd()),
            Receiving::Skip(left) => skip(&self.socket, left),
        };
        let bytes = match result {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(bytes) => bytes,
            Err(error) => return unless_later(error, &mut self.readable),
        };
        let finished = self.received()?;
        Ok(Progress { bytes, finished })
    }

    /// Goes on to the next part of the reply, or to the next reply, if the current part is complete.
    fn received(&mut self) -> io::Result<Option<Finished>> {
        match std::mem::replace(&mut self.receiving, NEXT_REPLY) {
            Receiving::Header {
                bytes,
                filled,
                descriptor,
            } if filled == REPLY_HEADER_BYTES => {
                return self.begin(ReplyHeader::parse(bytes), descriptor);
            }
            Receiving::Body { request, reply } if request.missing_bytes() == 0 => {
                return Ok(Some(request.finish(Some(reply))));
            }
            Receiving::Skip(0) => {}
            incomplete => self.receiving = incomplete,
        }
        Ok(None)
    }

    /// Finds the request that a reply is for. A descriptor is closed unless it is for a READ that has succeeded.
    fn begin(&mut self, reply: ReplyHeader, descriptor: Option<OwnedFd>) -> io::Result<Option<Finished>> {
        let Some(body) = reply.body() else {
            let message = format!("it sent a reply of {} bytes", reply.length);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        };
        let request = match self.waiting.remove(&reply.unique) {
            Some(Some(mut request)) => {
                if request.expect_body(body) && reply.has_valid_error() {
                    if let Some(descriptor) = descriptor {
                        self.keep(descriptor, request.file_request, reply);
                    }
                    if body == 0 {
                        return Ok(Some(request.finish(Some(reply))));
                    }
                    self.receiving = Receiving::Body { request, reply };
                    return Ok(None);
                }
                self.report_wrong_reply("does not fit its request");
                Some(request)
            }
            Some(None) => None,
            None => {
                self.report_wrong_reply("is for no request");
                None
            }
        };
        if body > 0 {
            self.receiving = Receiving::Skip(body);
        }
        Ok(request.map(|request| request.fail(libc::EIO)))
    }

    /// Keeps a descriptor for further READs.
    fn keep(&mut self, descriptor: OwnedFd, file_request: FileRequest, reply: ReplyHeader) {
        match file_request {
            FileRequest::Read(read) if reply.error == 0 => self.files.insert(read, File::from(descriptor)),
            _ => self.report_wrong_reply("has a descriptor, but not of a file that the guest reads"),
        }
    }

    fn report_wrong_reply(&mut self, what: &str) {
        if !self.error_reported {
            self.error_reported = true;
            report(format_args!(
                "a reply of the file server {what} (further ones are not reported)"
            ));
        }
    }

    /// The driver has gone. Its memory is not used any more, its requests get no answer.
    pub fn forget_driver(&mut self) {
        self.files.clear();
        self.waiting.values_mut().for_each(|request| *request = None);
        if let Receiving::Body { request, .. } = &self.receiving {
            self.receiving = Receiving::Skip(request.missing_bytes());
        }
        self.sending = match self.sending.take() {
            // The server has no part of it.
            None | Some(Sending::Guest { sent: 0, .. }) => None,
            Some(Sending::Guest {
                mut request,
                tag,
                beginning,
                sent,
            }) => {
                let mut rest = beginning.get(sent..).unwrap_or_default().to_vec();
                rest.extend(request.copy_unsent());
                let tag = request.header.expects_reply().then_some(tag);
                Some(Sending::Orphan { tag, rest, sent: 0 })
            }
            orphan => orphan,
        };
    }

    /// The next driver runs. Events since the last one were ignored.
    pub fn assume_ready(&mut self) {
        self.readable = true;
        self.writable = true;
    }

    /// The requests that the server cannot finish any more.
    pub fn into_requests(self) -> impl Iterator<Item = Request> {
        let sending = match self.sending {
            Some(Sending::Guest { request, .. }) => Some(request),
            _ => None,
        };
        let receiving = match self.receiving {
            Receiving::Body { request, .. } => Some(request),
            _ => None,
        };
        let waiting = self.waiting.into_values().flatten();
        receiving.into_iter().chain(waiting).chain(sending)
    }
}

/// Reads some of the next `left` bytes, which have no use.
fn skip(mut socket: &File, left: &mut usize) -> io::Result<usize> {
    let mut bytes = [0; SKIPPED_BYTES];
    let count = bytes.len().min(*left);
    let count = socket.read(bytes.get_mut(..count).unwrap_or_default())?;
    *left = left.saturating_sub(count);
    Ok(count)
}

/// `Ok` if a system call can be repeated: at once, or when the socket is ready again.
fn unless_later(error: io::Error, ready: &mut bool) -> io::Result<Progress> {
    match error.kind() {
        io::ErrorKind::Interrupted => {}
        io::ErrorKind::WouldBlock => *ready = false,
        _ => return Err(error),
    }
    Ok(Progress::default())
}

fn socket_type(socket: &impl AsRawFd) -> io::Result<libc::c_int> {
    let mut kind: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&kind)).unwrap_or(0);
    // SAFETY: writes an int and its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TYPE,
            (&raw mut kind).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(kind)
}
