//! The agent's RPC service: checks requests, passes them to the sandbox and the containers, and answers them.

mod operations;
mod status;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use microkube_protocol::AGENT_VERSIONS;
use microkube_protocol::messages::{
    AddLayersRequest, AddLayersResponse, ConnectPortRequest, ConnectPortResponse, ContainerSummary,
    CreateSandboxRequest, CreateSandboxResponse, ListContainersRequest, ListContainersResponse, ReadVolumeFileRequest,
    ReadVolumeFileResponse, RemoveContainerRequest, RemoveContainerResponse, ResizeTerminalRequest,
    ResizeTerminalResponse, ShutdownRequest, ShutdownResponse, SignalContainerRequest, SignalContainerResponse,
    SignalProcessRequest, SignalProcessResponse, StartContainerRequest, StartContainerResponse, StartProcessRequest,
    StartProcessResponse, StatsRequest, StatsResponse, WaitContainerRequest, WaitContainerResponse, WaitProcessRequest,
    WaitProcessResponse, WatchStorageRequest, WatchStorageResponse, WriteFileVolumeRequest, WriteFileVolumeResponse,
};
use microkube_protocol::service::Agent;
use tokio::sync::Notify;
use ttrpc::Code;
use ttrpc::r#async::TtrpcContext;

use crate::container::{Container, ContainerStarter, Process, ProcessExit};
use crate::host::Host;
use crate::log;
use crate::port::PortConnections;
use crate::registry::Registry;
use crate::request_field;
use crate::sandbox::{self, Sandbox};
use crate::start_order::StartOrder;
use crate::under_way::UnderWay;

use status::{check_versions, exit_fields, failure, invalid};

/// When the agent started (CLOCK_BOOTTIME).
#[derive(Debug, Clone, Copy)]
pub struct BootTimes {
    /// When `main` began.
    pub start_ns: u64,
    /// When the agent was ready to serve.
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
    port_connections: PortConnections,
    start_order: StartOrder,
    starts: UnderWay<ttrpc::Result<StartContainerResponse>>,
    shutdown: Arc<Notify>,
}

#[derive(Debug, Clone, Default)]
enum SandboxState {
    #[default]
    Absent,
    /// The sandbox is being created, or its creation failed.
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
            port_connections: PortConnections::default(),
            start_order: StartOrder::default(),
            starts: UnderWay::default(),
            shutdown,
        });
        tokio::spawn(forget_orphans(Arc::clone(&state)));
        Self { state }
    }
}

/// Removes the processes that an earlier supervisor started once they end, because no supervisor requests them any
/// more.
async fn forget_orphans(state: Arc<State>) {
    let mut host = state.starter.supervisors.host();
    loop {
        host.taken_over().await;
        for (id, process) in state.processes.all() {
            forget_if_orphan(&state, id, process);
        }
    }
}

/// Removes a process when it ends, if it was started for an earlier supervisor.
fn forget_if_orphan(state: &Arc<State>, id: String, process: Arc<Process>) {
    if process.generation() == state.starter.supervisors.generation() {
        return;
    }
    let state = Arc::clone(state);
    tokio::spawn(async move {
        // If the watcher failed, the wait is over as well.
        let _ = process.wait().await;
        state.processes.remove(&id, &process);
    });
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
        // supervisor requests the start again.
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
        // Read this list first, so that a start that succeeds meanwhile appears in both lists.
        let mut starting = self.state.starts.ids();
        let containers = self.state.containers.all();
        // A supervisor of version 0 treats all listed containers as started, so its list omits those that are starting.
        // It requests their starts again, and gets the answers to the first requests.
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
        // Use a separate task: the call is dropped when its connection ends, but the process must not be left half
        // started.
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

    async fn watch_storage(
        &self,
        _: &TtrpcContext,
        request: WatchStorageRequest,
    ) -> ttrpc::Result<WatchStorageResponse> {
        Ok(WatchStorageResponse {
            used: self.state.watch_storage(request).await?,
            ..Default::default()
        })
    }

    async fn connect_port(&self, _: &TtrpcContext, request: ConnectPortRequest) -> ttrpc::Result<ConnectPortResponse> {
        self.state.connect_port(&request).await?;
        Ok(ConnectPortResponse::default())
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
