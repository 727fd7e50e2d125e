//! The agent's RPC service: requests in, checked, handed to the sandbox and the containers, answers out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use microkube_protocol::messages::{
    CreateSandboxRequest, CreateSandboxResponse, ShutdownRequest, ShutdownResponse, SignalContainerRequest,
    SignalContainerResponse, StartContainerRequest, StartContainerResponse, WaitContainerRequest,
    WaitContainerResponse,
};
use microkube_protocol::service::Agent;
use tokio::sync::Notify;
use ttrpc::r#async::TtrpcContext;
use ttrpc::{Code, get_status};

use crate::container::spec::FailureKind;
use crate::container::{self, Container, ContainerStarter, StartError};
use crate::log;
use crate::reaper::ExitStatus;
use crate::request::{self, InvalidRequest};
use crate::sandbox::{CheckedRequest, Sandbox};

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

/// A container id that was used.
#[derive(Debug, Clone)]
enum Slot {
    /// Being started.
    Starting,
    /// Started, and perhaps ended.
    Started(Arc<Container>),
}

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
    containers: Mutex<HashMap<String, Slot>>,
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
        Self {
            state: Arc::new(State {
                boot_times,
                starter,
                sandbox: Mutex::default(),
                containers: Mutex::default(),
                shutdown,
            }),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failure(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message))
}

fn invalid(error: InvalidRequest) -> ttrpc::Error {
    failure(Code::INVALID_ARGUMENT, error)
}

fn start_failed(error: &StartError) -> ttrpc::Error {
    let code = match error {
        StartError::Invalid(_) => Code::INVALID_ARGUMENT,
        StartError::Failed { kind, .. } => match kind {
            FailureKind::NotFound => Code::NOT_FOUND,
            FailureKind::PermissionDenied => Code::PERMISSION_DENIED,
            FailureKind::Invalid => Code::INVALID_ARGUMENT,
            FailureKind::Internal => Code::INTERNAL,
        },
        StartError::Internal(_) => Code::INTERNAL,
    };
    failure(code, error)
}

impl State {
    fn create_sandbox(&self, request: CreateSandboxRequest) -> ttrpc::Result<CreateSandboxResponse> {
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
            ..Default::default()
        })
    }

    async fn start_container(&self, request: StartContainerRequest) -> ttrpc::Result<StartContainerResponse> {
        request::start_container(&request).map_err(invalid)?;
        let SandboxState::Ready(sandbox) = lock(&self.sandbox).clone() else {
            return Err(failure(Code::FAILED_PRECONDITION, "there is no sandbox"));
        };
        let id = request.id.clone();
        if lock(&self.containers).contains_key(&id) {
            let message = format!("a container with the id {id:?} was started before");
            return Err(failure(Code::ALREADY_EXISTS, message));
        }
        lock(&self.containers).insert(id.clone(), Slot::Starting);
        match self.starter.start(&sandbox, request).await {
            Ok(container) => {
                let response = StartContainerResponse {
                    pid: u32::try_from(container.pid().as_raw()).unwrap_or(0),
                    started_boottime_ns: container.started_boottime_ns(),
                    ..Default::default()
                };
                lock(&self.containers).insert(id, Slot::Started(Arc::new(container)));
                Ok(response)
            }
            Err(error) => {
                log::error!("cannot start container {id}: {error}");
                lock(&self.containers).remove(&id);
                Err(start_failed(&error))
            }
        }
    }

    fn container(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        request::container_id(id).map_err(invalid)?;
        match lock(&self.containers).get(id) {
            Some(Slot::Started(container)) => Ok(Arc::clone(container)),
            Some(Slot::Starting) => {
                let message = format!("the container {id:?} is still being started");
                Err(failure(Code::FAILED_PRECONDITION, message))
            }
            None => Err(failure(Code::NOT_FOUND, format!("there is no container {id:?}"))),
        }
    }

    async fn end_all(&self) {
        if let Err(error) = container::kill_all() {
            log::error!("{error:#}");
        }
        let containers: Vec<_> = lock(&self.containers).values().cloned().collect();
        let all_ended = async {
            for slot in containers {
                if let Slot::Started(container) = slot {
                    // A failed watcher has said so in the log.
                    let _ = container.wait().await;
                }
            }
        };
        if tokio::time::timeout(KILL_TIMEOUT, all_ended).await.is_err() {
            log::warning!("gave up waiting for the containers to end");
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
        // A task of its own: the call is dropped when its connection ends, the container must not be left half started.
        let state = Arc::clone(&self.state);
        let started = tokio::spawn(async move { state.start_container(request).await }).await;
        started.unwrap_or_else(|error| Err(failure(Code::INTERNAL, error)))
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
        let (exit_code, signal) = match exit.status {
            ExitStatus::Code(code) => (code.into(), 0),
            ExitStatus::Signal(signal) => (0, signal.into()),
        };
        Ok(WaitContainerResponse {
            exit_code,
            signal,
            oom_killed: exit.oom_killed,
            ..Default::default()
        })
    }

    async fn signal_container(
        &self,
        _: &TtrpcContext,
        request: SignalContainerRequest,
    ) -> ttrpc::Result<SignalContainerResponse> {
        let signal = request::signal(request.signal).map_err(invalid)?;
        let container = self.state.container(&request.id)?;
        container.signal(signal).map_err(|error| {
            let message = format!("cannot send signal {signal} to container {:?}: {error}", request.id);
            failure(Code::INTERNAL, message)
        })?;
        Ok(SignalContainerResponse::default())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: ShutdownRequest) -> ttrpc::Result<ShutdownResponse> {
        log::info!("shutting down");
        self.state.end_all().await;
        self.state.shutdown.notify_one();
        Ok(ShutdownResponse::default())
    }
}
