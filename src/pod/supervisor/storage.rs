//! Evicts the Pod when it uses more local storage than its limits allow.
//!
//! The guest's agent reports what volumes and writable layers use. A guest can lie about that, but only about the use of
//! its own disk, whose size is fixed. Logs are files of this host. Which containers run is what the supervisor knows, so
//! logs count whatever the guest reports, and if it reports nothing. The rules are in
//! `microkube_manifest::storage_limits`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use microkube_manifest::storage_limits::{ContainerStorage, StorageLimits, UsedStorage, counted_volumes};
use microkube_protocol::messages::{StorageUsage, WatchStorageRequest};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use ttrpc::Code;

use super::pod_view::PodView;
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
    /// `None` if the Pod has no limits. `view` is that of the running VM.
    pub fn start(pod: &Arc<SupervisedPod>, view: &PodView, agent: AgentClientHandle) -> Option<Self> {
        let limits = StorageLimits::of(&pod.record.pod)?;
        let watch = watch(Arc::clone(pod), view.clone(), agent, limits);
        Some(Self(tokio::spawn(watch)))
    }
}

impl Drop for StorageWatch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(pod: Arc<SupervisedPod>, view: PodView, agent: AgentClientHandle, limits: StorageLimits) {
    let mut running_changes = view.running_changes();
    let mut log_changes = LogChanges::default();
    let mut reported = Vec::new();
    let mut report = std::pin::pin!(next_report(agent.clone(), Vec::new(), Some(Duration::ZERO)));
    let mut checks = tokio::time::interval(INTERVAL);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        running_changes.mark_unchanged();
        let running = view.containers();
        if limits.count_logs() {
            log_changes.follow(&pod, &running);
        }
        if let Some(message) = limits.exceeded(&used_storage(&pod, &running, &reported, &limits)) {
            pod.report(Event::Evicted { message });
            return;
        }
        // Neither a busy Pod nor a hostile guest gets more attention than this.
        checks.tick().await;
        tokio::select! {
            answer = report.as_mut() => {
                let wait = match answer {
                    Ok(used) => {
                        reported = used;
                        Some(Duration::ZERO)
                    }
                    Err(error) if error.code() == Code::UNIMPLEMENTED => {
                        tracing::warn!("volumes and writable layers do not count for the Pod's storage limits: {error}");
                        if !limits.count_logs() {
                            return;
                        }
                        None
                    }
                    Err(error) => {
                        let complaint = format_args!("cannot watch the Pod's local storage: {error}");
                        pod.guest_streams.complain(complaint);
                        Some(RETRY)
                    }
                };
                // Sent with the next turn of the loop.
                report.set(next_report(agent.clone(), reported.clone(), wait));
            }
            () = log_changes.next() => {}
            Ok(()) = running_changes.changed() => {}
        }
    }
}

/// Asks for the next report after this time. `None` means never.
async fn next_report(
    agent: AgentClientHandle,
    known: Vec<StorageUsage>,
    wait: Option<Duration>,
) -> Result<Vec<StorageUsage>, AgentError> {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
    let request = WatchStorageRequest {
        known,
        interval_ms: u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX),
        ..Default::default()
    };
    agent.watch_storage(&request).await
}

/// What the running containers (their names and ids) and the Pod's volumes use. As in the kubelet, containers that do not
/// run do not count.
fn used_storage(
    pod: &SupervisedPod,
    running: &[(String, String)],
    reported: &[StorageUsage],
    limits: &StorageLimits,
) -> UsedStorage {
    let mut used = UsedStorage::default();
    for (name, _) in running {
        let log_bytes = match limits.count_logs() {
            // Without a directory, there is no log yet.
            true => logs::total_bytes(&log_dir(pod, name)).unwrap_or(0),
            false => 0,
        };
        let storage = ContainerStorage {
            layer_bytes: 0,
            log_bytes,
        };
        used.containers.insert(name.clone(), storage);
    }
    // A guest can report what the Pod does not have.
    let volumes: BTreeSet<&str> = counted_volumes(&pod.record.pod).collect();
    let names: BTreeMap<&str, &str> = running.iter().map(|(name, id)| (id.as_str(), name.as_str())).collect();
    for entry in reported {
        if !entry.volume.is_empty() {
            if volumes.contains(entry.volume.as_str()) {
                used.volumes.insert(entry.volume.clone(), entry.used_bytes);
            }
        } else if let Some(name) = names.get(entry.container_id.as_str())
            && let Some(storage) = used.containers.get_mut(*name)
        {
            storage.layer_bytes = entry.used_bytes;
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
    /// The directories of the logs.
    dirs: BTreeSet<PathBuf>,
    /// `None` also if the directories cannot be watched.
    watch: Option<DirectoryWatch>,
}

impl LogChanges {
    /// Follows the logs of these containers, by name and id, from now on.
    fn follow(&mut self, pod: &SupervisedPod, running: &[(String, String)]) {
        let dirs = running.iter().map(|(name, _)| log_dir(pod, name));
        let dirs: BTreeSet<PathBuf> = dirs.filter(|dir| dir.is_dir()).collect();
        if self.dirs == dirs {
            return;
        }
        let paths: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        self.watch = match DirectoryWatch::new(&paths) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!("cannot watch the sizes of the containers' logs: {error}");
                None
            }
        };
        self.dirs = dirs;
    }

    /// Waits until a log may have changed.
    async fn next(&mut self) {
        match &mut self.watch {
            Some(watch) => {
                if let Err(error) = watch.changed().await {
                    tracing::warn!("cannot watch the sizes of the containers' logs any more: {error}");
                    self.watch = None;
                }
            }
            None if self.dirs.is_empty() => std::future::pending().await,
            None => {
                tokio::time::sleep(RETRY).await;
                // The next call of `follow` tries again.
                self.dirs.clear();
            }
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
    use ttrpc::get_status;

    use super::super::message::Message;
    use super::super::supervised_pod::test_pod_in;
    use super::*;
    use crate::pod::agent::CALL_TIMEOUT;
    use crate::state::PodRecord;

    /// An agent that gives these answers, and none after them. Each call must state the answer before. `None` answers
    /// that it cannot report.
    struct ReportingAgent(
        std::sync::Mutex<Vec<Option<Vec<StorageUsage>>>>,
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
            let used = match next {
                Some(Some(used)) => used,
                Some(None) => return Err(ttrpc::Error::RpcStatus(get_status(Code::UNIMPLEMENTED, "no"))),
                None => return std::future::pending().await,
            };
            *known = used.clone();
            Ok(WatchStorageResponse {
                used,
                ..Default::default()
            })
        }
    }

    async fn agent(answers: Vec<Vec<StorageUsage>>) -> (AgentClientHandle, Server) {
        agent_with(answers.into_iter().map(Some).collect()).await
    }

    async fn agent_with(mut answers: Vec<Option<Vec<StorageUsage>>>) -> (AgentClientHandle, Server) {
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
        let _watch = StorageWatch::start(&pod, &PodView::new(&pod), agent).unwrap();
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
        let view = PodView::new(&pod);
        view.found(0, "web-1");
        let _watch = StorageWatch::start(&pod, &view, agent).unwrap();
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
    async fn logs_count_if_the_guest_reports_nothing() {
        // It never answers, or it cannot.
        for answers in [vec![], vec![None]] {
            let dir = tempfile::tempdir().unwrap();
            let limits = json!({ "limits": { "ephemeral-storage": "1Mi" } });
            let spec = json!({ "containers": [{ "name": "web", "image": "i", "resources": limits }] });
            let (pod, mut messages) = pod(dir.path(), spec);
            let (agent, _server) = agent_with(answers).await;
            let view = PodView::new(&pod);
            let _watch = StorageWatch::start(&pod, &view, agent).unwrap();
            let start = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let logs = log_dir(&pod, "web");
                std::fs::create_dir_all(&logs).unwrap();
                std::fs::write(logs.join("0.log"), "").unwrap();
                view.found(0, "web-0");
                tokio::time::sleep(Duration::from_millis(100)).await;
                std::fs::write(logs.join("0.log"), vec![0_u8; (1 << 20) + 1]).unwrap();
            };
            let (message, ()) = tokio::join!(eviction(&mut messages), start);
            assert!(message.starts_with("Pod ephemeral local storage usage"), "{message}");
        }
    }

    #[tokio::test]
    async fn reports_count_only_for_volumes_and_running_containers_of_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        let limits = json!({ "limits": { "ephemeral-storage": "1Mi" } });
        let (pod, _messages) = pod(
            dir.path(),
            json!({
                "containers": [
                    { "name": "web", "image": "i", "resources": limits },
                    { "name": "log", "image": "i" },
                ],
                "volumes": [
                    { "name": "data", "emptyDir": {} },
                    { "name": "memory", "emptyDir": { "medium": "Memory" } },
                ],
            }),
        );
        for (name, bytes) in [("web", 10), ("log", 20)] {
            let logs = log_dir(&pod, name);
            std::fs::create_dir_all(&logs).unwrap();
            std::fs::write(logs.join("0.log"), vec![0_u8; bytes]).unwrap();
        }
        let running = [("web".to_owned(), "web-1".to_owned())];
        let reported = [
            volume("data", 1),
            volume("memory", 2),
            volume("other", 3),
            container("web-0", 4),
            container("web-1", 5),
            container("log-0", 6),
            container("other-0", 7),
        ];
        let used = used_storage(&pod, &running, &reported, &StorageLimits::of(&pod.record.pod).unwrap());
        let web = ContainerStorage {
            layer_bytes: 5,
            log_bytes: 10,
        };
        let expected = UsedStorage {
            volumes: [("data".to_owned(), 1)].into(),
            containers: [("web".to_owned(), web)].into(),
        };
        assert_eq!(used, expected);
    }

    #[tokio::test]
    async fn a_pod_without_limits_is_not_watched() {
        let (pod, _messages) = super::super::supervised_pod::test_pod(true);
        let (agent, _server) = agent(Vec::new()).await;
        assert!(StorageWatch::start(&pod, &PodView::new(&pod), agent).is_none());
    }
}
