//! The agent's RPC service: checks requests, passes them to the sandbox and the containers, and answers them.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use microkube_protocol::messages::{
    AddLayersRequest, AddLayersResponse, ContainerStats, ContainerSummary, CreateSandboxRequest, CreateSandboxResponse,
    FileProjection, ListContainersRequest, ListContainersResponse, ProcessUser, ProtocolVersions,
    ReadVolumeFileRequest, ReadVolumeFileResponse, RemoveContainerRequest, RemoveContainerResponse,
    ResizeTerminalRequest, ResizeTerminalResponse, ShutdownRequest, ShutdownResponse, SignalContainerRequest,
    SignalContainerResponse, SignalProcessRequest, SignalProcessResponse, StartContainerRequest,
    StartContainerResponse, StartProcessRequest, StartProcessResponse, StatsRequest, StatsResponse,
    WaitContainerRequest, WaitContainerResponse, WaitProcessRequest, WaitProcessResponse, WriteFileVolumeRequest,
    WriteFileVolumeResponse,
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
use crate::sandbox::{self, CheckedRequest, DeviceTooSmall, ReadError, Sandbox, WriteError};
use crate::start_order::StartOrder;
use crate::under_way::UnderWay;

/// How long a shutdown waits for containers whose processes were killed and whose output is still in flight. It takes
/// that long only if the host has stopped reading.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// When the agent came up (CLOCK_BOOTTIME).
#[derive(Debug, Clone, Copy)]
pub struct BootTimes {
    /// When main began.
    pub start_ns: u64,
    /// When it was ready to serve.
    pub ready_ns: u64,
}

/// Maximum number of containers that are kept, including those that have ended but were not removed. A Pod has dozens,
/// and one previous attempt of each.
const MAX_CONTAINERS: usize = 512;

/// Maximum number of exec processes at a time.
const MAX_PROCESSES: usize = 256;

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
    /// It is being created, or its creation failed.
    Unusable,
    Ready(Arc<Sandbox>),
}

impl AgentService {
    /// A service without a sandbox. `shutdown` is notified when everything has ended and the VM may be reset.
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

/// The protocol version that both sides use.
fn check_versions(supervisor: Option<&ProtocolVersions>) -> ttrpc::Result<u32> {
    let agreed = AGENT_VERSIONS.agree(Versions::from(supervisor));
    agreed.map_err(|NoCommonVersion { own, peer }| {
        let message = format!("the supervisor speaks protocol {peer}, this agent {own}");
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

/// Exit code and signal in the form of the answers.
fn exit_fields(status: ExitStatus) -> (u32, u32) {
    match status {
        ExitStatus::Code(code) => (code.into(), 0),
        ExitStatus::Signal(signal) => (0, signal.into()),
    }
}

/// No supervisor asks for processes that an earlier one started, so they are forgotten when they end.
async fn forget_orphans(state: Arc<State>) {
    let mut host = state.starter.supervisors.host();
    loop {
        host.taken_over().await;
        for (id, process) in state.processes.all() {
            forget_if_orphan(&state, id, process);
        }
    }
}

/// Makes sure that a process is forgotten when it ends, if it was started for an earlier supervisor.
fn forget_if_orphan(state: &Arc<State>, id: String, process: Arc<Process>) {
    if process.generation() == state.starter.supervisors.generation() {
        return;
    }
    let state = Arc::clone(state);
    tokio::spawn(async move {
        // If the watcher failed, there is nothing left to wait for either.
        let _ = process.wait().await;
        state.processes.remove(&id, &process);
    });
}

/// Whether a start was cancelled at the very moment it succeeded.
fn was_notified(unwanted: &Notify) -> bool {
    unwanted.notified().now_or_never().is_some()
}

fn kill(id: &str, signal: impl FnOnce() -> io::Result<()>) {
    if let Err(error) = signal() {
        log::error!("cannot kill {id}: {error}");
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
        // Nothing has been created that could become a process.
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
            return Err(failure(Code::ALREADY_EXISTS, "the sandbox already exists"));
        }
        *sandbox = SandboxState::Unusable;
        let created = Sandbox::create(&checked, &self.starter.launcher).map_err(|error| {
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

    fn sandbox(&self) -> ttrpc::Result<Arc<Sandbox>> {
        match lock(&self.sandbox).clone() {
            SandboxState::Ready(sandbox) => Ok(sandbox),
            _ => Err(failure(Code::FAILED_PRECONDITION, "no sandbox exists")),
        }
    }

    async fn write_file_volume(&self, request: WriteFileVolumeRequest) -> ttrpc::Result<()> {
        let name = request.volume.clone();
        let volume = self.sandbox()?.file_volume(&name).map_err(invalid)?;
        // Thousands of small files take a while. If the connection ends meanwhile, they are still written.
        let written = tokio::task::spawn_blocking(move || volume.receive(request)).await;
        written
            .map_err(|error| failure(Code::INTERNAL, error))?
            .map_err(|error| {
                let code = match error {
                    WriteError::Invalid(_) => Code::INVALID_ARGUMENT,
                    WriteError::Failed(_) => Code::INTERNAL,
                };
                failure(code, format!("cannot write the files of the volume {name:?}: {error}"))
            })
    }

    async fn read_volume_file(&self, request: ReadVolumeFileRequest) -> ttrpc::Result<FileProjection> {
        request_field::volume_path("path", &request.path).map_err(invalid)?;
        let directory = self.sandbox()?.empty_dir(&request.volume).map_err(invalid)?;
        let path = request.path.clone();
        let read = tokio::task::spawn_blocking(move || sandbox::read_volume_file(&directory, &path)).await;
        let content = read.map_err(|error| failure(Code::INTERNAL, error))?.map_err(|error| {
            let code = match error {
                ReadError::NotFound => Code::NOT_FOUND,
                ReadError::Outside | ReadError::NotRegular | ReadError::TooLong => Code::INVALID_ARGUMENT,
                ReadError::Io(_) => Code::INTERNAL,
            };
            let ReadVolumeFileRequest { volume, path, .. } = &request;
            failure(code, format!("cannot read {path:?} in the volume {volume:?}: {error}"))
        })?;
        Ok(FileProjection {
            content,
            ..Default::default()
        })
    }

    async fn add_layers(&self, request: AddLayersRequest) -> ttrpc::Result<()> {
        sandbox::check_layers(&request.layers).map_err(invalid)?;
        let sandbox = self.sandbox()?;
        let added = tokio::task::spawn_blocking(move || sandbox.add_layers(&request.layers)).await;
        let added = added.map_err(|error| failure(Code::INTERNAL, error))?;
        added.map_err(|error| {
            let code = match error.downcast_ref::<DeviceTooSmall>() {
                Some(_) => Code::DEADLINE_EXCEEDED,
                None => Code::INTERNAL,
            };
            failure(code, format!("cannot add layers: {error:#}"))
        })
    }

    /// Starts a container. For one that has been started, repeats the answer.
    async fn start_container(&self, request: StartContainerRequest) -> ttrpc::Result<StartContainerResponse> {
        if let Ok(container) = self.containers.get(&request.id) {
            return Ok(started(&container));
        }
        let (_start, turn) = self.start_order.begin(&request.id, &request.start_after);
        request::start_container(&request).map_err(invalid)?;
        let sandbox = self.sandbox()?;
        let target = match request.pid_namespace_of.as_str() {
            "" => None,
            target => {
                let target = self.containers.get(target);
                Some(target.map_err(|error| failure(Code::FAILED_PRECONDITION, error))?)
            }
        };
        let id = request.id.clone();
        let reservation = self.containers.reserve(&id).map_err(|error| unusable(&error))?;
        let turn = turn.map(|turn| self.start_order.come(turn));
        let unwanted = reservation.unwanted();
        let started_container = self
            .starter
            .start(&sandbox, request, target, Arc::clone(&unwanted), turn)
            .await;
        match started_container {
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
        // In these answers, NOT_FOUND refers to the command.
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
        // A new supervisor may have taken over meanwhile.
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
                format!("container {id:?} is still running"),
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
                // It is just ending, or the kernel has no such controller.
                Some(Err(error)) => log::warning!("cannot read the resource usage of {id}: {error:#}"),
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
            // A watcher that failed has logged that.
            for (_, process) in &processes {
                let _ = process.wait().await;
            }
            for (_, container) in &containers {
                let _ = container.wait().await;
            }
        };
        if tokio::time::timeout(KILL_TIMEOUT, all_ended).await.is_err() {
            log::warning!("timed out waiting for containers to end and the host to read their output");
            // The supervisor will not read the output any more.
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

    async fn write_file_volume(
        &self,
        _: &TtrpcContext,
        request: WriteFileVolumeRequest,
    ) -> ttrpc::Result<WriteFileVolumeResponse> {
        self.state.write_file_volume(request).await?;
        Ok(WriteFileVolumeResponse::default())
    }

    async fn read_volume_file(
        &self,
        _: &TtrpcContext,
        request: ReadVolumeFileRequest,
    ) -> ttrpc::Result<ReadVolumeFileResponse> {
        Ok(ReadVolumeFileResponse {
            file: Some(self.state.read_volume_file(request).await?).into(),
            ..Default::default()
        })
    }

    async fn add_layers(&self, _: &TtrpcContext, request: AddLayersRequest) -> ttrpc::Result<AddLayersResponse> {
        self.state.add_layers(request).await?;
        Ok(AddLayersResponse::default())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: StartContainerRequest,
    ) -> ttrpc::Result<StartContainerResponse> {
        // The start continues if its connection ends, so that the container is not left half started. The next
        // supervisor requests it again.
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
        // A start that a supervisor requested before it died is usually over soon.
        self.state.start_order.all_over().await;
        // Listed first: a start that succeeds meanwhile then appears in both lists.
        let mut starting = self.state.starts.ids();
        let containers = self.state.containers.all();
        // A supervisor of version 0 treats everything listed as started. It requests the start again, and gets the
        // answer to the first request.
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
        // A separate task, because the call is dropped when its connection ends, and the process must
        // not be left half started.
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

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<ShutdownResponse> {
        log::info!("shutting down");
        self.state.end_all().await;
        if request.keep_volumes {
            let synced = tokio::task::spawn_blocking(sandbox::sync_scratch).await;
            if let Err(error) = synced.map_err(anyhow::Error::from).flatten() {
                log::error!("{error:#}");
            }
        }
        self.state.shutdown.notify_one();
        Ok(ShutdownResponse::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervisors_with_a_common_version_are_served() {
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
            "the supervisor speaks protocol versions 7 to 9, this agent versions 0 to 4"
        );
    }
}
