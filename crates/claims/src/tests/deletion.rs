use crate::fields::claim_reference;
use crate::testing::{Node, claim, claim_of, class, disk_volume, object, pod, volume};
use serde_json::json;

fn bound() -> Node {
    let mut node = Node::with(&[class("fast", "Immediate")]);
    node.add_claim(claim_of("fast", "data", "1Gi")).settle();
    node.take_events();
    node
}

#[test]
fn a_claim_stays_while_a_pod_uses_it() {
    let mut node = bound();
    node.add_pod(pod("web", &["data"])).delete_claim("data").settle();
    assert_eq!(node.phases(), ["data=Bound", "pvc-uid-of-data=Bound"]);
    // Like in Kubernetes, also a Pod that has ended.
    node.state.pods[0].status = object(json!({"phase": "Succeeded"}));
    node.settle();
    assert_eq!(node.phases(), ["data=Bound", "pvc-uid-of-data=Bound"]);
    node.remove_pod("web").settle();
    assert!(node.state.claims.is_empty() && node.state.volumes.is_empty() && node.state.disks.is_empty());
    assert_eq!(node.deleted, ["pvc-uid-of-data"]);
}

#[test]
fn a_pod_that_does_not_run_yet_does_not_keep_a_claim() {
    let mut node = bound();
    let mut gated = pod("gated", &["data"]);
    let spec = gated.spec.as_mut().unwrap();
    spec.node_name = None;
    spec.scheduling_gates = Some(vec![object(json!({"name": "wait"}))]);
    node.add_pod(gated).delete_claim("data").settle();
    assert!(node.state.claims.is_empty());
}

#[test]
fn a_retained_volume_keeps_its_disk_and_is_not_bound_again() {
    let mut class = class("fast", "Immediate");
    class.reclaim_policy = Some("Retain".to_owned());
    let mut node = Node::with(&[class]);
    node.add_claim(claim_of("fast", "data", "1Gi")).settle();
    node.delete_claim("data").settle();
    assert_eq!(node.phases(), ["pvc-uid-of-data=Released"]);
    assert_eq!(node.state.disks.len(), 1);
    let mut again = claim_of("fast", "data", "1Gi");
    again.metadata.uid = Some("another".to_owned());
    node.add_claim(again).settle();
    assert_eq!(
        node.phases(),
        ["data=Bound", "pvc-uid-of-data=Released", "pvc-another=Bound"]
    );
    // Without its reference, the volume is free again.
    node.volume_mut("pvc-uid-of-data").spec.as_mut().unwrap().claim_ref = None;
    node.settle();
    assert_eq!(
        node.phases(),
        ["data=Bound", "pvc-uid-of-data=Available", "pvc-another=Bound"]
    );
    // Deleting the object leaves the disk.
    node.delete_volume("pvc-uid-of-data").settle();
    assert!(!node.has_volume("pvc-uid-of-data"));
    assert_eq!((node.state.disks.len(), node.deleted.len()), (2, 0));
}

#[test]
fn a_bound_volume_stays_until_its_claim_is_gone_and_takes_its_disk_along() {
    let mut node = bound();
    node.delete_volume("pvc-uid-of-data").settle();
    assert_eq!(node.phases(), ["data=Bound", "pvc-uid-of-data=Bound"]);
    assert_eq!(node.state.disks.len(), 1);
    node.delete_claim("data").settle();
    assert!(node.state.volumes.is_empty() && node.state.disks.is_empty());
}

#[test]
fn a_free_volume_can_be_deleted() {
    let mut node = Node::default();
    node.add_volume(volume("disk", "1Gi"))
        .add_volume(disk_volume("own", "image", "1Gi"))
        .settle();
    let image = crate::Disk {
        bytes: 1 << 30,
        has_smaller_file_system: false,
    };
    node.state.disks.insert("image".to_owned(), image);
    node.volume_mut("own")
        .spec
        .as_mut()
        .unwrap()
        .persistent_volume_reclaim_policy = Some("Delete".to_owned());
    node.delete_volume("disk").delete_volume("own").settle();
    assert!(node.state.volumes.is_empty());
    assert_eq!(node.state.disks.len(), 1, "never bound");
}

#[test]
fn a_volume_that_is_freed_after_its_disk_was_deleted_is_gone() {
    let mut node = bound();
    node.delete_claim("data");
    while !node.state.disks.is_empty() {
        let plan = crate::reconcile(&node.state);
        node.carry_out(plan, usize::MAX);
    }
    assert!(node.has_volume("pvc-uid-of-data"));
    node.volume_mut("pvc-uid-of-data").spec.as_mut().unwrap().claim_ref = None;
    node.settle();
    assert!(node.state.volumes.is_empty());
}

#[test]
fn a_disk_that_two_volumes_share_is_kept() {
    let mut node = bound();
    let mut other = disk_volume("copy", "pvc-uid-of-data", "1Gi");
    other.spec.as_mut().unwrap().storage_class_name = Some("other".to_owned());
    node.add_volume(other).settle();
    node.delete_claim("data").settle();
    assert_eq!(node.phases(), ["copy=Available"]);
    assert_eq!(node.state.disks.len(), 1);
}

#[test]
fn what_cannot_be_reclaimed_fails_visibly() {
    let mut plugin = volume("plugin", "1Gi");
    crate::fields::annotate(&mut plugin.metadata, crate::keys::PROVISIONED_BY, "kubernetes.io/old");
    let mut external = volume("external", "1Gi");
    crate::fields::annotate(&mut external.metadata, crate::keys::PROVISIONED_BY, "example.com/disk");
    for (offered, policy, phase, expected) in [
        (
            volume("disk", "1Gi"),
            "Delete",
            "Failed",
            "Warning VolumeFailedDelete disk: error getting deleter volume plugin for volume \"disk\": no deletable volume plugin matched",
        ),
        (
            plugin,
            "Delete",
            "Failed",
            "Warning VolumeFailedDelete plugin: no volume plugin matched name: kubernetes.io/old",
        ),
        (external, "Delete", "Released", ""),
        (volume("disk", "1Gi"), "Retain", "Released", ""),
        (
            volume("disk", "1Gi"),
            "Recycle",
            "Failed",
            "Warning VolumeFailedRecycle disk: No recycler plugin found for the volume!",
        ),
    ] {
        let name = offered.metadata.name.clone().unwrap();
        let mut node = Node::default();
        node.add_volume(offered).add_claim(claim("data", "1Gi")).settle();
        node.volume_mut(&name)
            .spec
            .as_mut()
            .unwrap()
            .persistent_volume_reclaim_policy = Some(policy.to_owned());
        node.delete_claim("data").settle();
        assert_eq!(node.phases(), [format!("{name}={phase}")]);
        assert_eq!(node.take_events().concat(), expected);
        assert!(claim_reference(node.volume(&name)).is_some());
    }
}

#[test]
fn a_disk_that_cannot_be_deleted_is_tried_again() {
    let mut node = bound();
    node.disk_error = Some("device or resource busy");
    node.delete_claim("data").settle();
    assert_eq!(node.phases(), ["pvc-uid-of-data=Failed"]);
    let expected = "Warning VolumeFailedDelete pvc-uid-of-data: device or resource busy";
    assert_eq!(node.take_events(), [expected]);
    let status = node.volume("pvc-uid-of-data").status.clone().unwrap();
    assert_eq!(status.message.as_deref(), Some("device or resource busy"));
    node.settle();
    assert_eq!(node.take_events(), [""; 0], "said once");
    node.disk_error = None;
    node.settle();
    assert!(node.state.volumes.is_empty() && node.state.disks.is_empty());
}
