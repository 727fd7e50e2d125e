//! Connections to the host over vsock: the control connection, its listener and the data streams.

use std::future::Future;
use std::io;
use std::net::Shutdown;

use futures::StreamExt;
use futures::stream::{self, Stream};
use microkube_protocol::{CONTROL_PORT, DataStream, HOST_CID, STREAM_PORT, encode_stream_header};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest};
use tokio::sync::watch;
use tokio_vsock::VsockStream;
use vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};

use crate::log;

/// Notifies data streams when a new supervisor has taken over, so that they reconnect.
#[derive(Debug, Clone)]
pub struct Supervisors {
    generation: watch::Sender<u64>,
}

impl Supervisors {
    /// Starts with no takeover.
    pub fn new() -> Self {
        Self {
            generation: watch::Sender::new(0),
        }
    }

    /// The host for a data stream opened from now on.
    pub fn host(&self) -> VsockHost {
        VsockHost {
            taken_over: self.generation.subscribe(),
        }
    }

    /// How many supervisors have taken over so far.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }
}

/// Listens for control connections. This needs no runtime, so `main` does it first: connections of a supervisor wait in the
/// listener from then on, and are not refused.
pub fn listen() -> io::Result<VsockListener> {
    let listener = VsockListener::bind(&VsockAddr::new(VMADDR_CID_ANY, CONTROL_PORT))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The control connections: first the one that the agent dials at start, then those of restarted supervisors.
pub async fn control_connections(
    listener: VsockListener,
    supervisors: Supervisors,
) -> io::Result<impl Stream<Item = io::Result<VsockStream>> + Send + 'static> {
    // SAFETY: a `VsockListener` refers to the same socket while it lives, and the `AsyncFd` owns it.
    let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?;
    let dialled = match VsockStream::connect(VsockAddr::new(HOST_CID, CONTROL_PORT)).await {
        Ok(connection) => Some(Ok(connection)),
        Err(error) => {
            // A supervisor that comes later can use the listener.
            log::error!("cannot connect to the host's port {CONTROL_PORT}: {error}");
            None
        }
    };
    let accepted = stream::unfold(listener, move |listener| {
        let supervisors = supervisors.clone();
        async move {
            loop {
                match accept(&listener).await {
                    Ok((connection, peer)) if peer.cid() == HOST_CID => {
                        log::info!("a supervisor has connected again");
                        supervisors
                            .generation
                            .send_modify(|generation| *generation = generation.wrapping_add(1));
                        return Some((Ok(connection), listener));
                    }
                    // The peer is a container of this VM, connected through the loopback transport.
                    Ok((_, peer)) => log::warning!("refused a control connection from context id {}", peer.cid()),
                    Err(error) => {
                        log::error!("cannot accept control connections any more: {error}");
                        return None;
                    }
                }
            }
        }
    });
    // ttrpc's server panics on shutdown if its listener has already ended, as it does after a failed accept.
    Ok(stream::iter(dialled).chain(accepted).chain(stream::pending()))
}

async fn accept(listener: &AsyncFd<VsockListener>) -> io::Result<(VsockStream, VsockAddr)> {
    loop {
        match listener.async_io(Interest::READABLE, VsockListener::accept).await {
            Ok((connection, peer)) => return Ok((VsockStream::new(connection)?, peer)),
            // A pending signal interrupts even an accept that does not wait (`vsock_accept` in net/vmw_vsock/af_vsock.c).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The host as data streams see it: the current supervisor.
pub trait Host: Send {
    /// The connection of one stream.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send;

    /// Opens a data stream and sends its header.
    fn open(&mut self, stream: &DataStream) -> impl Future<Output = io::Result<Self::Connection>> + Send;

    /// Resolves when a new supervisor has taken over since this value was created or last resolved. Cancel-safe.
    fn taken_over(&mut self) -> impl Future<Output = ()> + Send;
}

/// The host on the other side of vsock.
#[derive(Debug, Clone)]
pub struct VsockHost {
    taken_over: watch::Receiver<u64>,
}

impl Host for VsockHost {
    type Connection = VsockStream;

    async fn open(&mut self, stream: &DataStream) -> io::Result<VsockStream> {
        let header = encode_stream_header(stream).map_err(io::Error::other)?;
        let mut stream = VsockStream::connect(VsockAddr::new(HOST_CID, STREAM_PORT)).await?;
        stream.write_all(&header).await?;
        Ok(stream)
    }

    async fn taken_over(&mut self) {
        if self.taken_over.changed().await.is_err() {
            // The agent is about to end, so there is nothing to reconnect to.
            std::future::pending::<()>().await;
        }
    }
}

/// The stream of the log, which continues with the next supervisor. Data that the previous supervisor did not read is
/// lost.
#[derive(Debug)]
pub struct LogStream {
    host: VsockHost,
    connection: VsockStream,
}

impl LogStream {
    /// Opens the stream.
    pub async fn open(mut host: VsockHost) -> io::Result<Self> {
        let connection = host.open(&DataStream::Log).await?;
        Ok(Self { host, connection })
    }

    /// Resolves when a new supervisor has taken over; then call [`Self::reconnect`].
    pub async fn taken_over(&mut self) {
        self.host.taken_over().await;
    }

    /// Connects again. If the host refuses, waits for the next supervisor; meanwhile the kernel's own
    /// buffer keeps the last lines.
    pub async fn reconnect(&mut self) {
        loop {
            match self.host.open(&DataStream::Log).await {
                Ok(connection) => {
                    self.connection = connection;
                    return;
                }
                Err(error) => {
                    log::warning!("cannot open the log's stream: {error}");
                    self.taken_over().await;
                }
            }
        }
    }

    /// Writes all of it, to the next supervisor if this one ends.
    pub async fn send(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            match self.connection.write(rest).await {
                Ok(sent) if sent > 0 => rest = rest.get(sent..).unwrap_or_default(),
                _ => {
                    self.taken_over().await;
                    self.reconnect().await;
                }
            }
        }
    }

    /// Tells the host that no more data follows.
    pub fn finish(self) -> VsockStream {
        // Fails only if the host has already ended.
        let _ = self.connection.shutdown(Shutdown::Write);
        self.connection
    }
}
