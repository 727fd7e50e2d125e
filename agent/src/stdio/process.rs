//! The output of further processes and what is written to their stdin: it ends with the host that asked for it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::pipe::Sender;

use super::CHUNK_BYTES;
use super::source::Source;
use crate::host::Host;
use crate::log;

/// Carries output until its end, or until nobody wants it any more: then the process has nobody to write to, as behind a
/// pipe whose reader is gone.
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
        log::info!("the output of a process has lost its host: {error}");
    }
}

/// How a stream of input has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputEnd {
    /// The host says that no more comes.
    Ended,
    /// The connection broke.
    Lost,
    /// No process reads it any more.
    Unread,
}

/// Carries input to a process.
pub async fn carry_input<S: AsyncRead + AsyncWrite + Unpin>(connection: &mut S, pipe: &mut Sender) -> InputEnd {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match connection.read(&mut buffer).await {
            // A host that only ended its direction would still take what is written; writing nothing is enough to tell.
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
