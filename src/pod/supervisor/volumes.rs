//! The Pod's volumes: waits for its claims, opens the volumes of the host before the VM starts, and writes the files of others into the VM: all files
//! before the first container starts, and changed files while the VM runs.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use microkube_projection::{BoundPod, Objects};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::claims;
use super::message::Message;
use super::supervised_pod::SupervisedPod;
use crate::pod::host_volumes;
use crate::pod::lifecycle::PodEvent;
use crate::pod::node_objects::NodeObjects;
use crate::pod::pod_on_node::PodOnNode;
use crate::pod::projected_volumes::{self, FailedVolume, VolumeFiles};
use crate::pod::sandbox::AgentClientHandle;
use crate::pod::written_volumes::WrittenVolumes;
use crate::privileged::Share;

/// The kubelet's pauses before it sets up volumes again (`pkg/util/goroutinemap/exponentialbackoff`).
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(122);

/// How long the kubelet waits for volumes before it reports those that are missing (`podAttachAndMountTimeout` in
/// `pkg/kubelet/volumemanager`).
const MOUNT_TIMEOUT: Duration = Duration::from_secs(123);

/// How often the age of tokens is checked.
const LONGEST_TOKEN_WAIT: Duration = Duration::from_secs(60);

/// The next pause.
#[derive(Debug)]
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(FIRST_RETRY)
    }
}

impl Pause {
    /// The pause after a failure; the next one is twice as long.
    fn take(&mut self) -> Duration {
        let doubled = self.0.saturating_mul(2).min(LONGEST_RETRY);
        std::mem::replace(&mut self.0, doubled)
    }
}

/// What a VM needs for the Pod's volumes.
#[derive(Debug)]
pub struct ReadyVolumes {
    pub files: Vec<VolumeFiles>,
    pub shares: Vec<Share>,
}

/// Prepares all volumes, and waits for objects and for files of the host that are missing. `waits` is called before the
/// first wait.
pub async fn wait(pod: &Arc<SupervisedPod>, waits: impl FnOnce()) -> ReadyVolumes {
    let mut waits = Some(waits);
    let bound = claims::bound(pod, |_| {
        if let Some(waits) = waits.take() {
            waits();
        }
    });
    let bound = bound.await;
    let mut changes = pod.changes.clone();
    let mut pause = Pause::default();
    let mut failures = Failures::of_waiting_pod();
    let mut is_retry = false;
    let mut timeout = pin!(tokio::time::sleep(MOUNT_TIMEOUT));
    loop {
        let (files, mut failed) = compute(pod).await;
        let (shares, not_shared) = host_volumes::open(&pod.privileges, &pod.record.pod, &bound).await;
        failed.extend(not_shared);
        if failed.is_empty() {
            claims::note_mounted(pod, &bound);
            return ReadyVolumes { files, shares };
        }
        if let Some(waits) = waits.take() {
            waits();
        }
        failures.report(pod, &failed, is_retry).await;
        let mut retry = pin!(tokio::time::sleep(pause.take()));
        is_retry = loop {
            tokio::select! {
                () = changes.changed() => break false,
                () = &mut retry => break true,
                () = &mut timeout => {
                    pod.send(Message::Emit(failed_mount(unmounted_message(&failed))));
                    timeout.as_mut().reset(Instant::now() + MOUNT_TIMEOUT);
                }
            }
        };
    }
}

async fn compute(pod: &Arc<SupervisedPod>) -> (Vec<VolumeFiles>, Vec<FailedVolume>) {
    compute_by(pod, projected_volumes::compute).await
}

type Computation = fn(&BoundPod<'_>, &dyn Objects) -> Vec<Result<VolumeFiles, FailedVolume>>;

async fn compute_by(pod: &Arc<SupervisedPod>, computation: Computation) -> (Vec<VolumeFiles>, Vec<FailedVolume>) {
    if projected_volumes::projected(&pod.record.pod).next().is_none() {
        return (Vec::new(), Vec::new());
    }
    let copy = Arc::clone(pod);
    let computed = tokio::task::spawn_blocking(move || {
        let on_node = PodOnNode::new(&copy.record.uid, &copy.current(), None, None);
        let objects = NodeObjects::with_tokens(&copy.paths, &copy.record, &copy.tokens);
        computation(&on_node.bound(), &objects)
    });
    // The task ends without a result only if it panics. The panic's message is not reported, because it could contain a
    // value.
    let Ok(volumes) = computed.await else {
        let volumes = projected_volumes::projected(&pod.record.pod);
        let failed = volumes.map(|volume| FailedVolume::not_computed(&volume.name)).collect();
        return (Vec::new(), failed);
    };
    let (mut files, mut failed) = (Vec::new(), Vec::new());
    for volume in volumes {
        match volume {
            Ok(computed) => files.push(computed),
            Err(failure) => failed.push(failure),
        }
    }
    (files, failed)
}

/// The failures that were reported last.
#[derive(Debug)]
struct Failures {
    reported: Vec<FailedVolume>,
    /// Whether the VM has not booted because of these failures.
    pod_waits: bool,
}

impl Failures {
    /// For a Pod whose VM boots when its volumes have files.
    fn of_waiting_pod() -> Self {
        Self {
            reported: Vec::new(),
            pod_waits: true,
        }
    }

    /// For a Pod whose volumes keep the files that they have.
    fn of_running_pod() -> Self {
        Self {
            reported: Vec::new(),
            pod_waits: false,
        }
    }

    /// Records the kubelet's events about these failures, if they are new or follow another attempt, and tells an
    /// attached command line each of them once.
    async fn report(&mut self, pod: &SupervisedPod, failed: &[FailedVolume], is_retry: bool) {
        for failure in failed {
            let is_new = !self.reported.contains(failure);
            if is_new || is_retry {
                pod.send(Message::Emit(failed_mount(failure.message())));
            }
            if is_new {
                let message = failure.message();
                pod.warn(match self.pod_waits {
                    true => format!("the Pod is waiting: {message}"),
                    false => message,
                })
                .await;
            }
        }
        self.reported = failed.to_vec();
    }
}

/// The message of the kubelet's event about volumes that are still missing after [`MOUNT_TIMEOUT`]
/// (`WaitForAttachAndMount` in `pkg/kubelet/volumemanager`).
fn unmounted_message(failed: &[FailedVolume]) -> String {
    let mut names: Vec<_> = failed.iter().map(|failure| failure.volume.as_str()).collect();
    names.sort_unstable();
    format!(
        "Unable to attach or mount volumes: unmounted volumes=[{}], unattached volumes=[], failed to process volumes=[]: \
         context deadline exceeded",
        names.join(" ")
    )
}

fn failed_mount(message: String) -> PodEvent {
    PodEvent {
        warning: true,
        reason: "FailedMount",
        message,
        container: None,
    }
}

/// Keeps the volumes of a running VM up to date, until it is dropped.
#[derive(Debug)]
pub struct VolumeUpdates(JoinHandle<()>);

impl VolumeUpdates {
    /// `None` if the Pod has no such volumes.
    pub fn start(pod: &Arc<SupervisedPod>, agent: AgentClientHandle, written: WrittenVolumes) -> Option<Self> {
        projected_volumes::projected(&pod.record.pod).next()?;
        Some(Self(tokio::spawn(follow(Arc::clone(pod), agent, written))))
    }
}

impl Drop for VolumeUpdates {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes changed volumes. A volume whose objects are missing keeps its files.
async fn follow(pod: Arc<SupervisedPod>, agent: AgentClientHandle, mut written: WrittenVolumes) {
    let mut changes = pod.changes.clone();
    // The Pod's labels and annotations can be in files.
    let mut current = pod.current.subscribe();
    let mut pause = Pause::default();
    let mut failures = Failures::of_running_pod();
    // Another supervisor may have written the files.
    let mut due_in = Some(Duration::ZERO);
    loop {
        let retry = async {
            match due_in {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        let is_retry = tokio::select! {
            () = changes.changed() => false,
            Ok(()) = current.changed() => false,
            () = retry => true,
        };
        let (files, failed) = compute(&pod).await;
        let mut is_complete = failed.is_empty();
        for volume in files {
            let name = volume.volume.clone();
            if let Err(error) = written.write(&agent, volume).await {
                is_complete = false;
                let complaint = format_args!("cannot write the volume {name:?}: {error}");
                pod.guest_streams.complain(complaint);
            }
        }
        failures.report(&pod, &failed, is_retry).await;
        due_in = match is_complete {
            true => renewal_in(&pod),
            false => Some(pause.take()),
        };
        if is_complete {
            pause = Pause::default();
        }
    }
}

/// When the Pod's tokens are checked again. The wait is limited, because the host's clock can be set, and the host may
/// sleep.
fn renewal_in(pod: &SupervisedPod) -> Option<Duration> {
    let at = pod.tokens.renewal_at()?;
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    Some(left.clamp(FIRST_RETRY, LONGEST_TOKEN_WAIT))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use microkube_manifest::kinds;
    use microkube_protocol::AGENT_VERSIONS;
    use microkube_protocol::messages::{
        ListContainersRequest, ListContainersResponse, WriteFileVolumeRequest, WriteFileVolumeResponse,
    };
    use microkube_protocol::service::{Agent, create_agent};
    use microkube_store::{Deletion, Object, Store};
    use serde_json::json;
    use tokio::sync::mpsc;
    use ttrpc::r#async::{Server, TtrpcContext};

    use super::super::supervised_pod::test_pod_in;
    use super::*;
    use crate::objects;
    use crate::pod::agent::CALL_TIMEOUT;
    use crate::pod::supervisor_protocol::{Notice, PodNotice, SupervisorFrame};
    use crate::state::{Paths, PodRecord};

    #[test]
    fn pauses_grow_as_in_the_kubelet() {
        let mut pause = Pause::default();
        let pauses: Vec<u128> = (0..10).map(|_| pause.take().as_millis()).collect();
        assert_eq!(
            pauses,
            [500, 1000, 2000, 4000, 8000, 16000, 32000, 64000, 122_000, 122_000]
        );
    }

    /// A node with a store, and a Pod with the volume `config` from the ConfigMap `a`.
    struct TestNode {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl TestNode {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
            let store = objects::open(&paths).unwrap();
            Self { dir, store }
        }

        fn pod(
            &self,
            client: Option<mpsc::Sender<SupervisorFrame>>,
        ) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
            let record: PodRecord = serde_json::from_value(json!({
                "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
                "pod": {
                    "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" },
                    "spec": {
                        "containers": [{ "name": "web", "image": "i" }],
                        "volumes": [
                            { "name": "config", "configMap": { "name": "a" } },
                            { "name": "own", "downwardAPI": { "items": [
                                { "path": "app", "fieldRef": { "fieldPath": "metadata.labels['app']" } },
                            ] } },
                        ],
                    },
                },
            }))
            .unwrap();
            test_pod_in(self.dir.path(), record, client)
        }

        fn set(&self, text: &str) {
            let kind = kinds::find("v1", "ConfigMap").unwrap();
            let (resource, key) = (objects::resource(kind), objects::key(kind, "shop", "a"));
            let config_map = |metadata| {
                Object::new(json!({
                    "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": { "key": text },
                }))
                .unwrap()
            };
            match self.store.find(&resource, &key).unwrap() {
                Some(old) => {
                    let metadata = old.value()["metadata"].clone();
                    self.store.update(&resource, config_map(metadata)).unwrap();
                }
                None => {
                    let metadata = json!({ "name": "a", "namespace": "shop" });
                    self.store.create(&resource, config_map(metadata)).unwrap();
                }
            }
        }

        fn delete(&self) {
            let kind = kinds::find("v1", "ConfigMap").unwrap();
            let (resource, key) = (objects::resource(kind), objects::key(kind, "shop", "a"));
            self.store.delete(&resource, &key, &Deletion::default()).unwrap();
        }
    }

    async fn event(messages: &mut mpsc::UnboundedReceiver<Message>) -> String {
        match messages.recv().await {
            Some(Message::Emit(event)) => format!("{}: {}", event.reason, event.message),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_pod_waits_for_its_volumes_and_continues_when_the_object_exists() {
        let node = TestNode::new();
        let (client, mut frames) = mpsc::channel(8);
        let (pod, mut messages) = node.pod(Some(client));
        let has_waited = std::cell::Cell::new(0);
        let waiting = wait(&pod, || has_waited.set(has_waited.get() + 1));
        let create = async {
            assert_eq!(
                event(&mut messages).await,
                "FailedMount: MountVolume.SetUp failed for volume \"config\" : configmap \"a\" not found"
            );
            node.set("x");
        };
        let (ready, ()) = tokio::join!(waiting, create);
        assert_eq!((ready.files.len(), has_waited.get()), (2, 1));
        let Ok(SupervisorFrame::Notice(Notice::Pod(PodNotice::Warning(told)))) = frames.try_recv() else {
            panic!("the command line is told why the Pod waits");
        };
        assert!(
            told.starts_with("the Pod is waiting: MountVolume.SetUp failed"),
            "{told}"
        );
        assert!(frames.try_recv().is_err(), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn volumes_that_stay_missing_are_reported_together_as_by_the_kubelet() {
        let node = TestNode::new();
        let (pod, mut messages) = node.pod(None);
        let began = Instant::now();
        let both = async {
            loop {
                let said = event(&mut messages).await;
                if !said.contains("MountVolume.SetUp failed") {
                    return said;
                }
            }
        };
        let said = tokio::select! {
            said = both => said,
            ready = wait(&pod, || {}) => panic!("{ready:?}"),
        };
        assert_eq!(
            said,
            "FailedMount: Unable to attach or mount volumes: unmounted volumes=[config], unattached volumes=[], failed to \
             process volumes=[]: context deadline exceeded"
        );
        assert_eq!(began.elapsed().as_secs(), 123);
    }

    #[tokio::test]
    async fn no_volume_is_empty_because_its_computation_panicked() {
        let node = TestNode::new();
        let (pod, _messages) = node.pod(None);
        let (files, failed) = compute_by(&pod, |_, _| panic!("a fault")).await;
        assert!(files.is_empty());
        let messages: Vec<_> = failed.iter().map(FailedVolume::message).collect();
        let expected = ["config", "own"].map(|volume| {
            format!("MountVolume.SetUp failed for volume \"{volume}\" : its files cannot be computed: internal error")
        });
        assert_eq!(messages, expected);
    }

    /// An agent that passes on the files that it is asked to write.
    struct WritingAgent(mpsc::UnboundedSender<String>);

    #[async_trait::async_trait]
    impl Agent for WritingAgent {
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

        async fn write_file_volume(
            &self,
            _: &TtrpcContext,
            request: WriteFileVolumeRequest,
        ) -> ttrpc::Result<WriteFileVolumeResponse> {
            let files = request.files.iter();
            let files: Vec<_> = files
                .map(|file| format!("{}={}", file.path, String::from_utf8_lossy(&file.content)))
                .collect();
            self.0.send(format!("{}: {}", request.volume, files.join(" "))).unwrap();
            Ok(WriteFileVolumeResponse::default())
        }
    }

    async fn agent() -> (AgentClientHandle, mpsc::UnboundedReceiver<String>, Server) {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let connections = futures::stream::iter([Ok(theirs)]).chain(futures::stream::pending());
        let (sender, written) = mpsc::unbounded_channel();
        let mut server = Server::new()
            .add_listener(ttrpc::r#async::transport::Listener::new(connections))
            .register_service(create_agent(Arc::new(WritingAgent(sender))));
        server.start().await.unwrap();
        let agent = AgentClientHandle::new(ours);
        let context = ttrpc::context::with_duration(CALL_TIMEOUT);
        agent.list_containers(context).await.unwrap();
        (agent, written, server)
    }

    #[tokio::test]
    async fn only_changed_files_are_written_and_those_of_a_deleted_object_stay() {
        let node = TestNode::new();
        node.set("1");
        let (client, mut frames) = mpsc::channel(8);
        let (pod, mut messages) = node.pod(Some(client));
        let (agent, mut written, _server) = agent().await;
        // The state is the same after the restart of a supervisor.
        let _updates = VolumeUpdates::start(&pod, agent, WrittenVolumes::default()).unwrap();
        assert_eq!(written.recv().await.unwrap(), "config: key=1");
        assert_eq!(written.recv().await.unwrap(), "own: app=");
        node.set("2");
        assert_eq!(written.recv().await.unwrap(), "config: key=2");
        node.delete();
        assert!(event(&mut messages).await.starts_with("FailedMount: "));
        let Some(SupervisorFrame::Notice(Notice::Pod(PodNotice::Warning(told)))) = frames.recv().await else {
            panic!("the command line is told why its files are old");
        };
        assert_eq!(
            told,
            "MountVolume.SetUp failed for volume \"config\" : configmap \"a\" not found"
        );
        node.set("2");
        node.set("3");
        assert_eq!(written.recv().await.unwrap(), "config: key=3");
        pod.current.send_modify(|pod| {
            let labels = [("app".to_owned(), "web".to_owned())];
            Arc::make_mut(pod).metadata.labels = Some(labels.into());
        });
        assert_eq!(written.recv().await.unwrap(), "own: app=web");
    }

    #[tokio::test]
    async fn a_pod_without_such_volumes_has_nothing_to_update() {
        let (pod, _messages) = super::super::supervised_pod::test_pod(true);
        let (agent, _written, _server) = agent().await;
        assert!(VolumeUpdates::start(&pod, agent, WrittenVolumes::default()).is_none());
        let ReadyVolumes { files, .. } = wait(&pod, || panic!("there is nothing to wait for")).await;
        assert!(files.is_empty());
    }
}
