//! One forwarded connection.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::ports::ForwardedPort;
use crate::cli::print::for_terminal;
use crate::pod::client::ClientError;
use crate::pod::operations::port_forward::connect;
use crate::pod::operations::session::{SessionEvent, SessionEvents, SessionInput};
use crate::state::Paths;
use crate::stderr::say;

/// Size of the read buffer, and of the largest chunk to the Pod.
const CHUNK_BYTES: usize = 64 << 10;

/// Which side of a connection has failed.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The local program has closed or lost its connection. It knows.
    #[error("the local connection has failed: {0}")]
    Local(io::Error),
    /// The connection to the Pod has failed.
    #[error(transparent)]
    Pod(ClientError),
}

/// Connects to the port of the Pod, and passes bytes until the connection ends. Errors are reported, and the local
/// connection is reset.
pub(super) async fn forward(mut local: TcpStream, port: ForwardedPort, paths: &Paths, uid: &str) {
    let ForwardedPort { local: from, remote } = port;
    let broken = match connect(paths, uid, remote).await {
        Ok((events, input)) => match carry(&mut local, events, input).await {
            Ok(()) => return,
            Err(broken) => broken,
        },
        Err(error) => Broken::Pod(error),
    };
    // The local program must not take this for the end of the server's bytes.
    let _ = local.set_zero_linger();
    match broken {
        Broken::Local(error) => tracing::debug!("a connection to port {from} has failed: {error}"),
        Broken::Pod(error) => {
            let error = for_terminal(&format!("{:#}", anyhow::Error::from(error)));
            say!(
                "error: an error occurred forwarding {from} -> {remote}: error forwarding port {remote} to pod {uid}, uid : {error}"
            );
        }
    }
}

/// Passes bytes until both sides have ended theirs.
async fn carry(local: &mut TcpStream, mut events: SessionEvents, mut input: SessionInput) -> Result<(), Broken> {
    // Answers of an interactive protocol must not wait for more.
    local.set_nodelay(true).map_err(Broken::Local)?;
    let (mut from_local, mut to_local) = local.split();
    let requests = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = from_local.read(&mut buffer).await.map_err(Broken::Local)?;
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            input.write(bytes).await.map_err(Broken::Pod)?;
            if count == 0 {
                return Ok::<(), Broken>(());
            }
        }
    };
    let answers = async {
        loop {
            match events.next().await.map_err(Broken::Pod)? {
                SessionEvent::Output { bytes, .. } if bytes.is_empty() => {
                    return to_local.shutdown().await.map_err(Broken::Local);
                }
                SessionEvent::Output { bytes, .. } => to_local.write_all(&bytes).await.map_err(Broken::Local)?,
                _ => return Err(Broken::Pod(ClientError::Unexpected)),
            }
        }
    };
    tokio::try_join!(requests, answers).map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixStream};

    use super::*;
    use crate::pod::client::SupervisorClient;
    use crate::pod::operations::session;
    use crate::pod::supervisor_protocol::{OutputStream, SupervisorFrame, SupervisorRequest, read_frame, write_frame};

    /// A local program and a supervisor, with a connection between them that a task carries.
    struct Carried {
        program: TcpStream,
        supervisor: UnixStream,
        carried: tokio::task::JoinHandle<Result<(), Broken>>,
    }

    impl Carried {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let program = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut local, _) = listener.accept().await.unwrap();
            let (client, supervisor) = std::os::unix::net::UnixStream::pair().unwrap();
            supervisor.set_nonblocking(true).unwrap();
            let mut supervisor = UnixStream::from_std(supervisor).unwrap();
            let client = SupervisorClient::of(client).unwrap();
            let request = SupervisorRequest::PortForward { port: 80 };
            let (events, input) = session::begin(client, request.clone()).await.unwrap();
            let asked = read_frame(&mut supervisor).await.unwrap();
            assert_eq!(asked, Some(SupervisorFrame::Request(request)));
            let carried = tokio::spawn(async move { carry(&mut local, events, input).await });
            Self {
                program,
                supervisor,
                carried,
            }
        }

        async fn answer(&mut self, bytes: &[u8]) {
            let frame = SupervisorFrame::Output {
                container: 0,
                stream: OutputStream::Stdout,
                bytes: bytes.to_vec(),
            };
            write_frame(&mut self.supervisor, &frame).await.unwrap();
        }

        async fn asked(&mut self) -> Vec<u8> {
            match read_frame(&mut self.supervisor).await.unwrap() {
                Some(SupervisorFrame::Stdin(bytes)) => bytes,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn each_side_ends_its_bytes_by_itself() {
        let mut connection = Carried::new().await;
        connection.program.write_all(b"request").await.unwrap();
        assert_eq!(connection.asked().await, b"request");
        connection.program.shutdown().await.unwrap();
        assert_eq!(connection.asked().await, b"");
        connection.answer(b"answer").await;
        connection.answer(b"").await;
        let mut answer = Vec::new();
        connection.program.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        connection.carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_supervisor_that_dies_is_not_the_end_of_the_bytes() {
        let mut connection = Carried::new().await;
        connection.answer(b"half of").await;
        drop(connection.supervisor);
        let broken = connection.carried.await.unwrap().unwrap_err();
        assert!(matches!(broken, Broken::Pod(_)), "{broken}");
    }

    #[tokio::test]
    async fn a_failed_connection_is_reset() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut program = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (local, _) = listener.accept().await.unwrap();
        let port = ForwardedPort {
            local: 8080,
            remote: 80,
        };
        forward(local, port, &paths, "no-such-pod").await;
        let error = program.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
