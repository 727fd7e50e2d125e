use microkube_manifest::kinds::{self, Kind};
use microkube_store::{Deletion, Key, Written};
use serde_json::{Value, json};

use super::*;
use crate::state::Paths;

/// A separate store.
struct Node {
    _directory: tempfile::TempDir,
    objects: Objects,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path().join("state"), directory.path().join("run"));
        Self {
            objects: Objects::open(&paths).unwrap(),
            _directory: directory,
        }
    }
}

fn kind(name: &str) -> &'static Kind {
    kinds::named(name).unwrap()
}

fn named(name: &str, rest: Value) -> Value {
    let mut value = json!({ "metadata": { "name": name } });
    for (field, content) in rest.as_object().unwrap() {
        value[field] = content.clone();
    }
    value
}

fn default_key(name: &str) -> Key {
    Key::namespaced("default", name)
}

fn text(error: Result<impl Sized, ObjectError>) -> String {
    error
        .err()
        .map_or_else(|| "no error".to_owned(), |error| error.to_string())
}

#[test]
fn a_created_object_has_its_defaults_and_its_namespace_exists() {
    let node = Node::new();
    let value = json!({ "metadata": { "name": "s", "namespace": "shop" }, "stringData": { "a": "b" } });
    let secret = node.objects.create(kind("secret"), &value).unwrap();
    assert_eq!(secret.value()["type"], "Opaque");
    assert_eq!(
        (&secret.value()["data"]["a"], secret.value().get("stringData")),
        (&json!("Yg=="), None)
    );
    let namespace = node.objects.get(kind("ns"), &Key::cluster("shop")).unwrap();
    let labels = json!({ "kubernetes.io/metadata.name": "shop" });
    assert_eq!(namespace.value()["metadata"]["labels"], labels);
    assert_eq!(namespace.value()["spec"], json!({ "finalizers": ["kubernetes"] }));
    assert_eq!(namespace.value()["status"], json!({ "phase": "Active" }));
    assert!(
        node.objects
            .find(kind("ns"), &Key::cluster("default"))
            .unwrap()
            .is_some()
    );
}

#[test]
fn errors_have_the_words_of_the_api_server() {
    let node = Node::new();
    let objects = &node.objects;
    let config_map = named("c", json!({ "data": { "a": "b" }, "immutable": true }));
    objects.create(kind("cm"), &config_map).unwrap();
    let with_data = |data: Value| named("c", json!({ "data": data, "immutable": true }));
    for (found, reason, message) in [
        (
            objects.create(kind("cm"), &config_map).map(drop),
            "AlreadyExists",
            "configmaps \"c\" already exists",
        ),
        (
            objects.get(kind("cm"), &default_key("d")).map(drop),
            "NotFound",
            "configmaps \"d\" not found",
        ),
        (
            objects
                .replace(kind("sc"), &named("d", json!({ "provisioner": "p" })))
                .map(drop),
            "NotFound",
            "storageclasses.storage.k8s.io \"d\" not found",
        ),
        (
            objects.replace(kind("cm"), &with_data(json!({ "a": "c" }))).map(drop),
            "Invalid",
            "ConfigMap \"c\" is invalid: data: Forbidden: field is immutable when `immutable` is set",
        ),
        (
            objects.create(kind("cm"), &named("C", json!({ "dat": {} }))).map(drop),
            "BadRequest",
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: unknown field \"dat\", did you mean \"data\"?",
        ),
        (
            objects
                .patch(
                    kind("cm"),
                    &default_key("c"),
                    &Patch::Merge(json!({ "status": {} })),
                    Part::Status,
                )
                .map(drop),
            "NotFound",
            "configmaps have no subresource \"status\"",
        ),
    ] {
        let error = found.unwrap_err();
        assert_eq!((error.reason(), error.to_string().as_str()), (Some(reason), message));
    }
}

#[test]
fn a_replacement_of_another_version_is_a_conflict() {
    let node = Node::new();
    let objects = &node.objects;
    let first = objects.create(kind("cm"), &named("c", json!({}))).unwrap();
    let mut second = first.value().clone();
    second["data"] = json!({ "a": "b" });
    assert!(matches!(objects.replace(kind("cm"), &second), Ok(Written::Changed(_))));
    assert!(text(objects.replace(kind("cm"), &second)).contains("the object has been modified"));
    let patch = Patch::Merge(json!({ "metadata": { "resourceVersion": "1" } }));
    let patched = objects.patch(kind("cm"), &default_key("c"), &patch, Part::Main);
    assert!(
        text(patched).starts_with("Operation cannot be fulfilled on configmaps \"c\": the object has been modified")
    );
}

#[test]
fn patches_of_each_type_change_an_object_and_one_without_effect_changes_nothing() {
    let node = Node::new();
    let objects = &node.objects;
    objects
        .create(kind("cm"), &named("c", json!({ "data": { "a": "1" } })))
        .unwrap();
    let data = |patch: Patch| {
        let written = objects
            .patch(kind("cm"), &default_key("c"), &patch, Part::Main)
            .unwrap();
        let is_changed = matches!(written, Written::Changed(_));
        (is_changed, written.into_object().value().get("data").cloned())
    };
    let both = Some(json!({ "a": "1", "b": "2" }));
    assert_eq!(
        data(Patch::Strategic(json!({ "data": { "b": "2" } }))),
        (true, both.clone())
    );
    assert_eq!(data(Patch::Merge(json!({ "data": { "b": "2" } }))), (false, both));
    let removal = json!([{ "op": "remove", "path": "/data/b" }, { "op": "remove", "path": "/data/a" }]);
    assert_eq!(data(Patch::Json(removal)), (true, None));
    let test = Patch::Json(json!([{ "op": "test", "path": "/data/a", "value": "x" }]));
    let error = objects
        .patch(kind("cm"), &default_key("c"), &test, Part::Main)
        .unwrap_err();
    assert_eq!(error.reason(), Some("Invalid"));
}

#[test]
fn a_patch_cannot_turn_an_object_into_another_one() {
    let node = Node::new();
    let objects = &node.objects;
    let in_shop = json!({ "metadata": { "name": "c", "namespace": "shop" }, "data": { "a": "1" } });
    objects.create(kind("cm"), &in_shop).unwrap();
    let patched = |patch: Patch| objects.patch(kind("cm"), &Key::namespaced("shop", "c"), &patch, Part::Main);
    for (patch, said) in [
        (
            Patch::Merge(json!({ "metadata": { "name": "d" } })),
            "the name of the object (d) does not match the name on the URL (c)",
        ),
        (
            Patch::Strategic(json!({ "metadata": { "name": "d", "namespace": "default" } })),
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            Patch::Json(json!([{ "op": "remove", "path": "/metadata/name" }])),
            "the name of the object (c based on URL) was undeterminable: name must be provided",
        ),
        (
            Patch::Strategic(json!({ "$patch": "delete" })),
            "the name of the object (c based on URL) was undeterminable: name must be provided",
        ),
        (Patch::Merge(Value::Null), "Invalid JSON Patch"),
    ] {
        let error = patched(patch).unwrap_err();
        assert_eq!((error.reason(), error.to_string().as_str()), (Some("BadRequest"), said));
    }
    let without_namespace = Patch::Merge(json!({ "metadata": { "namespace": null } }));
    assert!(matches!(patched(without_namespace).unwrap(), Written::Unchanged(_)));

    let class = named("fast", json!({ "provisioner": "example.com/p" }));
    objects.create(kind("sc"), &class).unwrap();
    let with_namespace = Patch::Merge(json!({ "metadata": { "namespace": "shop" } }));
    let patched = objects.patch(kind("sc"), &Key::cluster("fast"), &with_namespace, Part::Main);
    assert!(matches!(patched.unwrap(), Written::Unchanged(_)));
}

#[test]
fn the_status_is_changed_only_through_its_subresource() {
    let node = Node::new();
    let objects = &node.objects;
    let spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
    objects
        .create(kind("pvc"), &named("c", json!({ "spec": spec })))
        .unwrap();
    let patched = |part| {
        let patch = Patch::Merge(json!({ "status": { "phase": "Bound" } }));
        let written = objects.patch(kind("pvc"), &default_key("c"), &patch, part).unwrap();
        written.into_object().value()["status"]["phase"].clone()
    };
    assert_eq!(patched(Part::Main), "Pending");
    assert_eq!(patched(Part::Status), "Bound");
}

#[test]
fn apply_removes_what_it_applied_before_and_keeps_what_others_have_set() {
    let node = Node::new();
    let objects = &node.objects;
    let apply = |data: Value| {
        objects
            .apply(kind("cm"), &named("c", json!({ "data": data })), Overwrite::Always)
            .unwrap()
    };
    assert_eq!(apply(json!({ "a": "1", "b": "2" })).outcome, Outcome::Created);
    assert_eq!(apply(json!({ "a": "1", "b": "2" })).outcome, Outcome::Unchanged);
    let other = Patch::Merge(json!({ "data": { "other": "x" } }));
    objects
        .patch(kind("cm"), &default_key("c"), &other, Part::Main)
        .unwrap();
    let applied = apply(json!({ "a": "3" }));
    assert_eq!(
        (applied.outcome, applied.lacked_annotation),
        (Outcome::Configured, false)
    );
    assert_eq!(applied.object.value()["data"], json!({ "a": "3", "other": "x" }));

    objects.create(kind("cm"), &named("d", json!({}))).unwrap();
    let applied = objects
        .apply(
            kind("cm"),
            &named("d", json!({ "data": { "a": "1" } })),
            Overwrite::Always,
        )
        .unwrap();
    assert!(applied.lacked_annotation && applied.outcome == Outcome::Configured);
    let generated = json!({ "metadata": { "generateName": "c-" } });
    let error = text(objects.apply(kind("cm"), &generated, Overwrite::Always));
    assert_eq!(error, "from c-: cannot use generate name with apply");
}

#[test]
fn an_apply_without_overwrite_refuses_to_change_what_others_have_set() {
    let node = Node::new();
    let objects = &node.objects;
    let apply = |data: Value| objects.apply(kind("cm"), &named("c", json!({ "data": data })), Overwrite::Never);
    assert_eq!(apply(json!({ "a": "1" })).unwrap().outcome, Outcome::Created);
    assert_eq!(apply(json!({ "a": "1" })).unwrap().outcome, Outcome::Unchanged);
    let other = Patch::Merge(json!({ "data": { "a": "2" } }));
    objects
        .patch(kind("cm"), &default_key("c"), &other, Part::Main)
        .unwrap();
    match apply(json!({ "a": "1" })).unwrap_err() {
        ObjectError::Overwrites(conflict) => {
            assert_eq!(conflict.patch, json!({ "data": { "a": "1" } }));
            assert_eq!(conflict.changes["data"], json!({ "a": "2" }));
        }
        error => panic!("{error}"),
    }
    let kept = objects.find(kind("cm"), &default_key("c")).unwrap().unwrap();
    assert_eq!(kept.value()["data"], json!({ "a": "2" }));
}

#[test]
fn generated_names_are_the_stores() {
    let node = Node::new();
    let generated = json!({ "metadata": { "generateName": "c-" } });
    let first = node.objects.create(kind("cm"), &generated).unwrap();
    let second = node.objects.create(kind("cm"), &generated).unwrap();
    assert!(first.name().starts_with("c-") && first.name() != second.name());
}

#[test]
fn a_dry_run_checks_everything_and_writes_nothing() {
    let node = Node::new();
    let dry = node.objects.dry_run();
    let in_shop = json!({ "metadata": { "name": "c", "namespace": "shop" } });
    assert!(!dry.create(kind("cm"), &in_shop).unwrap().uid().is_empty());
    assert_eq!(
        dry.apply(kind("cm"), &in_shop, Overwrite::Always).unwrap().outcome,
        Outcome::Created
    );
    assert!(
        node.objects
            .find(kind("cm"), &Key::namespaced("shop", "c"))
            .unwrap()
            .is_none()
    );
    assert!(node.objects.find(kind("ns"), &Key::cluster("shop")).unwrap().is_none());
    assert!(dry.create(kind("cm"), &named("C", json!({}))).is_err());
}

#[test]
fn every_namespace_has_the_service_account_default() {
    let node = Node::new();
    let objects = &node.objects;
    objects.create(kind("ns"), &named("made", json!({}))).unwrap();
    let in_shop = json!({ "metadata": { "name": "c", "namespace": "shop" } });
    objects.create(kind("cm"), &in_shop).unwrap();
    for namespace in ["default", "made", "shop"] {
        let account = json!({ "metadata": { "name": "default", "namespace": namespace } });
        let error = objects.create(kind("sa"), &account).unwrap_err();
        assert_eq!(error.to_string(), "serviceaccounts \"default\" already exists");
        let key = Key::namespaced(namespace, "default");
        let first = objects.get(kind("sa"), &key).unwrap();
        objects.delete(kind("sa"), &key, &Deletion::default()).unwrap();
        assert_ne!(objects.get(kind("sa"), &key).unwrap().uid(), first.uid(), "{namespace}");
        // A replacement takes the place of the one that came back.
        let labelled = json!({ "metadata": { "name": "default", "namespace": namespace, "labels": { "a": "b" } } });
        objects.create_again(kind("sa"), &labelled).unwrap();
        let replaced = objects.get(kind("sa"), &key).unwrap();
        assert_eq!(
            replaced.value().pointer("/metadata/labels/a"),
            Some(&json!("b")),
            "{namespace}"
        );
    }
}

#[test]
fn only_an_object_that_comes_back_is_replaced_when_it_is_created_again() {
    let node = Node::new();
    node.objects.create(kind("cm"), &named("c", json!({}))).unwrap();
    let error = node
        .objects
        .create_again(kind("cm"), &named("c", json!({})))
        .unwrap_err();
    assert!(error.is_already_exists());
}

#[test]
fn a_deleted_object_with_finalizers_waits_for_their_removal() {
    let node = Node::new();
    let objects = &node.objects;
    let kept = json!({ "metadata": { "name": "c", "finalizers": ["example.com/keep"] } });
    objects.create(kind("cm"), &kept).unwrap();
    let deleted = objects
        .delete(kind("cm"), &default_key("c"), &Deletion::default())
        .unwrap();
    assert!(matches!(&deleted, Written::Changed(object) if object.is_terminating()));
    let released = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let removed = objects
        .patch(kind("cm"), &default_key("c"), &released, Part::Main)
        .unwrap();
    assert!(matches!(removed, Written::Removed(_)));
}

#[test]
fn nothing_is_created_in_a_namespace_that_ends() {
    let node = Node::new();
    let objects = &node.objects;
    objects.ensure_namespace("shop").unwrap();
    let ending = Patch::Merge(json!({ "status": { "phase": "Terminating" } }));
    objects
        .patch(kind("ns"), &Key::cluster("shop"), &ending, Part::Status)
        .unwrap();
    let in_shop = json!({ "metadata": { "name": "c", "namespace": "shop" } });
    assert_eq!(
        text(objects.create(kind("cm"), &in_shop)),
        "configmaps \"c\" is forbidden: unable to create new content in namespace shop because it is being terminated"
    );
}

#[test]
fn an_object_whose_namespace_is_deleted_while_it_is_created_is_removed() {
    let node = Node::new();
    let objects = &node.objects;
    let in_shop = |name: &str| json!({ "metadata": { "name": name, "namespace": "shop" } });
    let late = objects.create(kind("cm"), &in_shop("late")).unwrap();
    super::begin_namespace_deletion(objects.store(), "shop").unwrap();
    assert_eq!(
        text(objects.stay(kind("cm"), "shop", late)),
        "configmaps \"late\" is forbidden: unable to create new content in namespace shop because it is being terminated"
    );
    let key = Key::namespaced("shop", "late");
    assert!(objects.find(kind("cm"), &key).unwrap().is_none());
}

#[test]
fn no_error_and_no_debug_output_shows_a_value_of_a_secret() {
    let node = Node::new();
    let objects = &node.objects;
    let secret = json!({ "immutable": true, "stringData": { "password": "hidden" } });
    objects.create(kind("secret"), &named("s", secret)).unwrap();
    let mut shown = format!("{objects:?}");
    for patch in [
        Patch::Strategic(json!({ "data": { "password": "hidden!" } })),
        Patch::Strategic(json!({ "data": "hidden" })),
        Patch::Merge(json!({ "data": ["hidden"] })),
        Patch::Merge(json!({ "stringData": { "password": "hidden2" } })),
        Patch::Json(json!([{ "op": "test", "path": "/data/password", "value": "hidden" }])),
        Patch::Json(json!([{ "op": "replace", "path": "/data", "value": "hidden" }])),
    ] {
        shown += &format!("{patch:?}");
        let error = objects
            .patch(kind("secret"), &default_key("s"), &patch, Part::Main)
            .unwrap_err();
        shown += &format!("{error} {error:?}");
    }
    assert!(!shown.contains("hidden") && !shown.contains("aGlkZGVu"), "{shown}");
}
