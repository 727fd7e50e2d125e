//! Sends a container's output to the supervisor, or to the next one after a takeover: nothing is lost or sent twice.
//!
//! The contract is the comment at `StreamHeader` in agent.proto; [`Window`] does the counting.

use std::io;

use microkube_protocol::{DataStream, Stdio};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use super::source::{CHUNK_BYTES, Source};
use super::window::Window;
use crate::host::Host;
use crate::log;

/// A connection to the host for one output stream.
#[derive(Debug)]
struct Connection<S> {
    read: ReadHalf<S>,
    write: WriteHalf<S>,
    /// The number that is being received.
    number: [u8; 8],
    received: usize,
    /// Whether the host has sent the position from which to resume.
    resumed: bool,
    /// Whether the host was told that no more bytes follow.
    shut: bool,
}

/// An event on a connection.
#[derive(Debug)]
enum Event {
    Position(u64),
    Sent(usize),
    Shut,
    Lost,
}

impl<S: AsyncRead + AsyncWrite> Connection<S> {
    fn new(stream: S) -> Self {
        let (read, write) = tokio::io::split(stream);
        Self {
            read,
            write,
            number: [0; 8],
            received: 0,
            resumed: false,
            shut: false,
        }
    }

    /// Sends or receives the next piece of data. Cancel-safe.
    async fn next(&mut self, window: &Window) -> Event {
        let unsent = window.unsent();
        let has_to_say = self.resumed && (!unsent.is_empty() || (!self.shut && window.is_sent()));
        let say = async {
            if unsent.is_empty() {
                return self.write.shutdown().await.map(|()| Event::Shut);
            }
            match self.write.write(unsent).await? {
                0 => Err(io::ErrorKind::WriteZero.into()),
                count => Ok(Event::Sent(count)),
            }
        };
        let done: io::Result<Event> = tokio::select! {
            position = receive(&mut self.read, &mut self.number, &mut self.received) => position.map(Event::Position),
            said = say, if has_to_say => said,
        };
        done.unwrap_or(Event::Lost)
    }
}

/// Receives a big-endian u64. Cancel-safe: call it again to continue.
async fn receive(read: &mut (impl AsyncRead + Unpin), number: &mut [u8; 8], received: &mut usize) -> io::Result<u64> {
    while let Some(rest @ [_, ..]) = number.get_mut(*received..) {
        match read.read(rest).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => *received += count,
        }
    }
    *received = 0;
    Ok(u64::from_be_bytes(*number))
}

async fn next<S: AsyncRead + AsyncWrite>(connection: &mut Option<Connection<S>>, window: &Window) -> Event {
    match connection {
        Some(connection) => connection.next(window).await,
        None => std::future::pending().await,
    }
}

/// One output stream of a container.
#[derive(Debug)]
pub struct ContainerOutput<H: Host> {
    container_id: String,
    stdio: Stdio,
    host: H,
    connection: H::Connection,
}

impl<H: Host> ContainerOutput<H> {
    /// Opens the stream first, so that no container starts without a host.
    pub async fn open(container_id: &str, stdio: Stdio, mut host: H) -> io::Result<Self> {
        let connection = host.open(&name(container_id, stdio, 0)).await?;
        Ok(Self {
            container_id: container_id.to_owned(),
            stdio,
            host,
            connection,
        })
    }

    /// Sends the container's output until the host has confirmed all of it.
    ///
    /// While there is no host, output that does not fit into the window stays in the pipe, as with a terminal that is
    /// not read.
    pub async fn carry(mut self, source: Source) {
        let mut source = Some(source);
        let mut window = Window::default();
        let mut connection = Some(Connection::new(self.connection));
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let told = connection.as_ref().is_none_or(|connection| connection.shut);
            if window.is_confirmed() && told {
                return;
            }
            let room = buffer.len().min(window.room());
            tokio::select! {
                read = read(&mut source, buffer.get_mut(..room).unwrap_or_default()), if room > 0 => {
                    let count = read.unwrap_or_else(|error| {
                        log::error!("cannot read the output of {}: {error}", self.container_id);
                        0
                    });
                    window.add(buffer.get(..count).unwrap_or_default());
                    if count == 0 {
                        window.end();
                        source = None;
                    }
                }
                () = self.host.taken_over() => {
                    connection = None;
                    let stream = name(&self.container_id, self.stdio, window.first_position());
                    match self.host.open(&stream).await {
                        Ok(opened) => connection = Some(Connection::new(opened)),
                        // Wait for the next supervisor.
                        Err(error) => log::warning!("cannot open {stream:?}: {error}"),
                    }
                }
                event = next(&mut connection, &window) => {
                    if !apply(event, &mut window, connection.as_mut(), &self.container_id) {
                        connection = None;
                    }
                }
            }
        }
    }
}

/// Applies an event; returns false if the connection can no longer be used.
fn apply<S>(event: Event, window: &mut Window, connection: Option<&mut Connection<S>>, container_id: &str) -> bool {
    let Some(connection) = connection else { return false };
    let positioned = match event {
        Event::Lost => return false,
        Event::Sent(count) => {
            window.sent(count);
            Ok(())
        }
        Event::Shut => {
            connection.shut = true;
            Ok(())
        }
        Event::Position(position) if connection.resumed => window.confirm(position),
        Event::Position(position) => {
            connection.resumed = true;
            window.resume(position)
        }
    };
    if let Err(error) = &positioned {
        log::error!("the host sent an invalid output position for {container_id}: {error}");
    }
    positioned.is_ok()
}

fn name(container_id: &str, stdio: Stdio, position_bytes: u64) -> DataStream {
    DataStream::Container {
        id: container_id.to_owned(),
        stdio,
        position_bytes,
    }
}

async fn read(source: &mut Option<Source>, buffer: &mut [u8]) -> io::Result<usize> {
    match source {
        Some(source) => source.read(buffer).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
