//! Serves the requests of one virtual machine with a few threads.
//!
//! Each thread reads a request, serves it and sends the reply, so a slow disk delays at most as many requests as there
//! are threads before others wait. Each request that waits for a lock has its own thread.

use std::io::{PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::credentials::Credentials;
use crate::file_system::FileSystem;
use crate::operations;
use crate::operations::outcome::Outcome;
use crate::protocol::header::RequestHeader;
use crate::protocol::reply::Reply;
use crate::replies::Replies;
use crate::requests::{Buffers, Requests, RequestsError};

/// Number of threads that serve requests. Each holds at most one request and one reply of 1 MiB.
pub(crate) const THREADS: usize = 4;

/// Stack of such a thread.
const STACK_BYTES: usize = 256 * 1024;

/// Why the server stops serving before the virtual machine ends.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    #[error("cannot use the socket of the virtual machine")]
    Socket(#[source] Errno),
    #[error("cannot prepare a thread")]
    Credentials(#[source] Errno),
    #[error(transparent)]
    Requests(#[from] RequestsError),
    #[error("cannot send a reply to the virtual machine")]
    Reply(#[source] Errno),
}

/// A server whose threads run.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    file_system: Arc<FileSystem>,
    requests: Requests,
    replies: Replies,
    /// A byte is written when the first thread ends.
    ended: PipeWriter,
    error: OnceLock<ServerError>,
}

impl Server {
    /// Starts threads that serve the requests from a connected stream socket. Something can be read from the other end
    /// of `ended` when they end.
    pub fn start(file_system: Arc<FileSystem>, socket: OwnedFd, ended: PipeWriter) -> Result<Self, ServerError> {
        Self::start_with(THREADS, file_system, socket, ended)
    }

    /// Starts another number of threads. One serves requests in their order.
    pub(crate) fn start_with(
        thread_count: usize,
        file_system: Arc<FileSystem>,
        socket: OwnedFd,
        ended: PipeWriter,
    ) -> Result<Self, ServerError> {
        let replies = Replies::new(fcntl_dupfd_cloexec(&socket, 0).map_err(ServerError::Socket)?);
        let shared = Arc::new(Shared {
            file_system,
            requests: Requests::new(socket),
            replies,
            ended,
            error: OnceLock::new(),
        });
        let mut threads = Vec::with_capacity(thread_count);
        for _ in 0..thread_count {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().stack_size(STACK_BYTES);
            let thread = builder.spawn(move || run(&shared)).map_err(ServerError::Thread)?;
            threads.push(thread);
        }
        Ok(Self { shared, threads })
    }

    /// Why the threads ended; nothing if the virtual machine has ended.
    pub fn error(&self) -> Option<&ServerError> {
        self.shared.error.get()
    }

    /// Waits for the threads, which end when the virtual machine closes its end of the socket.
    pub fn join(self) -> Option<ServerError> {
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        Arc::into_inner(self.shared)?.error.into_inner()
    }
}

fn run(shared: &Shared) {
    if let Err(error) = serve_all(shared) {
        let _ = shared.error.set(error);
    }
    // If nothing waits for it, nothing is lost.
    let _ = (&shared.ended).write(&[0]);
}

fn serve_all(shared: &Shared) -> Result<(), ServerError> {
    let mut credentials = Credentials::of_thread().map_err(ServerError::Credentials)?;
    let begin = |header: &RequestHeader, body: &[u8]| operations::begin(&shared.file_system, header, body);
    while let Some((header, buffers)) = shared.requests.next(begin)? {
        serve(shared, &mut credentials, &header, buffers)?;
    }
    Ok(())
}

fn serve(
    shared: &Shared,
    credentials: &mut Credentials,
    header: &RequestHeader,
    buffers: Buffers,
) -> Result<(), ServerError> {
    let Buffers { request, reply } = buffers;
    let mut reply = Reply::new(reply);
    let (file_system, replies) = (&shared.file_system, &shared.replies);
    let outcome = operations::serve(file_system, credentials, replies, header, &request, &mut reply);
    if let Outcome::Done(result) = outcome {
        match replies.send(header.unique, &mut reply, result) {
            // The virtual machine ended; reading says so, too.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(error) => return Err(ServerError::Reply(error)),
        }
    }
    let reply = reply.into_buffer();
    shared.requests.return_buffers(Buffers { request, reply });
    Ok(())
}
