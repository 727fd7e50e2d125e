use serde_json::json;

use crate::check_expansion;
use crate::testing::{Node, claim, claim_of, class, object, volume};

fn bound() -> Node {
    let mut node = Node::with(&[class("fast", "Immediate")]);
    node.add_claim(claim_of("fast", "data", "1Gi")).settle();
    node.take_events();
    node
}

fn request(node: &mut Node, size: &str) {
    let spec = node.claim_mut("data").spec.as_mut().unwrap();
    spec.resources = object(json!({"requests": {"storage": size}}));
}

fn status(node: &Node) -> serde_json::Value {
    serde_json::to_value(node.claim("data").status.as_ref().unwrap()).unwrap()
}

#[test]
fn only_bound_claims_of_classes_that_allow_it_grow() {
    let (mut fixed, open) = (class("fixed", "Immediate"), class("open", "Immediate"));
    fixed.allow_volume_expansion = None;
    let classes = [fixed, open];
    let check = |class: &str, phase: &str, size: &str| {
        let mut old = claim_of(class, "data", "1Gi");
        old.status = object(json!({"phase": phase}));
        let mut new = old.clone();
        new.spec.as_mut().unwrap().resources = object(json!({"requests": {"storage": size}}));
        check_expansion(&new, &old, &classes)
    };
    let refused = Err(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
    );
    assert_eq!(check("open", "Bound", "2Gi"), Ok(()));
    assert_eq!(check("fixed", "Bound", "2Gi"), refused);
    assert_eq!(check("missing", "Bound", "2Gi"), refused);
    assert_eq!(check("", "Bound", "2Gi"), refused);
    assert_eq!(
        check("open", "Pending", "2Gi"),
        Err("Only bound persistent volume claims can be expanded")
    );
    for same in ["1Gi", "1024Mi", "512Mi"] {
        assert_eq!(check("fixed", "Pending", same), Ok(()), "{same}");
    }
}

#[test]
fn a_disk_grows_with_its_claim() {
    let mut node = bound();
    request(&mut node, "2Gi");
    node.settle();
    assert_eq!(node.state.disks["pvc-uid-of-data"].bytes, 2 << 30);
    assert_eq!(
        node.take_events(),
        ["Normal VolumeResizeSuccessful shop/data: ExpandVolume succeeded for volume shop/data"]
    );
    let volume = node.volume("pvc-uid-of-data").spec.as_ref().unwrap();
    assert_eq!(volume.capacity.as_ref().unwrap()["storage"].0, "2Gi");
    assert_eq!(
        status(&node),
        json!({
            "accessModes": ["ReadWriteOnce"], "allocatedResources": {"storage": "2Gi"}, "capacity": {"storage": "2Gi"},
            "phase": "Bound",
        })
    );
}

#[test]
fn a_file_system_may_grow_when_a_pod_starts() {
    let mut node = bound();
    node.grows_later = true;
    request(&mut node, "2Gi");
    node.settle();
    assert_eq!(
        node.take_events(),
        ["Normal FileSystemResizeRequired shop/data: Require file system resize of volume on node"]
    );
    let now = status(&node);
    assert_eq!(now["capacity"]["storage"], "1Gi");
    assert_eq!(
        now["allocatedResourceStatuses"],
        json!({"storage": "NodeResizePending"})
    );
    assert_eq!(
        now["conditions"],
        json!([{
            "type": "FileSystemResizePending", "status": "True", "lastTransitionTime": "2026-11-27T10:00:00Z",
            "message": "Waiting for user to (re-)start a pod to finish file system resize of volume on node.",
        }])
    );
    node.state
        .disks
        .get_mut("pvc-uid-of-data")
        .unwrap()
        .has_smaller_file_system = false;
    node.settle();
    assert_eq!(
        node.take_events(),
        [
            "Normal FileSystemResizeSuccessful shop/data: MountVolume.NodeExpandVolume succeeded for volume \"pvc-uid-of-data\" node"
        ]
    );
    let now = status(&node);
    assert_eq!(
        (&now["capacity"]["storage"], &now["conditions"]),
        (&json!("2Gi"), &json!(null))
    );
}

#[test]
fn a_disk_that_cannot_grow_is_tried_again_and_the_request_can_be_lowered() {
    let mut node = bound();
    node.disk_error = Some("no space left on device");
    request(&mut node, "2Gi");
    node.settle();
    let expected = "Warning VolumeResizeFailed shop/data: error expanding volume \"shop/data\" of plugin \"microkube.io/disk-image\": no space left on device";
    assert_eq!(node.take_events(), [expected]);
    let now = status(&node);
    assert_eq!(now["conditions"][0]["type"], "Resizing");
    assert_eq!(
        now["allocatedResourceStatuses"],
        json!({"storage": "ControllerResizeInProgress"})
    );
    assert_eq!(
        node.claim("data").metadata.annotations.as_ref().unwrap()["volume.kubernetes.io/storage-resizer"],
        "microkube.io/disk-image"
    );
    request(&mut node, "1Gi");
    node.settle();
    let now = status(&node);
    assert_eq!(
        (&now["conditions"], &now["allocatedResourceStatuses"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(now["capacity"]["storage"], "1Gi");
}

#[test]
fn a_claim_does_not_grow_beyond_the_largest_disk() {
    let mut node = bound();
    request(&mut node, "17Ti");
    node.settle();
    let expected = "Warning VolumeResizeFailed shop/data: error expanding volume \"shop/data\" of plugin \"microkube.io/disk-image\": the requested size is not between 1 byte and 16Ti";
    assert_eq!(node.take_events(), [expected]);
    assert_eq!(node.state.disks["pvc-uid-of-data"].bytes, 1 << 30);
}

#[test]
fn other_volumes_wait_for_their_own_controller() {
    let mut node = Node::default();
    node.add_volume(volume("disk", "1Gi"))
        .add_claim(claim("data", "1Gi"))
        .settle();
    request(&mut node, "2Gi");
    node.settle();
    assert_eq!(
        node.take_events(),
        ["Normal ExternalExpanding shop/data: waiting for an external controller to expand this PVC"]
    );
}
