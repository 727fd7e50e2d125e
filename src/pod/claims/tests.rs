use microkube_manifest::kinds::{self, Kind};
use microkube_store::{Deletion, Key, Object, Store};
use serde_json::{Value, json};

use super::settle::{PodClaims, bind, settle};
use crate::objects::{self, Objects};
use crate::pod::test_pods::{TestPods, manifest};
use crate::state::{lock_exclusive, object_events};

struct Node {
    pods: TestPods,
    store: Store,
}

fn kind(name: &str) -> &'static Kind {
    kinds::named(name).unwrap()
}

impl Node {
    fn new() -> Self {
        let pods = TestPods::new();
        let store = objects::open(&pods.paths).unwrap();
        Self { pods, store }
    }

    fn create(&self, kind: &'static Kind, value: &Value) {
        Objects::of(self.store.clone()).create(kind, value).unwrap();
    }

    /// A claim without a class, and a volume for it.
    fn claim(&self, mode: &str) {
        self.create(
            kind("pv"),
            &json!({
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "pv" },
                "spec": { "capacity": { "storage": "1Gi" }, "accessModes": [mode], "hostPath": { "path": "/data" } },
            }),
        );
        self.create(
            kind("pvc"),
            &json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": { "name": "data", "namespace": "default" },
                "spec": {
                    "accessModes": [mode], "storageClassName": "", "resources": { "requests": { "storage": "1Gi" } },
                },
            }),
        );
    }

    fn pod(&self, name: &str) -> String {
        let mut pod = manifest(name, "nginx:1", "sleep");
        pod["spec"]["nodeName"] = "here".into();
        pod["spec"]["volumes"] = json!([{ "name": "v", "persistentVolumeClaim": { "claimName": "data" } }]);
        self.pods.add_pod(&pod)
    }

    fn settle(&self) {
        settle(&self.pods.paths).unwrap();
    }

    /// The volumes of a Pod, or why it waits.
    fn bind(&self, uid: &str) -> Result<Vec<String>, Vec<String>> {
        match bind(&self.pods.paths, uid).unwrap() {
            PodClaims::Bound(bound) => Ok(bound.into_iter().map(|bound| bound.name).collect()),
            PodClaims::Waiting { events, .. } => Err(events.iter().map(|event| event.message.clone()).collect()),
        }
    }

    fn find(&self, kind: &'static Kind, name: &str) -> Option<Object> {
        let key = objects::key(kind, "default", name);
        self.store.find(&objects::resource(kind), &key).unwrap()
    }

    fn phase(&self, kind: &'static Kind, name: &str) -> Value {
        self.find(kind, name).unwrap().value()["status"]["phase"].clone()
    }
}

#[test]
fn claims_and_volumes_are_bound_and_pods_get_them() {
    let node = Node::new();
    let uid = node.pod("web");
    let waits = node.bind(&uid).unwrap_err();
    assert!(
        matches!(&waits[..], [only] if only.contains("persistentvolumeclaim \"data\" not found")),
        "{waits:?}"
    );
    node.claim("ReadWriteOnce");
    node.settle();
    assert_eq!(node.phase(kind("pvc"), "data"), "Bound");
    assert_eq!(node.phase(kind("pv"), "pv"), "Bound");
    assert_eq!(node.bind(&uid), Ok(vec!["v".to_owned()]));
    assert_eq!(node.bind("gone"), Err(Vec::new()));
}

#[test]
fn an_exclusive_claim_belongs_to_the_pod_that_got_it_first() {
    let node = Node::new();
    node.claim("ReadWriteOncePod");
    node.settle();
    let (first, second) = (node.pod("first"), node.pod("second"));
    let mut uids = [first, second];
    // Among Pods of the same age, the UID decides.
    uids.sort();
    let [winner, loser] = uids;
    assert!(node.bind(&loser).is_err());
    assert!(node.bind(&winner).is_ok());
    // Also after its supervisor has restarted.
    assert!(node.bind(&winner).is_ok());
    let waits = node.bind(&loser).unwrap_err();
    assert!(waits.concat().contains("ReadWriteOncePod"), "{waits:?}");
    node.pods.remove(&winner);
    assert!(node.bind(&loser).is_ok());
}

#[test]
fn a_claim_that_was_deleted_stays_until_its_pod_is_removed() {
    let node = Node::new();
    node.claim("ReadWriteOnce");
    let uid = node.pod("web");
    node.settle();
    assert!(node.bind(&uid).is_ok());
    let claims = objects::resource(kind("pvc"));
    let key = Key::namespaced("default", "data");
    node.store.delete(&claims, &key, &Deletion::default()).unwrap();
    node.settle();
    assert!(node.find(kind("pvc"), "data").is_some());
    // The removal applies the rules.
    node.pods.remove(&uid);
    assert_eq!(node.find(kind("pvc"), "data"), None);
    assert_eq!(node.phase(kind("pv"), "pv"), "Released");
}

#[test]
fn nothing_changes_while_an_object_cannot_be_read() {
    let node = Node::new();
    node.claim("ReadWriteOnce");
    let uid = node.pod("web");
    let file = node.pods.paths.pod_state(&uid).join("pod.json");
    let content = std::fs::read(&file).unwrap();
    std::fs::write(&file, "torn").unwrap();
    let error = settle(&node.pods.paths).unwrap_err();
    assert_eq!(
        error.to_string(),
        "claims and volumes stay as they are while an object cannot be read"
    );
    assert_eq!(node.phase(kind("pvc"), "data"), "Pending");
    std::fs::write(&file, content).unwrap();
    node.settle();
    assert_eq!(node.phase(kind("pvc"), "data"), "Bound");
}

#[test]
fn processes_apply_the_rules_one_after_the_other() {
    let node = Node::new();
    node.claim("ReadWriteOnce");
    let lock = lock_exclusive(&node.pods.paths.run_dir().join("claims.lock")).unwrap();
    let paths = node.pods.paths.clone();
    let waiting = std::thread::spawn(move || settle(&paths).unwrap());
    assert_eq!(node.phase(kind("pvc"), "data"), "Pending");
    assert!(!waiting.is_finished());
    drop(lock);
    waiting.join().unwrap();
    assert_eq!(node.phase(kind("pvc"), "data"), "Bound");
}

#[test]
fn events_about_claims_and_volumes_are_recorded() {
    let node = Node::new();
    node.create(
        kind("pvc"),
        &json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": "lonely", "namespace": "default" },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": "", "resources": { "requests": { "storage": "1Gi" } },
            },
        }),
    );
    node.settle();
    node.settle();
    let events = object_events(&node.pods.paths, std::time::SystemTime::now()).unwrap();
    let [waiting] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!(
        (waiting.object.kind.as_str(), waiting.object.name.as_str()),
        ("PersistentVolumeClaim", "lonely")
    );
    let claim = node.find(kind("pvc"), "lonely").unwrap();
    assert_eq!(claim.value()["metadata"]["uid"], waiting.object.uid.as_str());
    assert_eq!(
        (waiting.event.reason.as_str(), waiting.event.count),
        ("FailedBinding", 1)
    );
    assert_eq!(
        waiting.event.message,
        "no persistent volumes available for this claim and no storage class is set"
    );
}
