//! Runs a process in a container for a command line.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use super::super::pod_view::PodView;
use super::gone::client_gone;
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
