//! The agent in the guest as the supervisor sees it: calls go out, answers come in.
//!
//! The guest can answer anything, up to the size of a message. So this is the one place where answers enter, and none leaves it whose
//! texts and lists are longer than they may be: what is made of them (records, events, logs, tasks) need not ask again.

use std::time::Duration;

use microkube_protocol::messages::{
    CreateSandboxRequest, CreateSandboxResponse, ListContainersRequest, ListContainersResponse, ProtocolVersions,
    RemoveContainerRequest, RemoveContainerResponse, ResizeTerminalRequest, ResizeTerminalResponse, ShutdownRequest,
    ShutdownResponse, SignalContainerRequest, SignalContainerResponse, SignalProcessRequest, SignalProcessResponse,
    StartContainerRequest, StartContainerResponse, StartProcessRequest, StartProcessResponse, StatsRequest,
    StatsResponse, WaitContainerRequest, WaitContainerResponse, WaitProcessRequest, WaitProcessResponse,
};
use microkube_protocol::service::AgentClient;
use microkube_protocol::{AGENT_VERSIONS, NoCommonVersion, Versions};
use tokio::io::{AsyncRead, AsyncWrite};
use ttrpc::Code;
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::Context;

use super::agent_connection::{AgentConnection, Lost, Watch};
use super::guest_text::{self, MAX_TEXT_BYTES};

/// How long one call of the agent may take that does not wait for anything.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Containers that an agent has at most, those that have ended included (`MAX_CONTAINERS` in `agent/src/service.rs`). What a list
/// has beyond is not looked at.
const MAX_LISTED: usize = 512;

/// Most groups of a process. The kernel allows more (`NGROUPS_MAX`), no image has as many.
const MAX_GROUPS: usize = 1024;

/// Longest id of a container or process, bytes (`agent.proto`).
const MAX_ID_BYTES: usize = 128;

/// The client of one agent.
#[derive(Clone)]
pub struct AgentClientHandle {
    client: AgentClient,
    watch: Watch,
}

impl std::fmt::Debug for AgentClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AgentClientHandle")
    }
}

/// What the agent, or the transport, has to say about a call that failed; at most [`MAX_TEXT_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AgentError {
    code: Code,
    message: String,
}

impl AgentError {
    /// The status of the call; [`Code::UNKNOWN`] where the transport failed.
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

/// The version to talk to an agent in, by what it says that it speaks. The guest can say any: it is one that this build speaks, or none.
fn agreed_version(agent: Option<&ProtocolVersions>) -> Result<u32, AgentError> {
    let agreed = AGENT_VERSIONS.agree(Versions::from(agent));
    agreed.map_err(|NoCommonVersion { own, peer }| AgentError {
        code: Code::FAILED_PRECONDITION,
        message: format!("the agent in the guest speaks {peer} of its protocol, this supervisor {own}"),
    })
}

/// The text of an error.
#[must_use]
pub fn rpc_message(error: AgentError) -> String {
    error.message
}

/// Brings what a guest answers within its limits.
trait Answer {
    /// Most answers consist of numbers, or of nothing.
    fn bound(&mut self) {}
}

impl Answer for CreateSandboxResponse {}
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
        // An id that is too long is none; cut, it might be another's.
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
                /// The call of this name in `agent.proto`.
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
    start_container(StartContainerRequest) -> StartContainerResponse;
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
        }
    }

    /// `CreateSandbox`: the first call to the agent of a new machine, in which both sides say which versions they speak.
    ///
    /// # Errors
    /// See [`AgentError`]; also where there is no common version.
    pub async fn create_sandbox(
        &self,
        context: Context,
        request: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse, AgentError> {
        let request = CreateSandboxRequest {
            versions: Some(AGENT_VERSIONS.into()).into(),
            ..request
        };
        let mut answer = self.client.create_sandbox(context, &request).await?;
        answer.bound();
        let version = agreed_version(answer.versions.as_ref())?;
        tracing::debug!("version {version} of the agent's protocol");
        Ok(answer)
    }

    /// `ListContainers`: the first call to the agent of a machine that another supervisor started, in which both sides say which versions they
    /// speak.
    ///
    /// # Errors
    /// See [`AgentError`]; also where there is no common version.
    pub async fn list_containers(&self, context: Context) -> Result<ListContainersResponse, AgentError> {
        let request = ListContainersRequest {
            versions: Some(AGENT_VERSIONS.into()).into(),
            ..Default::default()
        };
        let mut answer = self.client.list_containers(context, &request).await?;
        answer.bound();
        let version = agreed_version(answer.versions.as_ref())?;
        tracing::info!("the machine's agent talks in version {version} of its protocol");
        Ok(answer)
    }

    /// Waits until the agent is not to be had any more.
    pub async fn lost(&self) -> Lost {
        self.watch.lost().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use microkube_protocol::messages::{ContainerStats, ContainerSummary, ProcessUser};
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    /// More calls than ttrpc's queue has room for.
    const CALLS: u32 = 200;

    /// A guest reads nothing, so that the last of many calls cannot be sent, and sends frames of data for that call: how many bytes of them the
    /// client takes in, up to `limit_bytes`.
    async fn taken_in(client: AgentClient, mut guest: UnixStream, limit_bytes: usize) -> usize {
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

    /// If the first half fails, ttrpc has learnt to bound what it keeps.
    #[tokio::test]
    async fn a_guest_that_floods_a_call_fills_ttrpcs_client_but_not_the_supervisors() {
        let limit_bytes = 32 << 20;
        let (guest, host) = UnixStream::pair().unwrap();
        let unwatched = AgentClient::new(Client::new(Socket::new(host)));
        assert!(taken_in(unwatched, guest, limit_bytes).await >= limit_bytes);
        let (guest, host) = UnixStream::pair().unwrap();
        let handle = AgentClientHandle::new(host);
        assert_eq!(taken_in(handle.client.clone(), guest, limit_bytes).await, 0);
        assert_eq!(handle.lost().await.why, "sent something other than an answer");
    }

    #[test]
    fn an_agent_of_another_build_is_talked_to_in_a_version_that_both_speak() {
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
            "the agent in the guest speaks versions 7 to 9 of its protocol, this supervisor versions 0 to 1"
        );
        assert_eq!(error.code(), Code::FAILED_PRECONDITION);
    }

    #[test]
    fn what_an_agent_answers_is_cut_where_it_enters() {
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
