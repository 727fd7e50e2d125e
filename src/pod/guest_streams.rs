//! The data streams of a Pod's guest: containers' output, stdin, further processes' stdio, and the guest's log.
//!
//! Each is one vsock connection that the agent opens. The guest is free to connect as often as it likes and to send anything, so every
//! stream is accepted once, and only if it is expected. What becomes of a container's output is in `container_streams`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use microkube_base::lock::lock;
use microkube_protocol::{DataStream, MAX_STREAM_HEADER_BYTES, Stdio, decode_stream_header};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::container_streams::{CHUNK_BYTES, ContainerStreams};
use super::guest_log::GuestLog;
use super::guest_text::Complaints;
use super::logs::LogWriter;
use super::stdin::ContainerStdin;
use super::supervisor_protocol::{OutputStream, SupervisorFrame};

/// How long a new connection may take to send its header. Generous: a guest on a busy host is slow, and few may be silent at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);

/// The streams that the guest may open, and where they go.
#[derive(Debug)]
pub struct GuestStreams {
    expected: Mutex<Expected>,
    /// The command line that stays attached to the Pod.
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
}

/// While a machine is taken over: streams of containers that are not known to be there yet. What was sent on them fills buffers here and
/// in the VMM until they are read, so only those wait that will be, each once.
#[derive(Debug)]
struct Parked {
    /// The ids of the containers that may be there.
    ids: HashSet<String>,
    streams: HashMap<(String, Stdio), (DataStream, UnixStream)>,
}

impl GuestStreams {
    /// Passes output on to `client`, and with `debug` the log too.
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

    /// Logs a violation by the guest, unless there are too many.
    pub fn complain(&self, what: fmt::Arguments<'_>) {
        self.complaints.say(what);
    }

    /// A new machine is about to start: its log is expected, and of the last one's streams nothing.
    pub fn expect_machine(&self) {
        self.complaints.renew();
        self.guest_log(GuestLog::begin_machine);
        *lock(&self.expected) = Expected {
            log: true,
            ..Expected::default()
        };
    }

    /// A machine is about to be taken over: its agent will open streams again before it can be asked which of the containers with these
    /// ids there are.
    pub fn expect_adopted_machine(&self, ids: HashSet<String>) {
        self.expect_machine();
        lock(&self.expected).parked = Some(Parked {
            ids,
            streams: HashMap::new(),
        });
    }

    /// All containers of the machine that was taken over are expected by now: serves the streams that were parked.
    pub fn unpark(self: &Arc<Self>) {
        let parked = lock(&self.expected).parked.take();
        for (header, stream) in parked.into_iter().flat_map(|parked| parked.streams.into_values()) {
            let streams = Arc::clone(self);
            tokio::spawn(async move { streams.serve_stream(header, stream).await });
        }
    }

    /// Announces the streams of a container that is about to be started, or was found running.
    pub fn expect_container(
        &self,
        index: u16,
        id: &str,
        stdin: Arc<ContainerStdin>,
        log: LogWriter,
    ) -> Arc<ContainerStreams> {
        let followers = self.client.iter().cloned().collect();
        let streams = Arc::new(ContainerStreams::new(index, stdin, log, followers));
        lock(&self.expected)
            .containers
            .insert(id.to_owned(), Arc::clone(&streams));
        streams
    }

    /// The streams of a container.
    pub fn container(&self, id: &str) -> Option<Arc<ContainerStreams>> {
        lock(&self.expected).containers.get(id).cloned()
    }

    /// Forgets the streams of a container that was not started after all, or has ended.
    pub fn forget_container(&self, id: &str) {
        lock(&self.expected).containers.remove(id);
    }

    /// Announces a stream of a further process.
    pub fn expect_process(&self, id: &str, stdio: Stdio) -> oneshot::Receiver<UnixStream> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.expected).processes.insert((id.to_owned(), stdio), sender);
        receiver
    }

    /// Forgets the streams of a process that never opened them.
    pub fn forget_process(&self, id: &str) {
        lock(&self.expected).processes.retain(|(other, _), _| other != id);
    }

    /// The header of a new connection of the guest to the stream port.
    pub async fn header(&self, stream: &mut UnixStream) -> Option<DataStream> {
        match tokio::time::timeout(HEADER_TIMEOUT, read_header(stream)).await {
            Ok(Ok(header)) => return Some(header),
            Ok(Err(error)) => self.complain(format_args!("refused a stream of the guest: {error}")),
            Err(_) => self.complain(format_args!(
                "refused a stream of the guest: it does not say what it is"
            )),
        }
        None
    }

    /// Serves such a connection, to its end.
    pub async fn serve(&self, header: DataStream, stream: UnixStream) {
        if let DataStream::Container { id, stdio, .. } = &header
            && let Some(parked) = &mut lock(&self.expected).parked
        {
            let key = (id.clone(), *stdio);
            if !parked.ids.contains(id) || parked.streams.contains_key(&key) {
                return self.complain(format_args!("refused a stream of the guest that nobody expects"));
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
                match expected {
                    // If its waiter has given up, the stream is closed.
                    Some(receiver) => drop(receiver.send(stream)),
                    None => self.complain(format_args!("refused a stream of the guest that nobody expects")),
                }
                return;
            }
            DataStream::Container {
                id,
                stdio,
                position_bytes,
            } => {
                let Some(streams) = self.container(&id) else {
                    return self.complain(format_args!("refused a stream of the guest that nobody expects"));
                };
                match stdio {
                    Stdio::Stdin => {
                        if !streams.stdin.connect(stream) {
                            self.complain(format_args!("refused a stdin of the guest that nobody expects"));
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
            self.complain(format_args!("a stream of the guest broke off: {error}"));
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
            self.complain(format_args!("refused a second stream of the same output"));
            return Ok(());
        }
        streams.receive(stream, oldest_bytes, connection).await
    }

    async fn serve_log(&self, mut stream: UnixStream) -> std::io::Result<()> {
        if !std::mem::take(&mut lock(&self.expected).log) {
            self.complain(format_args!("refused a second stream of the guest's log"));
            return Ok(());
        }
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = stream.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            // With `--debug` the kernel writes the same to the console, and earlier.
            if !self.debug {
                self.log(&buffer[..length]).await;
            }
        }
    }

    /// Logs the machine's console, to its end.
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

    /// Looks at the guest's log.
    pub fn guest_log<T>(&self, look: impl FnOnce(&mut GuestLog) -> T) -> T {
        look(&mut lock(&self.guest_log))
    }
}

async fn read_header(stream: &mut UnixStream) -> std::io::Result<DataStream> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_STREAM_HEADER_BYTES {
        return Err(std::io::Error::other("its header is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    decode_stream_header(&body).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use microkube_protocol::encode_stream_header;
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::pod::logs::Limits;

    fn guest_streams() -> (tempfile::TempDir, Arc<GuestStreams>, mpsc::Receiver<SupervisorFrame>) {
        let dir = tempfile::tempdir().unwrap();
        let log = GuestLog::begin(dir.path().join("guest.log"));
        let (sender, receiver) = mpsc::channel(16);
        let guest_streams = GuestStreams::new(Some(sender), log, false);
        guest_streams.expect_machine();
        (dir, guest_streams, receiver)
    }

    fn container(id: &str, stdio: Stdio, position_bytes: u64) -> DataStream {
        DataStream::Container {
            id: id.to_owned(),
            stdio,
            position_bytes,
        }
    }

    async fn serve(guest_streams: &GuestStreams, mut stream: UnixStream) {
        if let Some(header) = guest_streams.header(&mut stream).await {
            guest_streams.serve(header, stream).await;
        }
    }

    fn no_stdin() -> Arc<ContainerStdin> {
        ContainerStdin::new(&Default::default(), "web-0", "/none".into())
    }

    fn log(directory: &tempfile::TempDir) -> LogWriter {
        LogWriter::open(directory.path().join("main"), 0, Limits::default())
    }

    /// Returns what the host answered.
    async fn connect(guest_streams: &Arc<GuestStreams>, header: DataStream, bytes: &[u8]) -> Vec<u8> {
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(&encode_stream_header(&header).unwrap()).await.unwrap();
        guest.write_all(bytes).await.unwrap();
        guest.shutdown().await.unwrap();
        serve(guest_streams, host).await;
        let mut answer = Vec::new();
        // Reset where the host did not read all.
        let _ = guest.read_to_end(&mut answer).await;
        answer
    }

    fn bytes_of(frames: &mut mpsc::Receiver<SupervisorFrame>) -> Vec<u8> {
        let mut all = Vec::new();
        while let Ok(SupervisorFrame::Output { bytes, .. }) = frames.try_recv() {
            all.extend(bytes);
        }
        all
    }

    #[tokio::test]
    async fn output_is_passed_on_confirmed_and_its_end_announced() {
        let (dir, guest_streams, mut frames) = guest_streams();
        let streams = guest_streams.expect_container(2, "web-0", no_stdin(), log(&dir));
        let answer = connect(&guest_streams, container("web-0", Stdio::Stderr, 0), b"oops").await;
        assert_eq!(answer, [0_u64.to_be_bytes(), 4_u64.to_be_bytes()].concat());
        connect(&guest_streams, container("web-0", Stdio::Stdout, 0), b"").await;
        streams.finished().await;
        let stream = OutputStream::Stderr;
        let expected = SupervisorFrame::Output {
            container: 2,
            stream,
            bytes: b"oops".to_vec(),
        };
        assert_eq!(frames.recv().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_stream_is_accepted_once_and_only_if_expected() {
        let (dir, guest_streams, mut frames) = guest_streams();
        let _streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
        connect(&guest_streams, container("other-0", Stdio::Stdout, 0), b"forged").await;
        connect(&guest_streams, container("web-0", Stdio::Stdout, 0), b"").await;
        connect(&guest_streams, container("web-0", Stdio::Stdout, 0), b"twice").await;
        connect(&guest_streams, container("web-0", Stdio::Stdin, 0), b"forged").await;
        let process = DataStream::Process {
            id: "p-1".to_owned(),
            stdio: Stdio::Stdout,
        };
        connect(&guest_streams, process, b"forged").await;
        assert_eq!(bytes_of(&mut frames), b"");
        assert!(guest_streams.container("web-0").unwrap().stdin.take().is_none());
    }

    #[tokio::test]
    async fn streams_of_a_machine_that_is_taken_over_wait_until_its_containers_are_known() {
        let (dir, guest_streams, mut frames) = guest_streams();
        guest_streams.expect_adopted_machine(["web-0".to_owned()].into());
        let (mut guest, host) = UnixStream::pair().unwrap();
        let header = encode_stream_header(&container("web-0", Stdio::Stdout, 7)).unwrap();
        guest.write_all(&header).await.unwrap();
        serve(&guest_streams, host).await;
        let streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
        guest_streams.unpark();
        // What was lost before position 7 was lost with the supervisor.
        assert_eq!(guest.read_u64().await.unwrap(), 7);
        guest.write_all(b"line\n").await.unwrap();
        assert_eq!(guest.read_u64().await.unwrap(), 12);
        guest.shutdown().await.unwrap();
        streams.end_unopened();
        streams.finished().await;
        assert_eq!(bytes_of(&mut frames), b"line\n");
    }

    #[tokio::test]
    async fn only_streams_that_will_be_read_wait_while_a_machine_is_taken_over_and_each_once() {
        let (_dir, guest_streams, _frames) = guest_streams();
        guest_streams.expect_adopted_machine(["web-0".to_owned()].into());
        let mut guests = Vec::new();
        for number in 0..100 {
            for id in ["web-0".to_owned(), format!("forged-{number}")] {
                let (mut guest, host) = UnixStream::pair().unwrap();
                let header = encode_stream_header(&container(&id, Stdio::Stdout, 0)).unwrap();
                guest.write_all(&header).await.unwrap();
                serve(&guest_streams, host).await;
                guests.push(guest);
            }
        }
        let (waiting, others) = guests.split_at_mut(1);
        assert_eq!(lock(&guest_streams.expected).parked.as_ref().unwrap().streams.len(), 1);
        for guest in others {
            assert!(
                matches!(guest.read(&mut [0]).await, Ok(0) | Err(_)),
                "it was refused at once"
            );
        }
        waiting[0].write_all(b"still there").await.unwrap();
    }

    #[tokio::test]
    async fn a_process_gets_its_streams() {
        let (_dir, guest_streams, _frames) = guest_streams();
        let expected = guest_streams.expect_process("p-1", Stdio::Stdout);
        let header = DataStream::Process {
            id: "p-1".to_owned(),
            stdio: Stdio::Stdout,
        };
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(&encode_stream_header(&header).unwrap()).await.unwrap();
        guest.write_all(b"hello").await.unwrap();
        drop(guest);
        serve(&guest_streams, host).await;
        let mut text = String::new();
        expected.await.unwrap().read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn the_guests_log_is_kept_once() {
        let (_dir, guest_streams, _frames) = guest_streams();
        connect(&guest_streams, DataStream::Log, b"[    0.1] hello\n").await;
        connect(&guest_streams, DataStream::Log, b"[    0.2] again\n").await;
        assert_eq!(guest_streams.guest_log(|log| log.last_lines(1)), ["[    0.1] hello"]);
    }

    #[tokio::test]
    async fn a_header_that_is_too_long_ends_the_stream() {
        let (_dir, guest_streams, _frames) = guest_streams();
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(&[0xff, 0xff, 0, 0]).await.unwrap();
        serve(&guest_streams, host).await;
        // Reset rather than closed, because what was sent was not all read.
        assert!(guest.read_u8().await.is_err());
    }
}
