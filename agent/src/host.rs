//! Connections with the host over vsock: the control connection, its listener, the data streams.

use std::io;
use std::net::Shutdown;

use futures::StreamExt;
use futures::stream::{self, Stream};
use microkube_protocol::messages::StreamKind;
use microkube_protocol::{CONTROL_PORT, HOST_CID, STREAM_PORT, encode_stream_header};
use tokio::io::AsyncWriteExt;
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

    /// Resolves once for every time (or several) that a supervisor has taken over after this call.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
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

/// Opens a data stream and announces what it is.
pub async fn open_stream(kind: StreamKind, container_id: &str) -> io::Result<VsockStream> {
    let header = encode_stream_header(kind, container_id).map_err(io::Error::other)?;
    let mut stream = VsockStream::connect(VsockAddr::new(HOST_CID, STREAM_PORT)).await?;
    stream.write_all(&header).await?;
    Ok(stream)
}

/// A stream towards the host that survives the supervisor it was opened to.
#[derive(Debug)]
pub struct OutputStream {
    kind: StreamKind,
    container_id: String,
    connection: VsockStream,
    taken_over: watch::Receiver<u64>,
}

impl OutputStream {
    /// Opens the stream.
    pub async fn open(kind: StreamKind, container_id: &str, supervisors: &Supervisors) -> io::Result<Self> {
        let taken_over = supervisors.subscribe();
        Ok(Self {
            kind,
            container_id: container_id.to_owned(),
            connection: open_stream(kind, container_id).await?,
            taken_over,
        })
    }

    /// Resolves when another supervisor has taken over; [`Self::reconnect`] is to be called then.
    pub async fn taken_over(&mut self) {
        if self.taken_over.changed().await.is_err() {
            // The agent is about to end; there is nothing to reconnect to.
            std::future::pending::<()>().await;
        }
    }

    /// Connects again; where the host refuses, waits for the next supervisor, without limit: what a container writes is
    /// held back rather than lost, as by a terminal that nobody reads.
    pub async fn reconnect(&mut self) {
        loop {
            match open_stream(self.kind, &self.container_id).await {
                Ok(connection) => {
                    self.connection = connection;
                    return;
                }
                Err(error) => {
                    log::warning!(
                        "cannot open a {:?} stream of {:?}: {error}",
                        self.kind,
                        self.container_id
                    );
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
