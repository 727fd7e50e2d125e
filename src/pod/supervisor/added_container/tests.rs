//! Adding images to a VM whose agent and VMM the tests simulate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use microkube_image::{Image, ImageConfiguration, Layer};
use microkube_protocol::messages::{
    AddLayersRequest, AddLayersResponse, ListContainersRequest, ListContainersResponse, ProtocolVersions,
};
use microkube_protocol::service::{Agent, create_agent};
use microkube_vmm::config::PROTOCOL_VERSION;
use ttrpc::r#async::TtrpcContext;
use ttrpc::context::with_duration;

use super::*;
use crate::pod::agent::CALL_TIMEOUT;
use crate::pod::machine_plan::MachinePlan;
use crate::pod::sandbox::{AgentClientHandle, ReadySandbox};
use crate::pod::supervisor::supervised_pod::test_pod_in;
use crate::pod::vsock_link::VsockLink;
use crate::state::PodRecord;

/// An image with this many layers of one block each.
fn image(directory: &Path, name: &str, layers: usize) -> Image {
    let layers = (0..layers).map(|number| {
        let path = directory.join(format!("{name}-{number}"));
        std::fs::write(&path, [0; 4096]).unwrap();
        Layer {
            diff_id: format!("sha256:{name}-{number}"),
            path,
            length_bytes: 4096,
        }
    });
    Image {
        reference: name.to_owned(),
        id: String::new(),
        manifest_digest: String::new(),
        repo_digest: None,
        config: ImageConfiguration::default(),
        layers: layers.collect(),
        size_bytes: 0,
    }
}

/// An agent that notes the ids of the layers that it is asked to add.
#[derive(Default)]
struct LayersAgent {
    requests: Mutex<Vec<Vec<String>>>,
    fails: AtomicBool,
}

#[async_trait::async_trait]
impl Agent for LayersAgent {
    async fn list_containers(
        &self,
        _: &TtrpcContext,
        request: ListContainersRequest,
    ) -> ttrpc::Result<ListContainersResponse> {
        let newest = request.versions.newest;
        let versions = ProtocolVersions {
            oldest: newest,
            newest,
            ..Default::default()
        };
        Ok(ListContainersResponse {
            versions: Some(versions).into(),
            ..Default::default()
        })
    }

    async fn add_layers(&self, _: &TtrpcContext, request: AddLayersRequest) -> ttrpc::Result<AddLayersResponse> {
        if self.fails.load(Ordering::Relaxed) {
            let status = ttrpc::get_status(Code::INTERNAL, "cannot mount");
            return Err(ttrpc::Error::RpcStatus(status));
        }
        let ids = request.layers.into_iter().map(|layer| layer.id).collect();
        self.requests.lock().unwrap().push(ids);
        Ok(AddLayersResponse::default())
    }
}

/// A running VM whose disk has the image `first` with one layer, and its Pod.
struct Vm {
    directory: tempfile::TempDir,
    pod: Arc<SupervisedPod>,
    agent: Arc<LayersAgent>,
    additions: Additions,
    /// Receives the files for the disk.
    _vmm: std::os::fd::OwnedFd,
    _server: ttrpc::r#async::Server,
}

impl Vm {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let record: PodRecord = serde_json::from_value(serde_json::json!({
            "uid": "u", "namespace": "default", "name": "p", "detached": true,
            "client": null, "supervisor": null, "vmm": null,
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
                "spec": { "containers": [
                    { "name": "web", "image": "second", "command": ["/web"], "resources": { "limits": { "memory": "64Mi" } } },
                ] },
            },
        }))
        .unwrap();
        let (pod, _messages) = test_pod_in(directory.path(), record, None);
        std::fs::create_dir_all(pod.paths.pod_state("u")).unwrap();
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let connections = futures::stream::iter([Ok(theirs)]).chain(futures::stream::pending());
        let agent = Arc::new(LayersAgent::default());
        let mut server = ttrpc::r#async::Server::new()
            .add_listener(ttrpc::r#async::transport::Listener::new(connections))
            .register_service(create_agent(Arc::clone(&agent) as Arc<_>));
        server.start().await.unwrap();
        let client = AgentClientHandle::new(ours);
        client.list_containers(with_duration(CALL_TIMEOUT)).await.unwrap();
        let (vmm, vsock) = VsockLink::pair().unwrap();
        let sandbox = ReadySandbox {
            agent: client,
            vsock: Arc::new(vsock),
        };
        let mut layer_disk = LayerDisk::empty();
        layer_disk.place(&image(directory.path(), "first", 1)).unwrap();
        let plan = MachinePlan {
            pod_ip: "10.88.0.2".to_owned(),
            host_ip: "10.88.0.1".to_owned(),
            vmm_version: PROTOCOL_VERSION,
            layer_disk: Some(layer_disk.clone()),
            containers: Vec::new(),
            images: Vec::new(),
            image_ids: Vec::new(),
        };
        let additions = Additions::new(sandbox, &plan, Some(Additions::of_disk(layer_disk)));
        Self {
            directory,
            pod,
            agent,
            additions,
            _vmm: vmm,
            _server: server,
        }
    }

    /// Prepares the Pod's container with an image of this name and number of layers. The image's id is `id of NAME`.
    async fn prepare(&self, name: &str, layers: usize) -> Result<AddedContainer, NotPrepared> {
        let found = FoundImage {
            name: name.to_owned(),
            image: image(self.directory.path(), name, layers),
        };
        let used = HashSet::from(["l0".to_owned()]);
        let image_id = format!("id of {name}");
        let prepared = self.additions.prepare(&self.pod, 0, image_id, Some(found), used, None);
        prepared.await
    }

    /// The plan that the next supervisor finds.
    fn recorded(&self) -> Option<AddedPlan> {
        AddedPlan::load(&self.pod.paths, "u").unwrap()
    }
}

/// Why the image was not added.
fn refusal(prepared: Result<AddedContainer, NotPrepared>) -> String {
    let failure = prepared.expect_err("the image is not added");
    match failure.into_event(ContainerAttempt::new(0, 1)) {
        Event::ImageNotAdded { attempt, message } if attempt == ContainerAttempt::new(0, 1) => message,
        event => panic!("{event:?}"),
    }
}

#[tokio::test]
async fn an_image_is_added_once_and_recorded_with_its_container() {
    let vm = Vm::start().await;
    let added = vm.prepare("second", 2).await.unwrap();
    assert_eq!(
        (added.image.as_str(), added.image_id.as_str()),
        ("second", "id of second")
    );
    assert_eq!(added.planned.request.layer_ids, ["l1", "l2"]);
    assert!(
        added.planned.request.resources.is_some(),
        "only ephemeral containers have none"
    );
    let recorded = vm.recorded().unwrap();
    assert_eq!(recorded.images, BTreeMap::from([(0, "second".to_owned())]));
    assert_eq!(recorded.image_ids, BTreeMap::from([(0, "id of second".to_owned())]));
    assert_eq!(recorded.containers[&0].request.layer_ids, ["l1", "l2"]);
    let disk = recorded.layer_disk;
    vm.prepare("first", 1).await.unwrap();
    vm.prepare("second", 2).await.unwrap();
    let recorded = vm.recorded().unwrap();
    assert_eq!(recorded.layer_disk, disk, "the disk has both images");
    assert_eq!(recorded.images, BTreeMap::from([(0, "second".to_owned())]));
    // The agent ignores layers that it has.
    let requests = vm.agent.requests.lock().unwrap().clone();
    assert_eq!(requests, [vec!["l1", "l2"], vec!["l0"], vec!["l1", "l2"]]);
}

#[tokio::test]
async fn a_vm_that_cannot_take_an_image_says_why() {
    let mut vm = Vm::start().await;
    vm.agent.fails.store(true, Ordering::Relaxed);
    let why = refusal(vm.prepare("second", 1).await);
    assert!(why.starts_with("the guest cannot mount the image"), "{why}");
    assert!(vm.recorded().unwrap().containers.is_empty());
    vm.agent.fails.store(false, Ordering::Relaxed);
    vm.additions.vmm_version = GROW_DISK_VERSION - 1;
    let why = refusal(vm.prepare("third", 1).await);
    assert!(why.starts_with("the VMM of an older microkube"), "{why}");
    vm.additions.close().await;
    let why = refusal(vm.prepare("second", 1).await);
    assert!(why.contains("no image can be added"), "{why}");
}

#[tokio::test]
async fn layers_that_cannot_be_opened_concern_only_their_container() {
    let vm = Vm::start().await;
    let mut unreadable = image(vm.directory.path(), "second", 1);
    // The parent is a file.
    unreadable.layers[0].path.push("layer");
    let found = FoundImage {
        name: "second".to_owned(),
        image: unreadable,
    };
    let prepared = vm
        .additions
        .prepare(&vm.pod, 0, String::new(), Some(found), HashSet::new(), None);
    let failure = prepared.await.expect_err("the container is not prepared");
    match failure.into_event(ContainerAttempt::new(0, 1)) {
        Event::ContainerStartFailed { reason, message, .. } => {
            assert_eq!(reason, "CreateContainerError");
            assert!(message.contains("second-0/layer"), "{message}");
        }
        event => panic!("{event:?}"),
    }
    assert!(vm.recorded().is_none());
    vm.prepare("second", 1).await.unwrap();
}

#[test]
fn layers_of_earlier_images_do_not_grow_without_bound() {
    let directory = tempfile::tempdir().unwrap();
    let mut added = Additions::of_disk(LayerDisk::empty());
    let first = image(directory.path(), "first", UNUSED_LAYERS_MAX);
    added.layer_disk.place(&first).unwrap();
    let of_first: HashSet<_> = added.layer_disk.stack(&first).into_iter().collect();
    let second = image(directory.path(), "second", 1);
    added.layer_disk.place(&second).unwrap();
    check_unused(&added, of_first).unwrap();
    check_unused(&added, added.layer_disk.stack(&second).into_iter().collect()).unwrap();
    let error = check_unused(&added, HashSet::new()).unwrap_err().to_string();
    assert!(error.contains("65 layers with 266240 bytes"), "{error}");
}
