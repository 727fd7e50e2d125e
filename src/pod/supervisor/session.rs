//! What one command line wants of a Pod: its end, a process in a container, a container's streams, figures.

use std::time::Duration;

use microkube_protocol::messages::{ResizeTerminalRequest, StatsResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use ttrpc::context::with_duration;

use super::server::Running;
use super::{CALL_TIMEOUT, Order};
use crate::pod::attach::{ContainerUsage, Frame, Notice, OutputStream, Request, TerminalSize, read_frame, write_frame};
use crate::pod::guest_process::{ProcessSpec, ProcessStreams, guest_size};
use crate::pod::sandbox::rpc_message;

/// Bytes read from a process at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Frames on their way to a command line.
const QUEUED_FRAMES: usize = 16;

/// Between the two looks at the processors' time that make a figure of it.
const STATS_INTERVAL: Duration = Duration::from_millis(200);

/// Serves one command line.
pub async fn serve(stream: UnixStream, running: Running, orders: mpsc::Sender<Order>) -> anyhow::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let Some(Frame::Request(request)) = read_frame(&mut from).await? else {
        return Ok(());
    };
    let result = match request {
        Request::Delete {
            grace: Some(Duration::ZERO),
        } => force_delete(&running, &orders).await,
        Request::Delete { grace } => match order(&orders, grace, true).await {
            Some(done) => Ok(done),
            // Nobody will do it any more: what is left to do is for who asks, and is told by the connection's end.
            None => return Ok(()),
        },
        Request::Terminate { grace } => match order(&orders, grace, false).await {
            Some(done) => Ok(done),
            None => return Ok(()),
        },
        Request::Kill => {
            let _ = orders.send(Order::Kill).await;
            Ok(Notice::Done)
        }
        Request::Stats => stats(&running).await,
        Request::Exec {
            container,
            command,
            stdin,
            tty,
            tty_size,
        } => {
            let spec = ProcessSpec {
                container_id: container,
                args: command,
                stdin,
                tty,
                tty_size,
                timeout: None,
            };
            return exec(spec, &running, from, to).await;
        }
        Request::Attach {
            container,
            stdin,
            tty_size,
        } => return attach(&container, stdin, tty_size, &running, from, to).await,
        Request::Follow | Request::Resize(_) => Err("this is not to be asked first".to_owned()),
    };
    let notice = result.unwrap_or_else(|message| Notice::Refused { message });
    write_frame(&mut to, &Frame::Notice(notice)).await?;
    Ok(())
}

/// Deletes the Pod as far as anybody can see, and leaves its end to this supervisor, whatever that is busy with.
async fn force_delete(running: &Running, orders: &mpsc::Sender<Order>) -> Result<Notice, String> {
    let hidden = running.hide().await;
    hidden.map_err(|error| format!("cannot delete the Pod by force: {error:#}"))?;
    let order = Order::Terminate {
        grace: Some(Duration::ZERO),
        deletion: true,
        noted: None,
    };
    // Fails where the Pod has ended meanwhile.
    let _ = orders.send(order).await;
    Ok(Notice::Done)
}

/// Passes an order on; nothing where the Pod has ended before it could be heard.
async fn order(orders: &mpsc::Sender<Order>, grace: Option<Duration>, deletion: bool) -> Option<Notice> {
    let (noted, answer) = oneshot::channel();
    let order = Order::Terminate {
        grace,
        deletion,
        noted: Some(noted),
    };
    orders.send(order).await.ok()?;
    answer.await.ok()?;
    Some(Notice::Done)
}

async fn exec(
    mut spec: ProcessSpec,
    running: &Running,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> anyhow::Result<()> {
    let tty = spec.tty;
    let started = match running.container(&spec.container_id) {
        Ok((id, processes)) => {
            spec.container_id = id;
            tokio::select! {
                biased;
                started = processes.start(spec) => started.map_err(|error| error.to_string()),
                // A command line says nothing before it knows of the start: what can be read is its end. Dropping the start kills what
                // nobody is there to see.
                _ = from.readable() => return Ok(()),
            }
        }
        Err(message) => Err(message),
    };
    let (process, streams) = match started {
        Ok(started) => started,
        Err(message) => {
            let refused = Frame::Notice(Notice::Refused { message });
            return Ok(write_frame(&mut to, &refused).await?);
        }
    };
    write_frame(&mut to, &Frame::Notice(Notice::Started)).await?;
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
            Err(message) => Notice::Refused { message },
        },
        _ = &mut input => {
            // Nobody is there any more: as when a terminal is hung up. Without one a command goes on by itself.
            if tty {
                process.signal(libc::SIGHUP).await;
            }
            return Ok(());
        }
    };
    let _ = frames.send(Frame::Notice(notice)).await;
    drop(frames);
    writer.await?;
    Ok(())
}

async fn attach(
    container: &str,
    stdin: bool,
    tty_size: Option<TerminalSize>,
    running: &Running,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> anyhow::Result<()> {
    let found = running.container(container).and_then(|(id, _)| {
        let streams = running.output.container(&id);
        let agent = running.agent();
        streams
            .zip(agent)
            .map(|(streams, agent)| (id, streams, agent))
            .ok_or_else(|| format!("container {container:?} is not running"))
    });
    let (id, streams, agent) = match found {
        Ok(found) => found,
        Err(message) => {
            let refused = Frame::Notice(Notice::Refused { message });
            return Ok(write_frame(&mut to, &refused).await?);
        }
    };
    let resize = |size: TerminalSize| {
        let (agent, id) = (agent.clone(), id.clone());
        async move {
            let request = ResizeTerminalRequest {
                container_id: id,
                size: Some(guest_size(size)).into(),
                ..Default::default()
            };
            if let Err(error) = agent.resize_terminal(with_duration(CALL_TIMEOUT), &request).await {
                tracing::debug!("a terminal could not be resized: {error}");
            }
        }
    };
    if let Some(size) = tty_size {
        resize(size).await;
    }
    let taken = if stdin { streams.take_stdin() } else { None };
    write_frame(&mut to, &Frame::Notice(Notice::Attached)).await?;
    let (frames, queue) = mpsc::channel(QUEUED_FRAMES);
    streams.follow(frames.clone());
    let writer = tokio::spawn(write_all(queue, to));
    let input = read_input(from, taken, resize);
    tokio::pin!(input);
    tokio::select! {
        () = streams.finished() => {
            let _ = frames.send(Frame::Notice(Notice::Exited { exit_code: 0 })).await;
            drop(frames);
            writer.await?;
        }
        left = &mut input => {
            writer.abort();
            match left {
                Some(Input { stream, has_ended: true }) => streams.keep_ended_stdin(stream),
                // The next one who attaches goes on with it.
                Some(Input { stream, .. }) => streams.return_stdin(stream),
                None => {}
            }
        }
    }
    Ok(())
}

/// Passes frames on until there are no more, or nobody reads them.
async fn write_all(mut queue: mpsc::Receiver<Frame>, mut to: OwnedWriteHalf) {
    while let Some(frame) = queue.recv().await {
        // An attached container's index means nothing to who has asked for it by name.
        let frame = match frame {
            Frame::Output { stream, bytes, .. } => Frame::Output {
                container: 0,
                stream,
                bytes,
            },
            other => other,
        };
        if write_frame(&mut to, &frame).await.is_err() {
            return;
        }
    }
}

async fn pump_output(from: Option<UnixStream>, stream: OutputStream, to: &mpsc::Sender<Frame>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let frame = Frame::Output {
            container: 0,
            stream,
            bytes: buffer.get(..length).unwrap_or_default().to_vec(),
        };
        if to.send(frame).await.is_err() {
            return;
        }
    }
}

/// A process's stdin, and whether it was ended. It stays connected then: to the agent a stream that is gone as a whole is that of a
/// supervisor that died, and says nothing about the input.
struct Input {
    stream: UnixStream,
    has_ended: bool,
}

/// Passes on what the command line sends until it is gone.
async fn read_input<F: Future<Output = ()>>(
    mut from: OwnedReadHalf,
    stdin: Option<UnixStream>,
    resize: impl Fn(TerminalSize) -> F,
) -> Option<Input> {
    let mut stdin = stdin.map(|stream| Input {
        stream,
        has_ended: false,
    });
    loop {
        match read_frame(&mut from).await {
            Ok(Some(Frame::Stdin(bytes))) => {
                let Some(input) = stdin.as_mut().filter(|input| !input.has_ended) else {
                    continue;
                };
                // An error says that the process reads no more.
                input.has_ended = bytes.is_empty() || input.stream.write_all(&bytes).await.is_err();
                if input.has_ended {
                    let _ = input.stream.shutdown().await;
                }
            }
            Ok(Some(Frame::Request(Request::Resize(size)))) => resize(size).await,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return stdin,
        }
    }
}

/// What the containers use at this moment.
async fn stats(running: &Running) -> Result<Notice, String> {
    let agent = running.agent().ok_or("the Pod does not run")?;
    let look = || async {
        let answer = agent.stats(with_duration(CALL_TIMEOUT), &Default::default()).await;
        answer.map_err(rpc_message)
    };
    let first: StatsResponse = look().await?;
    let start = std::time::Instant::now();
    // Processors' use is time over time: there is no event to wait for.
    tokio::time::sleep(STATS_INTERVAL).await;
    let second = look().await?;
    let elapsed_us = start.elapsed().as_micros().max(1);
    let mut usage: Vec<ContainerUsage> = running
        .containers()
        .into_iter()
        .filter_map(|(container, id)| {
            let of = |stats: &StatsResponse| stats.containers.iter().find(|one| one.id == id).cloned();
            let (before, after) = (of(&first)?, of(&second)?);
            let used_us = u128::from(after.cpu_usage_us.saturating_sub(before.cpu_usage_us));
            Some(ContainerUsage {
                container,
                cpu_nanocores: u64::try_from(used_us * 1_000_000_000 / elapsed_us).unwrap_or(u64::MAX),
                memory_bytes: after.memory_working_set_bytes,
            })
        })
        .collect();
    usage.sort_by(|one, other| one.container.cmp(&other.container));
    Ok(Notice::Stats(usage))
}
