//! Standard input of one container attempt: which clients write to it, and when it ends.
//!
//! As in containerd: with `stdinOnce` and no terminal, the first client to attach is the only one, and the input ends
//! with it. Otherwise the input stays open, and all attached clients write to it.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::Container;
use microkube_base::lock::lock;
use nix::sys::socket;
use tokio::net::UnixStream;
use tokio::sync;

/// A container's input.
#[derive(Debug)]
pub struct ContainerStdin {
    ends_with_client: bool,
    /// The file that records, for a later supervisor, which attempt's input was taken by its only client.
    taken_file: PathBuf,
    id: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// The container has no stdin.
    Absent,
    /// The guest has not connected it yet. After its end, the guest does not connect it again.
    Expected,
    Open(Arc<Connection>),
    /// Its only client holds it.
    Lent,
    /// Its end was sent. The connection stays open, because the agent interprets a closed connection as the death of
    /// the supervisor.
    Ended {
        _connected: Arc<Connection>,
    },
}

/// The stream to the guest. Clients write to it in turn.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    turn: sync::Mutex<()>,
}

impl Connection {
    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl ContainerStdin {
    /// Creates the input of the attempt with this ID. `taken_file` belongs to the container, and exists as long as its
    /// VM.
    #[must_use]
    pub fn new(container: &Container, id: &str, taken_file: PathBuf) -> Arc<Self> {
        let is_set = |field: Option<bool>| field == Some(true);
        let state = match is_set(container.stdin) {
            true => State::Expected,
            false => State::Absent,
        };
        Arc::new(Self {
            ends_with_client: is_set(container.stdin_once) && !is_set(container.tty),
            taken_file,
            id: id.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// The guest has connected it. Returns whether that was accepted: once, and only if expected.
    #[must_use]
    pub fn connect(&self, stream: UnixStream) -> bool {
        let mut state = self.state();
        if !matches!(*state, State::Expected) {
            return false;
        }
        let connection = Arc::new(Connection {
            stream,
            turn: sync::Mutex::new(()),
        });
        // The client's connection ended with the previous supervisor.
        let has_gone = self.ends_with_client && self.was_taken();
        *state = if has_gone {
            ended(connection)
        } else {
            State::Open(connection)
        };
        true
    }

    /// Lends the input to a client. `None` if there is none, it has ended, or another client has exclusive use of it.
    pub fn take(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.state();
        let State::Open(connection) = &*state else {
            return None;
        };
        let connection = Arc::clone(connection);
        if self.ends_with_client {
            *state = State::Lent;
            if let Err(error) = std::fs::write(&self.taken_file, &self.id) {
                tracing::warn!("cannot record the attached client for a later supervisor: {error}");
            }
        }
        Some(Lease {
            stdin: Arc::clone(self),
            connection,
            is_unread: false,
        })
    }

    fn was_taken(&self) -> bool {
        std::fs::read(&self.taken_file).is_ok_and(|id| id == self.id.as_bytes())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn ended(connection: Arc<Connection>) -> State {
    // Fails only if the guest is gone, and then all its containers have ended.
    let _ = socket::shutdown(connection.stream.as_raw_fd(), socket::Shutdown::Write);
    State::Ended { _connected: connection }
}

/// A client's hold on a container's input. The input ends if the only client drops it, or if it is dropped when the
/// container no longer reads.
#[derive(Debug)]
pub struct Lease {
    stdin: Arc<ContainerStdin>,
    connection: Arc<Connection>,
    is_unread: bool,
}

impl Lease {
    /// Whether the container's input ends with this client.
    #[must_use]
    pub fn ends_with_client(&self) -> bool {
        self.stdin.ends_with_client
    }

    /// Passes input on. If the future is dropped early, a part of the input may have been written.
    ///
    /// # Errors
    /// If the container no longer reads.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.connection.write(bytes).await;
        self.is_unread = written.is_err();
        written
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.ends_with_client() || self.is_unread {
            *self.stdin.state() = ended(Arc::clone(&self.connection));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The input of attempt `c-0` in the supervisor, and the guest's end of it.
    fn connected(once: bool, tty: bool, dir: &tempfile::TempDir) -> (Arc<ContainerStdin>, UnixStream) {
        let stdin = input(once, tty, dir, "c-0");
        let (ours, guest) = UnixStream::pair().unwrap();
        assert!(stdin.connect(ours));
        (stdin, guest)
    }

    fn input(once: bool, tty: bool, dir: &tempfile::TempDir, id: &str) -> Arc<ContainerStdin> {
        let container = Container {
            stdin: Some(true),
            stdin_once: Some(once),
            tty: Some(tty),
            ..Container::default()
        };
        ContainerStdin::new(&container, id, dir.path().join("stdin-c"))
    }

    async fn read(guest: &mut UnixStream) -> Vec<u8> {
        let mut buffer = vec![0; 100];
        let length = guest.read(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    }

    #[tokio::test]
    async fn with_stdin_once_the_input_ends_with_the_first_client() {
        let dir = tempfile::tempdir().unwrap();
        let (stdin, mut guest) = connected(true, false, &dir);
        let mut first = stdin.take().unwrap();
        assert!(first.ends_with_client() && stdin.take().is_none());
        first.write(b"typed").await.unwrap();
        drop(first);
        assert_eq!(read(&mut guest).await, b"typed");
        assert_eq!(read(&mut guest).await, b"", "the end of the input");
        assert!(guest.write(b"").await.is_ok(), "but the connection is still open");
        assert!(stdin.take().is_none());
    }

    #[tokio::test]
    async fn without_stdin_once_or_with_a_terminal_the_input_stays_open() {
        let dir = tempfile::tempdir().unwrap();
        for (once, tty) in [(false, false), (true, true)] {
            let (stdin, mut guest) = connected(once, tty, &dir);
            for text in [b"one", b"two"] {
                let mut client = stdin.take().unwrap();
                assert!(!client.ends_with_client());
                client.write(text).await.unwrap();
                drop(client);
                assert_eq!(read(&mut guest).await, text);
            }
            assert!(futures::poll!(std::pin::pin!(read(&mut guest))).is_pending());
        }
    }

    #[tokio::test]
    async fn all_attached_clients_write_to_an_open_input_in_whole_messages() {
        let dir = tempfile::tempdir().unwrap();
        let (stdin, mut guest) = connected(false, false, &dir);
        let texts = [vec![b'a'; 1 << 20], vec![b'b'; 1 << 20]];
        let mut clients = [stdin.take().unwrap(), stdin.take().unwrap()];
        let [one, two] = &mut clients;
        let reading = async {
            let mut got = vec![0; 2 << 20];
            guest.read_exact(&mut got).await.unwrap();
            got
        };
        let (one, two, got) = tokio::join!(one.write(&texts[0]), two.write(&texts[1]), reading);
        assert!(one.is_ok() && two.is_ok());
        assert!(got == texts.concat() || got == [texts[1].as_slice(), &texts[0]].concat());
    }

    #[tokio::test]
    async fn a_new_supervisor_ends_the_input_of_its_predecessors_client() {
        let dir = tempfile::tempdir().unwrap();
        let (stdin, _guest) = connected(true, false, &dir);
        // Not dropped: simulates a killed supervisor.
        std::mem::forget(stdin.take().unwrap());
        let (stdin, mut guest) = connected(true, false, &dir);
        assert_eq!(read(&mut guest).await, b"");
        assert!(stdin.take().is_none());

        let (open, _guest) = connected(false, false, &dir);
        assert!(open.take().is_some(), "an input that stays open is not ended");
        let restarted = input(true, false, &dir, "c-1");
        let (ours, _guest) = UnixStream::pair().unwrap();
        assert!(restarted.connect(ours));
        assert!(restarted.take().is_some(), "the next attempt has a new input");
    }

    #[tokio::test]
    async fn a_new_supervisor_keeps_the_input_open_for_the_first_client() {
        let dir = tempfile::tempdir().unwrap();
        drop(connected(true, false, &dir));
        let (stdin, _guest) = connected(true, false, &dir);
        assert!(stdin.take().is_some());
    }

    #[tokio::test]
    async fn an_input_is_connected_once_and_only_if_the_container_has_one() {
        let dir = tempfile::tempdir().unwrap();
        let (stdin, mut guest) = connected(false, false, &dir);
        let (ours, mut second) = UnixStream::pair().unwrap();
        assert!(!stdin.connect(ours));
        assert_eq!(read(&mut second).await, b"", "refused");
        stdin.take().unwrap().write(b"x").await.unwrap();
        assert_eq!(read(&mut guest).await, b"x");
        let none = ContainerStdin::new(&Container::default(), "c-0", dir.path().join("stdin-c"));
        let (ours, mut guest) = UnixStream::pair().unwrap();
        assert!(!none.connect(ours));
        assert_eq!(read(&mut guest).await, b"");
        assert!(none.take().is_none());
    }
}
