//! Attaches a command line to a container's streams.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;

use microkube_protocol::messages::ResizeTerminalRequest;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use ttrpc::context::with_duration;

use super::super::pod_view::{ContainerError, PodView};
use super::refusal::Refusal;
use super::write::{QUEUED_FRAMES, write_all};
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::guest_process::guest_size;
use crate::pod::stdin::Lease;
use crate::pod::supervisor_protocol::{
    AttachOptions, Notice, SupervisorFrame, SupervisorRequest, TerminalSize, read_frame, write_frame,
};

/// Connects the command line to a container until either ends.
pub async fn serve(
    options: AttachOptions,
    view: &PodView,
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> anyhow::Result<()> {
    let AttachOptions {
        container,
        stdin,
        tty_size,
        from_start_of,
    } = options;
    let found = view.container(&container).and_then(|(id, _)| {
        let is_wanted = from_start_of.as_ref().is_none_or(|wanted| *wanted == id);
        let streams = view.guest_streams.container(&id).filter(|_| is_wanted);
        let agent = view.agent();
        streams
            .zip(agent)
            .map(|(streams, agent)| (id, streams, agent))
            .ok_or(ContainerError::NotRunning { name: container })
    });
    let (id, streams, agent) = match found {
        Ok(found) => found,
        Err(error) => {
            let refused = SupervisorFrame::Notice(Refusal::from(error).into());
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
                tracing::debug!("cannot resize a terminal: {error}");
            }
        }
    };
    if let Some(size) = tty_size {
        resize(size).await;
    }
    let lease = if stdin { streams.stdin.take() } else { None };
    let gone = Gone::of(&from)?;
    let (frames, queue) = mpsc::channel(QUEUED_FRAMES);
    match from_start_of {
        Some(_) => streams.follow_after_log(frames.clone()),
        None => {
            write_frame(&mut to, &SupervisorFrame::Notice(Notice::Attached)).await?;
            streams.follow(frames.clone());
        }
    }
    let mut writer = tokio::spawn(write_all(queue, to));
    let notice = tokio::select! {
        () = streams.finished() => Notice::Exited { exit_code: 0 },
        left = read_attached(from, &gone, lease, resize) => match left {
            Left::InputEnded => Notice::InputEnded,
            Left::Gone => {
                writer.abort();
                return Ok(());
            }
        },
    };
    tokio::select! {
        // A client that does not read must not delay the end.
        _ = &mut writer => {}
        sent = frames.send(SupervisorFrame::Notice(notice)) => {
            drop(frames);
            if sent.is_ok() {
                writer.await?;
            }
        }
    }
    Ok(())
}

/// How an attached client's input ended.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Gone,
    /// The client's input has ended; the container's stays open.
    InputEnded,
}

/// Detects that the client is gone, even if its last data has not been read.
#[derive(Debug)]
struct Gone(UnixStream);

impl Gone {
    fn of(from: &OwnedReadHalf) -> io::Result<Self> {
        // A separate descriptor, because clearing its readiness must not affect the reader.
        let descriptor = from.as_ref().as_fd().try_clone_to_owned()?;
        Ok(Self(UnixStream::from_std(StdUnixStream::from(descriptor))?))
    }

    async fn wait(&self) {
        while let Ok(ready) = self.0.ready(Interest::READABLE).await {
            if ready.is_read_closed() {
                return;
            }
            let nothing_more = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.0.try_io(Interest::READABLE, nothing_more);
        }
    }
}

/// Passes on what an attached client sends.
async fn read_attached<F: Future<Output = ()>>(
    mut from: OwnedReadHalf,
    gone: &Gone,
    mut lease: Option<Lease>,
    resize: impl Fn(TerminalSize) -> F,
) -> Left {
    loop {
        match read_frame(&mut from).await {
            Ok(Some(SupervisorFrame::Stdin(bytes))) if bytes.is_empty() => match lease.take() {
                Some(lease) if !lease.ends_with_client() => return Left::InputEnded,
                // Dropping the lease has ended the container's input. The output continues.
                _ => {}
            },
            Ok(Some(SupervisorFrame::Stdin(bytes))) => {
                let Some(taken) = &mut lease else { continue };
                let written = tokio::select! {
                    biased;
                    written = taken.write(&bytes) => written,
                    // The container does not read, and the client is gone.
                    () = gone.wait() => return Left::Gone,
                };
                if written.is_err() {
                    lease = None;
                }
            }
            Ok(Some(SupervisorFrame::Request(SupervisorRequest::Resize(size)))) => resize(size).await,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Left::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Container;
    use microkube_protocol::{DataStream, Stdio};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::super::supervised_pod::test_pod;
    use super::*;
    use crate::pod::guest_process::GuestProcesses;
    use crate::pod::logs::{Limits, LogWriter};
    use crate::pod::sandbox::AgentClientHandle;
    use crate::pod::stdin::ContainerStdin;

    /// A container's input with the guest's end of it, and an attached client with the supervisor's end of its
    /// connection.
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
            let frame = SupervisorFrame::Stdin(bytes.to_vec());
            write_frame(&mut self.client, &frame).await.unwrap();
        }

        async fn got(&mut self, bytes: &[u8]) {
            let mut got = vec![0; bytes.len()];
            self.guest.read_exact(&mut got).await.unwrap();
            assert_eq!(got, bytes);
        }
    }

    /// A container that has written all its output, but whose end was not reported yet.
    struct Written {
        view: PodView,
        _dir: tempfile::TempDir,
        _agent: UnixStream,
    }

    impl Written {
        async fn new(text: &[u8]) -> Self {
            let (pod, _messages) = test_pod(true);
            let dir = tempfile::tempdir().unwrap();
            let log = LogWriter::open(dir.path().join("web"), 0, Limits::default());
            let stdin = ContainerStdin::new(&Container::default(), "web-0", dir.path().join("stdin-web"));
            let streams = pod.guest_streams.expect_container(0, "web-0", stdin, log);
            for (stdio, text) in [(Stdio::Stdout, text), (Stdio::Stderr, &[])] {
                let (mut guest, host) = UnixStream::pair().unwrap();
                guest.write_all(text).await.unwrap();
                guest.shutdown().await.unwrap();
                let stream = DataStream::Container {
                    id: "web-0".to_owned(),
                    stdio,
                    position_bytes: 0,
                };
                pod.guest_streams.serve(stream, host).await;
            }
            streams.finished().await;
            let view = PodView::new(&pod);
            let (agent, guest) = UnixStream::pair().unwrap();
            let agent = AgentClientHandle::new(agent);
            let processes = GuestProcesses::new(agent.clone(), Arc::clone(&pod.guest_streams));
            view.set_machine(Some((agent, processes)));
            view.found(0, "web-0");
            Self {
                view,
                _dir: dir,
                _agent: guest,
            }
        }

        /// Attaches; returns everything that the supervisor answers.
        async fn attach(&self, from_start_of: Option<&str>) -> Vec<SupervisorFrame> {
            let options = AttachOptions {
                container: "web".to_owned(),
                stdin: false,
                tty_size: None,
                from_start_of: from_start_of.map(str::to_owned),
            };
            let (mut client, server) = UnixStream::pair().unwrap();
            let (from, to) = server.into_split();
            serve(options, &self.view, from, to).await.unwrap();
            let mut frames = Vec::new();
            while let Some(frame) = read_frame(&mut client).await.unwrap() {
                frames.push(frame);
            }
            frames
        }
    }

    #[tokio::test]
    async fn a_session_from_the_start_tells_where_in_the_output_it_begins() {
        let written = Written::new(b"hello\nworld").await;
        let exited = SupervisorFrame::Notice(Notice::Exited { exit_code: 0 });
        let at = Notice::AttachedAt {
            stdout_bytes: 11,
            stderr_bytes: 0,
        };
        assert_eq!(
            written.attach(Some("web-0")).await,
            [SupervisorFrame::Notice(at), exited.clone()]
        );
        // Without that option, the answer is the one of earlier versions.
        assert_eq!(
            written.attach(None).await,
            [SupervisorFrame::Notice(Notice::Attached), exited]
        );
    }

    #[tokio::test]
    async fn a_session_from_the_start_of_another_attempt_is_refused() {
        let written = Written::new(b"").await;
        let refused = Notice::Refused {
            message: "container \"web\" is not running".to_owned(),
        };
        assert_eq!(written.attach(Some("web-1")).await, [SupervisorFrame::Notice(refused)]);
    }

    #[tokio::test]
    async fn with_stdin_once_end_of_client_input_ends_the_containers_input_but_not_its_output() {
        let mut attached = Attached::new(true);
        attached.send(b"typed").await;
        attached.send(b"").await;
        let (lease, mut client) = (attached.stdin.take(), attached.client);
        let until_the_end = async {
            let mut got = Vec::new();
            attached.guest.read_to_end(&mut got).await.unwrap();
            // The conversation ends only now: the end of the input did not end it.
            client.shutdown().await.unwrap();
            got
        };
        let server = attached.server.unwrap();
        let gone = Gone::of(&server).unwrap();
        let reading = read_attached(server, &gone, lease, |_| async {});
        let (left, got) = tokio::join!(reading, until_the_end);
        assert_eq!((left, got.as_slice()), (Left::Gone, &b"typed"[..]));
        assert!(attached.stdin.take().is_none());
    }

    #[tokio::test]
    async fn without_stdin_once_end_of_client_input_keeps_the_containers_input_open() {
        let mut attached = Attached::new(false);
        attached.send(b"typed").await;
        attached.send(b"").await;
        let lease = attached.stdin.take();
        let server = attached.server.take().unwrap();
        let gone = Gone::of(&server).unwrap();
        assert_eq!(
            read_attached(server, &gone, lease, |_| async {}).await,
            Left::InputEnded
        );
        attached.got(b"typed").await;
        attached.stdin.take().unwrap().write(b"more").await.unwrap();
        attached.got(b"more").await;
    }

    #[tokio::test]
    async fn a_disconnected_client_ends_the_containers_input_only_with_stdin_once() {
        for once in [true, false] {
            let mut attached = Attached::new(once);
            attached.send(b"typed").await;
            attached.client.shutdown().await.unwrap();
            let lease = attached.stdin.take();
            let server = attached.server.take().unwrap();
            let gone = Gone::of(&server).unwrap();
            assert_eq!(read_attached(server, &gone, lease, |_| async {}).await, Left::Gone);
            attached.got(b"typed").await;
            assert_eq!(attached.stdin.take().is_none(), once);
            if once {
                assert_eq!(attached.guest.read(&mut [0; 1]).await.unwrap(), 0);
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_disconnects_with_unread_input_releases_the_input() {
        let mut attached = Attached::new(false);
        let lease = attached.stdin.take();
        let server = attached.server.take().unwrap();
        let gone = Gone::of(&server).unwrap();
        let Attached { client, guest, .. } = attached;
        let sending = async move {
            // First more than the socket holds, then more that is never read.
            let mut client = client;
            write_frame(&mut client, &SupervisorFrame::Stdin(vec![b'y'; 1 << 20]))
                .await
                .unwrap();
            write_frame(&mut client, &SupervisorFrame::Stdin(b"unread".to_vec()))
                .await
                .unwrap();
            drop(client);
        };
        let (left, ()) = tokio::join!(read_attached(server, &gone, lease, |_| async {}), sending);
        assert_eq!(left, Left::Gone);
        drop(guest);
        assert!(attached.stdin.take().is_some());
    }
}
