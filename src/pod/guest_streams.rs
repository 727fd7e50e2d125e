//! The data streams of a Pod's guest: containers' output and stdin, the stdio of exec processes, connections to ports,
//! and the guest's log.
//!
//! Each is one vsock connection, opened by the agent. The guest may connect any number of times and send anything, so
//! each stream is accepted once, and only if it is expected. `container_streams` processes containers' output.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use microkube_base::lock::lock;
use microkube_protocol::{DataStream, MAX_STREAM_HEADER_BYTES, Stdio, decode_stream_header};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::container_streams::{CHUNK_BYTES, ContainerStreams, KILLED_LAG_BYTES};
use super::guest_log::GuestLog;
use super::guest_text::Complaints;
use super::logs::LogWriter;
use super::stdin::ContainerStdin;
use super::supervisor_protocol::{OutputStream, SupervisorFrame};

/// How long a new connection may take to send its header. This is generous, because a guest on a busy host is slow and
/// only few connections may be silent at a time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// The streams that the guest may open, and where they go.
#[derive(Debug)]
pub struct GuestStreams {
    expected: Mutex<Expected>,
    /// The attached command line, if there is one.
    client: Option<mpsc::Sender<SupervisorFrame>>,
    guest_log: Mutex<GuestLog>,
    complaints: Complaints,
    debug: bool,
}

#[derive(Debug, Default)]
struct Expected {
    parked: Option<Parked>,
    log: bool,
    containers: HashMap<String, Arc<ContainerStreams>>,
    processes: HashMap<(String, Stdio), oneshot::Sender<UnixStream>>,
    ports: HashMap<String, oneshot::Sender<UnixStream>>,
}

/// Streams that arrive during a takeover, for containers that are not confirmed yet. Their data fills buffers here and
/// in the VMM until it is read, so only streams that may be read later are parked, each once.
#[derive(Debug)]
struct Parked {
    /// Ids of the containers that may exist.
    ids: HashSet<String>,
    streams: HashMap<(String, Stdio), (DataStream, UnixStream)>,
}

impl GuestStreams {
    /// Sends output to `client`; with `debug`, the guest's log too.
    #[must_use]
    pub fn new(client: Option<mpsc::Sender<SupervisorFrame>>, guest_log: GuestLog, debug: bool) -> Arc<Self> {
        Arc::new(Self {
            expected: Mutex::default(),
            client,
            guest_log: Mutex::new(guest_log),
            complaints: Complaints::default(),
            debug,
        })
    }

    /// Logs a violation by the guest, up to a limit.
    pub fn complain(&self, what: fmt::Arguments<'_>) {
        self.complaints.say(what);
    }

    /// Prepares for the start of a new VM: its log is expected, and no stream of the previous VM is.
    pub fn expect_machine(&self) {
        self.complaints.renew();
        self.guest_log(GuestLog::begin_machine);
        *lock(&self.expected) = Expected {
            log: true,
            ..Expected::default()
        };
    }

    /// Prepares for a takeover: the agent opens its streams again before it can be asked which of these containers
    /// exist.
    pub fn expect_adopted_machine(&self, ids: HashSet<String>) {
        self.expect_machine();
        lock(&self.expected).parked = Some(Parked {
            ids,
            streams: HashMap::new(),
        });
    }

    /// Serves the parked streams: by now, all containers of the adopted VM are announced.
    pub fn unpark(self: &Arc<Self>) {
        let parked = lock(&self.expected).parked.take();
        for (header, stream) in parked.into_iter().flat_map(|parked| parked.streams.into_values()) {
            let streams = Arc::clone(self);
            tokio::spawn(async move { streams.serve_stream(header, stream).await });
        }
    }

    /// Announces the streams of a container that will be started, or was found running.
    pub fn expect_container(
        &self,
        index: u16,
        id: &str,
        stdin: Arc<ContainerStdin>,
        log: LogWriter,
    ) -> Arc<ContainerStreams> {
        let followers = self.client.iter().cloned().collect();
        self.expect(id, ContainerStreams::new(index, stdin, log, followers))
    }

    /// Expects the streams of a container that was added to the Pod, and whose output the Pod's command line does not
    /// show.
    pub fn expect_added_container(
        &self,
        id: &str,
        stdin: Arc<ContainerStdin>,
        log: LogWriter,
    ) -> Arc<ContainerStreams> {
        self.expect(id, ContainerStreams::new(u16::MAX, stdin, log, Vec::new()))
    }

    fn expect(&self, id: &str, streams: ContainerStreams) -> Arc<ContainerStreams> {
        let streams = Arc::new(streams);
        lock(&self.expected)
            .containers
            .insert(id.to_owned(), Arc::clone(&streams));
        streams
    }

    pub fn container(&self, id: &str) -> Option<Arc<ContainerStreams>> {
        lock(&self.expected).containers.get(id).cloned()
    }

    /// Forgets the streams of a container that was not started, or has ended.
    pub fn forget_container(&self, id: &str) {
        lock(&self.expected).containers.remove(id);
    }

    /// Waits until the output that a VM sent before it ended was logged and passed on, at most until `deadline`: a
    /// reader may be slow. The streams that the VM did not open have ended then.
    pub async fn drained(&self, deadline: Instant) {
        let containers: Vec<_> = lock(&self.expected).containers.values().cloned().collect();
        for streams in &containers {
            streams.let_followers_lag(KILLED_LAG_BYTES);
        }
        for streams in containers {
            if tokio::time::timeout_at(deadline, streams.closed()).await.is_err() {
                tracing::warn!("the VM's last output is read too slowly to wait for it");
            }
            streams.end_unopened();
        }
    }

    /// Announces a stream of an exec process.
    pub fn expect_process(&self, id: &str, stdio: Stdio) -> oneshot::Receiver<UnixStream> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.expected).processes.insert((id.to_owned(), stdio), sender);
        receiver
    }

    /// Forgets the streams of a process that never opened them.
    pub fn forget_process(&self, id: &str) {
        lock(&self.expected).processes.retain(|(other, _), _| other != id);
    }

    /// Announces the stream of a connection to a port.
    pub fn expect_port(&self, id: &str) -> oneshot::Receiver<UnixStream> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.expected).ports.insert(id.to_owned(), sender);
        receiver
    }

    /// Forgets a connection to a port that was not made.
    pub fn forget_port(&self, id: &str) {
        lock(&self.expected).ports.remove(id);
    }

    /// Reads the header of a new guest connection to the stream port.
    pub async fn header(&self, stream: &mut UnixStream) -> Option<DataStream> {
        match tokio::time::timeout(HEADER_TIMEOUT, read_header(stream)).await {
            Ok(Ok(header)) => return Some(header),
            Ok(Err(error)) => self.complain(format_args!("refused a stream from the guest: {error}")),
            Err(_) => self.complain(format_args!(
                "refused a stream from the guest: it sent no header in time"
            )),
        }
        None
    }

    /// Serves a connection whose header was read, until it closes.
    pub async fn serve(&self, header: DataStream, stream: UnixStream) {
        if let DataStream::Container { id, stdio, .. } = &header
            && let Some(parked) = &mut lock(&self.expected).parked
        {
            let key = (id.clone(), *stdio);
            if !parked.ids.contains(id) || parked.streams.contains_key(&key) {
                return self.complain(format_args!("refused an unexpected stream from the guest"));
            }
            parked.streams.insert(key, (header, stream));
            return;
        }
        self.serve_stream(header, stream).await;
    }

    async fn serve_stream(&self, header: DataStream, stream: UnixStream) {
        let served = match header {
            DataStream::Log => self.serve_log(stream).await,
            DataStream::Process { id, stdio } => {
                let expected = lock(&self.expected).processes.remove(&(id, stdio));
                return self.hand_over(expected, stream);
            }
            DataStream::Port { id } => {
                let expected = lock(&self.expected).ports.remove(&id);
                return self.hand_over(expected, stream);
            }
            DataStream::Container {
                id,
                stdio,
                position_bytes,
            } => {
                let Some(streams) = self.container(&id) else {
                    return self.complain(format_args!("refused an unexpected stream from the guest"));
                };
                match stdio {
                    Stdio::Stdin => {
                        if !streams.stdin.connect(stream) {
                            self.complain(format_args!("refused an unexpected stdin stream from the guest"));
                        }
                        return;
                    }
                    Stdio::Stdout => {
                        self.serve_output(&streams, OutputStream::Stdout, position_bytes, stream)
                            .await
                    }
                    Stdio::Stderr => {
                        self.serve_output(&streams, OutputStream::Stderr, position_bytes, stream)
                            .await
                    }
                }
            }
        };
        if let Err(error) = served {
            self.complain(format_args!("a stream from the guest failed: {error}"));
        }
    }

    /// Passes a stream to the task that expects it.
    fn hand_over(&self, expected: Option<oneshot::Sender<UnixStream>>, stream: UnixStream) {
        match expected {
            // If the receiver is gone, the stream is closed.
            Some(receiver) => drop(receiver.send(stream)),
            None => self.complain(format_args!("refused an unexpected stream from the guest")),
        }
    }

    async fn serve_output(
        &self,
        streams: &ContainerStreams,
        stream: OutputStream,
        oldest_bytes: u64,
        connection: UnixStream,
    ) -> std::io::Result<()> {
        if !streams.open(stream) {
            self.complain(format_args!("refused a second stream for the same output"));
            return Ok(());
        }
        streams.receive(stream, oldest_bytes, connection).await
    }

    async fn serve_log(&self, mut stream: UnixStream) -> std::io::Result<()> {
        if !std::mem::take(&mut lock(&self.expected).log) {
            self.complain(format_args!("refused a second stream for the guest's log"));
            return Ok(());
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            // With `--debug` the kernel also writes its log to the console, and earlier.
            if !self.debug {
                self.log(&buffer[..length]).await;
            }
        }
    }

    /// Logs the VM's console until it closes.
    pub async fn serve_console(&self, mut console: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = console.read(&mut buffer).await {
            self.log(&buffer[..length]).await;
        }
    }

    async fn log(&self, bytes: &[u8]) {
        self.guest_log(|log| log.append(bytes));
        if let Some(client) = self.client.as_ref().filter(|_| self.debug && !bytes.is_empty()) {
            let _ = client.send(SupervisorFrame::Log(bytes.to_vec())).await;
        }
    }

    /// Accesses the guest's log.
    pub fn guest_log<T>(&self, look: impl FnOnce(&mut GuestLog) -> T) -> T {
        look(&mut lock(&self.guest_log))
    }
}

async fn read_header(stream: &mut UnixStream) -> std::io::Result<DataStream> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_STREAM_HEADER_BYTES {
        return Err(std::io::Error::other("the stream header is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    decode_stream_header(&body).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests;
