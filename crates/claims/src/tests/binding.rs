use serde_json::json;

use crate::fields::{claim_reference, volume_name};
use crate::testing::{Node, claim, object, volume};

/// Whether a claim for 2Gi takes the volume after this change of both.
fn binds(change: impl Fn(&mut serde_json::Value, &mut serde_json::Value)) -> bool {
    let mut wanted = serde_json::to_value(claim("data", "2Gi")).unwrap();
    let mut offered = serde_json::to_value(volume("disk", "2Gi")).unwrap();
    change(&mut wanted, &mut offered);
    let mut node = Node::default();
    node.add_volume(object(offered)).add_claim(object(wanted)).settle();
    volume_name(node.claim("data")) == "disk"
}

#[test]
fn a_volume_must_suit_its_claim() {
    assert!(binds(|_, _| {}));
    for (what, expected, claimed, offered) in [
        ("/spec/resources/requests/storage", false, json!("3Gi"), json!(null)),
        ("/spec/resources/requests/storage", true, json!("1"), json!(null)),
        (
            "/spec/accessModes",
            true,
            json!(["ReadOnlyMany"]),
            json!(["ReadWriteOnce", "ReadOnlyMany"]),
        ),
        (
            "/spec/accessModes",
            false,
            json!(["ReadWriteOnce", "ReadOnlyMany"]),
            json!(["ReadWriteOnce"]),
        ),
        ("/spec/volumeMode", false, json!("Block"), json!("Filesystem")),
        ("/spec/volumeMode", true, json!("Block"), json!("Block")),
        ("/spec/storageClassName", false, json!("slow"), json!("fast")),
        ("/spec/storageClassName", true, json!("slow"), json!("slow")),
        ("/spec/storageClassName", false, json!(""), json!("slow")),
    ] {
        let set = |value: &mut serde_json::Value, new: &serde_json::Value| {
            let (parent, field) = what.rsplit_once('/').unwrap();
            if !new.is_null() {
                value.pointer_mut(parent).unwrap()[field] = new.clone();
            }
        };
        let found = binds(|claim, volume| {
            set(claim, &claimed);
            set(volume, &offered);
        });
        assert_eq!(found, expected, "{what} {claimed} {offered}");
    }
}

#[test]
fn a_selector_chooses_among_volumes() {
    let selector = json!({"matchLabels": {"disk": "ssd"}});
    let with = |labels: serde_json::Value| {
        binds(|claim, volume| {
            claim["spec"]["selector"] = selector.clone();
            volume["metadata"]["labels"] = labels.clone();
        })
    };
    assert!(with(json!({"disk": "ssd", "zone": "a"})));
    assert!(!with(json!({"disk": "hdd"})));
    assert!(!with(json!(null)));
}

#[test]
fn the_smallest_volume_with_the_fewest_modes_is_taken() {
    let mut node = Node::default();
    let mut shared = volume("a-shared", "2Gi");
    shared.spec.as_mut().unwrap().access_modes = Some(vec!["ReadWriteOnce".to_owned(), "ReadWriteMany".to_owned()]);
    node.add_volume(shared)
        .add_volume(volume("b-large", "5Gi"))
        .add_volume(volume("c-right", "3Gi"))
        .add_volume(volume("d-equal", "3Gi"))
        .add_volume(volume("e-small", "1Gi"));
    for (name, expected) in [
        ("first", "c-right"),
        ("second", "d-equal"),
        ("third", "b-large"),
        ("fourth", "a-shared"),
    ] {
        node.add_claim(claim(name, "2Gi")).settle();
        assert_eq!(volume_name(node.claim(name)), expected);
    }
    node.take_events();
    node.add_claim(claim("fifth", "2Gi")).settle();
    assert_eq!(
        node.take_events(),
        ["Normal FailedBinding shop/fifth: no persistent volumes available for this claim and no storage class is set"]
    );
    node.add_volume(volume("f-new", "9Gi")).settle();
    assert_eq!(volume_name(node.claim("fifth")), "f-new");
    assert_eq!(
        node.claim("fifth").status.as_ref().unwrap().capacity.as_ref().unwrap()["storage"].0,
        "9Gi"
    );
}

#[test]
fn a_reserved_volume_is_for_its_claim_only() {
    let mut node = Node::default();
    let mut reserved = volume("reserved", "9Gi");
    reserved.spec.as_mut().unwrap().claim_ref = Some(object(json!({"namespace": "shop", "name": "data"})));
    node.add_volume(reserved).add_volume(volume("small", "1Gi")).settle();
    assert_eq!(node.phases(), ["reserved=Available", "small=Available"]);
    node.add_claim(claim("other", "2Gi"))
        .add_claim(claim("data", "1Gi"))
        .settle();
    assert_eq!(
        node.phases(),
        ["other=Pending", "data=Bound", "reserved=Bound", "small=Available"]
    );
    let reference = claim_reference(node.volume("reserved")).unwrap();
    assert_eq!(reference.uid.as_deref(), Some("uid-of-data"));
    assert_eq!(
        node.volume("reserved").metadata.annotations,
        None,
        "the user has bound it"
    );
}

#[test]
fn a_claim_that_names_its_volume_gets_it_or_a_reason() {
    let named = |name: &str, target: &str, size: &str| {
        let mut claim = claim(name, size);
        claim.spec.as_mut().unwrap().volume_name = Some(target.to_owned());
        claim
    };
    let mut node = Node::default();
    node.add_claim(named("data", "disk", "2Gi")).settle();
    assert_eq!(
        (node.phases(), node.take_events()),
        (vec!["data=Pending".to_owned()], vec![])
    );
    node.add_volume(volume("disk", "2Gi")).settle();
    assert_eq!(node.phases(), ["data=Bound", "disk=Bound"]);
    node.add_claim(named("late", "disk", "1Gi")).settle();
    assert_eq!(
        node.take_events(),
        ["Warning FailedBinding shop/late: volume \"disk\" already bound to a different claim."]
    );
    let mut block = volume("block", "2Gi");
    block.spec.as_mut().unwrap().volume_mode = Some("Block".to_owned());
    let mut shared = volume("shared", "2Gi");
    shared.spec.as_mut().unwrap().access_modes = Some(vec!["ReadWriteMany".to_owned()]);
    let mut classy = volume("classy", "2Gi");
    classy.spec.as_mut().unwrap().storage_class_name = Some("fast".to_owned());
    for (offered, why) in [
        (volume("tiny", "1Gi"), "requested PV is too small"),
        (classy, "storageClassName does not match"),
        (block, "incompatible volumeMode"),
        (shared, "incompatible accessMode"),
    ] {
        let name = offered.metadata.name.clone().unwrap();
        let mut node = Node::default();
        node.add_volume(offered).add_claim(named("data", &name, "2Gi")).settle();
        let expected = format!("Warning VolumeMismatch shop/data: Cannot bind to requested volume \"{name}\": {why}");
        assert_eq!(node.take_events(), [expected]);
        assert_eq!(node.phases(), ["data=Pending".to_owned(), format!("{name}=Available")]);
    }
}

#[test]
fn two_objects_that_disagree_are_corrected() {
    let mut node = Node::default();
    node.add_volume(volume("disk", "1Gi"))
        .add_claim(claim("data", "1Gi"))
        .settle();
    // The volume forgets its claim.
    node.volume_mut("disk").spec.as_mut().unwrap().claim_ref = None;
    node.settle();
    assert_eq!(node.phases(), ["data=Bound", "disk=Bound"]);
    assert!(claim_reference(node.volume("disk")).is_some());
    // The claim is bound elsewhere: the volume is free again.
    node.add_volume(volume("other", "1Gi"));
    node.volume_mut("other").spec.as_mut().unwrap().claim_ref = Some(crate::binding::reference(node.claim("data")));
    crate::fields::annotate(
        &mut node.volume_mut("other").metadata,
        crate::keys::BOUND_BY_CONTROLLER,
        "yes",
    );
    node.settle();
    assert_eq!(node.phases(), ["data=Bound", "disk=Bound", "other=Available"]);
    assert_eq!(claim_reference(node.volume("other")), None);
    // Another claim says it has the volume.
    let mut thief = claim("thief", "1Gi");
    thief.spec.as_mut().unwrap().volume_name = Some("disk".to_owned());
    crate::fields::annotate(&mut thief.metadata, crate::keys::BIND_COMPLETED, "yes");
    node.add_claim(thief).settle();
    assert_eq!(
        node.phases(),
        ["data=Bound", "thief=Lost", "disk=Bound", "other=Available"]
    );
    assert_eq!(
        node.take_events(),
        ["Warning ClaimMisbound shop/thief: Two claims are bound to the same volume, this one is bound incorrectly"]
    );
    // The volume disappears.
    node.state
        .volumes
        .retain(|own| own.metadata.name.as_deref() != Some("disk"));
    node.settle();
    assert_eq!(node.phases(), ["data=Lost", "thief=Lost", "other=Available"]);
    assert_eq!(
        node.take_events(),
        ["Warning ClaimLost shop/data: Bound claim has lost its PersistentVolume. Data on the volume is lost!"]
    );
    node.claim_mut("data").spec.as_mut().unwrap().volume_name = None;
    node.claim_mut("data").status.as_mut().unwrap().phase = Some("Bound".to_owned());
    node.settle();
    assert_eq!(
        node.take_events(),
        [
            "Warning ClaimLost shop/data: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
        ]
    );
}

#[test]
fn a_volume_of_another_mode_is_no_match_for_the_claim_it_is_reserved_for() {
    let mut node = Node::default();
    let mut block = volume("disk", "1Gi");
    let spec = block.spec.as_mut().unwrap();
    spec.volume_mode = Some("Block".to_owned());
    spec.claim_ref = Some(object(
        json!({"namespace": "shop", "name": "data", "uid": "uid-of-data"}),
    ));
    node.add_volume(block).add_claim(claim("data", "1Gi")).settle();
    let events = node.take_events();
    for expected in [
        "Warning VolumeMismatch disk: Cannot bind PersistentVolume to requested PersistentVolumeClaim \"data\" due to incompatible volumeMode.",
        "Warning VolumeMismatch shop/data: Cannot bind PersistentVolume \"disk\" to requested PersistentVolumeClaim due to incompatible volumeMode.",
    ] {
        assert!(events.iter().any(|event| event == expected), "{events:?}");
    }
    assert_eq!(volume_name(node.claim("data")), "");
}
