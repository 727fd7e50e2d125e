//! Evicts the Pod when it uses more local storage than its limits allow.
//!
//! The guest's agent reports what volumes and writable layers use. A guest can lie about that, but only about the use of
//! its own disk, whose size is fixed. Logs are files of this host, with a limit that does not depend on the guest. The
//! rules are in `microkube_manifest::storage_limits`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use microkube_manifest::storage_limits::{ContainerStorage, StorageLimits, UsedStorage};
use microkube_protocol::messages::{StorageUsage, WatchStorageRequest};
use tokio::task::JoinHandle;
use ttrpc::Code;

use super::supervised_pod::SupervisedPod;
use crate::pod::agent::AgentError;
use crate::pod::lifecycle::Event;
use crate::pod::logs::{self, DirectoryWatch};
use crate::pod::sandbox::AgentClientHandle;

/// How often the usage is compared with the limits while it changes, and how often the agent looks. The kubelet does both
/// every ten seconds; a fast program could fill the whole disk in that time.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait after a failed call.
const RETRY: Duration = Duration::from_secs(60);

/// Watches a running VM, until it is dropped.
#[derive(Debug)]
pub struct StorageWatch(JoinHandle<()>);

impl StorageWatch {
    /// `None` if the Pod has no limits.
    pub fn start(pod: &Arc<SupervisedPod>, agent: AgentClientHandle) -> Option<Self> {
        let limits = StorageLimits::of(&pod.record.pod)?;
        Some(Self(tokio::spawn(watch(Arc::clone(pod), agent, limits))))
    }
}

impl Drop for StorageWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(pod: Arc<SupervisedPod>, agent: AgentClientHandle, limits: StorageLimits) {
    let mut reported = Vec::new();
    let mut log_changes = LogChanges::default();
    let mut report = std::pin::pin!(next_report(agent.clone(), Vec::new(), Duration::ZERO));
    loop {
        tokio::select! {
            answer = report.as_mut() => {
                let wait = match answer {
                    Ok(used) => {
                        reported = used;
                        Duration::ZERO
                    }
                    Err(error) if error.code() == Code::UNIMPLEMENTED => {
                        tracing::warn!("the limits of the Pod's local storage are not enforced: {error}");
                        return;
                    }
                    Err(error) => {
                        let complaint = format_args!("cannot watch the Pod's local storage: {error}");
                        pod.guest_streams.complain(complaint);
                        RETRY
                    }
                };
                // Sent with the next turn of the loop.
                report.set(next_report(agent.clone(), reported.clone(), wait));
            }
            () = log_changes.next() => {}
        }
        if limits.count_logs() {
            log_changes.follow(&pod, running(&pod, &reported));
        }
        if let Some(message) = limits.exceeded(&used_storage(&pod, &reported, &limits)) {
            pod.report(Event::Evicted { message });
            return;
        }
        // Neither a busy Pod nor a hostile guest gets more attention than this.
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn next_report(
    agent: AgentClientHandle,
    known: Vec<StorageUsage>,
    wait: Duration,
) -> Result<Vec<StorageUsage>, AgentError> {
    tokio::time::sleep(wait).await;
    let request = WatchStorageRequest {
        known,
        interval_ms: u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX),
        ..Default::default()
    };
    agent.watch_storage(&request).await
}

/// The names of the containers in a report.
fn running(pod: &SupervisedPod, reported: &[StorageUsage]) -> BTreeSet<String> {
    let attempts = reported.iter().filter_map(|entry| pod.attempt_of(&entry.container_id));
    attempts.map(|attempt| pod.container_name(attempt.container)).collect()
}

/// The reported usage, with the logs of the containers in the report: as in the kubelet, those that run.
fn used_storage(pod: &SupervisedPod, reported: &[StorageUsage], limits: &StorageLimits) -> UsedStorage {
    let mut used = UsedStorage::default();
    for entry in reported {
        if !entry.volume.is_empty() {
            used.volumes.insert(entry.volume.clone(), entry.used_bytes);
        } else if let Some(attempt) = pod.attempt_of(&entry.container_id) {
            let name = pod.container_name(attempt.container);
            let log_bytes = match limits.count_logs() {
                // Without a directory, there is no log yet.
                true => logs::total_bytes(&log_dir(pod, &name)).unwrap_or(0),
                false => 0,
            };
            let storage = ContainerStorage {
                layer_bytes: entry.used_bytes,
                log_bytes,
            };
            used.containers.insert(name, storage);
        }
    }
    used
}

fn log_dir(pod: &SupervisedPod, container: &str) -> PathBuf {
    logs::container_dir(&pod.paths, &pod.record.uid, container)
}

/// Changes of the logs of running containers.
#[derive(Debug, Default)]
struct LogChanges {
    containers: BTreeSet<String>,
    watch: Option<DirectoryWatch>,
}

impl LogChanges {
    /// Follows the logs of these containers from now on.
    fn follow(&mut self, pod: &SupervisedPod, containers: BTreeSet<String>) {
        if self.containers == containers {
            return;
        }
        self.containers = containers;
        // A guest may report a container that has not started.
        let dirs = self.containers.iter().map(|name| log_dir(pod, name));
        let dirs: Vec<PathBuf> = dirs.filter(|dir| dir.is_dir()).collect();
        let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        self.watch = match DirectoryWatch::new(&dirs) {
            Ok(watch) => Some(watch),
            Err(error) => {
                // The sizes are still read with each report of the guest.
                tracing::warn!("cannot watch the sizes of the containers' logs: {error}");
                None
            }
        };
    }

    async fn next(&mut self) {
        match &mut self.watch {
            Some(watch) => {
                if let Err(error) = watch.changed().await {
                    tracing::warn!("cannot watch the sizes of the containers' logs any more: {error}");
                    self.watch = None;
                }
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use microkube_protocol::AGENT_VERSIONS;
    use microkube_protocol::messages::{ListContainersRequest, ListContainersResponse, WatchStorageResponse};
    use microkube_protocol::service::{Agent, create_agent};
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use ttrpc::r#async::{Server, TtrpcContext};

    use super::super::message::Message;
    use super::super::supervised_pod::test_pod_in;
    use super::*;
    use crate::pod::agent::CALL_TIMEOUT;
    use crate::state::PodRecord;

    /// An agent that gives these answers, and none after them. Each call must state the answer before.
    struct ReportingAgent(
        std::sync::Mutex<Vec<Vec<StorageUsage>>>,
        tokio::sync::Mutex<Vec<StorageUsage>>,
    );

    #[async_trait::async_trait]
    impl Agent for ReportingAgent {
        async fn list_containers(
            &self,
            _: &TtrpcContext,
            _: ListContainersRequest,
        ) -> ttrpc::Result<ListContainersResponse> {
            Ok(ListContainersResponse {
                versions: Some(AGENT_VERSIONS.into()).into(),
                ..Default::default()
            })
        }

        async fn watch_storage(
            &self,
            _: &TtrpcContext,
            request: WatchStorageRequest,
        ) -> ttrpc::Result<WatchStorageResponse> {
            let mut known = self.1.lock().await;
            assert_eq!(request.known, *known);
            let next = self.0.lock().unwrap().pop();
            let Some(used) = next else {
                return std::future::pending().await;
            };
            *known = used.clone();
            Ok(WatchStorageResponse {
                used,
                ..Default::default()
            })
        }
    }

    async fn agent(mut answers: Vec<Vec<StorageUsage>>) -> (AgentClientHandle, Server) {
        answers.reverse();
        let reporting = ReportingAgent(answers.into(), tokio::sync::Mutex::default());
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let connections = futures::stream::iter([Ok(theirs)]).chain(futures::stream::pending());
        let mut server = Server::new()
            .add_listener(ttrpc::r#async::transport::Listener::new(connections))
            .register_service(create_agent(Arc::new(reporting)));
        server.start().await.unwrap();
        let agent = AgentClientHandle::new(ours);
        let context = ttrpc::context::with_duration(CALL_TIMEOUT);
        agent.list_containers(context).await.unwrap();
        (agent, server)
    }

    fn volume(name: &str, used_bytes: u64) -> StorageUsage {
        StorageUsage {
            volume: name.to_owned(),
            used_bytes,
            ..Default::default()
        }
    }

    fn container(id: &str, used_bytes: u64) -> StorageUsage {
        StorageUsage {
            container_id: id.to_owned(),
            used_bytes,
            ..Default::default()
        }
    }

    fn pod(dir: &Path, spec: Value) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
        let record: PodRecord = serde_json::from_value(json!({
            "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" }, "spec": spec,
            },
        }))
        .unwrap();
        test_pod_in(dir, record, None)
    }

    async fn eviction(messages: &mut mpsc::UnboundedReceiver<Message>) -> String {
        let message = tokio::time::timeout(CALL_TIMEOUT, messages.recv()).await;
        match message.expect("the limit is noticed") {
            Some(Message::Event(Event::Evicted { message })) => message,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_pod_is_evicted_once_a_volume_exceeds_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, mut messages) = pod(
            dir.path(),
            json!({
                "containers": [{ "name": "web", "image": "i" }],
                "volumes": [{ "name": "data", "emptyDir": { "sizeLimit": "1Mi" } }],
            }),
        );
        let answers = vec![
            vec![volume("data", 1 << 20), container("web-0", 8 << 20)],
            vec![
                volume("data", (1 << 20) + 4096),
                container("web-0", u64::MAX),
                container("../x-0", 1),
            ],
        ];
        let (agent, _server) = agent(answers).await;
        let _watch = StorageWatch::start(&pod, agent).unwrap();
        let message = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ";
        assert_eq!(eviction(&mut messages).await, message);
    }

    #[tokio::test]
    async fn a_log_that_grows_counts_without_a_report_of_the_guest() {
        let dir = tempfile::tempdir().unwrap();
        let limits = json!({ "limits": { "ephemeral-storage": "1Mi" } });
        let (pod, mut messages) = pod(
            dir.path(),
            json!({ "containers": [{ "name": "web", "image": "i", "resources": limits }] }),
        );
        let logs = log_dir(&pod, "web");
        std::fs::create_dir_all(&logs).unwrap();
        std::fs::write(logs.join("0.log"), vec![0_u8; 256 << 10]).unwrap();
        let (agent, _server) = agent(vec![vec![container("web-1", 512 << 10)]]).await;
        let _watch = StorageWatch::start(&pod, agent).unwrap();
        let grow = async {
            // The limit is not exceeded before.
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::fs::write(logs.join("1.log"), vec![0_u8; 257 << 10]).unwrap();
        };
        let (message, ()) = tokio::join!(eviction(&mut messages), grow);
        // The Pod's limit is the sum of its containers' limits, and the kubelet checks it first.
        assert_eq!(
            message,
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
        );
    }

    #[tokio::test]
    async fn a_pod_without_limits_is_not_watched() {
        let (pod, _messages) = super::super::supervised_pod::test_pod(true);
        let (agent, _server) = agent(Vec::new()).await;
        assert!(StorageWatch::start(&pod, agent).is_none());
    }
}
