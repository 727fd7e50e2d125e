use serde_json::json;

use crate::bound_volumes;
use crate::testing::{Node, claim, claim_of, class, object, pod, time, volume};

fn problem(node: &Node, pod: &k8s_openapi::api::core::v1::Pod) -> String {
    bound_volumes(&node.state, pod).unwrap_err().to_string()
}

fn no_node(reason: &str) -> String {
    format!(
        "0/1 nodes are available: {reason}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )
}

#[test]
fn a_pod_gets_the_volumes_of_its_claims() {
    let mut node = Node::default();
    let mut shared = volume("shared", "1Gi");
    shared.spec.as_mut().unwrap().access_modes = Some(vec!["ReadOnlyMany".to_owned()]);
    let mut reading = claim("read", "1Gi");
    reading.spec.as_mut().unwrap().access_modes = Some(vec!["ReadOnlyMany".to_owned()]);
    node.add_volume(volume("disk", "1Gi"))
        .add_volume(volume("other", "2Gi"))
        .add_volume(shared)
        .add_claim(claim("data", "1Gi"))
        .add_claim(claim("more", "2Gi"))
        .add_claim(reading)
        .settle();
    let mut web = pod("web", &["more", "data", "read"]);
    let volumes = web.spec.as_mut().unwrap().volumes.as_mut().unwrap();
    volumes[0].persistent_volume_claim.as_mut().unwrap().read_only = Some(true);
    volumes.push(object(json!({"name": "tmp", "emptyDir": {}})));
    let found = bound_volumes(&node.state, &web).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|own| {
            (
                own.name.as_str(),
                own.volume.metadata.name.as_deref().unwrap(),
                own.read_only,
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("more", "other", true),
            ("data", "disk", false),
            ("read", "shared", true)
        ]
    );
    assert_eq!(bound_volumes(&node.state, &pod("plain", &[])).unwrap(), []);
}

#[test]
fn a_pod_waits_for_its_claims() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    let mut by_hand = class("by-hand", "WaitForFirstConsumer");
    by_hand.provisioner = "kubernetes.io/no-provisioner".to_owned();
    node.state.classes.push(by_hand);
    let web = pod("web", &["data"]);
    assert_eq!(
        problem(&node, &web),
        no_node("persistentvolumeclaim \"data\" not found")
    );
    node.add_claim(claim("data", "1Gi")).settle();
    assert_eq!(
        problem(&node, &web),
        no_node("pod has unbound immediate PersistentVolumeClaims")
    );
    node.add_claim(claim_of("by-hand", "hand", "1Gi")).settle();
    assert_eq!(
        problem(&node, &pod("by-hand", &["hand"])),
        no_node("1 node(s) didn't find available persistent volumes to bind")
    );
    node.disk_error = Some("no space left on device");
    let lazy = pod("lazy", &["lazy"]);
    node.add_claim(claim_of("lazy", "lazy", "1Gi"))
        .add_pod(lazy.clone())
        .settle();
    assert_eq!(
        problem(&node, &lazy),
        "running PreBind plugin \"VolumeBinding\": binding volumes: provisioning failed for PVC \"lazy\""
    );
    node.disk_error = None;
    node.settle();
    assert_eq!(bound_volumes(&node.state, &lazy).unwrap().len(), 1);
}

#[test]
fn a_pod_does_not_start_with_a_claim_that_is_lost_or_leaves() {
    let mut node = Node::default();
    let web = pod("web", &["data"]);
    node.add_volume(volume("disk", "1Gi"))
        .add_claim(claim("data", "1Gi"))
        .settle();
    let mut bound = node.clone();
    bound.add_pod(pod("user", &["data"])).delete_claim("data").settle();
    assert_eq!(
        problem(&bound, &web),
        no_node("persistentvolumeclaim \"data\" is being deleted")
    );
    node.state.volumes.clear();
    assert_eq!(
        problem(&node, &web),
        no_node("1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
    );
    node.settle();
    assert_eq!(
        problem(&node, &web),
        no_node("persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"disk\"")
    );
}

fn exclusive() -> Node {
    let mut node = Node::default();
    let modes = Some(vec!["ReadWriteOncePod".to_owned()]);
    let (mut disk, mut data) = (volume("disk", "1Gi"), claim("data", "1Gi"));
    disk.spec.as_mut().unwrap().access_modes.clone_from(&modes);
    data.spec.as_mut().unwrap().access_modes = modes;
    node.add_volume(disk).add_claim(data).settle();
    node
}

#[test]
fn only_one_pod_uses_a_claim_for_one_pod() {
    let mut node = exclusive();
    let (first, mut second) = (pod("first", &["data"]), pod("second", &["data"]));
    second.metadata.creation_timestamp = Some(time("2026-11-27T09:31:00Z"));
    node.add_pod(first.clone()).add_pod(second.clone()).settle();
    let conflict = "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod \
                    access mode. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert!(bound_volumes(&node.state, &first).is_ok());
    assert_eq!(problem(&node, &second), conflict);
    assert_eq!(
        node.take_events(),
        [format!("Warning FailedScheduling shop/second: {conflict}")]
    );
    node.state.pods[0].status = object(json!({"phase": "Succeeded"}));
    assert!(bound_volumes(&node.state, &second).is_ok());
}

#[test]
fn a_pod_that_has_a_claim_for_one_pod_keeps_it() {
    let mut node = exclusive();
    let (first, mut second) = (pod("first", &["data"]), pod("second", &["data"]));
    second.metadata.creation_timestamp = Some(time("2026-11-27T09:31:00Z"));
    second.status = object(json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}));
    node.add_pod(first.clone()).add_pod(second.clone()).settle();
    assert!(bound_volumes(&node.state, &first).is_err(), "although it is older");
    assert!(bound_volumes(&node.state, &second).is_ok());
    // Pods of the same node share other claims.
    let modes = Some(vec!["ReadWriteOnce".to_owned()]);
    node.claim_mut("data").spec.as_mut().unwrap().access_modes = modes;
    assert!(bound_volumes(&node.state, &first).is_ok());
}

#[test]
fn a_pod_that_runs_is_not_reported_when_its_claim_is_deleted() {
    let mut node = exclusive();
    let mut web = pod("web", &["data"]);
    web.status = object(json!({"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}]}));
    node.add_pod(web).delete_claim("data").settle();
    assert_eq!(node.take_events(), [""; 0]);
    assert_eq!(node.phases(), ["data=Bound", "disk=Bound"]);
}
