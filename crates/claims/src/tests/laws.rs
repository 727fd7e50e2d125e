//! What holds for any history of a node, also if its processes die within a plan.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use proptest::prelude::*;
use serde_json::json;

use crate::disk::{disk_of, is_provisioned};
use crate::fields::{
    capacity, claim_phase, claim_reference, is_deleting, requests, storage, text, volume_name, volume_phase,
};
use crate::matching::{has_access_modes, has_other_mode};
use crate::testing::{Node, claim_of, class, disk_volume, object, pod, volume};
use crate::volume::policy;
use crate::{check_expansion, reconcile, uses};

/// Something that a user or a failure does. Numbers choose among the objects that exist.
#[derive(Debug, Clone)]
enum Action {
    AddClaim {
        class: &'static str,
        gibibytes: u8,
        shared: bool,
    },
    AddVolume {
        class: &'static str,
        gibibytes: u8,
        shared: bool,
        is_disk: bool,
        deletes: bool,
    },
    AddPod(Vec<u8>),
    AddPodWithEphemeral,
    DeleteClaim(u8),
    DeleteVolume(u8),
    RemovePod(u8),
    EndPod(u8),
    Grow(u8, u8),
    /// The user frees a volume.
    Free(u8),
    /// The user reserves a volume for a claim.
    Reserve(u8, u8),
    DisksFail(bool),
    FileSystemsGrowLater(bool),
    /// A Pod starts, and the file systems grow.
    GrowFileSystems,
    /// A process dies after some steps.
    Die(usize),
    Settle,
}

fn action() -> impl Strategy<Value = Action> {
    let class = || prop::sample::select(vec!["", "fast", "lazy", "kept", "missing"]);
    prop_oneof![
        4 => (class(), 1_u8..4, any::<bool>()).prop_map(|(class, gibibytes, shared)| Action::AddClaim { class, gibibytes, shared }),
        3 => (class(), 1_u8..6, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(class, gibibytes, shared, is_disk, deletes)| Action::AddVolume { class, gibibytes, shared, is_disk, deletes }
        ),
        3 => prop::collection::vec(any::<u8>(), 0..3).prop_map(Action::AddPod),
        1 => Just(Action::AddPodWithEphemeral),
        3 => any::<u8>().prop_map(Action::DeleteClaim),
        2 => any::<u8>().prop_map(Action::DeleteVolume),
        2 => any::<u8>().prop_map(Action::RemovePod),
        1 => any::<u8>().prop_map(Action::EndPod),
        2 => (any::<u8>(), 1_u8..9).prop_map(|(claim, gibibytes)| Action::Grow(claim, gibibytes)),
        1 => any::<u8>().prop_map(Action::Free),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(volume, claim)| Action::Reserve(volume, claim)),
        1 => any::<bool>().prop_map(Action::DisksFail),
        1 => any::<bool>().prop_map(Action::FileSystemsGrowLater),
        1 => Just(Action::GrowFileSystems),
        3 => (0_usize..6).prop_map(Action::Die),
        6 => Just(Action::Settle),
    ]
}

fn chosen<T>(list: &[T], number: u8) -> Option<&T> {
    list.get(usize::from(number) % list.len().max(1))
}

fn name_of_claim(node: &Node, number: u8) -> Option<String> {
    chosen(&node.state.claims, number).map(|own| text(&own.metadata.name).to_owned())
}

fn name_of_volume(node: &Node, number: u8) -> Option<String> {
    chosen(&node.state.volumes, number).map(|own| text(&own.metadata.name).to_owned())
}

fn modes(shared: bool) -> Option<Vec<String>> {
    let modes = if shared { ["ReadWriteMany"] } else { ["ReadWriteOnce"] };
    Some(modes.map(str::to_owned).to_vec())
}

fn act(node: &mut Node, number: usize, action: Action) {
    match action {
        Action::AddClaim {
            class,
            gibibytes,
            shared,
        } => {
            let mut own = claim_of(class, &format!("claim-{number}"), &format!("{gibibytes}Gi"));
            own.spec.as_mut().unwrap().access_modes = modes(shared);
            node.add_claim(own);
        }
        Action::AddVolume {
            class,
            gibibytes,
            shared,
            is_disk,
            deletes,
        } => {
            let (name, size) = (format!("volume-{number}"), format!("{gibibytes}Gi"));
            let mut own = if is_disk {
                let disk = crate::Disk {
                    bytes: u64::from(gibibytes) << 30,
                    has_smaller_file_system: false,
                };
                node.state.disks.insert(name.clone(), disk);
                disk_volume(&name, &name, &size)
            } else {
                volume(&name, &size)
            };
            let spec = own.spec.as_mut().unwrap();
            spec.storage_class_name = Some(class.to_owned());
            spec.access_modes = modes(shared);
            let policy = if deletes { "Delete" } else { "Retain" };
            spec.persistent_volume_reclaim_policy = Some(policy.to_owned());
            node.add_volume(own);
        }
        Action::AddPod(numbers) => {
            let names = numbers.iter().filter_map(|number| name_of_claim(node, *number));
            let names: Vec<String> = names.chain(["claim-1".to_owned()]).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            node.add_pod(pod(&format!("pod-{number}"), &names));
        }
        Action::AddPodWithEphemeral => {
            let mut own = pod(&format!("pod-{number}"), &[]);
            own.spec.as_mut().unwrap().volumes =
                object(json!([{"name": "cache", "ephemeral": {"volumeClaimTemplate": {
                    "spec": serde_json::to_value(claim_of("lazy", "x", "1Gi").spec).unwrap(),
                }}}]));
            node.add_pod(own);
        }
        Action::DeleteClaim(number) => {
            if let Some(name) = name_of_claim(node, number) {
                node.delete_claim(&name);
            }
        }
        Action::DeleteVolume(number) => {
            if let Some(name) = name_of_volume(node, number) {
                node.delete_volume(&name);
            }
        }
        Action::RemovePod(number) => {
            let name = chosen(&node.state.pods, number).map(|own| text(&own.metadata.name).to_owned());
            node.remove_pod(&name.unwrap_or_default());
        }
        Action::EndPod(number) => {
            let name = chosen(&node.state.pods, number).map(|own| own.metadata.name.clone());
            let mut pods = node.state.pods.iter_mut();
            if let Some(own) = pods.find(|own| Some(&own.metadata.name) == name.as_ref()) {
                own.status = object(json!({"phase": "Succeeded"}));
            }
        }
        Action::Grow(number, gibibytes) => {
            if let Some(name) = name_of_claim(node, number) {
                let old = node.claim(&name).clone();
                let mut new = old.clone();
                let resources = json!({"requests": {"storage": format!("{gibibytes}Gi")}});
                new.spec.as_mut().unwrap().resources = object(resources);
                let grows = storage(requests(&new)) > storage(requests(&old));
                if grows && check_expansion(&new, &old, &node.state.classes).is_ok() {
                    *node.claim_mut(&name) = new;
                }
            }
        }
        Action::Free(number) => {
            if let Some(name) = name_of_volume(node, number) {
                let own = node.volume_mut(&name);
                if volume_phase(own) == "Released" {
                    own.spec.as_mut().unwrap().claim_ref = None;
                }
            }
        }
        Action::Reserve(volume, claim) => {
            let claim = name_of_claim(node, claim);
            if let (Some(volume), Some(claim)) = (name_of_volume(node, volume), claim) {
                let own = node.volume_mut(&volume);
                if claim_reference(own).is_none() {
                    let reference = json!({"namespace": "shop", "name": claim});
                    own.spec.as_mut().unwrap().claim_ref = Some(object(reference));
                }
            }
        }
        Action::DisksFail(fail) => node.disk_error = fail.then_some("no space left on device"),
        Action::FileSystemsGrowLater(later) => node.grows_later = later,
        Action::GrowFileSystems => {
            for disk in node.state.disks.values_mut() {
                disk.has_smaller_file_system = false;
            }
        }
        Action::Die(steps) => {
            let plan = reconcile(&node.state);
            node.state.failed_disks.clear();
            node.carry_out(plan, steps);
        }
        Action::Settle => {
            node.settle();
        }
    }
}

/// The laws of a node whose disks work and whose rules have been applied.
fn check(node: &Node) {
    assert_eq!(reconcile(&node.state).changes, [], "not settled");
    let mut taken = HashSet::new();
    for claim in &node.state.claims {
        match claim_phase(claim) {
            "Bound" => {
                let volume = node.volume(volume_name(claim));
                check_pair(claim, volume);
                assert!(
                    taken.insert(volume_name(claim)),
                    "{} is bound twice",
                    volume_name(claim)
                );
            }
            "Pending" => assert_eq!(volume_name(claim), ""),
            phase => panic!("{phase}"),
        }
        if is_deleting(&claim.metadata) {
            assert!(
                node.state.pods.iter().any(|pod| uses(pod, claim)),
                "an unused claim stays"
            );
        }
    }
    for volume in &node.state.volumes {
        let name = text(&volume.metadata.name);
        match volume_phase(volume) {
            "Bound" => assert!(taken.contains(name), "{name} is bound to nothing"),
            "Available" => assert!(!taken.contains(name)),
            "Released" => assert_eq!(policy(volume), "Retain", "{name} is not reclaimed"),
            "Failed" => assert!(disk_of(volume).is_none(), "{name} could be deleted"),
            "Pending" => {
                // It is discarded with its claim, which a Pod still keeps.
                let claim = node.claim(text(&claim_reference(volume).unwrap().name));
                assert!(is_deleting(&claim.metadata), "{name} is not bound");
            }
            phase => panic!("{name} is {phase}"),
        }
        assert!(
            !is_deleting(&volume.metadata) || volume_phase(volume) == "Bound",
            "{name} stays"
        );
        let is_complete = node.state.disks.contains_key(name) || volume_phase(volume) == "Pending";
        assert!(!is_provisioned(volume) || is_complete, "{name} has no disk");
    }
    for disk in node.state.disks.keys() {
        // The disks of the class `kept` and those that were there before may stay without a volume.
        let is_reclaimed = disk.starts_with("pvc-") && node.state.volumes.iter().all(|own| disk_of(own) != Some(disk));
        assert!(!is_reclaimed || node.kept.contains(disk), "{disk} belongs to nothing");
    }
}

fn check_pair(claim: &PersistentVolumeClaim, volume: &PersistentVolume) {
    let name = text(&claim.metadata.name);
    assert_eq!(volume_phase(volume), "Bound", "{name}");
    let reference = claim_reference(volume).unwrap();
    assert_eq!(reference.uid, claim.metadata.uid, "{name}");
    assert!(
        has_access_modes(volume, claim) && !has_other_mode(volume, claim),
        "{name}"
    );
    let status = claim.status.as_ref().unwrap();
    let own = storage(status.capacity.as_ref());
    assert!(own <= storage(capacity(volume)), "{name} has more than its volume");
    let is_waiting = status.conditions.is_some();
    let grows = disk_of(volume).is_some();
    assert!(
        storage(requests(claim)) <= own || is_waiting || !grows,
        "{name} has less than it requests"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_history_ends_with_objects_and_disks_that_agree(actions in prop::collection::vec(action(), 1..40)) {
        let mut kept = class("kept", "Immediate");
        kept.reclaim_policy = Some("Retain".to_owned());
        let mut node = Node::with(&[class("fast", "Immediate"), class("lazy", "WaitForFirstConsumer"), kept]);
        for (number, action) in actions.into_iter().enumerate() {
            act(&mut node, number, action);
        }
        node.disk_error = None;
        node.settle();
        node.state.failed_disks.clear();
        check(&node);
        // Without Pods, all claims can be deleted; retained volumes stay.
        node.state.pods.clear();
        let names: Vec<String> = node.state.claims.iter().map(|own| text(&own.metadata.name).to_owned()).collect();
        for name in names {
            node.delete_claim(&name);
        }
        node.settle();
        check(&node);
        prop_assert!(node.state.claims.is_empty());
        // Volumes that the user has freed are available for other claims.
        let may_stay = |own: &PersistentVolume| policy(own) == "Retain" || volume_phase(own) == "Available";
        prop_assert!(node.state.volumes.iter().all(|own| !is_provisioned(own) || may_stay(own)));
    }

    #[test]
    fn any_fields_are_handled(
        size in ".{0,12}", class_name in ".{0,6}", mode in ".{0,12}", phase in ".{0,9}", name in ".{0,8}", uid in ".{0,8}",
        handle in ".{0,8}", policy in ".{0,8}"
    ) {
        let mut state = crate::testing::state();
        state.classes = vec![class("fast", "Immediate")];
        state.claims = vec![object(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": uid, "annotations": {"pv.kubernetes.io/bind-completed": size}},
            "spec": {
                "accessModes": [mode], "resources": {"requests": {"storage": size}}, "storageClassName": class_name,
                "volumeName": handle, "volumeMode": mode,
            },
            "status": {"phase": phase},
        }))];
        state.volumes = vec![object(json!({
            "metadata": {"name": handle, "annotations": {"pv.kubernetes.io/provisioned-by": "microkube.io/disk-image"}},
            "spec": {
                "accessModes": [mode], "capacity": {"storage": size}, "csi": {"driver": "disk-image.microkube.io", "volumeHandle": handle},
                "claimRef": {"name": name, "namespace": "shop", "uid": uid}, "persistentVolumeReclaimPolicy": policy,
            },
            "status": {"phase": phase},
        }))];
        state.pods = vec![pod(&name, &[&name]), pod("", &[""])];
        let _ = reconcile(&state);
        state.claims[0].metadata.annotations = None;
        let _ = reconcile(&state);
        state.claims[0].spec = None;
        state.volumes[0].spec = None;
        let _ = reconcile(&state);
    }
}
