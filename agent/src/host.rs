//! Connections with the host over vsock: the control connection, its listener, the data streams.

use std::future::Future;
use std::io;
use std::net::Shutdown;

use futures::StreamExt;
use futures::stream::{self, Stream};
use microkube_protocol::{CONTROL_PORT, DataStream, HOST_CID, STREAM_PORT, encode_stream_header};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use crate::log;

/// Tells data streams when another supervisor has taken over, so that they connect again.
#[derive(Debug, Clone)]
pub struct Supervisors {
    generation: watch::Sender<u64>,
}

impl Supervisors {
    /// No supervisor has taken over yet.
    pub fn new() -> Self {
        Self {
            generation: watch::Sender::new(0),
        }
    }

    /// The host for a data stream that is opened from now on.
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

/// The control connections: the one that the agent dials at start, then those of supervisors that were restarted.
pub async fn control_connections(
    supervisors: Supervisors,
) -> io::Result<impl Stream<Item = io::Result<VsockStream>> + Send + 'static> {
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, CONTROL_PORT))?;
    let dialled = match VsockStream::connect(VsockAddr::new(HOST_CID, CONTROL_PORT)).await {
        Ok(connection) => Some(Ok(connection)),
        Err(error) => {
            // A supervisor that comes later finds the listener.
            log::error!("cannot connect to the host's port {CONTROL_PORT}: {error}");
            None
        }
    };
    let accepted = stream::unfold(listener, move |listener| {
        let supervisors = supervisors.clone();
        async move {
            loop {
                match listener.accept().await {
                    Ok((connection, peer)) if peer.cid() == HOST_CID => {
                        log::info!("a supervisor has connected again");
                        supervisors
                            .generation
                            .send_modify(|generation| *generation = generation.wrapping_add(1));
                        return Some((Ok(connection), listener));
                    }
                    // A container of this VM, through the loopback transport.
                    Ok((_, peer)) => log::warning!("refused a control connection from context id {}", peer.cid()),
                    Err(error) => {
                        log::error!("cannot accept control connections any more: {error}");
                        return None;
                    }
                }
            }
        }
    });
    // ttrpc's server panics on shutdown if its listener has ended before, which a failed accept would make it.
    Ok(stream::iter(dialled).chain(accepted).chain(stream::pending()))
}

/// The host as data streams see it: whichever supervisor is there at the moment.
pub trait Host: Send {
    /// A connection for one stream.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send;

    /// Opens a data stream and announces what it is.
    fn open(&mut self, stream: &DataStream) -> impl Future<Output = io::Result<Self::Connection>> + Send;

    /// Resolves when another supervisor has taken over since this was made or has resolved last. Can be cancelled.
    fn taken_over(&mut self) -> impl Future<Output = ()> + Send;
}

/// The host behind vsock.
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
            // The agent is about to end; there is nothing to reconnect to.
            std::future::pending::<()>().await;
        }
    }
}

/// The log's stream, which goes on with the next supervisor. What one of them did not read is lost.
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

    /// Resolves when another supervisor has taken over; [`Self::reconnect`] is to be called then.
    pub async fn taken_over(&mut self) {
        self.host.taken_over().await;
    }

    /// Connects again; where the host refuses, waits for the next supervisor: the kernel's own buffer keeps the last lines.
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

    /// Writes all of it, to the next supervisor if this one goes away.
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

    /// Tells the host that nothing more comes.
    pub fn finish(self) -> VsockStream {
        // Fails only when the host has gone already.
        let _ = self.connection.shutdown(Shutdown::Write);
        self.connection
    }
}
