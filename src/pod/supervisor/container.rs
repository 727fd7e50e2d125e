//! One attempt of a container, from its start to its end.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use microkube_protocol::messages::{
    self, SignalContainerRequest, StartContainerRequest, WaitContainerRequest, WaitContainerResponse,
};
use ttrpc::Code;
use ttrpc::context::{with_duration, with_timeout};

use super::supervised_pod::SupervisedPod;
use crate::pod::agent::{AgentError, CALL_TIMEOUT};
use crate::pod::container_streams::ContainerStreams;
use crate::pod::lifecycle::{ContainerAttempt, Event, Exit, ProcessUser};
use crate::pod::logs::{self, Limits, LogReader, LogWriter, Progress, ReadOptions};
use crate::pod::patience::LAST_OUTPUT_PATIENCE;
use crate::pod::sandbox::{AgentClientHandle, rpc_message};
use crate::pod::stdin::ContainerStdin;

/// How much of the end of a log is used as the termination message, in lines and bytes
/// (`MaxPodTerminationMessageLogLines` and `MaxPodTerminationMessageLogLength` in `pkg/kubelet/container`).
const FALLBACK_LINES: u64 = 80;
const FALLBACK_BYTES: usize = 2048;

/// How many times an unfollowed attempt is killed, and the time between two kills. The lifecycle abandons the attempt
/// earlier.
const KILLS: u32 = 120;
const KILL_PERIOD: Duration = Duration::from_secs(1);

/// A container that is starting, running, or was found running.
#[derive(Debug)]
pub struct ContainerRun {
    attempt: ContainerAttempt,
    /// The attempt's id in the guest.
    id: String,
    streams: Arc<ContainerStreams>,
    agent: AgentClientHandle,
    pod: Arc<SupervisedPod>,
    /// The log directory, if a failed container without a termination message uses the end of its log.
    fallback_log: Option<PathBuf>,
    /// Whether the Pod's command line shows its output.
    is_shown: bool,
}

impl ContainerRun {
    /// Announces the streams of an attempt, with its log. `None` if the Pod has no such container.
    pub fn expect(pod: &Arc<SupervisedPod>, agent: AgentClientHandle, attempt: ContainerAttempt) -> Option<Self> {
        let spec = pod.container(attempt.container)?;
        let uid = &pod.record.uid;
        let directory = logs::container_dir(&pod.paths, uid, &spec.name);
        let log = LogWriter::open(directory.clone(), attempt.number, Limits::default());
        let id = pod.container_id(attempt);
        let index = u16::try_from(attempt.container).unwrap_or(u16::MAX);
        let taken_file = pod.paths.pod_run(uid).join(format!("stdin-{}", spec.name));
        let stdin = ContainerStdin::new(&spec, &id, taken_file);
        let is_shown = pod.client.is_some() && !pod.is_ephemeral(attempt.container);
        let streams = match pod.is_ephemeral(attempt.container) {
            true => pod.guest_streams.expect_added_container(&id, stdin, log),
            false => pod.guest_streams.expect_container(index, &id, stdin, log),
        };
        let falls_back = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        Some(Self {
            attempt,
            id,
            streams,
            agent,
            pod: Arc::clone(pod),
            fallback_log: falls_back.then_some(directory),
            is_shown,
        })
    }

    /// Starts the container and follows it to its end.
    pub async fn start(self, request: StartContainerRequest) {
        self.join_start(request, None).await;
    }

    /// Waits for a start that was requested before, and follows the container to its end. If the guest no longer has
    /// that start, it starts the container as requested. `failure` is set if the request is incomplete: the guest then
    /// refuses to start the container, and the failure is reported.
    pub async fn join_start(self, request: StartContainerRequest, failure: Option<Event>) {
        // No timeout: the lifecycle has one, and kills a container that it abandons. If this call timed out, the
        // container would be left behind.
        let started = match self.agent.start_container(with_timeout(0), &request).await {
            Ok(started) => started,
            Err(error) if error.code() == Code::ALREADY_EXISTS => return self.kill_unfollowed_attempt(error).await,
            Err(error) => {
                return match failure.filter(|_| error.code() == Code::INVALID_ARGUMENT) {
                    Some(failure) => {
                        self.pod.guest_streams.forget_container(&self.id);
                        self.pod.report(failure);
                    }
                    None => self.start_failed(error),
                };
            }
        };
        self.pod.report(Event::ContainerStarted {
            attempt: self.attempt,
            container_id: self.id.clone(),
            user: started.user.as_ref().and_then(shown_user),
        });
        self.follow().await;
    }

    fn start_failed(&self, error: AgentError) {
        self.pod.guest_streams.forget_container(&self.id);
        let (reason, message) = start_failure(&self.id, error);
        self.pod.report(Event::ContainerStartFailed {
            attempt: self.attempt,
            reason: reason.to_owned(),
            message,
        });
    }

    /// Kills an attempt that the guest already runs or is starting, because the result of that start will not be
    /// reported. Only older agents give this answer; newer ones repeat the answer to the first request. Waits until the
    /// attempt is gone, because the next one must not run at the same time.
    async fn kill_unfollowed_attempt(self, error: AgentError) {
        let request = SignalContainerRequest {
            id: self.id.clone(),
            signal: libc::SIGKILL.unsigned_abs(),
            ..Default::default()
        };
        for _ in 0..KILLS {
            // If the container cannot be killed yet, the next round kills it.
            let _ = self.agent.signal_container(with_duration(CALL_TIMEOUT), &request).await;
            match self.wait().await {
                Ok(response) => return self.ended(response).await,
                Err(gone) if gone.code() == Code::NOT_FOUND => return self.start_failed(error),
                // The VM is gone.
                Err(lost) if lost.code() == Code::UNKNOWN => return,
                Err(_) => tokio::time::sleep(KILL_PERIOD).await,
            }
        }
    }

    async fn wait(&self) -> Result<WaitContainerResponse, AgentError> {
        let request = WaitContainerRequest {
            id: self.id.clone(),
            ..Default::default()
        };
        self.agent.wait_container(with_timeout(0), &request).await
    }

    /// Follows a container that runs, or that ended while no supervisor followed it.
    pub async fn follow(self) {
        match self.wait().await {
            Ok(response) => self.ended(response).await,
            // The loss of the VM is reported elsewhere.
            Err(error) => {
                let complaint = format_args!("cannot wait for container {:?}: {error}", self.id);
                self.pod.guest_streams.complain(complaint);
            }
        }
    }

    async fn ended(self, response: WaitContainerResponse) {
        self.streams.end_unopened();
        if self.is_shown {
            // The end is sent to the same command line, after the output.
            self.streams.finished().await;
        } else {
            self.streams.delivered(LAST_OUTPUT_PATIENCE).await;
        }
        self.pod.guest_streams.forget_container(&self.id);
        let exit = self.exit(response).await;
        self.pod.report(Event::ContainerExited {
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
            let number = self.attempt.number;
            let tail = tokio::task::spawn_blocking(move || end_of_log(directory, number)).await;
            message = tail.ok().and_then(Result::ok).unwrap_or_default();
        }
        exit.with_message(message)
    }
}

/// The kubelet's reason and message for a container that failed to start. If it could not be created, the same attempt
/// is tried again; any other attempt has ended.
fn start_failure(id: &str, error: AgentError) -> (&'static str, String) {
    let code = error.code();
    let message = rpc_message(error);
    match code {
        Code::ABORTED => {
            let name = id.rsplit_once('-').map_or(id, |(name, _)| name);
            ("CreateContainerConfigError", format!("{message} of container {name:?}"))
        }
        // The container whose processes this one is to see has ended meanwhile.
        Code::FAILED_PRECONDITION => ("CreateContainerConfigError", message),
        // An attempt that already existed is gone now (see `kill_unfollowed_attempt`).
        Code::INVALID_ARGUMENT | Code::ALREADY_EXISTS => ("CreateContainerError", message),
        _ => ("StartError", message),
    }
}

/// The user of a process as the guest reports it, if it is valid.
fn shown_user(user: &messages::ProcessUser) -> Option<ProcessUser> {
    // No process can have this ID: to the kernel it means "no change".
    if [user.uid, user.gid].contains(&u32::MAX) || user.supplemental_gids.contains(&u32::MAX) {
        tracing::warn!("the guest reported a process with user or group {}", u32::MAX);
        return None;
    }
    Some(ProcessUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_gids: user.supplemental_gids.clone(),
    })
}

/// The last lines of a log, as many as fit into a termination message.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use futures::StreamExt as _;
    use microkube_protocol::service::{Agent, create_agent};
    use ttrpc::r#async::TtrpcContext;

    use super::super::message::Message;
    use super::super::supervised_pod::test_pod;
    use super::*;

    fn failure(code: Code, message: &str) -> (&'static str, String) {
        start_failure(
            "my-app-3",
            ttrpc::Error::RpcStatus(ttrpc::get_status(code, message)).into(),
        )
    }

    #[test]
    fn a_container_that_could_not_be_created_has_the_kubelets_reason() {
        assert_eq!(
            failure(Code::ABORTED, "failed to prepare subPath for volumeMount \"data\""),
            (
                "CreateContainerConfigError",
                "failed to prepare subPath for volumeMount \"data\" of container \"my-app\"".to_owned()
            )
        );
        let unknown = "unable to find user x: no matching entries in passwd file";
        assert_eq!(
            failure(Code::INVALID_ARGUMENT, unknown),
            ("CreateContainerError", unknown.to_owned())
        );
        assert_eq!(failure(Code::NOT_FOUND, "no such file").0, "StartError");
        let lost = ttrpc::Error::Others("the connection broke off".to_owned());
        assert_eq!(start_failure("a-0", lost.into()).0, "StartError");
    }

    /// An agent that is already starting the requested container, until the second attempt to kill it.
    struct AlreadyStartingAgent {
        kills: std::sync::atomic::AtomicU32,
        /// Whether that start then succeeds or fails.
        starts: bool,
    }

    #[async_trait::async_trait]
    impl Agent for AlreadyStartingAgent {
        async fn start_container(
            &self,
            _: &TtrpcContext,
            _: StartContainerRequest,
        ) -> ttrpc::Result<messages::StartContainerResponse> {
            Err(ttrpc::Error::RpcStatus(ttrpc::get_status(
                Code::ALREADY_EXISTS,
                "started before",
            )))
        }

        async fn signal_container(
            &self,
            _: &TtrpcContext,
            request: SignalContainerRequest,
        ) -> ttrpc::Result<messages::SignalContainerResponse> {
            assert_eq!(request.signal, 9);
            self.kills.fetch_add(1, Ordering::Relaxed);
            Ok(messages::SignalContainerResponse::default())
        }

        async fn wait_container(
            &self,
            _: &TtrpcContext,
            _: WaitContainerRequest,
        ) -> ttrpc::Result<WaitContainerResponse> {
            let code = match self.kills.load(Ordering::Relaxed) {
                1 => Code::FAILED_PRECONDITION,
                _ if self.starts => {
                    return Ok(WaitContainerResponse {
                        signal: 9,
                        ..Default::default()
                    });
                }
                _ => Code::NOT_FOUND,
            };
            Err(ttrpc::Error::RpcStatus(ttrpc::get_status(code, "not yet")))
        }
    }

    #[tokio::test]
    async fn an_already_existing_container_is_killed_and_ends_only_when_gone() {
        for starts in [false, true] {
            let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
            let connections = futures::stream::iter([Ok(theirs)]).chain(futures::stream::pending());
            let already_starting = Arc::new(AlreadyStartingAgent {
                kills: 0.into(),
                starts,
            });
            let mut server = ttrpc::r#async::Server::new()
                .add_listener(ttrpc::r#async::transport::Listener::new(connections))
                .register_service(create_agent(Arc::clone(&already_starting) as Arc<_>));
            server.start().await.unwrap();
            let (pod, mut messages) = test_pod(true);
            let agent = AgentClientHandle::new(ours);
            let run = ContainerRun::expect(&pod, agent, ContainerAttempt::new(0, 0)).unwrap();
            run.start(StartContainerRequest::default()).await;
            assert_eq!(already_starting.kills.load(Ordering::Relaxed), 2);
            let Some(Message::Event(event)) = messages.recv().await else {
                panic!("nothing was reported")
            };
            match (starts, event) {
                (false, Event::ContainerStartFailed { reason, .. }) => assert_eq!(reason, "CreateContainerError"),
                (true, Event::ContainerExited { exit, .. }) => assert_eq!(exit.code, 137),
                (_, event) => panic!("{event:?}"),
            }
        }
    }

    /// An agent that has no start of the container, and refuses requests without layers.
    struct ForgetfulAgent;

    #[async_trait::async_trait]
    impl Agent for ForgetfulAgent {
        async fn start_container(
            &self,
            _: &TtrpcContext,
            request: StartContainerRequest,
        ) -> ttrpc::Result<messages::StartContainerResponse> {
            assert!(request.layer_ids.is_empty() && request.args.is_empty(), "{request:?}");
            let status = ttrpc::get_status(Code::INVALID_ARGUMENT, "layer_ids is empty");
            Err(ttrpc::Error::RpcStatus(status))
        }
    }

    #[tokio::test]
    async fn a_lost_start_that_cannot_be_repeated_fails_for_its_own_reason() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let connections = futures::stream::iter([Ok(theirs)]).chain(futures::stream::pending());
        let mut server = ttrpc::r#async::Server::new()
            .add_listener(ttrpc::r#async::transport::Listener::new(connections))
            .register_service(create_agent(Arc::new(ForgetfulAgent)));
        server.start().await.unwrap();
        let (pod, mut messages) = test_pod(true);
        let agent = AgentClientHandle::new(ours);
        let attempt = ContainerAttempt::new(0, 0);
        let failure = Event::ContainerConfigUnavailable {
            attempt,
            message: "configmap \"x\" not found".to_owned(),
        };
        let run = ContainerRun::expect(&pod, agent.clone(), attempt).unwrap();
        run.join_start(StartContainerRequest::default(), Some(failure.clone()))
            .await;
        assert!(matches!(messages.recv().await, Some(Message::Event(event)) if event == failure));
    }

    #[test]
    fn user_data_from_the_guest_is_validated() {
        let claimed = |uid, gid, supplemental_gids| messages::ProcessUser {
            uid,
            gid,
            supplemental_gids,
            ..Default::default()
        };
        let user = shown_user(&claimed(1, 2, vec![2, 3])).unwrap();
        assert_eq!((user.uid, user.gid, user.supplemental_gids), (1, 2, vec![2, 3]));
        for lie in [
            claimed(u32::MAX, 2, vec![]),
            claimed(1, u32::MAX, vec![]),
            claimed(1, 2, vec![u32::MAX]),
        ] {
            assert_eq!(shown_user(&lie), None);
        }
    }
}
