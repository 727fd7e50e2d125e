//! Connections between the host and TCP ports on the Pod's localhost, for `port-forward`. The agent itself runs in the
//! Pod's network namespace (`sandbox`). The host decides which ports it may reach.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use microkube_protocol::DataStream;
use nix::errno::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};

use crate::host::Host;
use crate::log;

/// Maximum number of connections at a time: the host allows fewer, and those of an earlier supervisor may not have
/// ended yet.
const MAX_CONNECTIONS: usize = 256;

/// How long one address may take to accept a connection: a server whose queue is full does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Size of the buffer of each direction. Half of what one vsock packet carries, because the memory is the guest's.
const CHUNK_BYTES: usize = 32 << 10;

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("there are too many connections to ports of the Pod")]
    TooMany,
    /// Neither address accepts connections.
    #[error("failed to connect to localhost:{port} inside the pod, IPv4: {ipv4}, IPv6: {ipv6}")]
    Refused {
        port: u16,
        ipv4: DialError,
        ipv6: DialError,
    },
    #[error("cannot open the connection's stream to the host: {0}")]
    Host(io::Error),
}

/// Why an address cannot be reached, in Go's words.
#[derive(Debug)]
pub struct DialError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = if self.address.is_ipv4() { "tcp4" } else { "tcp6" };
        write!(f, "dial {network} {}: ", self.address)?;
        match self.error.raw_os_error() {
            Some(number) => write!(f, "connect: {}", Errno::from_raw(number).desc().to_lowercase()),
            None if self.error.kind() == io::ErrorKind::TimedOut => f.write_str("i/o timeout"),
            None => write!(f, "connect: {}", self.error),
        }
    }
}

/// The connections of this VM.
#[derive(Debug)]
pub struct PortConnections {
    slots: Arc<Semaphore>,
}

impl Default for PortConnections {
    fn default() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }
}

impl PortConnections {
    /// Connects to a port, opens the stream to the host, and passes bytes between the two from now on.
    pub async fn connect<H: Host + 'static>(&self, id: &str, port: u16, mut host: H) -> Result<(), ConnectError> {
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_| ConnectError::TooMany)?;
        let server = connect_to_localhost(port).await?;
        let stream = DataStream::Port { id: id.to_owned() };
        let connection = host.open(&stream).await.map_err(ConnectError::Host)?;
        tokio::spawn(async move {
            let carried = tokio::select! {
                carried = carry(connection, server) => carried,
                () = host.taken_over() => Ok(()),
            };
            if let Err(error) = carried {
                log::info!("a connection to port {port} has broken: {error}");
            }
            drop(slot);
        });
        Ok(())
    }
}

/// Connects to 127.0.0.1, or else to ::1, one after the other as containerd does.
async fn connect_to_localhost(port: u16) -> Result<TcpStream, ConnectError> {
    let ipv4 = match dial((Ipv4Addr::LOCALHOST, port).into()).await {
        Ok(server) => return Ok(server),
        Err(error) => error,
    };
    match dial((Ipv6Addr::LOCALHOST, port).into()).await {
        Ok(server) => Ok(server),
        Err(ipv6) => Err(ConnectError::Refused { port, ipv4, ipv6 }),
    }
}

async fn dial(address: SocketAddr) -> Result<TcpStream, DialError> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    connected
        .and_then(|server| {
            // Answers of an interactive protocol must not wait for more.
            server.set_nodelay(true)?;
            Ok(server)
        })
        .map_err(|error| DialError { address, error })
}

/// Passes bytes both ways until both directions have ended, or the connection to the host or the server is broken.
async fn carry<S: AsyncRead + AsyncWrite>(host: S, server: TcpStream) -> io::Result<()> {
    let (mut from_host, mut to_host) = tokio::io::split(host);
    let (mut from_server, mut to_server) = server.into_split();
    let host_has_ended = Notify::new();
    let requests = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = from_host.read(&mut buffer).await?;
            if count == 0 {
                // Fails only if the server has closed its end.
                let _ = to_server.shutdown().await;
                host_has_ended.notify_one();
                return Ok::<(), io::Error>(());
            }
            // A server that reads no more may still have answered. How its own direction ends decides.
            if to_server
                .write_all(buffer.get(..count).unwrap_or_default())
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    };
    let answers = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = tokio::select! {
                read = from_server.read(&mut buffer) => read?,
                () = host_has_ended.notified() => {
                    // A host that only shut down its direction still accepts data; an empty write detects that.
                    to_host.write(&[]).await.map(drop)?;
                    continue;
                }
            };
            match read {
                0 => return to_host.shutdown().await,
                count => to_host.write_all(buffer.get(..count).unwrap_or_default()).await?,
            }
        }
    };
    tokio::try_join!(requests, answers).map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, UnixStream};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// A host that receives the other ends of the connections, and whose successor takes over when its sender is dropped.
    struct TestHost {
        opened: mpsc::UnboundedSender<(DataStream, UnixStream)>,
        alive: oneshot::Receiver<()>,
    }

    impl Host for TestHost {
        type Connection = UnixStream;

        async fn open(&mut self, stream: &DataStream) -> io::Result<UnixStream> {
            let (ours, theirs) = UnixStream::pair()?;
            self.opened.send((stream.clone(), theirs)).map_err(io::Error::other)?;
            Ok(ours)
        }

        async fn taken_over(&mut self) {
            let _ = (&mut self.alive).await;
        }
    }

    /// A connection between a host and a server.
    struct Connected {
        host: UnixStream,
        server: TcpStream,
        supervisor: oneshot::Sender<()>,
        connections: PortConnections,
    }

    impl Connected {
        async fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (opened, mut connections) = mpsc::unbounded_channel();
            let (supervisor, alive) = oneshot::channel();
            let ports = PortConnections::default();
            ports.connect("c-1", port, TestHost { opened, alive }).await.unwrap();
            let (stream, host) = connections.recv().await.unwrap();
            assert_eq!(stream, DataStream::Port { id: "c-1".to_owned() });
            Self {
                host,
                server: listener.accept().await.unwrap().0,
                supervisor,
                connections: ports,
            }
        }
    }

    async fn rest(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let Connected {
            mut host,
            mut server,
            supervisor: _supervisor,
            connections,
        } = Connected::new().await;
        host.write_all(b"request").await.unwrap();
        host.shutdown().await.unwrap();
        assert_eq!(rest(&mut server).await, b"request");
        // Larger than all buffers.
        let answer = vec![7; 4 << 20];
        let (written, read) = tokio::join!(
            async {
                server.write_all(&answer).await?;
                server.shutdown().await
            },
            rest(&mut host)
        );
        written.unwrap();
        assert!(read == answer);
        drop(
            connections
                .slots
                .acquire_many(u32::try_from(MAX_CONNECTIONS).unwrap())
                .await
                .unwrap(),
        );
    }

    #[tokio::test]
    async fn a_closed_stream_ends_the_connection_though_the_server_waits() {
        let connected = Connected::new().await;
        let (mut server, _supervisor) = (connected.server, connected.supervisor);
        drop(connected.host);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        // The server has not ended its direction.
        let all = u32::try_from(MAX_CONNECTIONS).unwrap();
        drop(connected.connections.slots.acquire_many(all).await.unwrap());
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_supervisor() {
        let connected = Connected::new().await;
        let _server = connected.server;
        drop(connected.supervisor);
        assert_eq!(rest(connected.host).await, b"");
    }

    #[tokio::test]
    async fn a_port_on_which_nothing_listens_is_refused_in_the_words_of_go() {
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let (opened, _connections) = mpsc::unbounded_channel();
        let (_supervisor, alive) = oneshot::channel();
        let refused = PortConnections::default()
            .connect("c-1", port, TestHost { opened, alive })
            .await;
        let message = refused.unwrap_err().to_string();
        let expected = format!(
            "failed to connect to localhost:{port} inside the pod, IPv4: dial tcp4 127.0.0.1:{port}: connect: connection \
             refused, IPv6: dial tcp6 [::1]:{port}: "
        );
        assert!(message.starts_with(&expected), "{message}");
    }

    #[tokio::test]
    async fn too_many_connections_are_refused() {
        let connections = PortConnections::default();
        let all = u32::try_from(MAX_CONNECTIONS).unwrap();
        let _all = connections.slots.acquire_many(all).await.unwrap();
        let (opened, _connections) = mpsc::unbounded_channel();
        let (_supervisor, alive) = oneshot::channel();
        let refused = connections.connect("c-1", 1, TestHost { opened, alive }).await;
        assert!(matches!(refused, Err(ConnectError::TooMany)));
    }
}
