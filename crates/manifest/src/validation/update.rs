//! Kubernetes' rules for changes of any kind of object: which fields must not change.
//!
//! The store compares the resource version and counts the generation. As in the API server, a new object without UID
//! and timestamps keeps those of the old one.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use super::super::error::FieldPath;
use super::super::quantity::Quantity;
use super::found::Found;

/// `FieldImmutableErrorMsg`
const IMMUTABLE: &str = "field is immutable";

/// `ValidateObjectMetaUpdate`
pub(super) fn metadata(new: &ObjectMeta, old: &ObjectMeta, found: &mut Found) {
    let path = FieldPath::default().field("metadata");
    if old.deletion_timestamp.is_some() {
        let known = old.finalizers.as_deref().unwrap_or_default();
        let added = new.finalizers.iter().flatten();
        let mut added: Vec<&String> = added.filter(|finalizer| !known.contains(finalizer)).collect();
        added.sort();
        added.dedup();
        if !added.is_empty() {
            // As Go prints a list of strings.
            let shown: Vec<String> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                shown.join(", ")
            );
            found.forbidden(&path.field("finalizers"), detail);
        }
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    immutable_text(&text(&new.name), &text(&old.name), &path.field("name"), found);
    immutable_text(
        &text(&new.namespace),
        &text(&old.namespace),
        &path.field("namespace"),
        found,
    );
    if let Some(uid) = new.uid.as_deref().filter(|uid| !uid.is_empty()) {
        immutable_text(uid, &text(&old.uid), &path.field("uid"), found);
    }
    for (field, new, old) in [
        ("creationTimestamp", &new.creation_timestamp, &old.creation_timestamp),
        ("deletionTimestamp", &new.deletion_timestamp, &old.deletion_timestamp),
    ] {
        if new.is_some() && new != old {
            immutable(new, &path.field(field), found);
        }
    }
    let (new, old) = (new.deletion_grace_period_seconds, old.deletion_grace_period_seconds);
    if new.is_some() && new != old {
        immutable(&new, &path.field("deletionGracePeriodSeconds"), found);
    }
}

/// `ValidateImmutableField` for a string.
pub(super) fn immutable_text(new: &str, old: &str, path: &FieldPath, found: &mut Found) {
    if new != old {
        found.invalid(path, new, IMMUTABLE);
    }
}

/// Reports a changed value that must not change.
pub(super) fn immutable(new: &impl Serialize, path: &FieldPath, found: &mut Found) {
    let shown = serde_json::to_string(new).unwrap_or_default();
    found.invalid(path, format_args!("{shown}"), IMMUTABLE);
}

/// Reports the fields of an immutable ConfigMap or Secret that have changed.
pub(super) fn immutable_data(same: &[(&str, bool)], found: &mut Found) {
    for (field, _) in same.iter().filter(|(_, same)| !same) {
        let path = FieldPath::default().field(field);
        found.forbidden(&path, "field is immutable when `immutable` is set");
    }
}

/// Whether two maps are equal; an empty one is equal to a missing one.
pub(super) fn same_map<V: PartialEq>(a: Option<&BTreeMap<String, V>>, b: Option<&BTreeMap<String, V>>) -> bool {
    let a = a.filter(|map| !map.is_empty());
    a == b.filter(|map| !map.is_empty())
}

/// `Semantic.DeepEqual`: empty lists and maps are equal to missing ones, and quantities are equal if their amounts are.
pub(super) fn same<T: Serialize>(a: &T, b: &T) -> bool {
    let value = |value: &T| serde_json::to_value(value).unwrap_or_default();
    same_values(&value(a), &value(b), false)
}

fn same_values(a: &Value, b: &Value, quantities: bool) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let missing = Value::Null;
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let mut pairs = keys.map(|key| (key, a.get(key).unwrap_or(&missing), b.get(key).unwrap_or(&missing)));
            pairs.all(|(key, a, b)| {
                same_values(
                    a,
                    b,
                    matches!(key.as_str(), "requests" | "limits" | "capacity") || quantities,
                )
            })
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_values(a, b, quantities))
        }
        (Value::String(a), Value::String(b)) if quantities => {
            a == b || matches!((a.parse::<Quantity>(), b.parse::<Quantity>()), (Ok(a), Ok(b)) if a == b)
        }
        (Value::Null, Value::Array(list)) | (Value::Array(list), Value::Null) => list.is_empty(),
        // A struct that is present but empty differs from a missing one in Kubernetes only for pointers.
        (Value::Null, Value::Object(map)) | (Value::Object(map), Value::Null) => map.is_empty(),
        _ => a == b,
    }
}
