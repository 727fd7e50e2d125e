//! The operations of the calls on the sandbox, the containers and the exec processes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use microkube_protocol::AGENT_VERSIONS;
use microkube_protocol::messages::{
    AddLayersRequest, ConnectPortRequest, ContainerStats, CreateSandboxRequest, CreateSandboxResponse, FileProjection,
    ReadVolumeFileRequest, ResizeTerminalRequest, StartContainerRequest, StartContainerResponse, StartProcessRequest,
    StartProcessResponse, StatsResponse, StorageUsage, WatchStorageRequest, WriteFileVolumeRequest,
};
use tokio::sync::Notify;
use ttrpc::Code;

use super::status::{check_versions, failure, invalid, start_failed, started, unusable};
use super::{SandboxState, State, forget_if_orphan};
use crate::container::{self, Container, Process};
use crate::lock::lock;
use crate::log;
use crate::port::ConnectError;
use crate::registry::RegistryError;
use crate::request;
use crate::request_field;
use crate::sandbox::{self, CheckedRequest, DeviceTooSmall, DiskUsage, ReadError, Sandbox, WriteError};

/// How long a shutdown waits for containers whose processes were killed and whose output is still in flight. The
/// shutdown takes this long only if the host has stopped reading.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest time between two looks at the usage of the disk.
const MIN_STORAGE_INTERVAL: Duration = Duration::from_millis(100);

/// Whether a start was cancelled in the moment when it succeeded.
fn was_notified(unwanted: &Notify) -> bool {
    unwanted.notified().now_or_never().is_some()
}

fn kill(id: &str, signal: impl FnOnce() -> io::Result<()>) {
    if let Err(error) = signal() {
        log::error!("cannot kill {id}: {error}");
    }
}

impl State {
    pub fn create_sandbox(&self, request: CreateSandboxRequest) -> ttrpc::Result<CreateSandboxResponse> {
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

    pub fn sandbox(&self) -> ttrpc::Result<Arc<Sandbox>> {
        match lock(&self.sandbox).clone() {
            SandboxState::Ready(sandbox) => Ok(sandbox),
            _ => Err(failure(Code::FAILED_PRECONDITION, "no sandbox exists")),
        }
    }

    pub async fn write_file_volume(&self, request: WriteFileVolumeRequest) -> ttrpc::Result<()> {
        let name = request.volume.clone();
        let volume = self.sandbox()?.file_volume(&name).map_err(invalid)?;
        // Thousands of small files take a while. They are written even if the connection ends meanwhile.
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

    pub async fn read_volume_file(&self, request: ReadVolumeFileRequest) -> ttrpc::Result<FileProjection> {
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

    pub async fn add_layers(&self, request: AddLayersRequest) -> ttrpc::Result<()> {
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

    /// Starts a container. If the container was already started, repeats the answer.
    pub async fn start_container(&self, request: StartContainerRequest) -> ttrpc::Result<StartContainerResponse> {
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

    pub async fn start_process(self: &Arc<Self>, request: StartProcessRequest) -> ttrpc::Result<StartProcessResponse> {
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

    pub fn container(&self, id: &str) -> ttrpc::Result<Arc<Container>> {
        request_field::container_id(id).map_err(invalid)?;
        self.containers.get(id).map_err(|error| unusable(&error))
    }

    pub fn process(&self, id: &str) -> ttrpc::Result<Arc<Process>> {
        request_field::process_id(id).map_err(invalid)?;
        self.processes.get(id).map_err(|error| unusable(&error))
    }

    pub async fn remove_container(&self, id: &str) -> ttrpc::Result<()> {
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

    pub fn stats(&self) -> StatsResponse {
        let mut response = StatsResponse::default();
        for (id, container) in self.containers.all() {
            match container.usage() {
                Some(Ok(usage)) => response.containers.push(ContainerStats {
                    id,
                    cpu_usage_us: usage.cpu_usage_us,
                    memory_working_set_bytes: usage.memory_working_set_bytes,
                    ..Default::default()
                }),
                // The container is just ending, or the kernel lacks the controller.
                Some(Err(error)) => log::warning!("cannot read the resource usage of {id}: {error:#}"),
                None => {}
            }
        }
        response
    }

    /// Waits until the usage of the scratch disk differs from what the host knows.
    pub async fn watch_storage(&self, request: WatchStorageRequest) -> ttrpc::Result<Vec<StorageUsage>> {
        let sandbox = self.sandbox()?;
        let Some(disk) = sandbox.disk_usage() else {
            return std::future::pending().await;
        };
        let interval = Duration::from_millis(request.interval_ms).max(MIN_STORAGE_INTERVAL);
        loop {
            let used = self.storage_usage(disk)?;
            if used != request.known {
                return Ok(used);
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// What disk volumes and running containers use.
    fn storage_usage(&self, disk: &DiskUsage) -> ttrpc::Result<Vec<StorageUsage>> {
        let used_bytes = |project| {
            disk.used_bytes(project).map_err(|error| {
                let message = format!("cannot read the usage of the scratch disk: {error}");
                failure(Code::INTERNAL, message)
            })
        };
        let mut all = Vec::new();
        for (name, project) in disk.volumes() {
            all.push(StorageUsage {
                volume: name.clone(),
                used_bytes: used_bytes(*project)?,
                ..Default::default()
            });
        }
        for (container_id, container) in self.containers.all() {
            if let Some(project) = container.project().filter(|_| !container.has_ended()) {
                all.push(StorageUsage {
                    container_id,
                    used_bytes: used_bytes(project)?,
                    ..Default::default()
                });
            }
        }
        Ok(all)
    }

    /// Connects the host to a port of the Pod.
    pub async fn connect_port(&self, request: &ConnectPortRequest) -> ttrpc::Result<()> {
        request_field::connection_id(&request.connection_id).map_err(invalid)?;
        let port = request_field::port(request.port).map_err(invalid)?;
        // The agent is in the Pod's network namespace once there is a sandbox.
        self.sandbox()?;
        let host = self.starter.supervisors.host();
        let connected = self.port_connections.connect(&request.connection_id, port, host).await;
        connected.map_err(|error| {
            let code = match error {
                ConnectError::TooMany => Code::RESOURCE_EXHAUSTED,
                ConnectError::Refused { .. } => Code::UNAVAILABLE,
                ConnectError::Host(_) => Code::INTERNAL,
            };
            failure(code, error)
        })
    }

    pub fn resize(&self, request: &ResizeTerminalRequest) -> ttrpc::Result<()> {
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

    pub async fn end_all(&self) {
        if let Err(error) = container::kill_all() {
            log::error!("{error:#}");
        }
        let (containers, processes) = (self.containers.all(), self.processes.all());
        let all_ended = async {
            // A failed watcher has logged its error.
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
