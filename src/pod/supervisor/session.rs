//! What one command line wants of a Pod: its end, a process in a container, a container's streams, figures.

use std::os::fd::AsRawFd;
use std::time::Duration;

use microkube_protocol::messages::{ResizeTerminalRequest, StatsResponse};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use ttrpc::context::with_duration;

use super::order::Order;
use super::pod_view::PodView;
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::attach::{ContainerUsage, Frame, Notice, OutputStream, Request, TerminalSize, read_frame, write_frame};
use crate::pod::guest_process::{ProcessSpec, ProcessStreams, guest_size};
use crate::pod::sandbox::rpc_message;
use crate::pod::stdin::Lease;

/// Bytes read from a process at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Frames on their way to a command line.
const QUEUED_FRAMES: usize = 16;

/// Between the two looks at the processors' time that make a figure of it.
const STATS_INTERVAL: Duration = Duration::from_millis(200);

/// Serves one command line.
pub async fn serve(stream: UnixStream, view: PodView, orders: mpsc::Sender<Order>) -> anyhow::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let Some(Frame::Request(request)) = read_frame(&mut from).await? else {
        return Ok(());
    };
    let result = match request {
        Request::Delete {
            grace: Some(Duration::ZERO),
        } => force_delete(&view, &orders).await,
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
        Request::Stats => stats(&view).await,
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
            return exec(spec, &view, from, to).await;
        }
        Request::Attach {
            container,
            stdin,
            tty_size,
        } => return attach(&container, stdin, tty_size, &view, from, to).await,
        Request::Follow | Request::Resize(_) => Err("this is not to be asked first".to_owned()),
    };
    let notice = result.unwrap_or_else(|message| Notice::Refused { message });
    write_frame(&mut to, &Frame::Notice(notice)).await?;
    Ok(())
}

/// Deletes the Pod as far as anybody can see, and leaves its end to this supervisor, whatever that is busy with.
async fn force_delete(view: &PodView, orders: &mpsc::Sender<Order>) -> Result<Notice, String> {
    let hidden = view.hide().await;
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

/// Waits until a client has closed its connection; for ever once it has sent something that nobody has read. Readiness alone says nothing:
/// it is that of the request, until a read finds no more.
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

async fn exec(
    mut spec: ProcessSpec,
    view: &PodView,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> anyhow::Result<()> {
    let tty = spec.tty;
    let started = match view.container(&spec.container_id) {
        Ok((id, processes)) => {
            spec.container_id = id;
            tokio::select! {
                biased;
                started = processes.start(spec) => started.map_err(|error| error.to_string()),
                // Dropping the start kills what nobody is there to see.
                () = client_gone(&from) => return Ok(()),
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
    view: &PodView,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> anyhow::Result<()> {
    let found = view.container(container).and_then(|(id, _)| {
        let streams = view.output.container(&id);
        let agent = view.agent();
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
    let lease = if stdin { streams.stdin.take() } else { None };
    write_frame(&mut to, &Frame::Notice(Notice::Attached)).await?;
    let (frames, queue) = mpsc::channel(QUEUED_FRAMES);
    streams.follow(frames.clone());
    let mut writer = tokio::spawn(write_all(queue, to));
    let notice = tokio::select! {
        () = streams.finished() => Notice::Exited { exit_code: 0 },
        left = read_attached(from, lease, resize) => match left {
            Left::InputEnded => Notice::InputEnded,
            Left::Gone => {
                writer.abort();
                return Ok(());
            }
        },
    };
    tokio::select! {
        // A client that reads no more makes nobody wait for the last word.
        _ = &mut writer => {}
        sent = frames.send(Frame::Notice(notice)) => {
            drop(frames);
            if sent.is_ok() {
                writer.await?;
            }
        }
    }
    Ok(())
}

/// How an attached client's input has ended.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// The client is gone.
    Gone,
    /// The client has no more, and the container's input stays open.
    InputEnded,
}

/// Passes on what an attached client sends.
async fn read_attached<F: Future<Output = ()>>(
    mut from: OwnedReadHalf,
    mut lease: Option<Lease>,
    resize: impl Fn(TerminalSize) -> F,
) -> Left {
    loop {
        match read_frame(&mut from).await {
            Ok(Some(Frame::Stdin(bytes))) if bytes.is_empty() => match lease.take() {
                Some(lease) if !lease.ends_with_client() => return Left::InputEnded,
                // Dropped, the container's input has ended. Its output has not.
                _ => {}
            },
            Ok(Some(Frame::Stdin(bytes))) => {
                if let Some(taken) = &mut lease
                    && taken.write(&bytes).await.is_err()
                {
                    lease = None;
                }
            }
            Ok(Some(Frame::Request(Request::Resize(size)))) => resize(size).await,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Left::Gone,
        }
    }
}

/// Passes frames on up to the last one of a conversation, or until nobody reads them.
async fn write_all(mut queue: mpsc::Receiver<Frame>, mut to: OwnedWriteHalf) {
    let mut is_last = false;
    while !is_last && let Some(frame) = queue.recv().await {
        is_last = matches!(
            frame,
            Frame::Notice(Notice::Exited { .. } | Notice::InputEnded | Notice::Refused { .. })
        );
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

/// Passes on what the command line sends to a process until it is gone.
async fn read_input<F: Future<Output = ()>>(
    mut from: OwnedReadHalf,
    mut stdin: Option<UnixStream>,
    resize: impl Fn(TerminalSize) -> F,
) {
    loop {
        match read_frame(&mut from).await {
            Ok(Some(Frame::Stdin(bytes))) => {
                let Some(stream) = &mut stdin else { continue };
                // An error says that the process reads no more.
                if bytes.is_empty() || stream.write_all(&bytes).await.is_err() {
                    let _ = stream.shutdown().await;
                }
            }
            Ok(Some(Frame::Request(Request::Resize(size)))) => resize(size).await,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return,
        }
    }
}

/// What the containers use at this moment.
async fn stats(view: &PodView) -> Result<Notice, String> {
    let agent = view.agent().ok_or("the Pod does not run")?;
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
    let mut usage: Vec<ContainerUsage> = view
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Container;

    use super::*;
    use crate::pod::stdin::ContainerStdin;

    #[tokio::test]
    async fn a_client_is_gone_when_it_closes_and_not_because_of_what_it_has_sent() {
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

    /// A container's input, the guest's end of it, and an attached client with the supervisor's end of its connection.
    struct Attached {
        stdin: Arc<ContainerStdin>,
        guest: UnixStream,
        client: UnixStream,
        server: Option<OwnedReadHalf>,
        _dir: tempfile::TempDir,
    }

    impl Attached {
        fn new(once: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let container = Container {
                stdin: Some(true),
                stdin_once: Some(once),
                ..Container::default()
            };
            let stdin = ContainerStdin::new(&container, "c-0", dir.path().join("stdin-c"));
            let (ours, guest) = UnixStream::pair().unwrap();
            assert!(stdin.connect(ours));
            let (client, server) = UnixStream::pair().unwrap();
            Self {
                stdin,
                guest,
                client,
                server: Some(server.into_split().0),
                _dir: dir,
            }
        }

        async fn send(&mut self, bytes: &[u8]) {
            let frame = Frame::Stdin(bytes.to_vec());
            write_frame(&mut self.client, &frame).await.unwrap();
        }

        async fn got(&mut self, bytes: &[u8]) {
            let mut got = vec![0; bytes.len()];
            self.guest.read_exact(&mut got).await.unwrap();
            assert_eq!(got, bytes);
        }
    }

    #[tokio::test]
    async fn the_end_of_a_clients_input_is_the_containers_with_stdin_once_and_the_output_goes_on() {
        let mut attached = Attached::new(true);
        attached.send(b"typed").await;
        attached.send(b"").await;
        let (lease, mut client) = (attached.stdin.take(), attached.client);
        let until_the_end = async {
            let mut got = Vec::new();
            attached.guest.read_to_end(&mut got).await.unwrap();
            // Only now: the end of the input was no end of the conversation.
            client.shutdown().await.unwrap();
            got
        };
        let reading = read_attached(attached.server.unwrap(), lease, |_| async {});
        let (left, got) = tokio::join!(reading, until_the_end);
        assert_eq!((left, got.as_slice()), (Left::Gone, &b"typed"[..]));
        assert!(attached.stdin.take().is_none());
    }

    #[tokio::test]
    async fn the_end_of_a_clients_input_is_only_its_own_where_the_containers_stays_open() {
        let mut attached = Attached::new(false);
        attached.send(b"typed").await;
        attached.send(b"").await;
        let lease = attached.stdin.take();
        let server = attached.server.take().unwrap();
        assert_eq!(read_attached(server, lease, |_| async {}).await, Left::InputEnded);
        attached.got(b"typed").await;
        attached.stdin.take().unwrap().write(b"more").await.unwrap();
        attached.got(b"more").await;
    }

    #[tokio::test]
    async fn a_client_that_goes_ends_the_containers_input_with_stdin_once_only() {
        for once in [true, false] {
            let mut attached = Attached::new(once);
            attached.send(b"typed").await;
            attached.client.shutdown().await.unwrap();
            let lease = attached.stdin.take();
            let server = attached.server.take().unwrap();
            assert_eq!(read_attached(server, lease, |_| async {}).await, Left::Gone);
            attached.got(b"typed").await;
            assert_eq!(attached.stdin.take().is_none(), once);
            if once {
                assert_eq!(attached.guest.read(&mut [0; 1]).await.unwrap(), 0);
            }
        }
    }
}
