use serde_json::json;

use crate::disk::disk_of;
use crate::fields::{annotation, text, volume_name};
use crate::keys::{PROVISIONED_BY, PROVISIONER};
use crate::testing::{Node, claim_of, class, object, pod, volume};

#[test]
fn a_class_creates_a_disk_and_its_volume() {
    let mut node = Node::with(&[class("fast", "Immediate")]);
    node.add_claim(claim_of("fast", "data", "1500M")).settle();
    assert_eq!(node.phases(), ["data=Bound", "pvc-uid-of-data=Bound"]);
    assert_eq!(
        node.take_events(),
        [
            "Normal ProvisioningSucceeded shop/data: Successfully provisioned volume pvc-uid-of-data using microkube.io/disk-image"
        ]
    );
    let volume = node.volume("pvc-uid-of-data");
    assert_eq!(annotation(&volume.metadata, PROVISIONED_BY), Some(PROVISIONER));
    assert_eq!(disk_of(volume), Some("pvc-uid-of-data"));
    assert_eq!(node.state.disks["pvc-uid-of-data"].bytes, 1431 << 20);
    let spec = volume.spec.as_ref().unwrap();
    assert_eq!(spec.capacity.as_ref().unwrap()["storage"].0, "1500M");
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    assert_eq!(spec.storage_class_name.as_deref(), Some("fast"));
    let problems = microkube_manifest::kinds::named("pv").unwrap();
    let problems = problems.validate(&serde_json::to_value(volume).unwrap());
    assert_eq!(problems.len(), 0, "{problems:?}");
    let finalizers = ["kubernetes.io/pv-protection", "kubernetes.io/pv-controller"];
    assert_eq!(volume.metadata.finalizers.as_ref().unwrap(), &finalizers);
}

#[test]
fn a_claim_waits_for_its_first_pod() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    node.add_claim(claim_of("lazy", "data", "1Gi")).settle();
    assert_eq!(node.phases(), ["data=Pending"]);
    assert_eq!(
        node.take_events(),
        ["Normal WaitForFirstConsumer shop/data: waiting for first consumer to be created before binding"]
    );
    let mut gated = pod("gated", &["data"]);
    let spec = gated.spec.as_mut().unwrap();
    spec.node_name = None;
    spec.scheduling_gates = Some(vec![object(json!({"name": "wait"}))]);
    node.add_pod(gated).settle();
    assert_eq!(
        node.take_events(),
        ["Normal WaitForPodScheduled shop/data: waiting for pod gated to be scheduled"]
    );
    node.add_pod(pod("web", &["data"])).settle();
    assert_eq!(node.phases(), ["data=Bound", "pvc-uid-of-data=Bound"]);
    let selected = annotation(&node.claim("data").metadata, "volume.kubernetes.io/selected-node");
    assert_eq!(selected, Some("node"));
}

#[test]
fn a_pod_with_a_problem_is_no_consumer() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    node.add_claim(claim_of("lazy", "data", "1Gi"));
    node.add_pod(pod("web", &["data", "missing"])).settle();
    assert_eq!(node.phases(), ["data=Pending"]);
    let mut ended = pod("ended", &["data"]);
    ended.status = object(json!({"phase": "Succeeded"}));
    let mut leaving = pod("leaving", &["data"]);
    leaving.metadata.deletion_timestamp = Some(node.state.now.clone());
    node.add_pod(ended).add_pod(leaving).settle();
    assert_eq!(node.phases(), ["data=Pending"]);
}

#[test]
fn existing_volumes_are_preferred_to_new_ones() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    for (name, size) in [("large", "9Gi"), ("small", "2Gi")] {
        let mut existing = volume(name, size);
        existing.spec.as_mut().unwrap().storage_class_name = Some("lazy".to_owned());
        node.add_volume(existing);
    }
    for (name, size) in [("one", "5Gi"), ("two", "1Gi"), ("three", "10Gi")] {
        node.add_claim(claim_of("lazy", name, size));
    }
    node.settle();
    assert!(node.phases().iter().all(|phase| !phase.ends_with("Bound")));
    node.add_pod(pod("web", &["one", "two", "three"])).settle();
    let names: Vec<&str> = ["one", "two", "three"].map(|name| volume_name(node.claim(name))).into();
    assert_eq!(names, ["large", "small", "pvc-uid-of-three"]);
}

#[test]
fn a_claim_that_cannot_be_provisioned_says_why() {
    let sized = |size: &str| claim_of("fast", "data", size);
    let with = |field: &str, value: serde_json::Value| {
        let mut claim = serde_json::to_value(sized("1Gi")).unwrap();
        claim["spec"][field] = value;
        object::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(claim)
    };
    let start = "Failed to provision volume with StorageClass \"fast\"";
    for (claim, message) in [
        (
            with("dataSource", json!({"kind": "PersistentVolumeClaim", "name": "a"})),
            "plugin \"microkube.io/disk-image\" is not a CSI plugin. Only CSI plugin can provision a claim with a datasource"
                .to_owned(),
        ),
        (with("selector", json!({})), format!("{start}: claim Selector is not supported")),
        (
            with("volumeMode", json!("Block")),
            format!("{start}: microkube.io/disk-image does not support block volume provisioning"),
        ),
        (
            sized("9223372036854775807"),
            format!("{start}: the requested size is not between 1 byte and 16Ti"),
        ),
        (
            sized("17Ti"),
            format!("{start}: the requested size is not between 1 byte and 16Ti"),
        ),
    ] {
        let mut node = Node::with(&[class("fast", "Immediate")]);
        node.add_claim(claim).settle();
        assert_eq!(node.take_events(), [format!("Warning ProvisioningFailed shop/data: {message}")]);
        assert_eq!(node.phases(), ["data=Pending"]);
    }
}

#[test]
fn options_of_a_class_that_have_no_effect_are_refused() {
    let mut parameters = class("fast", "Immediate");
    parameters.parameters = object(json!({"type": "ssd"}));
    let mut options = class("fast", "Immediate");
    options.mount_options = object(json!(["noatime", "ro"]));
    for (class, message) in [
        (
            parameters,
            "Failed to provision volume with StorageClass \"fast\": invalid option \"type\" for volume plugin microkube.io/disk-image",
        ),
        (
            options,
            "Mount options are not supported by the provisioner but StorageClass \"fast\" has mount options [noatime ro]",
        ),
    ] {
        let mut node = Node::with(&[class]);
        node.add_claim(claim_of("fast", "data", "1Gi")).settle();
        assert_eq!(
            node.take_events(),
            [format!("Warning ProvisioningFailed shop/data: {message}")]
        );
    }
}

#[test]
fn a_disk_that_cannot_be_created_is_tried_again() {
    let mut node = Node::with(&[class("fast", "Immediate")]);
    node.disk_error = Some("no space left on device");
    node.add_claim(claim_of("fast", "data", "1Gi")).settle();
    assert_eq!(node.phases(), ["data=Pending", "pvc-uid-of-data=Pending"]);
    assert_eq!(
        node.take_events(),
        [
            "Warning ProvisioningFailed shop/data: Failed to provision volume with StorageClass \"fast\": no space left on device"
        ]
    );
    node.disk_error = None;
    node.settle();
    assert_eq!(node.phases(), ["data=Bound", "pvc-uid-of-data=Bound"]);
}

#[test]
fn a_disk_that_cannot_be_created_does_not_stop_others() {
    let mut node = Node::with(&[class("fast", "Immediate")]);
    node.disk_error = Some("file too large");
    node.faulty_disk = Some("pvc-uid-of-a");
    for name in ["a", "b"] {
        node.add_claim(claim_of("fast", name, "1Gi"));
    }
    node.settle();
    assert_eq!(
        node.phases(),
        ["a=Pending", "b=Bound", "pvc-uid-of-a=Pending", "pvc-uid-of-b=Bound"]
    );
}

#[test]
fn a_claim_that_is_deleted_before_its_disk_exists_leaves_nothing() {
    for policy in ["Delete", "Retain"] {
        let mut class = class("fast", "Immediate");
        class.reclaim_policy = Some(policy.to_owned());
        let mut node = Node::with(&[class]);
        node.disk_error = Some("no space left on device");
        node.add_claim(claim_of("fast", "data", "1Gi")).settle();
        node.delete_claim("data").settle();
        assert!(node.state.claims.is_empty() && node.state.volumes.is_empty() && node.state.disks.is_empty());
    }
}

#[test]
fn a_bound_claim_never_gets_another_disk() {
    let mut node = Node::with(&[class("fast", "Immediate")]);
    node.add_claim(claim_of("fast", "data", "1Gi")).settle();
    let before = node.phases();
    node.state.disks.clear();
    node.settle();
    assert!(node.state.disks.is_empty());
    assert_eq!(node.phases(), before);
    assert_eq!(
        text(&node.volume("pvc-uid-of-data").status.as_ref().unwrap().phase),
        "Bound"
    );
}
