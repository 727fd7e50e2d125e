//! Runs a process in a container for a command line.

use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::super::pod_view::PodView;
use super::refusal::Refusal;
use super::write::{QUEUED_FRAMES, write_all};
use crate::pod::guest_process::{ProcessSpec, ProcessStreams};
use crate::pod::supervisor_protocol::{
    ExecOptions, Notice, OutputStream, SupervisorFrame, SupervisorRequest, TerminalSize, read_frame, write_frame,
};

/// Size of the read buffer.
const CHUNK_BYTES: usize = 64 << 10;

/// Starts a process and connects the command line to it until it exits.
pub async fn serve(
    options: ExecOptions,
    view: &PodView,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> anyhow::Result<()> {
    let ExecOptions {
        container,
        command,
        stdin,
        tty,
        tty_size,
    } = options;
    let started = match view.container(&container) {
        Ok((container_id, processes)) => {
            let spec = ProcessSpec {
                container_id,
                args: command,
                stdin,
                tty,
                tty_size,
                timeout: None,
            };
            tokio::select! {
                biased;
                started = processes.start(spec) => started.map_err(Refusal::from),
                // Dropping the start kills the process.
                () = client_gone(&from) => return Ok(()),
            }
        }
        Err(error) => Err(error.into()),
    };
    let (process, streams) = match started {
        Ok(started) => started,
        Err(refusal) => return Ok(write_frame(&mut to, &SupervisorFrame::Notice(refusal.into())).await?),
    };
    write_frame(&mut to, &SupervisorFrame::Notice(Notice::Started)).await?;
    let (frames, queue) = mpsc::channel(QUEUED_FRAMES);
    let writer = tokio::spawn(write_all(queue, to));
    let ProcessStreams { stdin, stdout, stderr } = streams;
    let work = async {
        let (_, _, exit_code) = tokio::join!(
            pump_output(Some(stdout), OutputStream::Stdout, &frames),
            pump_output(stderr, OutputStream::Stderr, &frames),
            process.wait(),
        );
        exit_code
    };
    let input = read_input(from, stdin, |size| process.resize(size));
    tokio::pin!(input);
    let notice = tokio::select! {
        exit_code = work => match exit_code {
            Ok(exit_code) => Notice::Exited { exit_code },
            Err(error) => Refusal::from(error).into(),
        },
        _ = &mut input => {
            // The client is gone, like a terminal that hangs up. Without a terminal the command continues.
            if tty {
                process.signal(libc::SIGHUP).await;
            }
            return Ok(());
        }
    };
    let _ = frames.send(SupervisorFrame::Notice(notice)).await;
    drop(frames);
    writer.await?;
    Ok(())
}

/// Waits until the client has closed its connection. Does not return while there is unread input. Readiness alone is
/// not enough: it may remain from the request until a read finds no more data.
async fn client_gone(from: &OwnedReadHalf) {
    let stream: &UnixStream = from.as_ref();
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let peek = || Ok(recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK)?);
        match stream.try_io(Interest::READABLE, peek) {
            Ok(0) => return,
            Ok(_) => std::future::pending().await,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

async fn pump_output(from: Option<UnixStream>, stream: OutputStream, to: &mpsc::Sender<SupervisorFrame>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let frame = SupervisorFrame::Output {
            container: 0,
            stream,
            bytes: buffer[..length].to_vec(),
        };
        if to.send(frame).await.is_err() {
            return;
        }
    }
}

/// Passes the command line's frames to a process until either ends.
async fn read_input<F: Future<Output = ()>>(
    mut from: OwnedReadHalf,
    mut stdin: Option<UnixStream>,
    resize: impl Fn(TerminalSize) -> F,
) {
    loop {
        match read_frame(&mut from).await {
            Ok(Some(SupervisorFrame::Stdin(bytes))) => {
                let Some(stream) = &mut stdin else { continue };
                // An error means that the process no longer reads.
                if bytes.is_empty() || stream.write_all(&bytes).await.is_err() {
                    let _ = stream.shutdown().await;
                }
            }
            Ok(Some(SupervisorFrame::Request(SupervisorRequest::Resize(size)))) => resize(size).await,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_is_gone_only_when_it_closes_the_connection() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let (mut from, _to) = server.into_split();
        client.write_all(b"request").await.unwrap();
        from.read_exact(&mut [0; 7]).await.unwrap();
        let mut gone = std::pin::pin!(client_gone(&from));
        assert!(futures::poll!(&mut gone).is_pending(), "the request is read");
        drop(client);
        gone.await;

        let (mut client, server) = UnixStream::pair().unwrap();
        let (from, _to) = server.into_split();
        client.write_all(b"input").await.unwrap();
        let mut gone = std::pin::pin!(client_gone(&from));
        from.readable().await.unwrap();
        assert!(futures::poll!(&mut gone).is_pending(), "its input waits");
    }
}
