use crate::fields::annotate;
use crate::testing::{Node, claim, claim_of, class, time, volume};
use crate::{admit_claim, admit_volume};

fn default_class(name: &str, created: &str) -> k8s_openapi::api::storage::v1::StorageClass {
    let mut class = class(name, "Immediate");
    class.metadata.creation_timestamp = Some(time(created));
    annotate(
        &mut class.metadata,
        "storageclass.kubernetes.io/is-default-class",
        "true",
    );
    class
}

fn chosen(classes: &[k8s_openapi::api::storage::v1::StorageClass], class: Option<&str>) -> Option<String> {
    let mut claim = claim("data", "1Gi");
    claim.spec.as_mut().unwrap().storage_class_name = class.map(str::to_owned);
    admit_claim(&mut claim, classes);
    claim.spec.unwrap().storage_class_name
}

#[test]
fn a_claim_without_a_class_gets_the_newest_default() {
    let old = default_class("old", "2026-01-01T00:00:00Z");
    let (a, b) = (
        default_class("a", "2026-02-01T00:00:00Z"),
        default_class("b", "2026-02-01T00:00:00Z"),
    );
    let plain = class("plain", "Immediate");
    let all = [old.clone(), b, plain.clone(), a];
    assert_eq!(chosen(&all, None).as_deref(), Some("a"));
    assert_eq!(chosen(&all[..1], None).as_deref(), Some("old"));
    assert_eq!(chosen(&[plain], None), None);
    assert_eq!(chosen(&all, Some("")).as_deref(), Some(""));
    assert_eq!(chosen(&all, Some("plain")).as_deref(), Some("plain"));
    let mut annotated = claim("data", "1Gi");
    annotated.spec.as_mut().unwrap().storage_class_name = None;
    annotate(&mut annotated.metadata, "volume.beta.kubernetes.io/storage-class", "");
    admit_claim(&mut annotated, &all);
    assert_eq!(annotated.spec.unwrap().storage_class_name, None);
}

#[test]
fn a_default_class_that_comes_later_is_used_unless_the_claim_refuses_classes() {
    let mut node = Node::default();
    let mut open = claim("open", "1Gi");
    open.spec.as_mut().unwrap().storage_class_name = None;
    node.add_claim(open).add_claim(claim("none", "1Gi")).settle();
    assert_eq!(node.phases(), ["open=Pending", "none=Pending"]);
    node.state.classes.push(default_class("late", "2026-02-01T00:00:00Z"));
    node.settle();
    assert_eq!(node.phases(), ["open=Bound", "none=Pending", "pvc-uid-of-open=Bound"]);
    let class = |name: &str| node.claim(name).spec.as_ref().unwrap().storage_class_name.clone();
    assert_eq!(
        (class("open").as_deref(), class("none").as_deref()),
        (Some("late"), Some(""))
    );
}

#[test]
fn a_volume_without_a_class_is_preferred_to_the_default_class() {
    let mut node = Node::default();
    let mut open = claim("open", "1Gi");
    open.spec.as_mut().unwrap().storage_class_name = None;
    node.add_claim(open).settle();
    node.state.classes.push(default_class("late", "2026-02-01T00:00:00Z"));
    node.add_volume(volume("disk", "1Gi")).settle();
    assert_eq!(node.phases(), ["open=Bound", "disk=Bound"]);
}

#[test]
fn new_objects_get_finalizers_and_old_ones_too() {
    let mut node = Node::default();
    node.add_volume(volume("disk", "1Gi")).add_claim(claim("data", "1Gi"));
    let finalizers =
        |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| metadata.finalizers.clone();
    let (of_claim, of_volume) = (
        Some(vec!["kubernetes.io/pvc-protection".to_owned()]),
        Some(vec!["kubernetes.io/pv-protection".to_owned()]),
    );
    assert_eq!(finalizers(&node.claim("data").metadata), of_claim);
    assert_eq!(finalizers(&node.volume("disk").metadata), of_volume);
    node.claim_mut("data").metadata.finalizers = None;
    node.volume_mut("disk").metadata.finalizers = None;
    node.settle();
    assert_eq!(finalizers(&node.claim("data").metadata), of_claim);
    assert_eq!(finalizers(&node.volume("disk").metadata), of_volume);
}

#[test]
fn volumes_cannot_be_recycled() {
    let mut recycled = volume("disk", "1Gi");
    recycled.spec.as_mut().unwrap().persistent_volume_reclaim_policy = Some("Recycle".to_owned());
    assert_eq!(
        admit_volume(&mut recycled),
        Err("spec.persistentVolumeReclaimPolicy: \"Recycle\" is not supported by microkube: write Delete or Retain")
    );
}

#[test]
fn classes_of_other_provisioners_provision_nothing() {
    let of = |name: &str, provisioner: &str| {
        let mut class = class(name, "Immediate");
        class.provisioner = provisioner.to_owned();
        class
    };
    let mut node = Node::with(&[
        of("by-hand", "kubernetes.io/no-provisioner"),
        of("other", "example.com/disk"),
    ]);
    for name in ["by-hand", "other", "missing"] {
        node.add_claim(claim_of(name, name, "1Gi"));
    }
    node.settle();
    let mut events = node.take_events();
    events.sort();
    assert_eq!(
        events,
        [
            "Normal ExternalProvisioning shop/other: Waiting for a volume to be created either by the external provisioner \
             'example.com/disk' or manually by the system administrator. If volume creation is delayed, please verify that \
             the provisioner is running and correctly registered.",
            "Warning ProvisioningFailed shop/by-hand: no volume plugin matched name: kubernetes.io/no-provisioner",
            "Warning ProvisioningFailed shop/missing: storageclass.storage.k8s.io \"missing\" not found",
        ]
    );
    assert_eq!(
        crate::fields::annotation(
            &node.claim("other").metadata,
            "volume.kubernetes.io/storage-provisioner"
        ),
        Some("example.com/disk")
    );
    // A volume by hand serves as well.
    let mut by_hand = volume("disk", "1Gi");
    by_hand.spec.as_mut().unwrap().storage_class_name = Some("by-hand".to_owned());
    node.add_volume(by_hand).settle();
    assert_eq!(
        node.phases(),
        ["by-hand=Bound", "other=Pending", "missing=Pending", "disk=Bound"]
    );
}
