//! The guest's agent as the supervisor sees it: calls and their answers.
//!
//! The guest can answer anything, up to the maximum size of a message. All answers enter the supervisor here, and their
//! texts and lists are cut to fixed limits. Code that uses them for records, events, logs or tasks need not check their
//! size again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use microkube_projection::Content;
use microkube_protocol::messages::{
    AddLayersRequest, AddLayersResponse, CreateSandboxRequest, CreateSandboxResponse, FileProjection, Layer,
    ListContainersRequest, ListContainersResponse, Mount, ProtocolVersions, ReadVolumeFileRequest,
    RemoveContainerRequest, RemoveContainerResponse, ResizeTerminalRequest, ResizeTerminalResponse, ShutdownRequest,
    ShutdownResponse, SignalContainerRequest, SignalContainerResponse, SignalProcessRequest, SignalProcessResponse,
    StartContainerRequest, StartContainerResponse, StartProcessRequest, StartProcessResponse, StatsRequest,
    StatsResponse, Volume, WaitContainerRequest, WaitContainerResponse, WaitProcessRequest, WaitProcessResponse,
    WriteFileVolumeResponse,
};
use microkube_protocol::service::AgentClient;
use microkube_protocol::{
    ADDED_CONTAINERS_VERSION, AGENT_VERSIONS, FILE_VOLUMES_VERSION, NoCommonVersion, SECURITY_CONTEXT_VERSION,
    VOLUME_FILES_VERSION, Versions,
};
use tokio::io::{AsyncRead, AsyncWrite};
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{Context, with_duration};

use super::agent_connection::{AgentConnection, Lost, Watch};
use super::file_volume_parts;
use super::guest_text::{self, MAX_TEXT_BYTES};

/// Timeout of an agent call that does not wait for an event.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of containers in an agent's list, including those that have ended (`MAX_CONTAINERS` in
/// `agent/src/service.rs`). Any beyond that are ignored.
const MAX_LISTED: usize = 512;

/// Maximum number of supplementary groups of a process. The kernel allows more (`NGROUPS_MAX`), but no image uses as
/// many.
const MAX_GROUPS: usize = 1024;

/// Longest id of a container or process, in bytes (`agent.proto`).
const MAX_ID_BYTES: usize = 128;

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

/// Why a call failed, from the agent or from the transport; at most [`MAX_TEXT_BYTES`].
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

/// The protocol version to use with an agent that announced these versions. The guest may announce anything; the result
/// is a version that this build supports, or an error.
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

/// Fails if this version lacks a field that the request has. An older agent would ignore it.
fn require_fields_of_sandbox(version: u32, request: &CreateSandboxRequest) -> Result<(), AgentError> {
    let has_fs_group = |volume: &Volume| {
        volume
            .empty_dir
            .as_ref()
            .is_some_and(|empty_dir| empty_dir.fs_group.is_some())
    };
    for (is_used, what) in [
        (request.share_process_namespace, "shared process namespaces"),
        (!request.sysctls.is_empty(), "sysctls"),
        (request.volumes.iter().any(has_fs_group), "groups of emptyDir volumes"),
    ] {
        if is_used {
            require(version, SECURITY_CONTEXT_VERSION, what)?;
        }
    }
    Ok(())
}

#[must_use]
pub fn rpc_message(error: AgentError) -> String {
    error.message
}

/// Cuts an answer from the guest to the limits above.
trait Answer {
    /// Most answers contain only numbers, or nothing.
    fn bound(&mut self) {}
}

impl Answer for CreateSandboxResponse {}
impl Answer for WriteFileVolumeResponse {}
impl Answer for AddLayersResponse {}
impl Answer for SignalContainerResponse {}
impl Answer for RemoveContainerResponse {}
impl Answer for StartProcessResponse {}
impl Answer for WaitProcessResponse {}
impl Answer for SignalProcessResponse {}
impl Answer for ResizeTerminalResponse {}
impl Answer for ShutdownResponse {}

impl Answer for StartContainerResponse {
    fn bound(&mut self) {
        if let Some(user) = self.user.as_mut() {
            user.supplemental_gids.truncate(MAX_GROUPS);
        }
    }
}

impl Answer for WaitContainerResponse {
    fn bound(&mut self) {
        self.termination_message.truncate(MAX_TEXT_BYTES);
    }
}

impl Answer for ListContainersResponse {
    fn bound(&mut self) {
        // Drop an id that is too long: if it were cut, it might equal another container's.
        self.containers.retain(|container| container.id.len() <= MAX_ID_BYTES);
        self.containers.truncate(MAX_LISTED);
    }
}

impl Answer for StatsResponse {
    fn bound(&mut self) {
        self.containers.retain(|container| container.id.len() <= MAX_ID_BYTES);
        self.containers.truncate(MAX_LISTED);
    }
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
    /// For the agent at the other end of a connection.
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
    /// See [`AgentError`]. Also fails if there is no common version, or if it lacks a kind of volume in the request.
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
                // An older agent says only that a volume has no empty_dir.
                if has_files
                    && error.code == Code::INVALID_ARGUMENT
                    && self.list_containers(with_duration(CALL_TIMEOUT)).await.is_ok()
                {
                    self.require_file_volumes()?;
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
        for (is_used, what) in [
            (
                !request.security.seccomp_programs.is_empty(),
                "seccomp profiles of type Localhost",
            ),
            (
                request.mounts.iter().any(is_special),
                "mountPropagation and recursiveReadOnly",
            ),
        ] {
            if is_used {
                require(self.version(), SECURITY_CONTEXT_VERSION, what)?;
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

    /// `WriteFileVolume`, in as many parts as the files need: makes these the files of a file volume of the sandbox.
    /// Each part has [`CALL_TIMEOUT`]. Containers that mount the volume see all files change at once.
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

    /// Remembers the version to use with an agent that announced these versions.
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
mod tests {
    use std::time::Duration;

    use futures::StreamExt as _;
    use microkube_protocol::messages::{
        ContainerStats, ContainerSummary, EmptyDir, FileVolume, ProcessUser, Security, Sysctl, WriteFileVolumeRequest,
    };
    use microkube_protocol::service::{Agent, create_agent};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;
    use ttrpc::r#async::TtrpcContext;

    use super::*;

    /// More calls than fit into ttrpc's queue.
    const CALLS: u32 = 200;

    /// Simulates a guest that never reads, so the last of many calls cannot be sent, and that sends data frames for
    /// that call. Returns how many of their bytes the client accepts, up to `limit_bytes`.
    async fn bytes_accepted(client: AgentClient, mut guest: UnixStream, limit_bytes: usize) -> usize {
        let request = StartProcessRequest {
            args: vec!["x".repeat(64 << 10)],
            ..Default::default()
        };
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..CALLS {
            let (client, request) = (client.clone(), request.clone());
            calls.spawn(async move { client.start_process(ttrpc::context::with_timeout(0), &request).await });
        }
        for _ in 0..10 * CALLS {
            tokio::task::yield_now().await;
        }
        let payload = vec![0; 1 << 20];
        let (length, stream) = (1_u32 << 20, 2 * CALLS - 1);
        let frame = [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[3, 0], &payload].concat();
        let mut taken_bytes = 0;
        while taken_bytes < limit_bytes {
            let sent = tokio::time::timeout(Duration::from_secs(5), guest.write_all(&frame)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
            taken_bytes += frame.len();
        }
        taken_bytes
    }

    /// If the first half fails, ttrpc now limits its queue.
    #[tokio::test]
    async fn a_guest_can_flood_a_ttrpc_client_but_not_the_supervisors() {
        let limit_bytes = 32 << 20;
        let (guest, host) = UnixStream::pair().unwrap();
        let unwatched = AgentClient::new(Client::new(Socket::new(host)));
        assert!(bytes_accepted(unwatched, guest, limit_bytes).await >= limit_bytes);
        let (guest, host) = UnixStream::pair().unwrap();
        let handle = AgentClientHandle::new(host);
        assert_eq!(bytes_accepted(handle.client.clone(), guest, limit_bytes).await, 0);
        assert_eq!(handle.lost().await.why, "sent a frame that is not an answer");
    }

    /// An agent that supports versions up to this one, and records what it gets.
    struct RecordingAgent {
        newest: u32,
        parts: std::sync::Mutex<Vec<WriteFileVolumeRequest>>,
    }

    impl RecordingAgent {
        /// Serves until the server is dropped.
        async fn serve(newest: u32) -> (Arc<Self>, AgentClientHandle, ttrpc::r#async::Server) {
            let agent = Arc::new(Self {
                newest,
                parts: std::sync::Mutex::default(),
            });
            let (ours, theirs) = UnixStream::pair().unwrap();
            let connections = futures::stream::iter([Ok(theirs)]).chain(futures::stream::pending());
            let mut server = ttrpc::r#async::Server::new()
                .add_listener(ttrpc::r#async::transport::Listener::new(connections))
                .register_service(create_agent(Arc::clone(&agent) as Arc<_>));
            server.start().await.unwrap();
            (agent, AgentClientHandle::new(ours), server)
        }

        fn versions(&self) -> ProtocolVersions {
            ProtocolVersions {
                newest: self.newest,
                ..Default::default()
            }
        }
    }

    #[async_trait::async_trait]
    impl Agent for RecordingAgent {
        async fn create_sandbox(
            &self,
            _: &TtrpcContext,
            request: CreateSandboxRequest,
        ) -> ttrpc::Result<CreateSandboxResponse> {
            if self.newest < FILE_VOLUMES_VERSION && !request.volumes.is_empty() {
                let status = ttrpc::get_status(Code::INVALID_ARGUMENT, "volumes.empty_dir is missing in \"config\"");
                return Err(ttrpc::Error::RpcStatus(status));
            }
            Ok(CreateSandboxResponse {
                versions: Some(self.versions()).into(),
                ..Default::default()
            })
        }

        async fn list_containers(
            &self,
            _: &TtrpcContext,
            _: ListContainersRequest,
        ) -> ttrpc::Result<ListContainersResponse> {
            Ok(ListContainersResponse {
                versions: Some(self.versions()).into(),
                ..Default::default()
            })
        }

        async fn write_file_volume(
            &self,
            _: &TtrpcContext,
            request: WriteFileVolumeRequest,
        ) -> ttrpc::Result<WriteFileVolumeResponse> {
            self.parts.lock().unwrap().push(request);
            // Lets other calls come in between, if they can.
            tokio::task::yield_now().await;
            Ok(WriteFileVolumeResponse::default())
        }
    }

    fn large_files() -> Vec<FileProjection> {
        let file = |number: u8| FileProjection {
            path: format!("f{number}"),
            content: vec![number; 3 << 20],
            ..Default::default()
        };
        (0..3).map(file).collect()
    }

    #[tokio::test]
    async fn the_parts_of_two_file_volumes_are_not_mixed() {
        let (agent, handle, _server) = RecordingAgent::serve(2).await;
        handle.list_containers(with_duration(CALL_TIMEOUT)).await.unwrap();
        let (one, other) = tokio::join!(
            handle.write_file_volume("one", large_files()),
            handle.write_file_volume("other", large_files()),
        );
        one.unwrap();
        other.unwrap();
        let parts = agent.parts.lock().unwrap();
        let seen: Vec<_> = parts
            .iter()
            .map(|part| (part.part, part.last, part.files.len()))
            .collect();
        let of_each = [(0, false, 1), (1, false, 1), (2, true, 1)];
        assert_eq!(seen, [of_each, of_each].concat());
        assert!(parts[..3].iter().all(|part| part.volume == parts[0].volume));
    }

    #[tokio::test]
    async fn file_volumes_are_refused_if_the_agent_does_not_have_them() {
        let reason = "the guest's agent uses protocol version 1, but configMap, secret, downwardAPI and projected \
                      volumes need version 2: the guest's files are older than this microkube; install those of the \
                      same build";
        let (agent, handle, _server) = RecordingAgent::serve(1).await;
        let request = CreateSandboxRequest {
            volumes: vec![Volume {
                name: "config".to_owned(),
                file_volume: Some(FileVolume::default()).into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let error = handle
            .create_sandbox(with_duration(CALL_TIMEOUT), request)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), reason);
        let error = handle.write_file_volume("config", large_files()).await.unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (Code::UNIMPLEMENTED, reason)
        );
        assert!(agent.parts.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn fields_that_an_older_agent_would_ignore_are_refused() {
        let (_agent, handle, _server) = RecordingAgent::serve(2).await;
        let volume = Volume {
            empty_dir: Some(EmptyDir {
                fs_group: Some(0),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        for (request, what) in [
            (
                CreateSandboxRequest {
                    share_process_namespace: true,
                    ..Default::default()
                },
                "shared process namespaces",
            ),
            (
                CreateSandboxRequest {
                    sysctls: vec![Sysctl::default()],
                    ..Default::default()
                },
                "sysctls",
            ),
            (
                CreateSandboxRequest {
                    volumes: vec![volume],
                    ..Default::default()
                },
                "groups of emptyDir volumes",
            ),
        ] {
            let created = handle.create_sandbox(with_duration(CALL_TIMEOUT), request).await;
            let expected = format!(
                "the guest's agent uses protocol version 2, but {what} need version 3: the guest's files are older than \
                 this microkube; install those of the same build"
            );
            assert_eq!(created.unwrap_err().to_string(), expected);
        }
        let request = StartContainerRequest {
            security: Some(Security {
                seccomp_programs: vec![Vec::new()],
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        let started = handle.start_container(with_duration(CALL_TIMEOUT), &request).await;
        assert_eq!(started.unwrap_err().code(), Code::UNIMPLEMENTED);
        let created = handle.create_sandbox(with_duration(CALL_TIMEOUT), CreateSandboxRequest::default());
        created.await.unwrap();
    }

    #[test]
    fn an_agent_of_another_build_is_called_in_a_common_version() {
        let says = |oldest, newest| {
            let said = ProtocolVersions {
                oldest,
                newest,
                ..Default::default()
            };
            agreed_version(Some(&said))
        };
        assert_eq!(agreed_version(None), Ok(0), "of a build without versions");
        assert_eq!(says(0, 1), Ok(1));
        assert_eq!(says(1, u32::MAX), Ok(AGENT_VERSIONS.newest));
        let error = says(7, 9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the guest's agent speaks protocol versions 7 to 9, this supervisor versions 0 to 4"
        );
        assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    }

    #[test]
    fn answers_of_an_agent_are_truncated_on_receipt() {
        let status = ttrpc::get_status(ttrpc::Code::INTERNAL, "\u{1}".repeat(4 << 20));
        assert_eq!(
            AgentError::from(ttrpc::Error::RpcStatus(status)).message.len(),
            MAX_TEXT_BYTES
        );
        let mut started = StartContainerResponse {
            user: Some(ProcessUser {
                supplemental_gids: (0..1_000_000).collect(),
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        started.bound();
        assert_eq!(started.user.supplemental_gids.len(), MAX_GROUPS);
        let mut waited = WaitContainerResponse {
            termination_message: vec![0; 4 << 20],
            ..Default::default()
        };
        waited.bound();
        assert_eq!(waited.termination_message.len(), MAX_TEXT_BYTES);
        let summary = |id: String| ContainerSummary {
            id,
            ..Default::default()
        };
        let mut listed = ListContainersResponse {
            containers: (0..100_000).map(|number| summary(format!("web-{number}"))).collect(),
            ..Default::default()
        };
        listed.containers.insert(0, summary("x".repeat(MAX_ID_BYTES + 1)));
        listed.bound();
        assert_eq!(listed.containers.len(), MAX_LISTED);
        assert_eq!(listed.containers.first().unwrap().id, "web-0");
        let mut stats = StatsResponse {
            containers: vec![ContainerStats::default(); 100_000],
            ..Default::default()
        };
        stats.bound();
        assert_eq!(stats.containers.len(), MAX_LISTED);
    }
}
