use std::time::Duration;

use futures::StreamExt as _;
use microkube_protocol::messages::{
    ContainerStats, ContainerSummary, EmptyDir, FileVolume, ImageVolume, ProcessUser, Security, Sysctl,
    WatchStorageResponse, WriteFileVolumeRequest, WriteFileVolumeResponse,
};
use microkube_protocol::service::{Agent, create_agent};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use ttrpc::r#async::TtrpcContext;

use super::answer::{MAX_GROUPS, MAX_ID_BYTES, MAX_LISTED, MAX_STORAGE_ENTRIES};
use super::*;
use crate::pod::guest_text::MAX_TEXT_BYTES;

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

/// An agent that supports versions up to this one, and records its requests.
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
        // Give other calls the chance to come in between.
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
    let request = CreateSandboxRequest {
        volumes: vec![Volume {
            name: "model".to_owned(),
            image: Some(ImageVolume::default()).into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let created = handle.create_sandbox(with_duration(CALL_TIMEOUT), request).await;
    let refusal = created.unwrap_err().to_string();
    assert!(
        refusal.contains("version 1, but image volumes need version 6"),
        "{refusal}"
    );
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
    for (request, needed, what) in [
        (
            CreateSandboxRequest {
                share_process_namespace: true,
                ..Default::default()
            },
            3,
            "shared process namespaces",
        ),
        (
            CreateSandboxRequest {
                user_namespace: true,
                ..Default::default()
            },
            5,
            "user namespaces",
        ),
        (
            CreateSandboxRequest {
                sysctls: vec![Sysctl::default()],
                ..Default::default()
            },
            3,
            "sysctls",
        ),
        (
            CreateSandboxRequest {
                volumes: vec![volume],
                ..Default::default()
            },
            3,
            "groups of emptyDir volumes",
        ),
    ] {
        let created = handle.create_sandbox(with_duration(CALL_TIMEOUT), request).await;
        let expected = format!(
            "the guest's agent uses protocol version 2, but {what} need version {needed}: the guest's files are older than \
             this microkube; install those of the same build"
        );
        assert_eq!(created.unwrap_err().to_string(), expected);
    }
    for security in [
        Security {
            seccomp_programs: vec![Vec::new()],
            ..Default::default()
        },
        Security {
            unmasked_proc: true,
            ..Default::default()
        },
    ] {
        let request = StartContainerRequest {
            security: Some(security).into(),
            ..Default::default()
        };
        let started = handle.start_container(with_duration(CALL_TIMEOUT), &request).await;
        assert_eq!(started.unwrap_err().code(), Code::UNIMPLEMENTED);
    }
    let watched = handle.watch_storage(&WatchStorageRequest::default()).await;
    assert_eq!(watched.unwrap_err().code(), Code::UNIMPLEMENTED);
    let connected = handle.connect_port("c-1", 80).await;
    assert_eq!(
        connected.unwrap_err().to_string(),
        "the guest's agent uses protocol version 2, but forwarded ports need version 6: the guest's files are older than \
         this microkube; install those of the same build"
    );
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
        "the guest's agent speaks protocol versions 7 to 9, this supervisor versions 0 to 6"
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
    let usage = |volume: String| StorageUsage {
        volume,
        ..Default::default()
    };
    let mut storage = WatchStorageResponse {
        used: (0..100_000).map(|number| usage(format!("data-{number}"))).collect(),
        ..Default::default()
    };
    storage.used.insert(0, usage("x".repeat(MAX_ID_BYTES + 1)));
    storage.bound();
    assert_eq!(storage.used.len(), MAX_STORAGE_ENTRIES);
    assert_eq!(storage.used.first().unwrap().volume, "data-0");
}
