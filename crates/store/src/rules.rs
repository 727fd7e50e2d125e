//! Kubernetes' rules for `metadata`: the fields that a write sets, keeps and refuses
//! (`apiserver/pkg/registry/rest/{create,update,delete}.go`, `registry/generic/registry/store.go`).
//!
//! This module does no I/O.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::error::{Conflict, StoreError};
use crate::object::Object;
use crate::resource::{Generation, Resource};

/// The effect on a stored object.
#[derive(Debug)]
pub(crate) enum Next {
    /// The object and its version stay the same.
    Same,
    Put(Object),
    /// The object is removed; this is its last state.
    Remove(Object),
}

/// Completes a new object.
pub(crate) fn create(resource: &Resource, mut object: Object, uid: &str, now: Timestamp) -> Result<Object, StoreError> {
    set_type(resource, &mut object)?;
    if object.given_version().is_some() {
        return Err(StoreError::VersionSetOnCreate);
    }
    for field in [
        "resourceVersion",
        "selfLink",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        object.set(field, None);
    }
    object.set("uid", Some(uid.into()));
    object.set("creationTimestamp", Some(seconds(now)));
    let generation = (resource.generation != Generation::Absent).then(|| 1.into());
    object.set("generation", generation);
    drop_empty_finalizers(&mut object);
    Ok(object)
}

/// The result of replacing `current` by `new`.
pub(crate) fn update(resource: &Resource, current: &Object, mut new: Object) -> Result<Next, StoreError> {
    let name = current.name();
    set_type(resource, &mut new)?;
    if let Some(uid) = new.text("uid")
        && uid != current.uid()
    {
        let conflict = Conflict::Uid {
            expected: uid.to_owned(),
            found: current.uid().to_owned(),
        };
        return Err(StoreError::conflict(resource, name, conflict));
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        let kept = current.metadata().and_then(|metadata| metadata.get(field)).cloned();
        new.set(field, kept);
    }
    new.set("selfLink", None);
    drop_empty_finalizers(&mut new);
    if current.is_terminating() {
        refuse_new_finalizers(resource, current, &new)?;
    }
    if resource.generation != Generation::Absent && raises_generation(resource.generation, current, &new) {
        raise_generation(&mut new);
    }
    let has_grace = current.integer("deletionGracePeriodSeconds").unwrap_or(0) > 0;
    if current.is_terminating() && !has_grace && new.finalizers().next().is_none() {
        return Ok(Next::Remove(new));
    }
    Ok(if new == *current { Next::Same } else { Next::Put(new) })
}

/// The result of deleting `current`, with a grace period in seconds.
pub(crate) fn delete(current: &Object, grace_seconds: u32, now: Timestamp) -> Next {
    let grace = i64::from(grace_seconds);
    let pending = current.integer("deletionGracePeriodSeconds").unwrap_or(0);
    let began = current
        .text("deletionTimestamp")
        .map(|at| at.parse::<Timestamp>().unwrap_or(now));
    let deadline = match began {
        None => now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(now),
        // The object waits only for its finalizers.
        Some(_) if pending <= 0 => return at_once(current, now),
        // A grace period can only become shorter.
        Some(_) if grace >= pending => return Next::Same,
        Some(at) => at
            .saturating_add(SignedDuration::from_secs(grace.saturating_sub(pending)))
            .unwrap_or(at),
    };
    if grace == 0 {
        return at_once(current, now);
    }
    let mut new = current.clone();
    new.set("deletionTimestamp", Some(seconds(deadline)));
    new.set("deletionGracePeriodSeconds", Some(grace.into()));
    if began.is_none() {
        raise_generation(&mut new);
    }
    Next::Put(new)
}

/// Removes the object, or only marks it if it has finalizers.
fn at_once(current: &Object, now: Timestamp) -> Next {
    if current.finalizers().next().is_none() {
        return Next::Remove(current.clone());
    }
    let mut new = current.clone();
    let began = current
        .text("deletionTimestamp")
        .and_then(|at| at.parse::<Timestamp>().ok());
    if began.is_none_or(|at| at > now) {
        new.set("deletionTimestamp", Some(seconds(now)));
    }
    new.set("deletionGracePeriodSeconds", Some(0.into()));
    if !current.is_terminating() {
        raise_generation(&mut new);
    }
    if new == *current { Next::Same } else { Next::Put(new) }
}

/// Sets `apiVersion` and `kind`. Fails if the object has the values of another type.
fn set_type(resource: &Resource, object: &mut Object) -> Result<(), StoreError> {
    for (field, expected) in [
        ("apiVersion", resource.api_version()),
        ("kind", resource.kind.to_string()),
    ] {
        match object.top_level_text(field) {
            None => object.set_top_level(field, expected.into()),
            Some(found) if found == expected => {}
            Some(found) => {
                let found = found.to_owned();
                return Err(StoreError::OtherType { field, found, expected });
            }
        }
    }
    Ok(())
}

fn refuse_new_finalizers(resource: &Resource, current: &Object, new: &Object) -> Result<(), StoreError> {
    let old: Vec<&str> = current.finalizers().collect();
    let mut extra: Vec<String> = new
        .finalizers()
        .filter(|finalizer| !old.contains(finalizer))
        .map(|finalizer| format!("{finalizer:?}"))
        .collect();
    if extra.is_empty() {
        return Ok(());
    }
    extra.sort();
    let problem = format!(
        "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        extra.join(", ")
    );
    let name = current.name();
    Err(StoreError::invalid(resource, name, "metadata.finalizers", problem))
}

fn drop_empty_finalizers(object: &mut Object) {
    if object.finalizers().next().is_none() {
        object.set("finalizers", None);
    }
}

fn raises_generation(rule: Generation, current: &Object, new: &Object) -> bool {
    let specification = |object: &Object| -> Vec<(String, Value)> {
        let map = object.value().as_object().into_iter().flatten();
        map.filter(|(field, value)| {
            !matches!(field.as_str(), "apiVersion" | "kind" | "metadata" | "status") && !value.is_null()
        })
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect()
    };
    let annotations = |object: &Object| object.metadata().and_then(|map| map.get("annotations")).cloned();
    specification(current) != specification(new)
        || (rule == Generation::OfSpecAndAnnotations && annotations(current) != annotations(new))
}

fn raise_generation(object: &mut Object) {
    if let Some(generation) = object.integer("generation")
        && generation > 0
    {
        object.set("generation", Some(generation.saturating_add(1).into()));
    }
}

/// `metav1.Time`: RFC 3339 in UTC, to the second.
fn seconds(time: Timestamp) -> Value {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into()
}

#[cfg(test)]
mod tests;
