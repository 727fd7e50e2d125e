//! Further processes in a Pod's containers: what `exec`, probes and hooks are made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use microkube_protocol::Stdio;
use microkube_protocol::messages::{
    ResizeTerminalRequest, SignalProcessRequest, StartProcessRequest, TerminalSize as GuestTerminalSize,
    WaitProcessRequest,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use ttrpc::context::{with_duration, with_timeout};

use super::attach::TerminalSize;
use super::output::Output;
use super::sandbox::{AgentClientHandle, rpc_message};

/// How long one call of the agent may take that does not wait for anything.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the streams of a process that was started may take to arrive. The agent opens them before it answers.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a process may take to be gone after it was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts processes in the containers of one machine.
#[derive(Debug, Clone)]
pub struct GuestProcesses {
    agent: AgentClientHandle,
    output: Arc<Output>,
    /// Distinguishes this supervisor's processes from those of one before it.
    epoch_us: u128,
    count: Arc<AtomicU64>,
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
    pub fn new(agent: AgentClientHandle, output: Arc<Output>) -> Self {
        let epoch_us = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        Self {
            agent,
            output,
            epoch_us,
            count: Arc::default(),
        }
    }

    /// Starts a process.
    ///
    /// # Errors
    /// The agent's message, which is the one runc's users know when there is no such command.
    pub async fn start(&self, spec: ProcessSpec) -> Result<(GuestProcess, ProcessStreams), String> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let id = format!("p-{}-{number}", self.epoch_us);
        let stdin = spec.stdin.then(|| self.output.expect_process(&id, Stdio::Stdin));
        let stdout = self.output.expect_process(&id, Stdio::Stdout);
        let stderr = (!spec.tty).then(|| self.output.expect_process(&id, Stdio::Stderr));
        let request = StartProcessRequest {
            container_id: spec.container_id,
            process_id: id.clone(),
            args: spec.args,
            stdin: spec.stdin,
            tty: spec.tty,
            terminal_size: spec.tty_size.map(guest_size).into(),
            ..Default::default()
        };
        let started = self.agent.start_process(with_duration(CALL_TIMEOUT), &request).await;
        if let Err(error) = started {
            self.output.forget_process(&id);
            return Err(rpc_message(error));
        }
        let streams = async {
            let stdin = optional(stdin).await?;
            let stdout = stdout.await.ok()?;
            let stderr = optional(stderr).await?;
            Some((stdin, stdout, stderr))
        };
        let Ok(Some((stdin, stdout, stderr))) = tokio::time::timeout(STREAM_TIMEOUT, streams).await else {
            self.output.forget_process(&id);
            return Err("the guest has not opened the streams of the process".to_owned());
        };
        let process = GuestProcess {
            agent: self.agent.clone(),
            id,
        };
        let streams = ProcessStreams { stdin, stdout, stderr };
        Ok((process, streams))
    }

    /// Runs a process to its end and returns its exit code and the first `max_output_bytes` of stdout and stderr. It is killed when
    /// the time is up.
    ///
    /// # Errors
    /// Why it could not be run; `Ok(None)` when it took too long.
    pub async fn run(
        &self,
        container_id: &str,
        args: &[String],
        timeout: Duration,
        max_output_bytes: usize,
    ) -> Result<Option<(u8, Vec<u8>)>, String> {
        let spec = ProcessSpec {
            container_id: container_id.to_owned(),
            args: args.to_owned(),
            ..Default::default()
        };
        let (process, mut streams) = match tokio::time::timeout(timeout, self.start(spec)).await {
            Ok(started) => started?,
            // It may be started yet; then it runs to its end unheard, as with a container runtime.
            Err(_) => return Ok(None),
        };
        let mut leftover = KilledOnDrop(Some(process.clone()));
        let run = async {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let (_, _, exit_code) = tokio::join!(
                read_bounded(Some(&mut streams.stdout), &mut out, max_output_bytes),
                read_bounded(streams.stderr.as_mut(), &mut err, max_output_bytes),
                process.wait(),
            );
            out.extend(err);
            out.truncate(max_output_bytes);
            Ok((exit_code?, out))
        };
        match tokio::time::timeout(timeout, run).await {
            Ok(ended) => {
                leftover.0 = None;
                ended.map(Some)
            }
            Err(_) => Ok(None),
        }
    }
}

/// Kills a process that nobody is interested in any more.
#[derive(Debug)]
struct KilledOnDrop(Option<GuestProcess>);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let Some(process) = self.0.take() else { return };
        tokio::spawn(async move {
            process.signal(libc::SIGKILL).await;
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
    pub async fn wait(&self) -> Result<u8, String> {
        let request = WaitProcessRequest {
            process_id: self.id.clone(),
            ..Default::default()
        };
        let response = self
            .agent
            .wait_process(with_timeout(0), &request)
            .await
            .map_err(rpc_message)?;
        let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        Ok(match byte(response.signal) {
            0 => byte(response.exit_code),
            signal => 128_u8.saturating_add(signal),
        })
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
