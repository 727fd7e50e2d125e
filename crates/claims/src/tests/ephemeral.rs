use serde_json::json;

use crate::testing::{Node, claim, class, object, pod};
use crate::{check_owner, claim_for};

fn with_ephemeral(name: &str) -> k8s_openapi::api::core::v1::Pod {
    let mut pod = pod(name, &[]);
    pod.spec.as_mut().unwrap().volumes = object(json!([{"name": "cache", "ephemeral": {"volumeClaimTemplate": {
        "metadata": {"labels": {"app": "web"}, "annotations": {"note": "a"}},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "lazy",
            "volumeMode": "Filesystem",
        },
    }}}]));
    pod
}

#[test]
fn the_claim_of_an_ephemeral_volume_lives_as_long_as_its_pod() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    node.add_pod(with_ephemeral("web")).settle();
    let claim = node.claim("web-cache");
    assert_eq!(
        serde_json::to_value(&claim.metadata.owner_references).unwrap(),
        json!([{
            "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "uid-of-web", "controller": true,
            "blockOwnerDeletion": true,
        }])
    );
    assert_eq!(claim.metadata.labels.as_ref().unwrap()["app"], "web");
    assert_eq!(claim.metadata.annotations.as_ref().unwrap()["note"], "a");
    assert_eq!(
        claim.metadata.finalizers.as_ref().unwrap(),
        &["kubernetes.io/pvc-protection"]
    );
    assert_eq!(node.state.disks.len(), 1);
    assert!(node.phases().iter().all(|phase| phase.ends_with("=Bound")));
    node.delete_claim("web-cache").settle();
    assert_eq!(node.state.claims.len(), 1, "in use");
    node.remove_pod("web").settle();
    assert!(node.state.claims.is_empty() && node.state.volumes.is_empty() && node.state.disks.is_empty());
}

#[test]
fn a_claim_of_the_same_name_is_not_taken() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    node.add_claim(claim("web-cache", "1Gi"))
        .add_pod(with_ephemeral("web"))
        .settle();
    let problem = "PVC shop/web-cache was not created for pod shop/web (pod is not owner)";
    let events = node.take_events();
    assert!(
        events.contains(&format!(
            "Warning FailedBinding shop/web: ephemeral volume cache: {problem}"
        )),
        "{events:?}"
    );
    let wait = format!(
        "Warning FailedScheduling shop/web: 0/1 nodes are available: {problem}. preemption: 0/1 nodes are available: 1 \
         Preemption is not helpful for scheduling."
    );
    assert!(events.contains(&wait), "{events:?}");
    assert_eq!(node.claim("web-cache").metadata.owner_references, None);
    // The claim of someone else is not kept by the Pod either.
    node.delete_claim("web-cache").settle();
    assert!(
        node.claim("web-cache").metadata.owner_references.is_some(),
        "created for the Pod"
    );
}

#[test]
fn the_claim_of_an_older_pod_of_the_same_name_is_replaced() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    node.add_pod(with_ephemeral("web")).settle();
    let mut newer = with_ephemeral("web");
    newer.metadata.uid = Some("newer".to_owned());
    node.remove_pod("web").add_pod(newer.clone()).settle();
    assert!(check_owner(&newer, node.claim("web-cache")).is_ok());
    assert_eq!((node.state.disks.len(), node.deleted.len()), (1, 1));
}

#[test]
fn a_pod_that_is_being_deleted_gets_no_claims() {
    let mut node = Node::with(&[class("lazy", "WaitForFirstConsumer")]);
    let mut leaving = with_ephemeral("web");
    leaving.metadata.deletion_timestamp = Some(node.state.now.clone());
    node.add_pod(leaving).settle();
    assert!(node.state.claims.is_empty());
    let pod = pod("web", &["data"]);
    assert_eq!(
        claim_for(&pod, &pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0]),
        None
    );
}
