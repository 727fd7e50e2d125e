//! Sessions, with the tests in the role of the supervisor.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, raise};
use nix::sys::termios::{LocalFlags, tcgetattr};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::session::{Ended, Endings, SessionTerminal, Streams};
use crate::pod::client::SupervisorClient;
use crate::pod::operations::session;
use crate::pod::supervisor_protocol::{
    ExecOptions, Notice, OutputStream, SupervisorFrame, SupervisorRequest, TerminalSize, read_frame, write_frame,
};
use crate::terminal::set_terminal_size;

/// Signals affect the whole process: sessions in which tests raise them must not run in parallel with others.
pub(in crate::cli) static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The supervisor's end of the connection.
struct Supervisor(UnixStream);

impl Supervisor {
    async fn receive(&mut self) -> Option<SupervisorFrame> {
        read_frame(&mut self.0).await.unwrap()
    }

    async fn send(&mut self, frame: SupervisorFrame) {
        write_frame(&mut self.0, &frame).await.unwrap();
    }

    async fn notice(&mut self, notice: Notice) {
        self.send(SupervisorFrame::Notice(notice)).await;
    }

    async fn output(&mut self, stream: OutputStream, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        self.send(SupervisorFrame::Output {
            container: 0,
            stream,
            bytes,
        })
        .await;
    }
}

fn connection() -> (SupervisorClient, Supervisor) {
    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    server.set_nonblocking(true).unwrap();
    (
        SupervisorClient::of(client).unwrap(),
        Supervisor(UnixStream::from_std(server).unwrap()),
    )
}

async fn run_session<I: AsyncRead + Unpin, O: AsyncWrite + Unpin, E: AsyncWrite + Unpin>(
    client: SupervisorClient,
    request: SupervisorRequest,
    streams: Streams<I, O, E>,
) -> anyhow::Result<Ended> {
    let mut endings = Endings::new().unwrap();
    let (mut events, input) = session::begin(client, request).await?;
    super::session::run_session(&mut events, input, streams, &mut endings).await
}

fn exec() -> SupervisorRequest {
    SupervisorRequest::Exec(ExecOptions {
        container: "c".to_owned(),
        command: vec!["true".to_owned()],
        stdin: true,
        tty: false,
        tty_size: None,
    })
}

fn streams<'a, I>(
    input: Option<I>,
    output: &'a mut Vec<u8>,
    errors: &'a mut Vec<u8>,
) -> Streams<I, &'a mut Vec<u8>, &'a mut Vec<u8>> {
    Streams {
        input,
        output,
        errors,
        terminal: None,
        detachable: false,
    }
}

#[tokio::test]
async fn input_output_and_exit_code_are_forwarded() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (client, mut supervisor) = connection();
    let playing = tokio::spawn(async move {
        assert_eq!(supervisor.receive().await, Some(SupervisorFrame::Request(exec())));
        supervisor.notice(Notice::Started).await;
        let mut input = Vec::new();
        while let Some(SupervisorFrame::Stdin(bytes)) = supervisor.receive().await {
            if bytes.is_empty() {
                break;
            }
            input.extend(bytes);
        }
        supervisor.output(OutputStream::Stdout, b"out\0\xff").await;
        supervisor.output(OutputStream::Stderr, b"err").await;
        supervisor.output(OutputStream::Stdout, b"").await;
        supervisor.notice(Notice::Exited { exit_code: 3 }).await;
        input
    });
    let input = vec![0xff; 100_000];
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let streams = streams(Some(input.as_slice()), &mut output, &mut errors);
    let ended = run_session(client, exec(), streams).await.unwrap();
    assert_eq!(ended, Ended::Exited(3));
    assert_eq!(output, b"out\0\xff");
    assert_eq!(errors, b"err");
    assert_eq!(playing.await.unwrap(), input);
}

#[tokio::test]
async fn end_of_input_ends_the_session_if_the_containers_input_stays_open() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (client, mut supervisor) = connection();
    let playing = tokio::spawn(async move {
        supervisor.receive().await;
        supervisor.notice(Notice::Attached).await;
        assert_eq!(supervisor.receive().await, Some(SupervisorFrame::Stdin(b"x".to_vec())));
        assert_eq!(supervisor.receive().await, Some(SupervisorFrame::Stdin(Vec::new())));
        supervisor.notice(Notice::InputEnded).await;
    });
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let streams = streams(Some(&b"x"[..]), &mut output, &mut errors);
    assert_eq!(run_session(client, exec(), streams).await.unwrap(), Ended::NoMoreInput);
    playing.await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_an_error_with_the_supervisors_message() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (client, mut supervisor) = connection();
    let message = "container not found (\"c\")".to_owned();
    supervisor.notice(Notice::Refused { message }).await;
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let streams = streams(None::<&[u8]>, &mut output, &mut errors);
    let error = run_session(client, exec(), streams).await.unwrap_err();
    assert_eq!(error.to_string(), "container not found (\"c\")");
}

#[tokio::test]
async fn a_supervisor_that_dies_is_an_error() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (client, mut supervisor) = connection();
    let playing = tokio::spawn(async move {
        supervisor.receive().await;
        supervisor.notice(Notice::Started).await;
    });
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let streams = streams(None::<&[u8]>, &mut output, &mut errors);
    let error = run_session(client, exec(), streams).await.unwrap_err();
    assert!(error.to_string().contains("closed the connection"), "{error}");
    playing.await.unwrap();
}

#[tokio::test]
async fn a_closed_output_ends_the_session() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let (client, mut supervisor) = connection();
    let (output, reader) = tokio::io::duplex(16);
    drop(reader);
    let playing = tokio::spawn(async move {
        supervisor.receive().await;
        supervisor.notice(Notice::Started).await;
        supervisor.output(OutputStream::Stdout, b"text").await;
        supervisor
    });
    let streams = Streams {
        input: None::<&[u8]>,
        output,
        errors: Vec::new(),
        terminal: None,
        detachable: false,
    };
    assert_eq!(run_session(client, exec(), streams).await.unwrap(), Ended::BrokenPipe);
    drop(playing.await.unwrap());
}

/// A session on a terminal.
struct OnTerminal {
    pty: OpenptyResult,
    supervisor: Supervisor,
    conversation: tokio::task::JoinHandle<anyhow::Result<Ended>>,
}

const SIZE: TerminalSize = TerminalSize { rows: 30, columns: 100 };

fn slave_input(slave: &OwnedFd) -> impl AsyncRead + Unpin + Send + use<> {
    tokio::fs::File::from_std(File::from(slave.try_clone().unwrap()))
}

fn is_raw(pty: &OpenptyResult) -> bool {
    let flags = tcgetattr(&pty.slave).unwrap().local_flags;
    !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
}

impl OnTerminal {
    async fn start() -> Self {
        let pty = openpty(None, None).unwrap();
        set_terminal_size(&pty.master, SIZE).unwrap();
        let (client, supervisor) = connection();
        let terminal = SessionTerminal::enter(&pty.slave).unwrap();
        assert_eq!(terminal.size(), Some(SIZE));
        let streams = Streams {
            input: Some(slave_input(&pty.slave)),
            output: Vec::new(),
            errors: Vec::new(),
            terminal: Some(terminal),
            detachable: true,
        };
        let conversation = tokio::spawn(run_session(client, exec(), streams));
        let mut on_terminal = Self {
            pty,
            supervisor,
            conversation,
        };
        assert_eq!(
            on_terminal.supervisor.receive().await,
            Some(SupervisorFrame::Request(exec()))
        );
        on_terminal.supervisor.notice(Notice::Attached).await;
        // The size may have changed since the request.
        on_terminal
            .expect(SupervisorFrame::Request(SupervisorRequest::Resize(SIZE)))
            .await;
        assert!(is_raw(&on_terminal.pty));
        on_terminal
    }

    async fn expect(&mut self, frame: SupervisorFrame) {
        assert_eq!(self.supervisor.receive().await, Some(frame));
    }

    async fn type_keys(&self, keys: &[u8]) {
        let mut master = tokio::fs::File::from_std(File::from(self.pty.master.try_clone().unwrap()));
        master.write_all(keys).await.unwrap();
        master.flush().await.unwrap();
    }

    /// Waits for the end of the session; the terminal must be restored by then.
    async fn end(self) -> Ended {
        let ended = self.conversation.await.unwrap().unwrap();
        assert!(!is_raw(&self.pty));
        ended
    }
}

#[tokio::test]
async fn terminal_input_and_resizes_reach_the_process_and_the_terminal_is_restored() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut session = OnTerminal::start().await;
    session.type_keys(b"\x03\r").await;
    session.expect(SupervisorFrame::Stdin(b"\x03\r".to_vec())).await;
    let size = TerminalSize { rows: 5, columns: 40 };
    set_terminal_size(&session.pty.master, size).unwrap();
    raise(Signal::SIGWINCH).unwrap();
    session
        .expect(SupervisorFrame::Request(SupervisorRequest::Resize(size)))
        .await;
    session.supervisor.notice(Notice::Exited { exit_code: 0 }).await;
    assert_eq!(session.end().await, Ended::Exited(0));
}

#[tokio::test]
async fn a_signal_ends_the_client_and_the_terminal_is_restored() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let session = OnTerminal::start().await;
    raise(Signal::SIGTERM).unwrap();
    assert_eq!(session.end().await, Ended::Signal(15));
}

#[tokio::test]
async fn ctrl_p_ctrl_q_detaches_from_a_terminal() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut session = OnTerminal::start().await;
    session.type_keys(b"ls\x10\x11").await;
    session.expect(SupervisorFrame::Stdin(b"ls".to_vec())).await;
    assert_eq!(session.end().await, Ended::Detached);
}
