//! The output and the input of exec processes, which end with the host that requested them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe::Sender;

use super::source::{CHUNK_BYTES, Source};
use crate::host::Host;
use crate::log;

/// Sends output until its end, or until it is no longer needed: the process then writes into a pipe whose reader is
/// gone.
pub async fn carry_output<H: Host>(mut source: Source, mut connection: H::Connection, mut host: H) {
    let mut buffer = vec![0; CHUNK_BYTES];
    let carried: io::Result<()> = tokio::select! {
        carried = async {
            loop {
                match source.read(&mut buffer).await? {
                    0 => return connection.shutdown().await,
                    count => connection.write_all(buffer.get(..count).unwrap_or_default()).await?,
                }
            }
        } => carried,
        () = host.taken_over() => Ok(()),
    };
    if let Err(error) = carried {
        log::info!("lost the connection for the output of a process: {error}");
    }
}

/// How a stream of input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputEnd {
    /// The host has ended the stream.
    Ended,
    /// The connection broke.
    Lost,
    /// No process reads it any more.
    Unread,
}

/// Passes input to a process.
pub async fn carry_input<S: AsyncRead + AsyncWrite + Unpin>(connection: &mut S, pipe: &mut Sender) -> InputEnd {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match connection.read(&mut buffer).await {
            // A host that only shut down its sending direction still accepts data; an empty write detects that.
            Ok(0) => {
                return match connection.write(&[]).await {
                    Ok(_) => InputEnd::Ended,
                    Err(_) => InputEnd::Lost,
                };
            }
            Ok(count) => {
                if pipe.write_all(buffer.get(..count).unwrap_or_default()).await.is_err() {
                    return InputEnd::Unread;
                }
            }
            Err(_) => return InputEnd::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use microkube_protocol::DataStream;
    use tokio::net::UnixStream;
    use tokio::net::unix::pipe;
    use tokio::sync::oneshot;

    use super::*;
    use crate::stdio::output_pipe;

    /// A host whose successor takes over when its sender is dropped.
    struct TestHost(Option<oneshot::Receiver<()>>);

    impl Host for TestHost {
        type Connection = UnixStream;

        async fn open(&mut self, _: &DataStream) -> io::Result<UnixStream> {
            Err(io::ErrorKind::ConnectionRefused.into())
        }

        async fn taken_over(&mut self) {
            match self.0.take() {
                Some(dropped) => drop(dropped.await),
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test]
    async fn input_ends_when_the_host_ends_it() {
        let (mut host, mut connection) = UnixStream::pair().unwrap();
        let (mut write, mut read) = pipe::pipe().unwrap();
        host.write_all(b"all").await.unwrap();
        host.shutdown().await.unwrap();
        assert_eq!(carry_input(&mut connection, &mut write).await, InputEnd::Ended);
        drop(write);
        let mut all = Vec::new();
        read.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"all");
    }

    #[tokio::test]
    async fn a_disconnected_host_does_not_end_the_input() {
        let (mut host, mut connection) = UnixStream::pair().unwrap();
        let (mut write, _read) = pipe::pipe().unwrap();
        host.write_all(b"some").await.unwrap();
        drop(host);
        assert_eq!(carry_input(&mut connection, &mut write).await, InputEnd::Lost);
    }

    #[tokio::test]
    async fn unread_input_is_noticed() {
        let (mut host, mut connection) = UnixStream::pair().unwrap();
        let (mut write, read) = pipe::pipe().unwrap();
        drop(read);
        host.write_all(b"x").await.unwrap();
        assert_eq!(carry_input(&mut connection, &mut write).await, InputEnd::Unread);
    }

    #[tokio::test]
    async fn output_is_sent_to_the_host_followed_by_its_end() {
        let (mut host, connection) = UnixStream::pair().unwrap();
        let (pipe, write) = output_pipe().unwrap();
        let mut write = std::fs::File::from(write);
        write.write_all(b"done").unwrap();
        drop(write);
        let (_ended, ended) = oneshot::channel();
        carry_output(Source::new(pipe, ended), connection, TestHost(None)).await;
        let mut all = Vec::new();
        host.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"done");
    }

    #[tokio::test]
    async fn a_process_gets_epipe_when_its_supervisor_is_gone() {
        let (_host, connection) = UnixStream::pair().unwrap();
        let (pipe, write) = output_pipe().unwrap();
        let (alive, gone) = oneshot::channel::<()>();
        let (_ended, ended) = oneshot::channel();
        let carried = tokio::spawn(carry_output(Source::new(pipe, ended), connection, TestHost(Some(gone))));
        drop(alive);
        carried.await.unwrap();
        let error = std::fs::File::from(write).write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
