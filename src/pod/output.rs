//! The data streams of a Pod's guest: containers' stdout and stderr, and the guest's log.
//!
//! Each is one vsock connection that the agent opens. Who connects, how often, and what is sent is up to the guest, so every
//! stream is accepted once, and only if it is expected.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use microkube_protocol::{DataStream, MAX_STREAM_HEADER_BYTES, Stdio, decode_stream_header};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::attach::{Frame, OutputStream};
use super::guest_log::GuestLog;

/// How long a new connection may take to say what it is.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes read from a stream at once.
const CHUNK_BYTES: usize = 128 << 10;

/// What a stream is, once it has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Expected {
    Output(u16, OutputStream),
    Log,
}

/// A stream by its name: which of a container's, or the log.
type StreamName = Option<(String, Stdio)>;

/// Takes in the guest's streams and passes them on to the attached client.
#[derive(Debug)]
pub struct Output {
    expected: Mutex<HashMap<StreamName, (Expected, oneshot::Sender<()>)>>,
    client: mpsc::Sender<Frame>,
    log: Arc<Mutex<GuestLog>>,
    debug: bool,
}

/// Both output streams of one container: resolves when each has ended.
#[derive(Debug)]
pub struct ContainerOutput {
    stdout: oneshot::Receiver<()>,
    stderr: oneshot::Receiver<()>,
}

impl ContainerOutput {
    /// Waits until everything the container wrote has been passed on.
    pub async fn finished(self) {
        // A dropped sender says the same as a message: nothing more will come.
        let _ = self.stdout.await;
        let _ = self.stderr.await;
    }
}

impl Output {
    /// Passes output on to `client`, and with `debug` the log too.
    #[must_use]
    pub fn new(client: mpsc::Sender<Frame>, log: GuestLog, debug: bool) -> Arc<Self> {
        let output = Self {
            expected: Mutex::default(),
            client,
            log: Arc::new(Mutex::new(log)),
            debug,
        };
        output.expect(None, Expected::Log);
        Arc::new(output)
    }

    /// Announces the streams of a container that is about to be started.
    pub fn expect_container(&self, index: u16, id: &str) -> ContainerOutput {
        ContainerOutput {
            stdout: self.expect(
                Some((id.to_owned(), Stdio::Stdout)),
                Expected::Output(index, OutputStream::Stdout),
            ),
            stderr: self.expect(
                Some((id.to_owned(), Stdio::Stderr)),
                Expected::Output(index, OutputStream::Stderr),
            ),
        }
    }

    /// Forgets the streams of a container that was not started after all.
    pub fn forget_container(&self, id: &str) {
        let mut expected = self.expected.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        expected.retain(|name, _| name.as_ref().is_none_or(|(expected_id, _)| expected_id != id));
    }

    fn expect(&self, name: StreamName, what: Expected) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut expected = self.expected.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        expected.insert(name, (what, sender));
        receiver
    }

    /// Serves one connection of the guest to the stream port, to its end.
    pub async fn serve(&self, mut stream: UnixStream) {
        let header = tokio::time::timeout(HEADER_TIMEOUT, read_header(&mut stream)).await;
        let (name, position_bytes) = match header {
            Ok(Ok(DataStream::Log)) => (None, 0),
            Ok(Ok(DataStream::Container {
                id,
                stdio,
                position_bytes,
            })) => (Some((id, stdio)), position_bytes),
            Ok(Ok(DataStream::Process { .. })) => return tracing::warn!("refused a stream of an unknown process"),
            Ok(Err(error)) => return tracing::warn!("refused a stream of the guest: {error}"),
            Err(_) => return tracing::warn!("refused a stream of the guest: it does not say what it is"),
        };
        let expected = {
            let mut expected = self.expected.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            expected.remove(&name)
        };
        // The sender is dropped, and the stream with it announced as ended, when this function returns.
        let Some((what, _ended)) = expected else {
            return tracing::warn!("refused a stream of the guest that nobody expects");
        };
        if let Err(error) = self.pump(what, position_bytes, &mut stream).await {
            tracing::warn!("a stream of the guest broke off: {error}");
        }
    }

    async fn pump(&self, what: Expected, position_bytes: u64, stream: &mut UnixStream) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut position_bytes = position_bytes;
        loop {
            // Where to go on first, then how far the bytes have come.
            if matches!(what, Expected::Output(..)) {
                // Fails when the agent has nothing more to say, which the next read tells.
                let _ = stream.write_u64(position_bytes).await;
            }
            let length = stream.read(&mut buffer).await?;
            position_bytes = position_bytes.saturating_add(length as u64);
            let bytes = buffer.get(..length).unwrap_or_default();
            match what {
                // With `--debug` the kernel writes the same to the console, and earlier.
                Expected::Log if self.debug => {}
                Expected::Log => self.log(bytes).await,
                Expected::Output(container, stream) => {
                    // Fails when the client is gone: then there is nobody to write for, but the guest must not block.
                    let _ = self
                        .client
                        .send(Frame::Output {
                            container,
                            stream,
                            bytes: bytes.to_vec(),
                        })
                        .await;
                }
            }
            if length == 0 {
                return Ok(());
            }
        }
    }

    /// Takes in the machine's console, to its end.
    pub async fn serve_console(&self, mut console: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = console.read(&mut buffer).await {
            self.log(buffer.get(..length).unwrap_or_default()).await;
        }
    }

    async fn log(&self, bytes: &[u8]) {
        self.guest_log(|log| log.append(bytes));
        if self.debug && !bytes.is_empty() {
            let _ = self.client.send(Frame::Log(bytes.to_vec())).await;
        }
    }

    /// Looks at the guest's log.
    pub fn guest_log<T>(&self, look: impl FnOnce(&mut GuestLog) -> T) -> T {
        look(&mut self.log.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
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
    use super::*;
    use microkube_protocol::encode_stream_header;

    fn output() -> (tempfile::TempDir, Arc<Output>, mpsc::Receiver<Frame>) {
        let dir = tempfile::tempdir().unwrap();
        let log = GuestLog::create(&dir.path().join("guest.log")).unwrap();
        let (sender, receiver) = mpsc::channel(16);
        (dir, Output::new(sender, log, false), receiver)
    }

    fn container(id: &str, stdio: Stdio) -> DataStream {
        DataStream::Container {
            id: id.to_owned(),
            stdio,
            position_bytes: 0,
        }
    }

    async fn connect(output: &Arc<Output>, stream: &DataStream, bytes: &[u8]) {
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(&encode_stream_header(stream).unwrap()).await.unwrap();
        guest.write_all(bytes).await.unwrap();
        guest.shutdown().await.unwrap();
        output.serve(host).await;
    }

    #[tokio::test]
    async fn output_is_passed_on_and_its_end_announced() {
        let (_dir, output, mut frames) = output();
        let streams = output.expect_container(2, "web");
        connect(&output, &container("web", Stdio::Stderr), b"oops").await;
        connect(&output, &container("web", Stdio::Stdout), b"").await;
        streams.finished().await;
        let stream = OutputStream::Stderr;
        let expected = Frame::Output {
            container: 2,
            stream,
            bytes: b"oops".to_vec(),
        };
        assert_eq!(frames.recv().await.unwrap(), expected);
    }

    #[tokio::test]
    async fn a_stream_is_accepted_once_and_only_if_expected() {
        let (_dir, output, mut frames) = output();
        let _streams = output.expect_container(0, "web");
        connect(&output, &container("other", Stdio::Stdout), b"forged").await;
        connect(&output, &container("web", Stdio::Stdout), b"").await;
        connect(&output, &container("web", Stdio::Stdout), b"twice").await;
        drop(output);
        let mut bytes = Vec::new();
        while let Ok(Frame::Output { bytes: more, .. }) = frames.try_recv() {
            bytes.extend(more);
        }
        assert_eq!(bytes, b"");
    }

    #[tokio::test]
    async fn the_guests_log_is_kept() {
        let (_dir, output, _frames) = output();
        connect(&output, &DataStream::Log, b"[    0.1] hello\n").await;
        assert_eq!(output.guest_log(|log| log.last_lines(1)), ["[    0.1] hello"]);
    }

    #[tokio::test]
    async fn a_header_that_is_too_long_ends_the_stream() {
        let (_dir, output, _frames) = output();
        let (mut guest, host) = UnixStream::pair().unwrap();
        guest.write_all(&[0xff, 0xff, 0, 0]).await.unwrap();
        output.serve(host).await;
        // Reset rather than closed, because what was sent was not all read.
        assert!(guest.read_u8().await.is_err());
    }
}
