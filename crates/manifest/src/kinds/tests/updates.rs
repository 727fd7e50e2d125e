//! Changes of objects, with the fields that must not change.

use super::*;

const IMMUTABLE: &str = "field is immutable when `immutable` is set";
const CLAIM: &str = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
const POD: &str = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// The sample of a kind, with changes by JSON pointer.
fn changed(kind: &str, changes: &[(&str, Value)]) -> Value {
    let mut value = samples().into_iter().find(|sample| sample["kind"] == kind).unwrap();
    for (pointer, new) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let mut place = &mut value;
        for step in parent.split('/').skip(1) {
            place = match step.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[step],
            };
        }
        place[field] = new.clone();
    }
    value
}

fn problems(kind: &str, old: &[(&str, Value)], new: &[(&str, Value)]) -> Vec<String> {
    let (old, new) = (defaulted(&changed(kind, old)), defaulted(&changed(kind, new)));
    messages(kind_of(&old).validate_update(&old, &new))
}

#[test]
fn unchanged_objects_and_new_labels_are_accepted() {
    for kind in all() {
        assert_eq!(problems(kind.kind, &[], &[]), [""; 0], "{}", kind.kind);
        let labels = [("/metadata/labels", json!({"b": "c"}))];
        assert_eq!(problems(kind.kind, &[], &labels), [""; 0], "{}", kind.kind);
    }
}

#[test]
fn ephemeral_containers_do_not_prevent_other_changes_of_a_pod() {
    let debugger = ("/spec/ephemeralContainers", json!([{"name": "d", "image": "i"}]));
    let labels = ("/metadata/labels", json!({"b": "c"}));
    assert_eq!(
        problems("Pod", std::slice::from_ref(&debugger), &[debugger.clone(), labels]),
        [""; 0]
    );
    assert_eq!(problems("Pod", &[debugger], &[]).len(), 1);
}

#[test]
fn changes_of_immutable_fields_are_refused() {
    let bound = ("/status", json!({"phase": "Bound", "capacity": {"storage": "1Gi"}}));
    let none: &[(&str, Value)] = &[];
    for (kind, old, new, expected) in [
        // Metadata
        ("Secret", none, &[("/metadata/name", json!("b"))][..], "metadata.name: Invalid value: \"b\": field is immutable".to_owned()),
        ("Secret", none, &[("/metadata/namespace", json!("b"))], "metadata.namespace: Invalid value: \"b\": field is immutable".to_owned()),
        ("Secret", &[("/metadata/uid", json!("u"))], &[("/metadata/uid", json!("v"))], "metadata.uid: Invalid value: \"v\": field is immutable".to_owned()),
        (
            "Secret",
            &[("/metadata/creationTimestamp", json!("2026-01-01T00:00:00Z"))],
            &[("/metadata/creationTimestamp", json!("2026-01-02T00:00:00Z"))],
            "metadata.creationTimestamp: Invalid value: \"2026-01-02T00:00:00Z\": field is immutable".to_owned(),
        ),
        (
            "ServiceAccount",
            &[("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")), ("/metadata/finalizers", json!(["a.b/c"]))],
            &[("/metadata/finalizers", json!(["a.b/c", "a.b/d"]))],
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.b/d\"}".to_owned(),
        ),
        ("Namespace", none, &[("/metadata/name", json!("b"))], "metadata.name: Invalid value: \"b\": field is immutable".to_owned()),
        // ConfigMap, Secret
        ("ConfigMap", none, &[("/data/c", json!("x"))], format!("data: Forbidden: {IMMUTABLE}")),
        ("ConfigMap", none, &[("/binaryData", Value::Null)], format!("binaryData: Forbidden: {IMMUTABLE}")),
        ("ConfigMap", none, &[("/immutable", json!(false))], format!("immutable: Forbidden: {IMMUTABLE}")),
        ("ConfigMap", none, &[("/immutable", Value::Null)], format!("immutable: Forbidden: {IMMUTABLE}")),
        ("Secret", &[("/immutable", json!(true))], &[("/immutable", json!(true)), ("/stringData/b", json!("y"))], format!("data: Forbidden: {IMMUTABLE}")),
        ("Secret", &[("/immutable", json!(true))], none, format!("immutable: Forbidden: {IMMUTABLE}")),
        ("Secret", none, &[("/type", json!("example.com/a"))], "type: Invalid value: \"example.com/a\": field is immutable".to_owned()),
        // PersistentVolume, PersistentVolumeClaim, StorageClass
        (
            "PersistentVolume",
            none,
            &[("/spec/hostPath/path", json!("/b"))],
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation".to_owned(),
        ),
        ("PersistentVolume", none, &[("/spec/volumeMode", json!("Block"))], "volumeMode: Invalid value: \"Block\": field is immutable".to_owned()),
        ("PersistentVolumeClaim", none, &[("/spec/accessModes", json!(["ReadOnlyMany"]))], CLAIM.to_owned()),
        ("PersistentVolumeClaim", none, &[("/spec/resources/requests/storage", json!("2Gi"))], CLAIM.to_owned()),
        ("PersistentVolumeClaim", none, &[("/spec/storageClassName", json!("fast"))], CLAIM.to_owned()),
        ("PersistentVolumeClaim", &[("/spec/volumeName", json!("v"))], &[("/spec/volumeName", json!("w"))], CLAIM.to_owned()),
        (
            "PersistentVolumeClaim",
            std::slice::from_ref(&bound),
            &[bound.clone(), ("/spec/resources/requests/storage", json!("1Mi"))],
            "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity".to_owned(),
        ),
        (
            "PersistentVolumeClaim",
            &[("/spec/volumeAttributesClassName", json!("gold")), bound.clone()],
            &[("/spec/volumeAttributesClassName", json!("")), bound.clone()],
            "spec.volumeAttributesClassName: Forbidden: update from non-nil value to an empty string is forbidden".to_owned(),
        ),
        ("StorageClass", none, &[("/parameters", json!({}))], "parameters: Forbidden: updates to parameters are forbidden.".to_owned()),
        ("StorageClass", none, &[("/provisioner", json!("b"))], "provisioner: Forbidden: updates to provisioner are forbidden.".to_owned()),
        ("StorageClass", none, &[("/reclaimPolicy", json!("Retain"))], "reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden.".to_owned()),
        (
            "StorageClass",
            none,
            &[("/volumeBindingMode", json!("WaitForFirstConsumer"))],
            "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable".to_owned(),
        ),
        // Pod
        ("Pod", none, &[("/spec/hostname", json!("h"))], POD.to_owned()),
        ("Pod", none, &[("/spec/containers/0/command", json!(["a"]))], POD.to_owned()),
        (
            "Pod",
            none,
            &[("/spec/containers", json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]))],
            "spec.containers: Forbidden: pod updates may not add or remove containers".to_owned(),
        ),
        (
            "Pod",
            &[("/spec/activeDeadlineSeconds", json!(10))],
            &[("/spec/activeDeadlineSeconds", json!(11))],
            "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value".to_owned(),
        ),
        (
            "Pod",
            &[("/spec/activeDeadlineSeconds", json!(10))],
            none,
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value".to_owned(),
        ),
        (
            "Pod",
            &[("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]))],
            none,
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds".to_owned(),
        ),
        (
            "Pod",
            none,
            &[("/spec/schedulingGates", json!([{"name": "g"}]))],
            "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'".to_owned(),
        ),
    ] {
        let mut found = problems(kind, old, new);
        // The volume mode is a part of the claim's specification, and the problem of an unbound claim comes first.
        found.dedup();
        assert_eq!(found, [expected], "{kind} {new:?}");
    }
}

#[test]
fn permitted_changes_are_accepted() {
    let bound = ("/status", json!({"phase": "Bound", "capacity": {"storage": "1Gi"}}));
    let none: &[(&str, Value)] = &[];
    for (kind, old, new) in [
        (
            "ConfigMap",
            &[("/immutable", Value::Null)][..],
            &[("/data", json!({"z": "x"}))][..],
        ),
        ("Secret", none, &[("/data", json!({}))]),
        ("Secret", none, &[("/immutable", json!(true))]),
        ("ServiceAccount", none, &[("/secrets", json!([]))]),
        ("PersistentVolume", none, &[("/spec/capacity/storage", json!("2Gi"))]),
        (
            "PersistentVolume",
            none,
            &[("/spec/persistentVolumeReclaimPolicy", json!("Delete"))],
        ),
        ("PersistentVolumeClaim", none, &[("/spec/volumeName", json!("v"))]),
        (
            "PersistentVolumeClaim",
            none,
            &[("/spec/resources/requests/storage", json!("1024Mi"))],
        ),
        (
            "PersistentVolumeClaim",
            &[("/spec/storageClassName", Value::Null)],
            &[("/spec/storageClassName", json!("fast"))],
        ),
        (
            "PersistentVolumeClaim",
            std::slice::from_ref(&bound),
            &[bound.clone(), ("/spec/resources/requests/storage", json!("2Gi"))],
        ),
        ("StorageClass", none, &[("/allowVolumeExpansion", json!(true))]),
        ("Pod", none, &[("/spec/containers/0/image", json!("j"))]),
        ("Pod", none, &[("/spec/activeDeadlineSeconds", json!(10))]),
        (
            "Pod",
            none,
            &[("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]))],
        ),
        ("Pod", &[("/spec/schedulingGates", json!([{"name": "g"}]))], none),
        ("Secret", &[("/metadata/uid", json!("u"))], none),
    ] {
        assert_eq!(problems(kind, old, new), [""; 0], "{kind} {new:?}");
    }
}

/// A node affinity with these terms, each with requirements of labels and of fields.
fn affinity(terms: &[(&[&str], &[&str])]) -> (&'static str, Value) {
    let requirements = |keys: &[&str]| -> Option<Value> {
        let keys = keys.iter();
        let all = keys.map(|key| json!({"key": key, "operator": "In", "values": ["x"]}));
        (all.len() > 0).then(|| all.collect())
    };
    let terms: Value = terms
        .iter()
        .map(|(labels, fields)| json!({"matchExpressions": requirements(labels), "matchFields": requirements(fields)}))
        .collect();
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    ("/spec/affinity", json!({"nodeAffinity": required}))
}

/// The problems of a change of a Pod that has scheduling gates before it.
fn problems_of_gated(old: Option<(&str, Value)>, new: &[(&str, Value)]) -> Vec<String> {
    let gates = ("/spec/schedulingGates", json!([{"name": "g"}]));
    let old: Vec<_> = old.into_iter().chain([gates.clone()]).collect();
    let new: Vec<_> = new.iter().cloned().chain([gates]).collect();
    problems("Pod", &old, &new)
}

fn selector(pairs: Value) -> (&'static str, Value) {
    ("/spec/nodeSelector", pairs)
}

#[test]
fn constraints_on_nodes_become_stricter_while_a_pod_has_gates() {
    const NODE: &str = "metadata.name";
    let preferred = |weight: i32| {
        let term = json!({"matchExpressions": [{"key": "p", "operator": "Exists"}]});
        let terms = json!([{"weight": weight, "preference": term}]);
        let node = json!({"preferredDuringSchedulingIgnoredDuringExecution": terms});
        ("/spec/affinity", json!({"nodeAffinity": node}))
    };
    for (old, new) in [
        (None, selector(json!({"a": "b"}))),
        (Some(selector(json!({"a": "b"}))), selector(json!({"a": "b", "c": "d"}))),
        (None, affinity(&[(&["a"], &[])])),
        (Some(affinity(&[(&["a"], &[])])), affinity(&[(&["a", "b"], &[NODE])])),
        (Some(preferred(1)), preferred(2)),
        (Some(preferred(1)), affinity(&[(&["a"], &[])])),
    ] {
        assert_eq!(problems_of_gated(old, std::slice::from_ref(&new)), [""; 0], "{new:?}");
        assert_eq!(problems("Pod", &[], &[new]), [POD]);
    }
    // The last gate may go at the same time.
    let gates = [("/spec/schedulingGates", json!([{"name": "g"}]))];
    assert_eq!(problems("Pod", &gates, &[selector(json!({"a": "b"}))]), [""; 0]);
}

#[test]
fn constraints_on_nodes_never_become_less_strict() {
    let terms = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    let requirement = |key: &str| format!("[{{\"Key\":\"{key}\",\"Operator\":\"In\",\"Values\":[\"x\"]}}]");
    let only_added = |key: &str| {
        format!(
            "{terms}[0]: Invalid value: {{\"MatchExpressions\":{},\"MatchFields\":null}}: only additions are allowed (no mutations or deletions)",
            requirement(key)
        )
    };
    let other_selector = |shown: &str| {
        format!(
            "spec.nodeSelector: Invalid value: {shown}: only additions to spec.nodeSelector are allowed (no mutations or deletions)"
        )
    };
    let other_terms = |shown: &str| {
        format!(
            "{terms}: Invalid value: {shown}: no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        )
    };
    let one = || affinity(&[(&["a"], &[])]);
    let shown_one = format!("{{\"MatchExpressions\":{},\"MatchFields\":null}}", requirement("a"));
    let none = ("/spec/affinity", Value::Null);
    let pod_affinity =
        json!({"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "t", "labelSelector": {}}]});
    for (old, new, expected) in [
        (
            selector(json!({"a": "b"})),
            selector(json!({"a": "c"})),
            other_selector("{\"a\":\"c\"}"),
        ),
        (
            selector(json!({"a": "b"})),
            selector(Value::Null),
            other_selector("null"),
        ),
        (one(), affinity(&[(&["b"], &[])]), only_added("b")),
        (affinity(&[(&["a", "b"], &[])]), one(), only_added("a")),
        (one(), none, other_terms("null")),
        (
            one(),
            affinity(&[(&["a"], &[]), (&["a"], &[])]),
            other_terms(&format!("[{shown_one},{shown_one}]")),
        ),
        (
            selector(Value::Null),
            ("/spec/affinity", json!({"podAffinity": pod_affinity})),
            POD.to_owned(),
        ),
    ] {
        assert_eq!(
            problems_of_gated(Some(old), std::slice::from_ref(&new)),
            [expected],
            "{new:?}"
        );
    }
}

#[test]
fn an_object_of_another_kind_is_no_change() {
    let samples = samples();
    let (config_map, secret) = (
        kind_of(&samples[0]).read(&samples[0]).unwrap(),
        kind_of(&samples[5]).read(&samples[5]).unwrap(),
    );
    let found = messages(secret.validate_update(&config_map));
    assert!(
        found.contains(&"kind: Invalid value: \"Secret\": field is immutable".to_owned()),
        "{found:?}"
    );
}
