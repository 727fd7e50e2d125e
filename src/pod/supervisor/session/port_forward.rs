//! Connects a command line to a port of the Pod.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

use super::super::pod_view::{MAX_FORWARDED_CONNECTIONS, PodView};
use super::gone::client_gone;
use super::refusal::Refusal;
use crate::pod::guest_port;
use crate::pod::supervisor_protocol::{FrameError, Notice, OutputStream, SupervisorFrame, read_frame, write_frame};

/// Size of the read buffer.
const CHUNK_BYTES: usize = 64 << 10;

/// Connects to the port, and passes bytes until both sides have ended them or one side is gone.
pub async fn serve(port: u16, view: &PodView, from: OwnedReadHalf, mut to: OwnedWriteHalf) -> anyhow::Result<()> {
    let Ok(_slot) = Arc::clone(&view.forwarded).try_acquire_owned() else {
        let refusal = Refusal::TooManyConnections(MAX_FORWARDED_CONNECTIONS);
        return Ok(write_frame(&mut to, &SupervisorFrame::Notice(refusal.into())).await?);
    };
    let connection = match connect(port, view).await {
        Ok(connection) => connection,
        Err(refusal) => return Ok(write_frame(&mut to, &SupervisorFrame::Notice(refusal.into())).await?),
    };
    write_frame(&mut to, &SupervisorFrame::Notice(Notice::Started)).await?;
    carry(connection, from, to).await?;
    Ok(())
}

async fn connect(port: u16, view: &PodView) -> Result<UnixStream, Refusal> {
    if port == 0 {
        return Err(Refusal::NoPort);
    }
    let agent = view.agent().ok_or(Refusal::NoMachine)?;
    Ok(guest_port::connect(&agent, &view.guest_streams, port).await?)
}

/// Passes bytes between the guest and the client. If either is gone, the other is told by the end of its connection.
async fn carry(guest: UnixStream, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Result<(), FrameError> {
    let (mut from_guest, to_guest) = guest.into_split();
    let (done, is_done) = oneshot::channel::<()>();
    let input = async {
        let mut to_guest = Some(to_guest);
        loop {
            match read_frame(&mut from).await? {
                Some(SupervisorFrame::Stdin(bytes)) if bytes.is_empty() => break,
                Some(SupervisorFrame::Stdin(bytes)) => {
                    // A guest that reads no more may still have answered. How its own direction ends decides.
                    if let Some(stream) = &mut to_guest
                        && stream.write_all(&bytes).await.is_err()
                    {
                        to_guest = None;
                    }
                }
                Some(_) => {}
                None => return Err(gone()),
            }
        }
        if let Some(stream) = &mut to_guest {
            // Fails only if the guest has closed its end.
            let _ = stream.shutdown().await;
        }
        tokio::select! {
            biased;
            _ = is_done => Ok(()),
            () = client_gone(&from) => Err(gone()),
        }
    };
    let output = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = from_guest.read(&mut buffer).await?;
            let frame = SupervisorFrame::Output {
                container: 0,
                stream: OutputStream::Stdout,
                bytes: buffer.get(..length).unwrap_or_default().to_vec(),
            };
            write_frame(&mut to, &frame).await?;
            if length == 0 {
                // The other half may have ended already.
                let _ = done.send(());
                return Ok::<(), FrameError>(());
            }
        }
    };
    tokio::try_join!(input, output).map(drop)
}

/// The client has closed its connection before the end of its bytes.
fn gone() -> FrameError {
    io::Error::from(io::ErrorKind::ConnectionAborted).into()
}

#[cfg(test)]
mod tests {
    use super::super::super::supervised_pod::test_pod;
    use super::*;

    /// A client and a guest whose bytes are passed by a task.
    struct Forwarded {
        client: UnixStream,
        guest: UnixStream,
        carried: tokio::task::JoinHandle<Result<(), FrameError>>,
    }

    impl Forwarded {
        fn new() -> Self {
            let (client, server) = UnixStream::pair().unwrap();
            let (guest, host) = UnixStream::pair().unwrap();
            let (from, to) = server.into_split();
            Self {
                client,
                guest,
                carried: tokio::spawn(carry(host, from, to)),
            }
        }

        async fn send(&mut self, bytes: &[u8]) {
            let frame = SupervisorFrame::Stdin(bytes.to_vec());
            write_frame(&mut self.client, &frame).await.unwrap();
        }

        /// The next bytes for the client; empty at their end.
        async fn received(&mut self) -> Vec<u8> {
            match read_frame(&mut self.client).await.unwrap() {
                Some(SupervisorFrame::Output { bytes, .. }) => bytes,
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn each_side_ends_its_bytes_by_itself() {
        let mut forwarded = Forwarded::new();
        forwarded.send(b"request").await;
        forwarded.send(b"").await;
        let mut request = Vec::new();
        forwarded.guest.read_to_end(&mut request).await.unwrap();
        assert_eq!(request, b"request");
        forwarded.guest.write_all(b"answer").await.unwrap();
        assert_eq!(forwarded.received().await, b"answer");
        forwarded.guest.shutdown().await.unwrap();
        assert_eq!(forwarded.received().await, b"");
        forwarded.carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_client_may_send_more_after_the_guest_has_ended() {
        let mut forwarded = Forwarded::new();
        forwarded.guest.shutdown().await.unwrap();
        assert_eq!(forwarded.received().await, b"");
        forwarded.send(b"more").await;
        forwarded.send(b"").await;
        let mut more = Vec::new();
        forwarded.guest.read_to_end(&mut more).await.unwrap();
        assert_eq!(more, b"more");
        forwarded.carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_gone_ends_the_guests_connection() {
        for has_ended_its_bytes in [true, false] {
            let mut forwarded = Forwarded::new();
            if has_ended_its_bytes {
                forwarded.send(b"").await;
                assert_eq!(forwarded.guest.read(&mut [0; 1]).await.unwrap(), 0);
            }
            drop(forwarded.client);
            forwarded.carried.await.unwrap().unwrap_err();
            forwarded.guest.write_all(b"x").await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_guest_that_does_not_read_does_not_lose_its_answer() {
        let mut forwarded = Forwarded::new();
        forwarded.guest.write_all(b"too large").await.unwrap();
        drop(std::mem::replace(&mut forwarded.guest, UnixStream::pair().unwrap().0));
        assert_eq!(forwarded.received().await, b"too large");
        assert_eq!(forwarded.received().await, b"");
        for chunk in [&[b'x'; 1000][..], b"rest", b""] {
            forwarded.send(chunk).await;
        }
        forwarded.carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_refused() {
        let (pod, _messages) = test_pod(true);
        let view = PodView::new(&pod);
        let all = u32::try_from(MAX_FORWARDED_CONNECTIONS).unwrap();
        let _all = view.forwarded.acquire_many(all).await.unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let (from, to) = server.into_split();
        serve(80, &view, from, to).await.unwrap();
        let refused = read_frame(&mut client).await.unwrap();
        let message = "the pod has 100 forwarded connections already; close some of them".to_owned();
        assert_eq!(refused, Some(SupervisorFrame::Notice(Notice::Refused { message })));
    }
}
