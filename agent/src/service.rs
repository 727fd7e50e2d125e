//! The agent's RPC service: requests in, checked, handed to the sandbox and the containers, answers out.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use microkube_protocol::messages::{
    ContainerStats, ContainerSummary, CreateSandboxRequest, CreateSandboxResponse, ListContainersRequest,
    ListContainersResponse, ProcessUser, ProtocolVersions, RemoveContainerRequest, RemoveContainerResponse,
    ResizeTerminalRequest, ResizeTerminalResponse, ShutdownRequest, ShutdownResponse, SignalContainerRequest,
    SignalContainerResponse, SignalProcessRequest, SignalProcessResponse, StartContainerRequest,
    StartContainerResponse, StartProcessRequest, StartProcessResponse, StatsRequest, StatsResponse,
    WaitContainerRequest, WaitContainerResponse, WaitProcessRequest, WaitProcessResponse,
};
use microkube_protocol::service::Agent;
use microkube_protocol::{AGENT_VERSIONS, NoCommonVersion, Versions};
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;
use ttrpc::{Code, get_status};

use crate::container::spec::FailureKind;
use crate::container::{self, Container, ContainerStarter, Process, ProcessExit, StartError, User};
use crate::host::Host;
use crate::lock::lock;
use crate::log;
use crate::reaper::ExitStatus;
use crate::registry::{Registry, RegistryError};
use crate::request;
use crate::request_field::{self, InvalidRequest};
use crate::sandbox::{CheckedRequest, Sandbox};
use crate::start_order::StartOrder;
use crate::under_way::UnderWay;

/// How long a shutdown waits for containers whose processes were killed and whose output is on its way. Longer only where
/// the host has stopped to read.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// When the agent came up, CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy)]
pub struct BootTimes {
    /// Begin of main.
    pub start_ns: u64,
    /// Ready to serve.
    pub ready_ns: u64,
}

/// Most containers that are kept, those that have ended and were not removed included. A Pod has tens, and one attempt of each
/// before the present one.
const MAX_CONTAINERS: usize = 512;

/// Most further processes at a time.
const MAX_PROCESSES: usize = 256;

/// The service.
#[derive(Debug)]
pub struct AgentService {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    boot_times: BootTimes,
    starter: ContainerStarter,
    sandbox: Mutex<SandboxState>,
    containers: Registry<Container>,
    processes: Registry<Process>,
    start_order: StartOrder,
    starts: UnderWay<ttrpc::Result<StartContainerResponse>>,
    shutdown: Arc<Notify>,
}

#[derive(Debug, Clone, Default)]
enum SandboxState {
    #[default]
    Absent,
    /// Its creation failed, or it is being created.
    Unusable,
    Ready(Arc<Sandbox>),
}

impl AgentService {
    /// A service without a sandbox. `shutdown` is notified once everything is ended and the machine may go.
    pub fn new(boot_times: BootTimes, starter: ContainerStarter, shutdown: Arc<Notify>) -> Self {
        let state = Arc::new(State {
            boot_times,
            starter,
            sandbox: Mutex::default(),
            containers: Registry::new("container", MAX_CONTAINERS),
            processes: Registry::new("process", MAX_PROCESSES),
            start_order: StartOrder::default(),
            starts: UnderWay::default(),
            shutdown,
        });
        tokio::spawn(forget_orphans(Arc::clone(&state)));
        Self { state }
    }
}

fn failure(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message))
}

fn invalid(error: InvalidRequest) -> ttrpc::Error {
    failure(Code::INVALID_ARGUMENT, error)
}

/// The version of the protocol that both speak.
fn check_versions(supervisor: Option<&ProtocolVersions>) -> ttrpc::Result<u32> {
    let agreed = AGENT_VERSIONS.agree(Versions::from(supervisor));
    agreed.map_err(|NoCommonVersion { own, peer }| {
        let message = format!("the supervisor speaks {peer} of the agent's protocol, this agent {own}");
        failure(Code::FAILED_PRECONDITION, message)
    })
}

fn unusable(error: &RegistryError) -> ttrpc::Error {
    let code = match error {
        RegistryError::Used { .. } => Code::ALREADY_EXISTS,
        RegistryError::Unknown { .. } => Code::NOT_FOUND,
        RegistryError::Starting { .. } => Code::FAILED_PRECONDITION,
        RegistryError::Full { .. } => Code::RESOURCE_EXHAUSTED,
    };
    failure(code, error)
}

/// Exit code and signal as the answers have them.
fn exit_fields(status: ExitStatus) -> (u32, u32) {
    match status {
        ExitStatus::Code(code) => (code.into(), 0),
        ExitStatus::Signal(signal) => (0, signal.into()),
    }
}

/// Nobody asks for the processes that an earlier supervisor has started: they are forgotten when they end.
async fn forget_orphans(state: Arc<State>) {
    let mut host = state.starter.supervisors.host();
    loop {
        host.taken_over().await;
        for (id, process) in state.processes.all() {
            forget_if_orphan(&state, id, process);
        }
    }
}

/// Has a process forgotten when it ends, if it was started for an earlier supervisor.
fn forget_if_orphan(state: &Arc<State>, id: String, process: Arc<Process>) {
    if process.generation() == state.starter.supervisors.generation() {
        return;
    }
    let state = Arc::clone(state);
    tokio::spawn(async move {
        // A failed watcher leaves nothing to wait for either.
        let _ = process.wait().await;
        state.processes.remove(&id, &process);
    });
}

/// Whether a start was given up in the very moment in which it succeeded.
fn was_notified(unwanted: &Notify) -> bool {
    unwanted.notified().now_or_never().is_some()
}

fn kill(id: &str, signal: impl FnOnce() -> io::Result<()>) {
    if let Err(error) = signal() {
        log::error!("{id} cannot be killed: {error}");
    }
}

fn process_user(user: &User) -> ProcessUser {
    ProcessUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_gids: user.groups.clone(),
        ..Default::default()
    }
}

fn started(container: &Container) -> StartContainerResponse {
    StartContainerResponse {
        pid: u32::try_from(container.pid().as_raw()).unwrap_or(0),
        started_boottime_ns: container.started_boottime_ns(),
        user: Some(process_user(container.user())).into(),
        ..Default::default()
    }
}

fn start_failed(error: &StartError) -> ttrpc::Error {
    let code = match error {
        StartError::Invalid(_) => Code::INVALID_ARGUMENT,
        StartError::Failed { kind, .. } => match kind {
            FailureKind::NotFound => Code::NOT_FOUND,
            FailureKind::PermissionDenied => Code::PERMISSION_DENIED,
            FailureKind::UnknownUser => Code::INVALID_ARGUMENT,
            FailureKind::SubPath => Code::ABORTED,
            FailureKind::Internal => Code::INTERNAL,
        },
        StartError::NotRunning(_) => Code::FAILED_PRECONDITION,
        StartError::GivenUp => Code::CANCELLED,
        StartError::TimedOut => Code::DEADLINE_EXCEEDED,
        StartError::Internal(_) => Code::INTERNAL,
    };
    match error {
        // Nothing was to become a process yet.
        StartError::Failed {
            kind: FailureKind::UnknownUser | FailureKind::SubPath,
            message,
        } => failure(code, message),
        _ => failure(code, error),
    }
}

impl State {
    fn create_sandbox(&self, request: CreateSandboxRequest) -> ttrpc::Result<CreateSandboxResponse> {
        check_versions(request.versions.as_ref())?;
        let checked = CheckedRequest::new(request).map_err(invalid)?;
        let mut sandbox = lock(&self.sandbox);
        if !matches!(*sandbox, SandboxState::Absent) {
            return Err(failure(Code::ALREADY_EXISTS, "the sandbox was created before"));
        }
        *sandbox = SandboxState::Unusable;
        let created = Sandbox::create(&checked).map_err(|error| {
            log::error!("cannot create the sandbox: {error:#}");
            failure(Code::INTERNAL, format!("cannot create the sandbox: {error:#}"))
        })?;
        *sandbox = SandboxState::Ready(Arc::new(created));
        Ok(CreateSandboxResponse {
            agent_start_boottime_ns: self.boot_times.start_ns,
            agent_ready_boottime_ns: self.boot_times.ready_ns,
            versions: Some(AGENT_VERSIONS.into()).into(),
            ..Default::default()
        })
    }

    /// Starts a container; one that was started before is answered for again.
    async fn start_container(&self, request: StartContainerRequest) -> ttrpc::Result<StartContainerResponse> {
        if let Ok(container) = self.containers.get(&request.id) {
            return Ok(started(&container));
        }
        let (_start, turn) = self.start_order.begin(&request.id, &request.start_after);
        request::start_container(&request).map_err(invalid)?;
        let SandboxState::Ready(sandbox) = lock(&self.sandbox).clone() else {
            return Err(failure(Code::FAILED_PRECONDITION, "there is no sandbox"));
        };
        let id = request.id.clone();
        let reservation = self.containers.reserve(&id).map_err(|error| unusable(&error))?;
        let turn = turn.map(|turn| self.start_order.come(turn));
        let unwanted = reservation.unwanted();
        match self.starter.start(&sandbox, request, Arc::clone(&unwanted), turn).await {
            Ok(container) => {
                let container = reservation.fill(container);
                if was_notified(&unwanted) {
                    kill(&id, || container.signal(libc::SIGKILL));
                }
                Ok(started(&container))
            }
            Err(error) => {
                log::error!("cannot start container {id}: {error}");
                Err(start_failed(&error))
            }
        }
    }

    async fn start_process(self: &Arc<Self>, request: StartProcessRequest) -> ttrpc::Result<StartProcessResponse> {
        let container_id = request.container_id.clone();
        let request = request::start_process(request).map_err(invalid)?;
        let id = request.id.clone();
        // NOT_FOUND means here that the command was not.
        let container = self
            .containers
            .get(&container_id)
            .map_err(|error| failure(Code::FAILED_PRECONDITION, error))?;
        let reservation = self.processes.reserve(&request.id).map_err(|error| unusable(&error))?;
        let unwanted = reservation.unwanted();
        let started = self.starter.start_process(&container, request, Arc::clone(&unwanted));
        let process = started.await;
        let process = process.map_err(|error| start_failed(&error))?;
        let pid = u32::try_from(process.pid().as_raw()).unwrap_or(0);
        let process = reservation.fill(process);
        if was_notified(&unwanted) {
            kill(&id, || process.signal(libc::SIGKILL));
        }
        // Another supervisor may have taken over meanwhile.
        forget_if_orphan(self, id, process);
        Ok(StartProcessResponse {
            pid,
            ..Default::default()
        })
    }

    fn container(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        request_field::container_id(id).map_err(invalid)?;
        self.containers.get(id).map_err(|error| unusable(&error))
    }

    fn process(&self, id: &str) -> ttrpc::Result<Arc<Process>> {
        request_field::process_id(id).map_err(invalid)?;
        self.processes.get(id).map_err(|error| unusable(&error))
    }

    async fn remove_container(&self, id: &str) -> ttrpc::Result<()> {
        request_field::container_id(id).map_err(invalid)?;
        let container = match self.containers.get(id) {
            Err(RegistryError::Unknown { .. }) => return Ok(()),
            container => container.map_err(|error| unusable(&error))?,
        };
        if !container.has_ended() {
            return Err(failure(
                Code::FAILED_PRECONDITION,
                format!("the container {id:?} still runs"),
            ));
        }
        container.remove().await;
        self.containers.remove(id, &container);
        Ok(())
    }

    fn stats(&self) -> StatsResponse {
        let mut response = StatsResponse::default();
        for (id, container) in self.containers.all() {
            match container.usage() {
                Some(Ok(usage)) => response.containers.push(ContainerStats {
                    id,
                    cpu_usage_us: usage.cpu_usage_us,
                    memory_working_set_bytes: usage.memory_working_set_bytes,
                    ..Default::default()
                }),
                // It ends at this moment, or the kernel has no such controller.
                Some(Err(error)) => log::warning!("cannot tell what {id} uses: {error:#}"),
                None => {}
            }
        }
        response
    }

    fn resize(&self, request: &ResizeTerminalRequest) -> ttrpc::Result<()> {
        let size = request_field::terminal_size(request.size.as_ref()).map_err(invalid)?;
        let resized = match (request.container_id.as_str(), request.process_id.as_str()) {
            (id, "") => self.container(id)?.terminal().resize(size),
            ("", id) => self.process(id)?.terminal().resize(size),
            _ => {
                let message = "a terminal belongs to a container or to a process, not to both";
                return Err(failure(Code::INVALID_ARGUMENT, message));
            }
        };
        match resized {
            Ok(true) => Ok(()),
            Ok(false) => Err(failure(Code::FAILED_PRECONDITION, "there is no terminal")),
            Err(error) => Err(failure(Code::INTERNAL, format!("cannot resize the terminal: {error}"))),
        }
    }

    async fn end_all(&self) {
        if let Err(error) = container::kill_all() {
            log::error!("{error:#}");
        }
        let (containers, processes) = (self.containers.all(), self.processes.all());
        let all_ended = async {
            // A failed watcher has said so in the log.
            for (_, process) in &processes {
                let _ = process.wait().await;
            }
            for (_, container) in &containers {
                let _ = container.wait().await;
            }
        };
        if tokio::time::timeout(KILL_TIMEOUT, all_ended).await.is_err() {
            log::warning!("gave up waiting for the containers to end and for the host to take their output");
            // Nobody will take it any more.
            processes.iter().for_each(|(_, process)| process.abandon_output());
            containers.iter().for_each(|(_, container)| container.abandon_output());
        }
    }
}

#[async_trait]
impl Agent for AgentService {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<CreateSandboxResponse> {
        self.state.create_sandbox(request)
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: StartContainerRequest,
    ) -> ttrpc::Result<StartContainerResponse> {
        // It goes on when its connection ends: the container must not be left half started. The next supervisor asks for it again.
        let (state, id) = (Arc::clone(&self.state), request.id.clone());
        let start = async move { state.start_container(request).await };
        let broken = |error| Err(failure(Code::INTERNAL, error));
        self.state.starts.join(&id, start, broken).await
    }

    async fn wait_container(
        &self,
        _: &TtrpcContext,
        request: WaitContainerRequest,
    ) -> ttrpc::Result<WaitContainerResponse> {
        let container = self.state.container(&request.id)?;
        let exit = container
            .wait()
            .await
            .map_err(|error| failure(Code::INTERNAL, format!("{error:#}")))?;
        let (exit_code, signal) = exit_fields(exit.status);
        Ok(WaitContainerResponse {
            exit_code,
            signal,
            oom_killed: exit.oom_killed,
            termination_message: exit.termination_message.clone(),
            finished_boottime_ns: exit.finished_boottime_ns,
            ..Default::default()
        })
    }

    async fn signal_container(
        &self,
        _: &TtrpcContext,
        request: SignalContainerRequest,
    ) -> ttrpc::Result<SignalContainerResponse> {
        let signal = request_field::signal(request.signal).map_err(invalid)?;
        if signal == libc::SIGKILL && self.state.containers.give_up_start(&request.id) {
            return Ok(SignalContainerResponse::default());
        }
        let container = self.state.container(&request.id)?;
        container.signal(signal).map_err(|error| {
            let message = format!("cannot send signal {signal} to container {:?}: {error}", request.id);
            failure(Code::INTERNAL, message)
        })?;
        Ok(SignalContainerResponse::default())
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: RemoveContainerRequest,
    ) -> ttrpc::Result<RemoveContainerResponse> {
        self.state.remove_container(&request.id).await?;
        Ok(RemoveContainerResponse::default())
    }

    async fn list_containers(
        &self,
        _: &TtrpcContext,
        request: ListContainersRequest,
    ) -> ttrpc::Result<ListContainersResponse> {
        let version = check_versions(request.versions.as_ref())?;
        // A start that a supervisor has asked for before it died is mostly over soon.
        self.state.start_order.all_over().await;
        // These first: a start that succeeds meanwhile is among both.
        let mut starting = self.state.starts.ids();
        let containers = self.state.containers.all();
        // Version 0 takes what is listed for started; it asks for the start again, and gets the answer of the first.
        starting.retain(|id| version >= 1 && containers.iter().all(|(other, _)| other != id));
        let starting = starting.into_iter().map(|id| ContainerSummary {
            id,
            starting: true,
            ..Default::default()
        });
        let started = containers.into_iter().map(|(id, container)| ContainerSummary {
            id,
            ended: container.is_done(),
            started_boottime_ns: container.started_boottime_ns(),
            ..Default::default()
        });
        Ok(ListContainersResponse {
            versions: Some(AGENT_VERSIONS.into()).into(),
            containers: started.chain(starting).collect(),
            ..Default::default()
        })
    }

    async fn start_process(
        &self,
        _: &TtrpcContext,
        request: StartProcessRequest,
    ) -> ttrpc::Result<StartProcessResponse> {
        // A task of its own: the call is dropped when its connection ends, the process must not be left half started.
        let state = Arc::clone(&self.state);
        let started = tokio::spawn(async move { state.start_process(request).await }).await;
        started.unwrap_or_else(|error| Err(failure(Code::INTERNAL, error)))
    }

    async fn wait_process(&self, _: &TtrpcContext, request: WaitProcessRequest) -> ttrpc::Result<WaitProcessResponse> {
        let process = self.state.process(&request.process_id)?;
        let ProcessExit { status, timed_out } = process
            .wait()
            .await
            .map_err(|error| failure(Code::INTERNAL, format!("{error:#}")))?;
        self.state.processes.remove(&request.process_id, &process);
        let (exit_code, signal) = exit_fields(status);
        Ok(WaitProcessResponse {
            exit_code,
            signal,
            timed_out,
            ..Default::default()
        })
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: SignalProcessRequest,
    ) -> ttrpc::Result<SignalProcessResponse> {
        let signal = request_field::signal(request.signal).map_err(invalid)?;
        if signal == libc::SIGKILL && self.state.processes.give_up_start(&request.process_id) {
            return Ok(SignalProcessResponse::default());
        }
        let process = self.state.process(&request.process_id)?;
        process.signal(signal).map_err(|error| {
            let message = format!(
                "cannot send signal {signal} to process {:?}: {error}",
                request.process_id
            );
            failure(Code::INTERNAL, message)
        })?;
        Ok(SignalProcessResponse::default())
    }

    async fn resize_terminal(
        &self,
        _: &TtrpcContext,
        request: ResizeTerminalRequest,
    ) -> ttrpc::Result<ResizeTerminalResponse> {
        self.state.resize(&request)?;
        Ok(ResizeTerminalResponse::default())
    }

    async fn stats(&self, _: &TtrpcContext, _: StatsRequest) -> ttrpc::Result<StatsResponse> {
        Ok(self.state.stats())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<ShutdownResponse> {
        log::info!("shutting down");
        self.state.end_all().await;
        self.state.shutdown.notify_one();
        Ok(ShutdownResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervisors_of_older_and_newer_builds_are_served_if_they_speak_a_version_of_this_one() {
        let said = |oldest, newest| ProtocolVersions {
            oldest,
            newest,
            ..Default::default()
        };
        check_versions(None).unwrap();
        check_versions(Some(&said(0, 1))).unwrap();
        check_versions(Some(&said(1, 9))).unwrap();
        let ttrpc::Error::RpcStatus(status) = check_versions(Some(&said(7, 9))).unwrap_err() else {
            panic!("no status")
        };
        assert_eq!(status.code(), Code::FAILED_PRECONDITION);
        assert_eq!(
            status.message,
            "the supervisor speaks versions 7 to 9 of the agent's protocol, this agent versions 0 to 1"
        );
    }
}
