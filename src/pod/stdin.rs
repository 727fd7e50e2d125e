//! The standard input of one attempt of a container: who writes to it, and when it ends.
//!
//! As with containerd: with `stdinOnce`, and without a terminal, the first client that attaches to it is the only one, and the input ends
//! with it. Otherwise it stays open: each client that attaches goes on where the one before it has left.

use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use k8s_openapi::api::core::v1::Container;
use microkube_base::lock::lock;
use nix::sys::socket;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// A container's input.
#[derive(Debug)]
pub struct ContainerStdin {
    ends_with_client: bool,
    /// Says to a later supervisor of which attempt the only client has come.
    taken_file: PathBuf,
    id: String,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    /// There is none.
    Absent,
    /// The guest has not connected it yet. It does not do so again once it has ended.
    Expected,
    Open(UnixStream),
    /// A client has it.
    Lent,
    /// Its end was sent. It stays connected: a stream that is gone as a whole is, to the agent, that of a supervisor that died.
    Ended {
        _connected: UnixStream,
    },
}

impl ContainerStdin {
    /// Of the attempt with this ID. `taken_file` is the container's, and lives as long as its machine.
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

    /// The guest has connected it. Returns whether that was accepted: once, and only if it is expected.
    #[must_use]
    pub fn connect(&self, stream: UnixStream) -> bool {
        let mut state = self.state();
        if !matches!(*state, State::Expected) {
            return false;
        }
        // The client has gone with the supervisor that it was connected to.
        let has_gone = self.ends_with_client && self.was_taken();
        *state = if has_gone { ended(stream) } else { State::Open(stream) };
        true
    }

    /// Lends the input to a client; nothing where there is none, it has ended, or another client has it.
    pub fn take(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.state();
        let stream = match std::mem::replace(&mut *state, State::Lent) {
            State::Open(stream) => stream,
            other => {
                *state = other;
                return None;
            }
        };
        if self.ends_with_client
            && let Err(error) = std::fs::write(&self.taken_file, &self.id)
        {
            tracing::warn!("a later supervisor will not know of an attached client: {error}");
        }
        Some(Lease {
            stdin: Arc::clone(self),
            stream: Some(stream),
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

fn ended(stream: UnixStream) -> State {
    // Fails where the guest is gone, and then all its containers have ended.
    let _ = socket::shutdown(stream.as_raw_fd(), socket::Shutdown::Write);
    State::Ended { _connected: stream }
}

/// A container's input while a client has it; dropped, it ends or is the next client's.
#[derive(Debug)]
pub struct Lease {
    stdin: Arc<ContainerStdin>,
    stream: Option<UnixStream>,
    is_unread: bool,
}

impl Lease {
    /// Whether the input ends with this client's.
    #[must_use]
    pub fn ends_with_client(&self) -> bool {
        self.stdin.ends_with_client
    }

    /// Passes input on.
    ///
    /// # Errors
    /// When the container reads no more.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let written = stream.write_all(bytes).await;
        self.is_unread = written.is_err();
        written
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        *self.stdin.state() = match self.ends_with_client() || self.is_unread {
            true => ended(stream),
            false => State::Open(stream),
        };
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A supervisor's input of the attempt `c-0`, and the guest's end of it.
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
    async fn with_stdin_once_the_input_ends_with_the_first_client_and_there_is_none_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (stdin, mut guest) = connected(true, false, &dir);
        let mut first = stdin.take().unwrap();
        assert!(first.ends_with_client() && stdin.take().is_none());
        first.write(b"typed").await.unwrap();
        drop(first);
        assert_eq!(read(&mut guest).await, b"typed");
        assert_eq!(read(&mut guest).await, b"", "its end");
        assert!(guest.write(b"").await.is_ok(), "but not the connection's");
        assert!(stdin.take().is_none());
    }

    #[tokio::test]
    async fn without_stdin_once_and_on_a_terminal_the_input_stays_open_for_the_next_client() {
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
    async fn a_supervisor_that_takes_over_ends_the_input_of_a_client_that_its_predecessor_had() {
        let dir = tempfile::tempdir().unwrap();
        let (stdin, _guest) = connected(true, false, &dir);
        // Not dropped: the supervisor is killed.
        std::mem::forget(stdin.take().unwrap());
        let (stdin, mut guest) = connected(true, false, &dir);
        assert_eq!(read(&mut guest).await, b"");
        assert!(stdin.take().is_none());

        let (open, _guest) = connected(false, false, &dir);
        assert!(open.take().is_some(), "one that stays open does so");
        let restarted = input(true, false, &dir, "c-1");
        let (ours, _guest) = UnixStream::pair().unwrap();
        assert!(restarted.connect(ours));
        assert!(restarted.take().is_some(), "the next attempt has an input again");
    }

    #[tokio::test]
    async fn a_supervisor_that_takes_over_before_any_client_came_has_the_input_for_the_first() {
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
