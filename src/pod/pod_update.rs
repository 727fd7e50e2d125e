//! The API server's rules for changing a Pod, without I/O. The Pod's owner applies them; `operations::update` applies
//! them first, to report errors before it asks the owner.

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use microkube_manifest::kinds::Object;
use microkube_manifest::{FieldPath, Problem};

use super::lifecycle::Lifecycle;
use super::resolved_pod::node_name;

/// Maximum number of conditions that clients can set on a Pod.
const MAX_CONDITIONS: usize = 32;
/// Maximum length of a text in such a condition, in bytes.
const MAX_CONDITION_BYTES: usize = 4096;

/// The recorded Pod after a change, or `None` if nothing changes. `deleted_at` is the Pod's deletion timestamp. The
/// caller sets the new resource version.
///
/// # Errors
/// All problems of the change, with Kubernetes' messages.
pub fn changed(recorded: &Pod, deleted_at: Option<&Time>, wanted: &Pod) -> Result<Option<Pod>, Vec<Problem>> {
    let mut old = recorded.clone();
    old.status = None;
    old.metadata.deletion_timestamp = deleted_at.cloned();
    old.metadata.deletion_grace_period_seconds = None;
    // An earlier build may not have set all defaults.
    let mut old = Object::from(old);
    old.set_defaults();
    let Object::Pod(old) = old else {
        return Ok(None);
    };

    let mut new = wanted.clone();
    new.status = None;
    let metadata = &mut new.metadata;
    // Only a deletion changes these.
    metadata.deletion_timestamp = deleted_at.cloned();
    metadata.deletion_grace_period_seconds = None;
    for (new, old) in [
        (&mut metadata.name, &old.metadata.name),
        (&mut metadata.namespace, &old.metadata.namespace),
    ] {
        if new.as_deref().is_none_or(str::is_empty) {
            new.clone_from(old);
        }
    }
    if let (Some(new), Some(old)) = (&mut new.spec, &old.spec) {
        // There is only one node, so the requested one does not matter.
        new.node_name.clone_from(&old.node_name);
    }
    let mut new = Object::from(new);
    new.set_defaults();
    let old = Object::from(*old);
    let problems = new.validate_update(&old);
    if !problems.is_empty() {
        return Err(problems);
    }
    let (Object::Pod(mut new), Object::Pod(mut old)) = (new, old) else {
        return Ok(None);
    };
    old.metadata.deletion_timestamp = None;
    let kept = &old.metadata;
    new.metadata.uid.clone_from(&kept.uid);
    new.metadata.creation_timestamp.clone_from(&kept.creation_timestamp);
    new.metadata.deletion_timestamp = None;
    new.metadata.generation = kept.generation;
    new.metadata.generate_name.clone_from(&kept.generate_name);
    new.metadata.resource_version.clone_from(&kept.resource_version);
    new.metadata.self_link = None;
    drop_empty(&mut new);
    drop_empty(&mut old);
    if new == old {
        return Ok(None);
    }
    if new.spec != old.spec {
        let generation = &mut new.metadata.generation;
        *generation = generation.map(|generation| generation.saturating_add(1));
    }
    schedule(&mut new);
    Ok(Some(*new))
}

/// Empty lists and maps are the same as missing ones.
fn drop_empty(pod: &mut Pod) {
    let metadata = &mut pod.metadata;
    metadata.labels.take_if(|map| map.is_empty());
    metadata.annotations.take_if(|map| map.is_empty());
    metadata.finalizers.take_if(|list| list.is_empty());
    metadata.owner_references.take_if(|list| list.is_empty());
    metadata.managed_fields.take_if(|list| list.is_empty());
    if let Some(spec) = &mut pod.spec {
        spec.tolerations.take_if(|list| list.is_empty());
        spec.scheduling_gates.take_if(|list| list.is_empty());
    }
}

/// Does the scheduler's work: there is only one node, but scheduling gates keep a Pod from it.
pub fn schedule(pod: &mut Pod) {
    if !has_scheduling_gates(pod) {
        pod.spec.get_or_insert_default().node_name = Some(node_name());
    }
}

/// Whether the Pod must not start yet.
#[must_use]
pub fn has_scheduling_gates(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

/// Whether the Pod stays after its end because of finalizers.
#[must_use]
pub fn has_finalizers(pod: &Pod) -> bool {
    pod.metadata.finalizers.as_ref().is_some_and(|list| !list.is_empty())
}

/// The conditions of a wanted status that clients may set. The others are the supervisor's, and stay as they are.
///
/// # Errors
/// All problems of these conditions.
pub fn client_conditions(wanted: &Pod) -> Result<Vec<PodCondition>, Vec<Problem>> {
    let path = FieldPath::default().field("status").field("conditions");
    let mut problems = Vec::new();
    let mut conditions: Vec<PodCondition> = Vec::new();
    let wanted = wanted
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    for (index, condition) in wanted.enumerate() {
        let path = path.clone().index(index);
        if Lifecycle::owns_condition(&condition.type_) {
            continue;
        }
        if condition.type_.is_empty() {
            problems.push(Problem::at(&path.field("type"), "Required value".to_owned()));
        }
        if !matches!(condition.status.as_str(), "True" | "False" | "Unknown") {
            let what = format!(
                "Unsupported value: {:?}: supported values: \"False\", \"True\", \"Unknown\"",
                condition.status
            );
            problems.push(Problem::at(&path.field("status"), what));
        }
        let texts = [
            Some(&condition.type_),
            condition.reason.as_ref(),
            condition.message.as_ref(),
        ];
        if texts.into_iter().flatten().any(|text| text.len() > MAX_CONDITION_BYTES) {
            let what = format!("Too long: may not be more than {MAX_CONDITION_BYTES} bytes");
            problems.push(Problem::at(&path, what));
        }
        if conditions.iter().any(|known| known.type_ == condition.type_) {
            let what = format!("Duplicate value: {:?}", condition.type_);
            problems.push(Problem::at(&path.field("type"), what));
        }
        conditions.push(condition.clone());
    }
    if conditions.len() > MAX_CONDITIONS {
        let what = format!(
            "Too many: {}: must have at most {MAX_CONDITIONS} items",
            conditions.len()
        );
        problems.push(Problem::at(&path, what));
    }
    match problems.is_empty() {
        true => Ok(conditions),
        false => Err(problems),
    }
}

/// The conditions of a status that clients have set.
#[must_use]
pub fn conditions_of_clients(status: &PodStatus) -> Vec<PodCondition> {
    let all = status.conditions.iter().flatten();
    all.filter(|condition| !Lifecycle::owns_condition(&condition.type_))
        .cloned()
        .collect()
}

/// Replaces the conditions of a status that clients have set.
pub fn set_client_conditions(status: &mut PodStatus, conditions: &[PodCondition]) {
    let all = status.conditions.get_or_insert_default();
    all.retain(|condition| Lifecycle::owns_condition(&condition.type_));
    all.extend_from_slice(conditions);
}

/// The Pod with these conditions of clients.
#[must_use]
pub fn with_client_conditions(mut pod: Pod, conditions: &[PodCondition]) -> Pod {
    set_client_conditions(pod.status.get_or_insert_default(), conditions);
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::test_pods::{manifest, record_of};

    fn recorded() -> Pod {
        let mut pod = record_of(&manifest("web", "nginx:1", "a")).pod;
        pod.metadata.generation = Some(3);
        pod.metadata.resource_version = Some("7".to_owned());
        schedule(&mut pod);
        pod
    }

    /// The result of a JSON merge patch.
    fn patched(patch: Value) -> Result<Option<Pod>, Vec<String>> {
        fn merge(value: &mut Value, patch: Value) {
            match (value, patch) {
                (Value::Object(value), Value::Object(patch)) => {
                    for (key, patch) in patch {
                        merge(value.entry(key).or_insert(Value::Null), patch);
                    }
                }
                (value, patch) => *value = patch,
            }
        }
        let recorded = recorded();
        let mut wanted = serde_json::to_value(&recorded).unwrap();
        merge(&mut wanted, patch);
        let messages = |problems: Vec<Problem>| problems.into_iter().map(|problem| problem.message).collect();
        changed(&recorded, None, &serde_json::from_value(wanted).unwrap()).map_err(messages)
    }

    #[test]
    fn only_a_change_of_the_specification_raises_the_generation() {
        for (patch, generation) in [
            (json!({"metadata": {"labels": {"a": "b"}}}), 3),
            (json!({"metadata": {"annotations": {"a": "b"}}}), 3),
            (json!({"metadata": {"finalizers": ["example.com/hold"]}}), 3),
            (json!({"spec": {"activeDeadlineSeconds": 60}}), 4),
            (json!({"spec": {"tolerations": [{"operator": "Exists"}]}}), 4),
        ] {
            let pod = patched(patch.clone()).unwrap().unwrap();
            assert_eq!(pod.metadata.generation, Some(generation), "{patch}");
            assert_eq!(pod.metadata.resource_version.as_deref(), Some("7"));
        }
    }

    #[test]
    fn what_the_api_server_keeps_is_no_change() {
        for patch in [
            json!({}),
            json!({"metadata": {"labels": {}, "finalizers": [], "generation": 9, "resourceVersion": "1", "selfLink": "x"}}),
            json!({"metadata": {"creationTimestamp": null, "uid": null, "namespace": null}}),
            json!({"spec": {"nodeName": "other", "tolerations": []}, "status": {"phase": "Failed"}}),
        ] {
            assert_eq!(patched(patch.clone()), Ok(None), "{patch}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_kubernetes_messages() {
        for (patch, said) in [
            (
                json!({"spec": {"restartPolicy": "Always"}}),
                "spec: Forbidden: pod updates may not change fields other than",
            ),
            (
                json!({"spec": {"containers": []}}),
                "spec.containers: Forbidden: pod updates may not add or remove containers",
            ),
            (
                json!({"metadata": {"uid": "other"}}),
                "metadata.uid: Invalid value: \"other\": field is immutable",
            ),
            (json!({"metadata": {"labels": {"-": ""}}}), "metadata.labels"),
        ] {
            let problems = patched(patch.clone()).unwrap_err();
            assert!(problems.iter().any(|problem| problem.starts_with(said)), "{problems:?}");
        }
    }

    #[test]
    fn a_pod_is_scheduled_when_its_last_gate_is_removed() {
        let gates = |names: &[&str]| {
            let mut gated = manifest("web", "nginx:1", "a");
            gated["spec"]["schedulingGates"] = names.iter().map(|name| json!({"name": name})).collect();
            let mut pod = record_of(&gated).pod;
            pod.metadata.uid = Some("u".to_owned());
            schedule(&mut pod);
            pod
        };
        let pod = gates(&["example.com/a", "example.com/b"]);
        let node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone();
        assert_eq!(node(&pod), None);
        let pod = changed(&pod, None, &gates(&["example.com/b"])).unwrap().unwrap();
        assert_eq!(node(&pod), None);
        let scheduled = changed(&pod, None, &gates(&[])).unwrap().unwrap();
        assert_eq!(node(&scheduled), Some(node_name()));
        let again = changed(&pod, None, &gates(&["example.com/a", "example.com/b"])).unwrap_err();
        assert!(again[0].message.contains("only deletion is allowed"), "{again:?}");
    }
}
