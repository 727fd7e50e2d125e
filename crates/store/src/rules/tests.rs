use serde_json::json;

use super::*;
use crate::test_types::{config_maps, deployments, object};
use crate::version::ResourceVersion;

fn now() -> Timestamp {
    "2026-11-27T05:00:00.9Z".parse().unwrap()
}

fn stored(resource: &Resource, value: Value) -> Object {
    create(resource, object(value), "u1", now())
        .unwrap()
        .at(ResourceVersion(7))
}

/// The stored object, changed.
fn changed(current: &Object, change: impl FnOnce(&mut Value)) -> Object {
    let mut value = current.clone().into_value();
    change(&mut value);
    object(value)
}

fn put(next: Next) -> Value {
    match next {
        Next::Put(object) => object.into_value(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_object_gets_its_system_fields_whatever_the_client_sent() {
    let created = create(
        &deployments(),
        object(json!({"metadata": {
            "namespace": "default", "name": "a", "uid": "x", "creationTimestamp": "1999-01-01T00:00:00Z", "generation": 9,
            "deletionTimestamp": "1999-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3, "selfLink": "/", "finalizers": [],
            "managedFields": [{"manager": "m"}]
        }})),
        "u1",
        now(),
    );
    let expected = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "namespace": "default", "name": "a", "uid": "u1", "creationTimestamp": "2026-11-27T05:00:00Z", "generation": 1,
            "managedFields": [{"manager": "m"}]
        }
    });
    assert_eq!(created.unwrap().into_value(), expected);
    let created = stored(&config_maps(), json!({"metadata": {"generation": 4}}));
    assert_eq!(created.integer("generation"), None);
}

#[test]
fn a_new_object_must_have_no_version_and_the_right_type() {
    for (value, message) in [
        (
            json!({"metadata": {"resourceVersion": "1"}}),
            "resourceVersion should not be set on objects to be created",
        ),
        (
            json!({"apiVersion": "apps/v1"}),
            "apiVersion in the data (apps/v1) does not match the expected one (v1)",
        ),
        (
            json!({"kind": "Secret"}),
            "kind in the data (Secret) does not match the expected one (ConfigMap)",
        ),
    ] {
        let error = create(&config_maps(), object(value), "u1", now()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn an_update_keeps_the_system_fields_and_the_rest_is_the_clients() {
    let current = stored(
        &config_maps(),
        json!({"metadata": {"name": "a", "labels": {"x": "1"}}, "data": {"a": "1"}}),
    );
    let new = object(json!({
        "metadata": {"name": "a", "creationTimestamp": null, "generation": 9, "deletionTimestamp": "2000-01-01T00:00:00Z"},
        "data": {"a": "2"}
    }));
    let mut expected = current.clone().into_value();
    expected["metadata"].as_object_mut().unwrap().remove("labels");
    expected["data"]["a"] = "2".into();
    assert_eq!(put(update(&config_maps(), &current, new).unwrap()), expected);
}

#[test]
fn an_update_of_another_object_with_the_same_name_conflicts() {
    let current = stored(&config_maps(), json!({"metadata": {"name": "a"}}));
    let new = object(json!({"metadata": {"name": "a", "uid": "u2"}}));
    assert_eq!(
        update(&config_maps(), &current, new).unwrap_err().to_string(),
        "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: u2, UID in object meta: u1"
    );
}

#[test]
fn an_update_without_a_change_is_none() {
    let current = stored(
        &deployments(),
        json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}}),
    );
    for new in [
        current.clone(),
        changed(&current, |value| value["metadata"]["finalizers"] = json!([])),
        object(json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}})),
    ] {
        assert!(matches!(update(&deployments(), &current, new).unwrap(), Next::Same));
    }
}

#[test]
fn the_generation_rises_with_the_specification_and_where_the_type_says_so_annotations() {
    let current = stored(
        &deployments(),
        json!({"metadata": {"name": "a"}, "spec": {"replicas": 1}, "status": {}}),
    );
    let only_spec = Resource {
        generation: Generation::OfSpec,
        ..deployments()
    };
    let generation = |resource: &Resource, change: fn(&mut Value)| {
        put(update(resource, &current, changed(&current, change)).unwrap())["metadata"]["generation"].clone()
    };
    for resource in [deployments(), only_spec.clone()] {
        assert_eq!(generation(&resource, |value| value["spec"]["replicas"] = 2.into()), 2);
        assert_eq!(generation(&resource, |value| value["status"]["replicas"] = 2.into()), 1);
        assert_eq!(
            generation(&resource, |value| value["metadata"]["labels"] = json!({"a": "b"})),
            1
        );
    }
    let annotate = |value: &mut Value| value["metadata"]["annotations"] = json!({"a": "b"});
    assert_eq!(
        (generation(&deployments(), annotate), generation(&only_spec, annotate)),
        (2.into(), 1.into())
    );
}

#[test]
fn an_object_without_finalizers_is_removed_at_once() {
    let current = stored(&config_maps(), json!({"metadata": {"name": "a"}}));
    assert!(matches!(delete(&current, 0, now()), Next::Remove(last) if last == current));
}

#[test]
fn finalizers_keep_a_deleted_object_until_they_are_gone() {
    let current = stored(
        &deployments(),
        json!({"metadata": {"name": "a", "finalizers": ["x/a", "x/b"]}}),
    );
    let marked = object(put(delete(&current, 0, now())));
    assert_eq!(marked.text("deletionTimestamp"), Some("2026-11-27T05:00:00Z"));
    assert_eq!(marked.integer("deletionGracePeriodSeconds"), Some(0));
    assert_eq!(marked.integer("generation"), Some(2));
    assert!(matches!(delete(&marked, 0, now()), Next::Same));
    assert!(matches!(delete(&marked, 30, now()), Next::Same));

    let with = |finalizers: Value| changed(&marked, |value| value["metadata"]["finalizers"] = finalizers);
    let kept = put(update(&deployments(), &marked, with(json!(["x/b"]))).unwrap());
    assert_eq!(kept["metadata"]["deletionTimestamp"], "2026-11-27T05:00:00Z");
    assert_eq!(
        update(&deployments(), &marked, with(json!(["x/b", "z", "y"])))
            .unwrap_err()
            .to_string(),
        "Deployment.apps \"a\" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is \
         being deleted, found new finalizers []string{\"y\", \"z\"}"
    );
    for none in [json!([]), Value::Null] {
        assert!(matches!(
            update(&deployments(), &marked, with(none)).unwrap(),
            Next::Remove(_)
        ));
    }
}

#[test]
fn a_grace_period_marks_the_object_and_only_becomes_shorter() {
    let current = stored(&deployments(), json!({"metadata": {"name": "a"}}));
    let marked = object(put(delete(&current, 30, now())));
    assert_eq!(marked.text("deletionTimestamp"), Some("2026-11-27T05:00:30Z"));
    assert_eq!(marked.integer("deletionGracePeriodSeconds"), Some(30));
    assert_eq!(marked.integer("generation"), Some(2));
    assert!(matches!(delete(&marked, 30, now()), Next::Same));
    let shorter = object(put(delete(&marked, 10, now())));
    assert_eq!(shorter.text("deletionTimestamp"), Some("2026-11-27T05:00:10Z"));
    assert_eq!(shorter.integer("generation"), Some(2));
    assert!(matches!(delete(&shorter, 0, now()), Next::Remove(_)));
    let update_of_marked = changed(&marked, |value| value["spec"] = json!({"replicas": 2}));
    assert!(
        matches!(update(&deployments(), &marked, update_of_marked).unwrap(), Next::Put(_)),
        "no finalizers, but a grace period"
    );
}

#[test]
fn the_end_of_a_grace_period_leaves_finalizers() {
    let current = stored(&config_maps(), json!({"metadata": {"name": "a", "finalizers": ["x"]}}));
    let marked = object(put(delete(&current, 30, now())));
    let ended = object(put(delete(&marked, 0, now())));
    assert_eq!(ended.text("deletionTimestamp"), Some("2026-11-27T05:00:00Z"));
    assert_eq!(ended.integer("deletionGracePeriodSeconds"), Some(0));
}
