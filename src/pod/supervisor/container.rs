//! One attempt of a container, from its start to its end.

use std::path::PathBuf;
use std::sync::Arc;

use microkube_protocol::messages::{StartContainerRequest, WaitContainerRequest, WaitContainerResponse};
use tokio::sync::mpsc;
use ttrpc::context::{with_duration, with_timeout};

use super::CALL_TIMEOUT;
use super::pod_run::Message;
use crate::pod::lifecycle::{Event, Exit};
use crate::pod::logs::{LogReader, Progress, ReadOptions};
use crate::pod::output::{ContainerStreams, Output};
use crate::pod::sandbox::{AgentClientHandle, rpc_message};

/// What the kubelet takes from the end of a log as the termination message (`MaxPodTerminationMessageLogLines` and
/// `MaxPodTerminationMessageLogLength` in `pkg/kubelet/container`).
const FALLBACK_LINES: u64 = 80;
const FALLBACK_BYTES: usize = 2048;

/// Id of an attempt in the guest.
#[must_use]
pub fn container_id(name: &str, attempt: u32) -> String {
    format!("{name}-{attempt}")
}

/// A container that is being started, runs, or was found running.
#[derive(Debug)]
pub struct ContainerRun {
    /// Its number.
    pub container: usize,
    /// Which attempt of it.
    pub attempt: u32,
    /// Its id in the guest.
    pub id: String,
    /// Its streams, expected already.
    pub streams: Arc<ContainerStreams>,
    /// The Pod's streams.
    pub output: Arc<Output>,
    /// The agent.
    pub agent: AgentClientHandle,
    /// Where to report to.
    pub inbox: mpsc::UnboundedSender<Message>,
    /// The directory of the log, if its end is the termination message of a container that failed without one.
    pub fallback_log: Option<PathBuf>,
}

impl ContainerRun {
    /// Starts it and follows it to its end.
    pub async fn start(self, request: StartContainerRequest) {
        let (container, attempt) = (self.container, self.attempt);
        if let Err(error) = self.agent.start_container(with_duration(CALL_TIMEOUT), &request).await {
            self.output.forget_container(&self.id);
            return self.report(Event::ContainerStartFailed {
                container,
                attempt,
                reason: "StartError".to_owned(),
                message: rpc_message(error),
            });
        }
        self.report(Event::ContainerStarted {
            container,
            attempt,
            container_id: self.id.clone(),
        });
        self.follow().await;
    }

    /// Follows a container that runs, or has ended unheard.
    pub async fn follow(self) {
        let request = WaitContainerRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        let response = match self.agent.wait_container(with_timeout(0), &request).await {
            Ok(response) => response,
            // The machine is gone, which is noticed and reported as such elsewhere.
            Err(error) => {
                let complaint = format_args!("container {:?} cannot be waited for: {error}", self.id);
                return self.output.complain(complaint);
            }
        };
        self.streams.end_unopened();
        self.streams.finished().await;
        self.output.forget_container(&self.id);
        let exit = self.exit(response).await;
        self.report(Event::ContainerExited {
            container: self.container,
            attempt: self.attempt,
            exit,
        });
    }

    async fn exit(&self, response: WaitContainerResponse) -> Exit {
        let byte = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
        let exit = Exit::of_process(byte(response.exit_code), byte(response.signal), response.oom_killed);
        let mut message = String::from_utf8_lossy(&response.termination_message).into_owned();
        if message.is_empty()
            && exit.code != 0
            && let Some(directory) = self.fallback_log.clone()
        {
            let attempt = self.attempt;
            let tail = tokio::task::spawn_blocking(move || end_of_log(directory, attempt)).await;
            message = tail.ok().and_then(Result::ok).unwrap_or_default();
        }
        exit.with_message(message)
    }

    fn report(&self, event: Event) {
        // Fails only when the Pod is over.
        let _ = self.inbox.send(Message::Event(event));
    }
}

/// The last lines of a log, as much of them as makes a termination message.
fn end_of_log(directory: PathBuf, attempt: u32) -> std::io::Result<String> {
    let options = ReadOptions {
        tail_lines: Some(FALLBACK_LINES),
        ..Default::default()
    };
    let mut log = LogReader::open(directory, attempt, options)?;
    let mut end = Vec::new();
    loop {
        let progress = log.read(&mut end)?;
        let excess = end.len().saturating_sub(FALLBACK_BYTES);
        end.drain(..excess);
        if progress != Progress::More {
            return Ok(String::from_utf8_lossy(&end).into_owned());
        }
    }
}
