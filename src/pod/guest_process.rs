//! Further processes in a Pod's containers: what `exec`, probes and hooks are made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microkube_protocol::Stdio;
use microkube_protocol::messages::{
    ResizeTerminalRequest, SignalProcessRequest, StartProcessRequest, TerminalSize as GuestTerminalSize,
    WaitProcessRequest, WaitProcessResponse,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinHandle;
use ttrpc::context::{with_duration, with_timeout};

use super::agent::{AgentError, CALL_TIMEOUT};
use super::guest_streams::GuestStreams;
use super::sandbox::{AgentClientHandle, rpc_message};
use super::supervisor_protocol::TerminalSize;

/// How long the streams of a process that was started may take to arrive. The agent opens them before it answers.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process may take to be gone after it was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Most starts that are unanswered: an agent has no more processes (`MAX_PROCESSES` in `agent/src/service.rs`). The next one waits.
const MAX_PENDING_STARTS: usize = 256;

/// Most bytes of their command lines, which are kept until they are answered.
const MAX_PENDING_BYTES: usize = 32 << 20;

/// Starts processes in the containers of one machine.
#[derive(Debug, Clone)]
pub struct GuestProcesses {
    agent: AgentClientHandle,
    guest_streams: Arc<GuestStreams>,
    /// Distinguishes this supervisor's processes from those of one before it.
    epoch_us: u128,
    count: Arc<AtomicU64>,
    pending: PendingStarts,
}

/// What is to be started.
#[derive(Debug, Clone, Default)]
pub struct ProcessSpec {
    /// The container, as the agent knows it.
    pub container_id: String,
    /// The command line.
    pub args: Vec<String>,
    /// Whether it has a stdin other than `/dev/null`.
    pub stdin: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Size of the terminal.
    pub tty_size: Option<TerminalSize>,
    /// How long after the request to start it it is killed by the agent, whatever becomes of this supervisor.
    pub timeout: Option<Duration>,
}

/// The starts that no answer has come to, those that nobody waits for any more included: what is kept of them is bounded, whatever the guest
/// does.
#[derive(Debug, Clone)]
struct PendingStarts {
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// One of them.
#[derive(Debug)]
struct PendingStart {
    _count: Option<OwnedSemaphorePermit>,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Default for PendingStarts {
    fn default() -> Self {
        Self {
            count: Arc::new(Semaphore::new(MAX_PENDING_STARTS)),
            bytes: Arc::new(Semaphore::new(MAX_PENDING_BYTES)),
        }
    }
}

impl PendingStarts {
    /// Waits until there is room for another.
    async fn begin(&self, spec: &ProcessSpec) -> PendingStart {
        let bytes: usize = spec.args.iter().map(String::len).sum();
        let bytes = u32::try_from(bytes.min(MAX_PENDING_BYTES)).unwrap_or(u32::MAX);
        // They are never closed.
        PendingStart {
            _count: Arc::clone(&self.count).acquire_owned().await.ok(),
            _bytes: Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok(),
        }
    }
}

/// Why a process was not run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// It was killed because its time was up.
    #[error("its time is up")]
    TimedOut,
    /// It could not be run; the message is the one runc's users know when there is no such command.
    #[error("{0}")]
    Failed(String),
}

impl RunError {
    fn of_call(error: AgentError) -> Self {
        match error.code() {
            ttrpc::Code::DEADLINE_EXCEEDED => Self::TimedOut,
            _ => Self::Failed(rpc_message(error)),
        }
    }
}

/// A process that was started.
#[derive(Debug, Clone)]
pub struct GuestProcess {
    agent: AgentClientHandle,
    id: String,
}

/// The host's ends of a process's stdio.
#[derive(Debug)]
pub struct ProcessStreams {
    /// Its stdin, where it has one.
    pub stdin: Option<UnixStream>,
    /// Its stdout, or its terminal.
    pub stdout: UnixStream,
    /// Its stderr; none with a terminal.
    pub stderr: Option<UnixStream>,
}

impl GuestProcesses {
    /// For the machine whose agent and streams these are.
    #[must_use]
    pub fn new(agent: AgentClientHandle, guest_streams: Arc<GuestStreams>) -> Self {
        let epoch_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        Self {
            agent,
            guest_streams,
            epoch_us,
            count: Arc::default(),
            pending: PendingStarts::default(),
        }
    }

    /// Starts a process. When this future is dropped before it is done, what it has begun to start is killed.
    ///
    /// # Errors
    /// Why it was not started.
    pub async fn start(&self, spec: ProcessSpec) -> Result<(GuestProcess, ProcessStreams), RunError> {
        let (mut wanted, streams) = self.start_wanted(spec).await?;
        wanted.is_done = true;
        Ok((wanted.process.clone(), streams))
    }

    async fn start_wanted(&self, spec: ProcessSpec) -> Result<(Wanted, ProcessStreams), RunError> {
        let until_answered = self.pending.begin(&spec).await;
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("p-{}-{number}", self.epoch_us);
        let stdin = spec.stdin.then(|| self.guest_streams.expect_process(&id, Stdio::Stdin));
        let stdout = self.guest_streams.expect_process(&id, Stdio::Stdout);
        let stderr = (!spec.tty).then(|| self.guest_streams.expect_process(&id, Stdio::Stderr));
        let request = StartProcessRequest {
            container_id: spec.container_id,
            process_id: id.clone(),
            args: spec.args,
            stdin: spec.stdin,
            tty: spec.tty,
            terminal_size: spec.tty_size.map(guest_size).into(),
            timeout_ms: spec.timeout.map_or(0, whole_milliseconds),
            ..Default::default()
        };
        let agent = self.agent.clone();
        let mut wanted = Wanted {
            process: GuestProcess {
                agent: self.agent.clone(),
                id,
            },
            guest_streams: Arc::clone(&self.guest_streams),
            // A task: who gives up does not take the answer with it, which says when there is something to kill.
            start: Some(tokio::spawn(async move {
                let answer = agent.start_process(with_timeout(0), &request).await;
                drop(until_answered);
                answer.map(drop)
            })),
            is_done: false,
        };
        wanted.started().await?;
        let streams = async {
            let stdin = optional(stdin).await?;
            let stdout = stdout.await.ok()?;
            let stderr = optional(stderr).await?;
            Some(ProcessStreams { stdin, stdout, stderr })
        };
        match tokio::time::timeout(STREAM_TIMEOUT, streams).await {
            Ok(Some(streams)) => Ok((wanted, streams)),
            _ => {
                let message = "the guest has not opened the streams of the process";
                Err(RunError::Failed(message.to_owned()))
            }
        }
    }

    /// Runs a process to its end and returns its exit code and the first `max_output_bytes` of stdout and stderr. The timeout counts from
    /// now on. When it has passed, and when this future is dropped, the process is killed, also if it only starts after that.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn run(
        &self,
        container_id: &str,
        args: &[String],
        timeout: Option<Duration>,
        max_output_bytes: usize,
    ) -> Result<(u8, Vec<u8>), RunError> {
        let spec = ProcessSpec {
            container_id: container_id.to_owned(),
            args: args.to_owned(),
            timeout,
            ..Default::default()
        };
        let run = async {
            let (mut wanted, mut streams) = self.start_wanted(spec).await?;
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let (_, _, end) = tokio::join!(
                read_bounded(Some(&mut streams.stdout), &mut out, max_output_bytes),
                read_bounded(streams.stderr.as_mut(), &mut err, max_output_bytes),
                wanted.process.end(),
            );
            wanted.is_done = true;
            out.extend(err);
            out.truncate(max_output_bytes);
            let end = end.map_err(RunError::of_call)?;
            match end.timed_out {
                true => Err(RunError::TimedOut),
                false => Ok((exit_code(&end), out)),
            }
        };
        match timeout {
            Some(timeout) => tokio::time::timeout(timeout, run)
                .await
                .unwrap_or(Err(RunError::TimedOut)),
            None => run.await,
        }
    }
}

/// A process that is killed when this is dropped, unless it is done: at once while it runs or is being started, and again when a start that
/// could not be stopped has succeeded after all.
#[derive(Debug)]
struct Wanted {
    process: GuestProcess,
    guest_streams: Arc<GuestStreams>,
    /// The call that starts it, until it is answered.
    start: Option<JoinHandle<Result<(), AgentError>>>,
    is_done: bool,
}

impl Wanted {
    /// Waits until it is started.
    async fn started(&mut self) -> Result<(), RunError> {
        let Some(start) = &mut self.start else { return Ok(()) };
        let answer = start.await;
        self.start = None;
        let failure = match answer {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => RunError::of_call(error),
            Err(error) => RunError::Failed(error.to_string()),
        };
        self.guest_streams.forget_process(&self.process.id);
        self.is_done = true;
        Err(failure)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        self.guest_streams.forget_process(&self.process.id);
        let (process, start) = (self.process.clone(), self.start.take());
        tokio::spawn(async move {
            process.signal(libc::SIGKILL).await;
            if let Some(start) = start {
                // Where the signal came too early for the agent, or too late for the start to be given up.
                let Ok(Ok(())) = start.await else { return };
                process.signal(libc::SIGKILL).await;
            }
            // So that the agent can forget it.
            let _ = tokio::time::timeout(KILL_TIMEOUT, process.wait()).await;
        });
    }
}

impl GuestProcess {
    /// Waits for its end and returns its exit code as a shell would give it.
    ///
    /// # Errors
    /// When the machine is gone.
    pub async fn wait(&self) -> Result<u8, AgentError> {
        self.end().await.map(|end| exit_code(&end))
    }

    async fn end(&self) -> Result<WaitProcessResponse, AgentError> {
        let request = WaitProcessRequest {
            process_id: self.id.clone(),
            ..Default::default()
        };
        self.agent.wait_process(with_timeout(0), &request).await
    }

    /// Sends it a signal.
    pub async fn signal(&self, signal: i32) {
        let request = SignalProcessRequest {
            process_id: self.id.clone(),
            signal: signal.unsigned_abs(),
            ..Default::default()
        };
        if let Err(error) = self.agent.signal_process(with_duration(CALL_TIMEOUT), &request).await {
            tracing::debug!("process {} could not be sent signal {signal}: {error}", self.id);
        }
    }

    /// Changes the size of its terminal.
    pub async fn resize(&self, size: TerminalSize) {
        let request = ResizeTerminalRequest {
            process_id: self.id.clone(),
            size: Some(guest_size(size)).into(),
            ..Default::default()
        };
        if let Err(error) = self.agent.resize_terminal(with_duration(CALL_TIMEOUT), &request).await {
            tracing::debug!("the terminal of process {} could not be resized: {error}", self.id);
        }
    }
}

fn exit_code(end: &WaitProcessResponse) -> u8 {
    let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    match byte(end.signal) {
        0 => byte(end.exit_code),
        signal => 128_u8.saturating_add(signal),
    }
}

/// For the agent, to which zero means no limit.
fn whole_milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// The size in the agent's words.
pub fn guest_size(size: TerminalSize) -> GuestTerminalSize {
    GuestTerminalSize {
        rows: u32::from(size.rows),
        columns: u32::from(size.columns),
        ..Default::default()
    }
}

async fn optional(stream: Option<oneshot::Receiver<UnixStream>>) -> Option<Option<UnixStream>> {
    match stream {
        Some(stream) => stream.await.ok().map(Some),
        None => Some(None),
    }
}

/// Reads to the end; what is beyond the limit is read, so that the process can go on, and dropped.
async fn read_bounded(from: Option<&mut UnixStream>, into: &mut Vec<u8>, limit_bytes: usize) {
    let Some(from) = from else { return };
    let mut buffer = vec![0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let room = limit_bytes.saturating_sub(into.len());
        into.extend_from_slice(buffer.get(..length.min(room)).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests;
