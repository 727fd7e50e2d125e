//! The supervisor's calls to the guest's agent, and their answers.
//!
//! The guest can answer anything, up to the maximum size of a message. All answers enter the supervisor here, and their
//! texts and lists are cut to fixed limits. Code that uses them for records, events, logs or tasks need not check their
//! size again.

mod answer;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use microkube_projection::Content;
use microkube_protocol::messages::{
    AddLayersRequest, ConnectPortRequest, CreateSandboxRequest, CreateSandboxResponse, FileProjection, Layer,
    ListContainersRequest, ListContainersResponse, Mount, ProtocolVersions, ReadVolumeFileRequest,
    RemoveContainerRequest, RemoveContainerResponse, ResizeTerminalRequest, ResizeTerminalResponse, ShutdownRequest,
    ShutdownResponse, SignalContainerRequest, SignalContainerResponse, SignalProcessRequest, SignalProcessResponse,
    StartContainerRequest, StartContainerResponse, StartProcessRequest, StartProcessResponse, StatsRequest,
    StatsResponse, StorageUsage, Volume, WaitContainerRequest, WaitContainerResponse, WaitProcessRequest,
    WaitProcessResponse, WatchStorageRequest,
};
use microkube_protocol::service::AgentClient;
use microkube_protocol::{
    ADDED_CONTAINERS_VERSION, AGENT_VERSIONS, FILE_VOLUMES_VERSION, IMAGE_VOLUMES_VERSION, NoCommonVersion,
    PORT_FORWARD_VERSION, SECURITY_CONTEXT_VERSION, STORAGE_VERSION, USER_NAMESPACES_VERSION, VOLUME_FILES_VERSION,
    Versions,
};
use tokio::io::{AsyncRead, AsyncWrite};
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context, with_duration, with_timeout};

use super::agent_connection::{AgentConnection, Lost, Watch};
use super::file_volume_parts;
use super::guest_text;
use answer::Answer;

/// Timeout of an agent call that does not wait for an event.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The client of one agent.
#[derive(Clone)]
pub struct AgentClientHandle {
    client: AgentClient,
    watch: Watch,
    /// The version that both sides use, once the first call has been answered.
    version: Arc<OnceLock<u32>>,
    /// Held while the parts of a file volume are sent, so that those of two updates do not mix.
    file_volumes: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for AgentClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentClientHandle")
    }
}

/// Why a call failed, as the agent or the transport reports it. At most [`guest_text::MAX_TEXT_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    code: Code,
    message: String,
}

impl AgentError {
    /// The status of the call; [`Code::UNKNOWN`] if the transport failed.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
}

impl From<ttrpc::Error> for AgentError {
    fn from(error: ttrpc::Error) -> Self {
        let (code, message) = match error {
            ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
            other => (Code::UNKNOWN, other.to_string()),
        };
        Self {
            code,
            message: guest_text::bounded(message),
        }
    }
}

/// The protocol version to use with an agent that announced these versions. Whatever the guest announces, the result is
/// a version that this build supports, or an error.
fn agreed_version(agent: Option<&ProtocolVersions>) -> Result<u32, AgentError> {
    let agreed = AGENT_VERSIONS.agree(Versions::from(agent));
    agreed.map_err(|NoCommonVersion { own, peer }| AgentError {
        code: Code::FAILED_PRECONDITION,
        message: format!("the guest's agent speaks protocol {peer}, this supervisor {own}"),
    })
}

/// Fails if the agreed version is older than the one that `what` needs.
fn require(version: u32, needed: u32, what: &str) -> Result<(), AgentError> {
    if version >= needed {
        return Ok(());
    }
    Err(AgentError {
        code: Code::UNIMPLEMENTED,
        message: format!(
            "the guest's agent uses protocol version {version}, but {what} need version {needed}: the guest's files are \
             older than this microkube; install those of the same build"
        ),
    })
}

/// Fails if this version lacks a field of the request, because an older agent would ignore the field.
fn require_fields_of_sandbox(version: u32, request: &CreateSandboxRequest) -> Result<(), AgentError> {
    let has_fs_group = |volume: &Volume| {
        volume
            .empty_dir
            .as_ref()
            .is_some_and(|empty_dir| empty_dir.fs_group.is_some())
    };
    for (is_used, needed, what) in [
        (
            request.share_process_namespace,
            SECURITY_CONTEXT_VERSION,
            "shared process namespaces",
        ),
        (!request.sysctls.is_empty(), SECURITY_CONTEXT_VERSION, "sysctls"),
        (
            request.volumes.iter().any(has_fs_group),
            SECURITY_CONTEXT_VERSION,
            "groups of emptyDir volumes",
        ),
        (request.user_namespace, USER_NAMESPACES_VERSION, "user namespaces"),
    ] {
        if is_used {
            require(version, needed, what)?;
        }
    }
    Ok(())
}

#[must_use]
pub fn rpc_message(error: AgentError) -> String {
    error.message
}

macro_rules! calls {
    ($($name:ident($request:ty) -> $response:ty;)*) => {
        impl AgentClientHandle {
            $(
                /// The call with this name in `agent.proto`.
                ///
                /// # Errors
                /// See [`AgentError`].
                pub async fn $name(&self, context: Context, request: &$request) -> Result<$response, AgentError> {
                    let mut answer = self.client.$name(context, request).await?;
                    answer.bound();
                    Ok(answer)
                }
            )*
        }
    };
}

calls! {
    wait_container(WaitContainerRequest) -> WaitContainerResponse;
    signal_container(SignalContainerRequest) -> SignalContainerResponse;
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    start_process(StartProcessRequest) -> StartProcessResponse;
    wait_process(WaitProcessRequest) -> WaitProcessResponse;
    signal_process(SignalProcessRequest) -> SignalProcessResponse;
    resize_terminal(ResizeTerminalRequest) -> ResizeTerminalResponse;
    stats(StatsRequest) -> StatsResponse;
    shutdown(ShutdownRequest) -> ShutdownResponse;
}

impl AgentClientHandle {
    /// A client for the agent at the other end of a connection.
    #[must_use]
    pub fn new(connection: impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static) -> Self {
        let watch = Watch::default();
        let connection = AgentConnection::new(connection, watch.clone());
        Self {
            client: AgentClient::new(Client::new(Socket::new(connection))),
            watch,
            version: Arc::default(),
            file_volumes: Arc::default(),
        }
    }

    /// `CreateSandbox`: the first call to the agent of a new VM. Both sides announce their protocol versions.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if there is no common version, or that version lacks a kind of volume in the
    /// request.
    pub async fn create_sandbox(
        &self,
        context: Context,
        request: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse, AgentError> {
        let request = CreateSandboxRequest {
            versions: Some(AGENT_VERSIONS.into()).into(),
            ..request
        };
        let mut answer = match self.client.create_sandbox(context, &request).await {
            Ok(answer) => answer,
            Err(error) => {
                let error = AgentError::from(error);
                let has_files = request.volumes.iter().any(|volume| volume.file_volume.is_some());
                let has_images = request.volumes.iter().any(|volume| volume.image.is_some());
                // An older agent would only report that a volume has no type that it knows.
                if (has_files || has_images)
                    && error.code == Code::INVALID_ARGUMENT
                    && self.list_containers(with_duration(CALL_TIMEOUT)).await.is_ok()
                {
                    if has_files {
                        self.require_file_volumes()?;
                    }
                    if has_images {
                        require(self.version(), IMAGE_VOLUMES_VERSION, "image volumes")?;
                    }
                }
                return Err(error);
            }
        };
        answer.bound();
        let version = self.agree(answer.versions.as_ref())?;
        tracing::debug!("agent protocol version {version}");
        require_fields_of_sandbox(version, &request)?;
        Ok(answer)
    }

    /// `StartContainer`.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if the agent's version lacks a field of the request; then nothing is sent.
    pub async fn start_container(
        &self,
        context: Context,
        request: &StartContainerRequest,
    ) -> Result<StartContainerResponse, AgentError> {
        let is_special = |mount: &Mount| mount.propagation.value() != 0 || mount.recursive_read_only;
        for (is_used, needed, what) in [
            (
                !request.security.seccomp_programs.is_empty(),
                SECURITY_CONTEXT_VERSION,
                "seccomp profiles of type Localhost",
            ),
            (
                request.mounts.iter().any(is_special),
                SECURITY_CONTEXT_VERSION,
                "mountPropagation and recursiveReadOnly",
            ),
            (
                request.security.unmasked_proc,
                USER_NAMESPACES_VERSION,
                "containers with procMount Unmasked",
            ),
        ] {
            if is_used {
                require(self.version(), needed, what)?;
            }
        }
        let mut answer = self.client.start_container(context, request).await?;
        answer.bound();
        Ok(answer)
    }

    /// `ListContainers`: the first call to the agent of a VM that another supervisor started. Both sides announce
    /// their protocol versions.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if there is no common version.
    pub async fn list_containers(&self, context: Context) -> Result<ListContainersResponse, AgentError> {
        let request = ListContainersRequest {
            versions: Some(AGENT_VERSIONS.into()).into(),
            ..Default::default()
        };
        let mut answer = self.client.list_containers(context, &request).await?;
        answer.bound();
        let version = self.agree(answer.versions.as_ref())?;
        tracing::info!("the guest's agent uses protocol version {version}");
        Ok(answer)
    }

    /// `WriteFileVolume`, in as many parts as the files need: replaces the files of a file volume of the sandbox. Each
    /// part has [`CALL_TIMEOUT`]. Containers that mount the volume see all files change at once.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if the agent's version has no file volumes, or the files exceed a limit; then
    /// nothing is sent.
    pub async fn write_file_volume(&self, volume: &str, files: Vec<FileProjection>) -> Result<(), AgentError> {
        self.require_file_volumes()?;
        let parts = file_volume_parts::split(volume, files).map_err(|error| AgentError {
            code: Code::RESOURCE_EXHAUSTED,
            message: error.to_string(),
        })?;
        let _turn = self.file_volumes.lock().await;
        for part in parts {
            let mut answer = self
                .client
                .write_file_volume(with_duration(CALL_TIMEOUT), &part)
                .await?;
            answer.bound();
        }
        Ok(())
    }

    /// `ReadVolumeFile`: the content of a file that containers have written to an emptyDir volume; `None` if it does not
    /// exist.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if the agent's version cannot read files; then nothing is sent.
    pub async fn read_volume_file(
        &self,
        context: Context,
        volume: &str,
        path: &str,
    ) -> Result<Option<Content>, AgentError> {
        require(self.version(), VOLUME_FILES_VERSION, "variables from files")?;
        let request = ReadVolumeFileRequest {
            volume: volume.to_owned(),
            path: path.to_owned(),
            ..Default::default()
        };
        // A message is no longer than the file may be.
        match self
            .client
            .read_volume_file(context, &request)
            .await
            .map_err(AgentError::from)
        {
            Ok(mut answer) => Ok(Some(Content::from(answer.file.take().unwrap_or_default().content))),
            Err(error) if error.code == Code::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `WatchStorage`: what the Pod's disk volumes and running containers use, once it differs from what is known.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if the agent's version cannot tell; then nothing is sent.
    pub async fn watch_storage(&self, request: &WatchStorageRequest) -> Result<Vec<StorageUsage>, AgentError> {
        require(self.version(), STORAGE_VERSION, "limits of ephemeral storage")?;
        let mut answer = self.client.watch_storage(with_timeout(0), request).await?;
        answer.bound();
        Ok(answer.used)
    }

    /// `ConnectPort`: connects to a port of the Pod's localhost. The agent opens the data stream with this id.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if the agent's version cannot connect; then nothing is sent.
    pub async fn connect_port(&self, connection_id: &str, port: u16) -> Result<(), AgentError> {
        require(self.version(), PORT_FORWARD_VERSION, "forwarded ports")?;
        let request = ConnectPortRequest {
            connection_id: connection_id.to_owned(),
            port: port.into(),
            ..Default::default()
        };
        let mut answer = self.client.connect_port(with_duration(CALL_TIMEOUT), &request).await?;
        answer.bound();
        Ok(())
    }

    /// `AddLayers`: adds layers to the sandbox.
    ///
    /// # Errors
    /// See [`AgentError`]. Also fails if the agent's version cannot add containers to a running Pod.
    pub async fn add_layers(&self, layers: Vec<Layer>) -> Result<(), AgentError> {
        let version = self.version.get().copied().unwrap_or_default();
        if version < ADDED_CONTAINERS_VERSION {
            return Err(AgentError {
                code: Code::UNIMPLEMENTED,
                message: format!(
                    "the guest's agent uses protocol version {version}, but containers can be added to a running Pod only in \
                     version {ADDED_CONTAINERS_VERSION}: the Pod was started by an older microkube"
                ),
            });
        }
        let request = AddLayersRequest {
            layers,
            ..Default::default()
        };
        let mut answer = self.client.add_layers(with_duration(CALL_TIMEOUT), &request).await?;
        answer.bound();
        Ok(())
    }

    /// Sets the version to use with an agent that announced these versions.
    fn agree(&self, agent: Option<&ProtocolVersions>) -> Result<u32, AgentError> {
        let version = agreed_version(agent)?;
        Ok(*self.version.get_or_init(|| version))
    }

    /// The version to use with this agent. Without an earlier call, it is 0.
    fn version(&self) -> u32 {
        self.version.get().copied().unwrap_or_default()
    }

    fn require_file_volumes(&self) -> Result<(), AgentError> {
        let what = "configMap, secret, downwardAPI and projected volumes";
        require(self.version(), FILE_VOLUMES_VERSION, what)
    }

    /// Waits until the connection to the agent is lost.
    pub async fn lost(&self) -> Lost {
        self.watch.lost().await
    }
}

#[cfg(test)]
mod tests;
