//! Additional processes in a Pod's containers, for `exec`, probes and hooks.

use std::fmt;
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

/// How long the streams of a started process may take to arrive. The agent opens them before it answers.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a killed process may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum number of unanswered start requests: the agent's maximum number of processes (`MAX_PROCESSES` in
/// `agent/src/service.rs`). Later requests wait.
const MAX_PENDING_STARTS: usize = 256;

/// Maximum total size of the command lines in unanswered start requests, in bytes.
const MAX_PENDING_BYTES: usize = 32 << 20;

/// Starts processes in the containers of one VM.
#[derive(Debug, Clone)]
pub struct GuestProcesses {
    agent: AgentClientHandle,
    guest_streams: Arc<GuestStreams>,
    /// Distinguishes this supervisor's processes from those of its predecessors.
    epoch_us: u128,
    count: Arc<AtomicU64>,
    pending: PendingStarts,
}

/// A process to start. `Debug` does not show its arguments, which can contain passwords.
#[derive(Clone, Default)]
pub struct ProcessSpec {
    /// The container's id in the guest.
    pub container_id: String,
    /// The command line.
    pub args: Vec<String>,
    /// Whether its stdin is a stream rather than `/dev/null`.
    pub stdin: bool,
    pub tty: bool,
    pub tty_size: Option<TerminalSize>,
    /// How long after the start request the agent kills it, even if this supervisor is gone.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for ProcessSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSpec")
            .field("container_id", &self.container_id)
            .field("args", &format_args!("({})", self.args.len()))
            .field("stdin", &self.stdin)
            .field("tty", &self.tty)
            .field("tty_size", &self.tty_size)
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// The unanswered start requests, including those whose callers have given up. Their memory is bounded whatever the
/// guest does.
#[derive(Debug, Clone)]
struct PendingStarts {
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

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
    /// Waits until there is room for another request.
    async fn begin(&self, spec: &ProcessSpec) -> PendingStart {
        let bytes: usize = spec.args.iter().map(String::len).sum();
        let bytes = u32::try_from(bytes.min(MAX_PENDING_BYTES)).unwrap_or(u32::MAX);
        // These semaphores are never closed.
        PendingStart {
            _count: Arc::clone(&self.count).acquire_owned().await.ok(),
            _bytes: Arc::clone(&self.bytes).acquire_many_owned(bytes).await.ok(),
        }
    }
}

/// Why a process did not run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// It was killed at its timeout.
    #[error("timed out")]
    TimedOut,
    /// It could not be run; for a missing command, the message is runc's.
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

#[derive(Debug, Clone)]
pub struct GuestProcess {
    agent: AgentClientHandle,
    id: String,
}

/// The host's ends of a process's stdio.
#[derive(Debug)]
pub struct ProcessStreams {
    /// Its stdin, if it has one.
    pub stdin: Option<UnixStream>,
    /// Its stdout, or its terminal.
    pub stdout: UnixStream,
    /// Its stderr; `None` with a terminal.
    pub stderr: Option<UnixStream>,
}

impl GuestProcesses {
    /// For the VM that this agent and these streams belong to.
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

    /// Starts a process. If this future is dropped before it completes, the process is killed.
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
            // Use a task: if the caller stops waiting, the answer is still needed, because it shows whether there is a
            // process to kill.
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
                let message = "the guest did not open the streams of the process";
                Err(RunError::Failed(message.to_owned()))
            }
        }
    }

    /// Runs a process to its end and returns its exit code and the first `max_output_bytes` of stdout and stderr. The
    /// timeout starts now. When it passes, or when this future is dropped, the process is killed, even if it only
    /// starts afterwards.
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

/// Kills its process when dropped, unless the process is done. The kill is sent immediately, and again if a pending
/// start succeeds after all.
#[derive(Debug)]
struct Wanted {
    process: GuestProcess,
    guest_streams: Arc<GuestStreams>,
    /// The start call, until it is answered.
    start: Option<JoinHandle<Result<(), AgentError>>>,
    is_done: bool,
}

impl Wanted {
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
                // The first signal may have come too early for the agent, or too late to cancel the start.
                let Ok(Ok(())) = start.await else { return };
                process.signal(libc::SIGKILL).await;
            }
            // Waiting lets the agent forget the process.
            let _ = tokio::time::timeout(KILL_TIMEOUT, process.wait()).await;
        });
    }
}

impl GuestProcess {
    /// Waits for it to end and returns its exit code as a shell would.
    ///
    /// # Errors
    /// If the VM is gone.
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

    pub async fn signal(&self, signal: i32) {
        let request = SignalProcessRequest {
            process_id: self.id.clone(),
            signal: signal.unsigned_abs(),
            ..Default::default()
        };
        if let Err(error) = self.agent.signal_process(with_duration(CALL_TIMEOUT), &request).await {
            tracing::debug!("cannot send signal {signal} to process {}: {error}", self.id);
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
            tracing::debug!("cannot resize the terminal of process {}: {error}", self.id);
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

/// The timeout in milliseconds for the agent: at least 1, because 0 means no limit.
fn whole_milliseconds(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Converts a terminal size for the agent.
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

/// Reads to the end of the stream. Bytes beyond the limit are read, to keep the process from blocking, and dropped.
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
