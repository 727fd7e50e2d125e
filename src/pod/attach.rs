//! What the supervisor of a Pod and the command line that is attached to it say to each other over their unix socket.
//!
//! A frame is one byte of kind, a big-endian u32 length and so many bytes. Output travels raw, everything else as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::timings::Stage;

/// Longest frame either side accepts, bytes of payload.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

const KIND_OUTPUT: u8 = 1;
const KIND_LOG: u8 = 2;
const KIND_NOTICE: u8 = 3;
const KIND_REQUEST: u8 = 4;

/// One of a container's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A message between supervisor and client.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// Bytes a container wrote. An empty payload says that the stream has ended.
    Output {
        /// Index of the container in the manifest.
        container: u16,
        /// Which of its streams.
        stream: OutputStream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes of the guest's console and kernel log, for `--debug`.
    Log(Vec<u8>),
    /// Supervisor to client.
    Notice(Notice),
    /// Client to supervisor.
    Request(Request),
}

/// What the supervisor tells its client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Something the user should know while the Pod goes on.
    Warning(String),
    /// An image is being pulled.
    PullProgress {
        /// The image, as the manifest names it.
        image: String,
        /// Bytes received so far.
        received_bytes: u64,
        /// Bytes in all, where known.
        total_bytes: Option<u64>,
    },
    /// An image is there.
    Pulled {
        /// The image, as the manifest names it.
        image: String,
    },
    /// All containers were started.
    Running {
        /// Address of the Pod.
        pod_ip: String,
        /// How long each stage of the start took.
        stages: Vec<Stage>,
    },
    /// A container ended.
    ContainerEnded {
        /// Index of the container in the manifest.
        container: u16,
        /// Exit code as a shell would give it.
        exit_code: u8,
        /// `Completed`, `Error`, `OOMKilled`, …
        reason: String,
        /// More, where there is more to say.
        message: Option<String>,
    },
    /// What was asked for is done, or under way for good.
    Done,
    /// The request cannot be carried out.
    Refused {
        /// Why.
        message: String,
    },
    /// The Pod is over and everything on the host released. The last frame.
    Finished {
        /// What `run` exits with.
        exit_code: u8,
        /// Why the Pod could not be run to its end, if so.
        error: Option<String>,
    },
}

/// What the client asks of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// End the Pod gracefully.
    Terminate {
        /// Instead of the Pod's own grace period; it can only be shorter.
        grace: Option<Duration>,
    },
    /// End the Pod at once.
    Kill,
    /// End the Pod gracefully and forget it. Answered with [`Notice::Done`] when the record says that it is terminating.
    Delete {
        /// Instead of the Pod's own grace period; it can only be shorter.
        grace: Option<Duration>,
    },
}

/// A frame could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The peer sent what it should not.
    #[error("received a frame of kind {kind} and {length} bytes that is not understood")]
    Malformed {
        /// Kind of the frame.
        kind: u8,
        /// Its length.
        length: usize,
    },
}

/// Reads the next frame; `None` when the peer has closed its side between two frames.
///
/// # Errors
/// See [`FrameError`].
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let kind = match from.read_u8().await {
        Ok(kind) => kind,
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = usize::try_from(from.read_u32().await?).unwrap_or(usize::MAX);
    let malformed = FrameError::Malformed { kind, length };
    if length > MAX_FRAME_BYTES {
        return Err(malformed);
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    decode(kind, payload).map(Some).ok_or(malformed)
}

/// Writes a frame.
///
/// # Errors
/// [`FrameError::Io`].
pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> Result<(), FrameError> {
    let (kind, head, body): (u8, Vec<u8>, &[u8]) = match frame {
        Frame::Output {
            container,
            stream,
            bytes,
        } => {
            let [a, b] = container.to_be_bytes();
            (
                KIND_OUTPUT,
                vec![a, b, u8::from(*stream == OutputStream::Stderr)],
                bytes,
            )
        }
        Frame::Log(bytes) => (KIND_LOG, Vec::new(), bytes),
        Frame::Notice(notice) => (
            KIND_NOTICE,
            serde_json::to_vec(notice).map_err(std::io::Error::other)?,
            &[],
        ),
        Frame::Request(request) => (
            KIND_REQUEST,
            serde_json::to_vec(request).map_err(std::io::Error::other)?,
            &[],
        ),
    };
    let length = u32::try_from(head.len() + body.len()).map_err(std::io::Error::other)?;
    let mut start = Vec::with_capacity(5 + head.len());
    start.push(kind);
    start.extend_from_slice(&length.to_be_bytes());
    start.extend_from_slice(&head);
    to.write_all(&start).await?;
    to.write_all(body).await?;
    Ok(())
}

fn decode(kind: u8, mut payload: Vec<u8>) -> Option<Frame> {
    match kind {
        KIND_OUTPUT => {
            let &[a, b, stream] = payload.first_chunk::<3>()?;
            let stream = match stream {
                0 => OutputStream::Stdout,
                1 => OutputStream::Stderr,
                _ => return None,
            };
            payload.drain(..3);
            Some(Frame::Output {
                container: u16::from_be_bytes([a, b]),
                stream,
                bytes: payload,
            })
        }
        KIND_LOG => Some(Frame::Log(payload)),
        KIND_NOTICE => serde_json::from_slice(&payload).ok().map(Frame::Notice),
        KIND_REQUEST => serde_json::from_slice(&payload).ok().map(Frame::Request),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn round_trip(frame: &Frame) -> Frame {
        block_on(async {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, frame).await.unwrap();
            read_frame(&mut bytes.as_slice()).await.unwrap().unwrap()
        })
    }

    #[test]
    fn every_kind_of_frame_survives_the_round_trip() {
        for frame in [
            Frame::Output {
                container: 300,
                stream: OutputStream::Stderr,
                bytes: b"\0\xff\n".to_vec(),
            },
            Frame::Output {
                container: 0,
                stream: OutputStream::Stdout,
                bytes: Vec::new(),
            },
            Frame::Log(b"kernel".to_vec()),
            Frame::Notice(Notice::Finished {
                exit_code: 3,
                error: None,
            }),
            Frame::Request(Request::Terminate {
                grace: Some(Duration::from_secs(3)),
            }),
            Frame::Request(Request::Kill),
            Frame::Request(Request::Delete { grace: None }),
            Frame::Notice(Notice::Done),
        ] {
            assert_eq!(round_trip(&frame), frame);
        }
    }

    #[test]
    fn a_closed_connection_is_the_end_but_half_a_frame_is_an_error() {
        assert!(matches!(block_on(read_frame(&mut [].as_slice())), Ok(None)));
        assert!(matches!(
            block_on(read_frame(&mut [KIND_LOG, 0, 0, 0, 9, 1].as_slice())),
            Err(FrameError::Io(_))
        ));
    }

    #[test]
    fn a_frame_longer_than_the_limit_is_refused_before_memory_is_taken_for_it() {
        let bytes = [KIND_LOG, 0xff, 0xff, 0xff, 0xff];
        assert!(matches!(
            block_on(read_frame(&mut bytes.as_slice())),
            Err(FrameError::Malformed { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut rest = bytes.as_slice();
            while let Ok(Some(_)) = block_on(read_frame(&mut rest)) {}
        }
    }
}
