//! The conditions of a namespace that is being deleted: what keeps it
//! (`pkg/controller/namespace/deletion/status_condition_utils.go`).

use std::collections::BTreeMap;

use jiff::Timestamp;
use microkube_manifest::kinds;
use microkube_store::{Key, Object, Scope, Store, StoreError};
use serde_json::{Value, json};

use super::namespaces::namespace_resource;
use super::node_store::resource;

/// What remains in a namespace.
#[derive(Debug, Default)]
struct Remaining {
    /// The number of objects of each type, such as `configmaps.`.
    objects: BTreeMap<String, usize>,
    /// The number of objects with each finalizer.
    finalizers: BTreeMap<String, usize>,
}

/// A condition without its time.
struct Condition {
    kind: &'static str,
    is_true: bool,
    reason: &'static str,
    message: String,
}

/// Sets the conditions of a namespace that is being deleted.
///
/// # Errors
/// If the store cannot be read or written.
pub fn note_remaining(store: &Store, namespace: &str) -> Result<(), StoreError> {
    let conditions = conditions(&remaining(store, namespace)?);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let noted = store.modify::<StoreError>(&namespace_resource(), &Key::cluster(namespace), |current| {
        let mut value = current.value().clone();
        let Some(status) = value.get_mut("status").and_then(Value::as_object_mut) else {
            return Ok(None);
        };
        let old = status.get("conditions").and_then(Value::as_array);
        let new = updated(old.map(Vec::as_slice).unwrap_or_default(), &conditions, &now);
        status.insert("conditions".to_owned(), Value::Array(new));
        match value == *current.value() {
            true => Ok(None),
            false => Ok(Some(Object::new(value)?)),
        }
    });
    match noted {
        // It has ended.
        Err(error) if error.is_not_found() => Ok(()),
        noted => noted.map(drop),
    }
}

/// What remains in a namespace. As Pods are deleted first, the others count only when no Pods are left.
fn remaining(store: &Store, namespace: &str) -> Result<Remaining, StoreError> {
    let scope = Scope::Namespace(namespace.to_owned());
    let in_namespaces = kinds::all().iter().filter(|kind| kind.namespaced);
    let (pods, others): (Vec<_>, Vec<_>) = in_namespaces.partition(|kind| kind.kind == "Pod");
    let mut remaining = Remaining::default();
    for kind in pods.into_iter().chain(others) {
        if remaining.objects.contains_key("pods.") {
            break;
        }
        let objects = store.list(&resource(kind), &scope)?.items;
        if !objects.is_empty() {
            let name = format!("{}.{}", kind.plural, kind.group);
            remaining.objects.insert(name, objects.len());
        }
        for finalizer in objects.iter().flat_map(|object| object.finalizers()) {
            let count = remaining.finalizers.entry(finalizer.to_owned()).or_default();
            *count = count.saturating_add(1);
        }
    }
    Ok(remaining)
}

/// All conditions, in the controller's order. The first ones are about errors, and such a namespace is not changed.
fn conditions(remaining: &Remaining) -> [Condition; 5] {
    let condition = |kind, reason, message: &str| Condition {
        kind,
        is_true: false,
        reason,
        message: message.to_owned(),
    };
    let mut conditions = [
        condition(
            "NamespaceDeletionDiscoveryFailure",
            "ResourcesDiscovered",
            "All resources successfully discovered",
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        condition(
            "NamespaceDeletionContentFailure",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        condition(
            "NamespaceContentRemaining",
            "ContentRemoved",
            "All content successfully removed",
        ),
        condition(
            "NamespaceFinalizersRemaining",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let [.., content, finalizers] = &mut conditions;
    for (condition, counts, reason, message, word) in [
        (
            content,
            &remaining.objects,
            "SomeResourcesRemain",
            "Some resources are remaining",
            "has",
        ),
        (
            finalizers,
            &remaining.finalizers,
            "SomeFinalizersRemain",
            "Some content in the namespace has finalizers remaining",
            "in",
        ),
    ] {
        let counts: Vec<String> = counts
            .iter()
            .map(|(name, count)| format!("{name} {word} {count} resource instances"))
            .collect();
        if !counts.is_empty() {
            condition.is_true = true;
            condition.reason = reason;
            condition.message = format!("{message}: {}", counts.join(", "));
        }
    }
    conditions
}

/// The conditions after an update. One whose status stays keeps its time, and conditions of other types stay.
fn updated(old: &[Value], conditions: &[Condition], now: &str) -> Vec<Value> {
    let mut all = old.to_vec();
    for condition in conditions {
        let status = if condition.is_true { "True" } else { "False" };
        let place = all.iter().position(|one| one["type"] == condition.kind);
        let known = place.and_then(|place| all.get_mut(place));
        let time = known.as_ref().filter(|known| known["status"] == status);
        let time = time.map(|known| known["lastTransitionTime"].clone());
        let new = json!({
            "type": condition.kind,
            "status": status,
            "lastTransitionTime": time.unwrap_or_else(|| now.into()),
            "reason": condition.reason,
            "message": condition.message,
        });
        match known {
            Some(known) => *known = new,
            None => all.push(new),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::namespace_deletion::begin_namespace_deletion;
    use super::super::namespaces::{ensure_namespace, remove_account};
    use super::super::test_store::{TestStore, config_map};
    use super::*;

    /// The conditions of the namespace `shop` that are true, and the number of all conditions.
    fn noted(store: &TestStore) -> (Vec<String>, usize) {
        note_remaining(store, "shop").unwrap();
        let namespace = store.get(&namespace_resource(), &Key::cluster("shop")).unwrap();
        assert_eq!(namespace.value()["status"]["phase"], "Terminating");
        let conditions = namespace.value()["status"]["conditions"].as_array().unwrap().clone();
        let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
        let is_true = conditions.iter().filter(|one| one["status"] == "True");
        let shown = is_true.map(|one| {
            let [kind, reason, message] = ["type", "reason", "message"].map(|field| text(one, field));
            format!("{kind} {reason}: {message}")
        });
        (shown.collect(), conditions.len())
    }

    #[test]
    fn the_conditions_say_what_keeps_a_namespace() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        for name in ["a", "b"] {
            let mut kept = config_map("shop", name);
            kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
            store.add(kinds::named("cm").unwrap(), kept);
        }
        begin_namespace_deletion(&store, "shop").unwrap();
        let (shown, count) = noted(&store);
        assert_eq!(
            shown,
            [
                "NamespaceContentRemaining SomeResourcesRemain: Some resources are remaining: configmaps. has 2 resource \
                 instances, serviceaccounts. has 1 resource instances",
                "NamespaceFinalizersRemaining SomeFinalizersRemain: Some content in the namespace has finalizers remaining: \
                 example.com/wait in 2 resource instances",
            ]
        );
        assert_eq!(count, 5);
        let noted_once = store.get(&namespace_resource(), &Key::cluster("shop")).unwrap();
        noted(&store);
        let noted_twice = store.get(&namespace_resource(), &Key::cluster("shop")).unwrap();
        assert_eq!(noted_twice, noted_once, "nothing has changed");
    }

    #[test]
    fn an_empty_namespace_has_no_condition_that_is_true_and_a_missing_one_is_no_error() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        begin_namespace_deletion(&store, "shop").unwrap();
        remove_account(&store, "shop", None).unwrap();
        assert_eq!(noted(&store), (Vec::new(), 5));
        note_remaining(&store, "none").unwrap();
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let remaining = |count: usize| {
            let mut remaining = Remaining::default();
            if count > 0 {
                remaining.objects.insert("configmaps.".to_owned(), count);
            }
            conditions(&remaining)
        };
        let own = json!({ "type": "example.com/own", "status": "True" });
        let mut all = updated(std::slice::from_ref(&own), &remaining(2), "1");
        assert_eq!(all.first(), Some(&own));
        for (count, now, message, time) in [
            (1, "2", "configmaps. has 1 resource instances", "1"),
            (0, "3", "All content successfully removed", "3"),
        ] {
            all = updated(&all, &remaining(count), now);
            let content = all
                .iter()
                .find(|one| one["type"] == "NamespaceContentRemaining")
                .unwrap();
            assert!(content["message"].as_str().unwrap().ends_with(message), "{content}");
            assert_eq!(content["lastTransitionTime"], time);
            assert_eq!(all.len(), 6);
        }
    }
}
