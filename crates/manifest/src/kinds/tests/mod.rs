//! Tests of the table of kinds: reading, defaults, validation and changes of objects.

mod faulty_documents;
mod generated;
mod updates;

use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::super::documents::Input;
use super::super::error::{ManifestError, Problem};
use super::super::unknown_fields::UnknownFields;
use super::super::validation::config_map::MAX_DATA_BYTES;
use super::table::{AGE, NAME};
use super::*;

/// A valid object of each kind, as a user would write it.
fn samples() -> Vec<Value> {
    let metadata = json!({"name": "a", "labels": {"app": "web"}});
    vec![
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a.txt": "x"},
            "binaryData": {"b": "AAE="}, "immutable": true
        }),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": {
            "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/a"}
        }}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": {
            "accessModes": ["ReadWriteOncePod"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""
        }}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {
            "containers": [{"name": "c", "image": "i"}]
        }}),
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"a": "AAE="}, "stringData": {"b": "x"}
        }),
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, "secrets": [{"name": "s"}],
            "imagePullSecrets": [{"name": "p"}], "automountServiceAccountToken": false
        }),
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata, "provisioner": "example.com/disk",
            "parameters": {"fs": "ext4"}
        }),
    ]
}

fn kind_of(value: &Value) -> &'static Kind {
    find(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap()).unwrap()
}

fn defaulted(value: &Value) -> Value {
    let mut value = value.clone();
    kind_of(&value).default(&mut value).unwrap();
    value
}

fn messages(problems: Vec<Problem>) -> Vec<String> {
    problems.into_iter().map(|problem| problem.message).collect()
}

fn objects(text: &str) -> Result<Vec<Object>, ManifestError> {
    let text = text.as_bytes();
    read_objects(&[Input { source: "x.yaml", text }])
}

#[test]
fn every_kind_has_a_valid_sample_that_is_read_unchanged() {
    let samples = samples();
    assert_eq!(samples.len(), all().len());
    for (sample, kind) in samples.iter().zip(all()) {
        assert_eq!(kind_of(sample).kind, kind.kind);
        let object = kind.read(sample).unwrap();
        assert_eq!(&object.to_value(), sample);
        assert_eq!(object.kind().kind, kind.kind);
        assert_eq!(messages(kind.validate(&defaulted(sample))), [""; 0], "{}", kind.kind);
        assert_eq!(messages(kind.unsupported(sample)), [""; 0]);
    }
}

#[test]
fn the_table_agrees_with_the_types() {
    fn check<T: k8s_openapi::ListableResource>() {
        let kind = find(T::API_VERSION, T::KIND).unwrap();
        assert_eq!(
            (kind.group, kind.version, kind.plural, kind.list_kind().as_str()),
            (T::GROUP, T::VERSION, T::URL_PATH_SEGMENT, T::LIST_KIND)
        );
    }
    check::<ConfigMap>();
    check::<Namespace>();
    check::<PersistentVolume>();
    check::<PersistentVolumeClaim>();
    check::<Pod>();
    check::<Secret>();
    check::<ServiceAccount>();
    check::<StorageClass>();
    for kind in all() {
        assert_eq!(kind.singular, kind.kind.to_lowercase());
        assert_eq!(kind.columns[0], NAME);
        assert!(kind.columns.contains(&AGE));
        assert!(kind.schema().fields.contains(&"metadata".to_owned()));
        assert!(kind.subresources.is_sorted());
    }
}

#[test]
fn kinds_are_found_by_every_name() {
    for (name, kind) in [
        ("cm", "ConfigMap"),
        ("configmap", "ConfigMap"),
        ("ConfigMaps", "ConfigMap"),
        ("ns", "Namespace"),
        ("pv", "PersistentVolume"),
        ("pvc", "PersistentVolumeClaim"),
        ("po", "Pod"),
        ("Secret", "Secret"),
        ("sa", "ServiceAccount"),
        ("sc", "StorageClass"),
        ("storageclasses.storage.k8s.io", "StorageClass"),
        ("storageclass.v1.storage.k8s.io", "StorageClass"),
        ("pods.v1.", "Pod"),
    ] {
        assert_eq!(named(name).map(|known| known.kind), Some(kind), "{name}");
    }
    for name in ["", "deploy", "pods.apps", "storageclasses.v2.storage.k8s.io", "all"] {
        assert!(named(name).is_none(), "{name}");
    }
    assert!(find("v1", "StorageClass").is_none());
    assert_eq!(named("sc").unwrap().qualified_plural(), "storageclasses.storage.k8s.io");
}

#[test]
fn defaults_are_those_of_the_api_server() {
    for (value, pointer, expected) in [
        (json!({"kind": "ConfigMap"}), "/metadata/namespace", json!("default")),
        (json!({"kind": "Secret"}), "/type", json!("Opaque")),
        (
            json!({"kind": "Secret", "data": {"a": "eA==", "b": "eA=="}, "stringData": {"b": "y"}}),
            "/data",
            json!({"a": "eA==", "b": "eQ=="}),
        ),
        (
            json!({"kind": "Secret", "stringData": {"b": "y"}}),
            "/stringData",
            Value::Null,
        ),
        (
            json!({"kind": "Namespace", "metadata": {"name": "n"}}),
            "/metadata/labels",
            json!({"kubernetes.io/metadata.name": "n"}),
        ),
        (
            json!({"kind": "Namespace", "metadata": {"namespace": "n"}}),
            "/metadata/namespace",
            Value::Null,
        ),
        (json!({"kind": "Namespace"}), "/status/phase", json!("Active")),
        (
            json!({"kind": "PersistentVolume"}),
            "/spec/persistentVolumeReclaimPolicy",
            json!("Retain"),
        ),
        (
            json!({"kind": "PersistentVolume"}),
            "/spec/volumeMode",
            json!("Filesystem"),
        ),
        (json!({"kind": "PersistentVolume"}), "/status/phase", json!("Pending")),
        (
            json!({"kind": "PersistentVolume", "spec": {"hostPath": {"path": "/"}}}),
            "/spec/hostPath/type",
            json!(""),
        ),
        (
            json!({"kind": "PersistentVolumeClaim"}),
            "/spec/volumeMode",
            json!("Filesystem"),
        ),
        (
            json!({"kind": "PersistentVolumeClaim"}),
            "/status/phase",
            json!("Pending"),
        ),
        (json!({"kind": "StorageClass"}), "/reclaimPolicy", json!("Delete")),
        (
            json!({"kind": "StorageClass"}),
            "/volumeBindingMode",
            json!("Immediate"),
        ),
    ] {
        let mut value = value;
        let group = if value["kind"] == "StorageClass" {
            "storage.k8s.io/v1"
        } else {
            "v1"
        };
        value["apiVersion"] = json!(group);
        let defaulted = defaulted(&value);
        let found = defaulted.pointer(pointer).unwrap_or(&Value::Null);
        assert_eq!(found, &expected, "{pointer} of {value}");
    }
}

#[test]
fn volumes_and_variables_of_objects_have_defaults() {
    let pod = defaulted(
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "a"}},
                {"name": "b", "secret": {"secretName": "a", "defaultMode": 0}},
                {"name": "c", "downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "d", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t"}},
                    {"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.uid"}}]}}
                ]}},
                {"name": "e", "hostPath": {"path": "/"}},
                {"name": "f", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}
            ]
        }}),
    );
    for (pointer, expected) in [
        ("/containers/0/env/0/valueFrom/fieldRef/apiVersion", json!("v1")),
        ("/volumes/0/configMap/defaultMode", json!(420)),
        ("/volumes/1/secret/defaultMode", json!(0)),
        ("/volumes/2/downwardAPI/defaultMode", json!(420)),
        ("/volumes/2/downwardAPI/items/0/fieldRef/apiVersion", json!("v1")),
        ("/volumes/3/projected/defaultMode", json!(420)),
        (
            "/volumes/3/projected/sources/0/serviceAccountToken/expirationSeconds",
            json!(3600),
        ),
        (
            "/volumes/3/projected/sources/1/downwardAPI/items/0/fieldRef/apiVersion",
            json!("v1"),
        ),
        ("/volumes/4/hostPath/type", json!("")),
        (
            "/volumes/5/ephemeral/volumeClaimTemplate/spec/volumeMode",
            json!("Filesystem"),
        ),
    ] {
        assert_eq!(pod["spec"].pointer(pointer), Some(&expected), "{pointer}");
    }
}

#[test]
fn clients_do_not_set_status_or_finalizers_of_new_objects() {
    for (mut value, expected) in [
        (
            json!({"kind": "Namespace", "metadata": {"name": "n"}, "status": {"phase": "Terminating"}}),
            json!({"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        ),
        (
            json!({"kind": "PersistentVolume", "status": {"phase": "Bound", "message": "x"}}),
            json!({"status": {"phase": "Pending"}}),
        ),
        (
            json!({"kind": "PersistentVolumeClaim", "status": {"phase": "Bound"}}),
            json!({"status": {"phase": "Pending"}}),
        ),
        (
            json!({"kind": "Pod", "spec": {"containers": []}, "status": {"phase": "Running"}}),
            json!({"status": {"phase": "Pending", "qosClass": "BestEffort"}}),
        ),
        (
            json!({"kind": "ServiceAccount", "secrets": [{"name": "s", "namespace": "n", "kind": "Secret"}]}),
            json!({"secrets": [{"name": "s"}]}),
        ),
    ] {
        value["apiVersion"] = json!("v1");
        let kind = kind_of(&value);
        let mut object = kind.read(&defaulted(&value)).unwrap();
        object.prepare_for_create();
        let created = object.to_value();
        for (field, expected) in expected.as_object().unwrap() {
            assert_eq!(&created[field], expected, "{} {field}", kind.kind);
        }
        let mut changed = object.clone();
        changed.prepare_for_update(&object);
        assert_eq!(changed, object);
    }
}

#[test]
fn documents_keep_what_was_written_and_where() {
    let text = "apiVersion: v1\nkind: ConfigMapList\nitems:\n- metadata: {name: a, annotations: null}\n  data: {k: '8e1'}\n---\n\
                {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: b}, spec: {resources: {requests: {storage: 1e3}}}}\n";
    let input = Input {
        source: "x.yaml",
        text: text.as_bytes(),
    };
    let documents = read_documents(&[input]).unwrap();
    assert_eq!(documents.len(), 2);
    assert_eq!(
        documents[0].written(),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "annotations": null}, "data": {"k": "8e1"}
        })
    );
    assert_eq!((documents[0].place().line, documents[0].source()), (4, "x.yaml"));
    assert_eq!(documents[1].kind().kind, "PersistentVolumeClaim");
    assert_eq!(
        documents[1].written()["spec"]["resources"]["requests"]["storage"],
        json!(1000)
    );
    // A part of an object is read, and its problems are located later.
    let problems = documents[1].complete().unwrap_err();
    assert_eq!(problems.problems.len(), 1);
    assert_eq!(problems.problems[0].location.unwrap().line, 7);
    assert_eq!(
        problems.problems[0].message,
        "spec.accessModes: Required value: at least 1 access mode is required"
    );
}

#[test]
fn unknown_fields_are_dropped_on_request() {
    let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labls: {b: c}}, dat: {}, data: {k: v}}";
    let input = Input {
        source: "x.yaml",
        text: text.as_bytes(),
    };
    assert!(read_documents(&[input]).is_err());
    let documents = read_documents_with(&[input], UnknownFields::Dropped).unwrap();
    let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    assert_eq!(documents[0].written(), wanted);
    let messages = |dropped: &[Problem]| {
        let mut messages: Vec<_> = dropped.iter().map(|problem| problem.message.clone()).collect();
        messages.sort();
        messages
    };
    let expected = [
        "unknown field \"dat\", did you mean \"data\"?",
        "unknown field \"metadata.labls\", did you mean \"labels\"?",
    ];
    assert_eq!(messages(documents[0].dropped_fields()), expected);
    // Values of wrong types remain problems.
    let wrong = text.replace("{k: v}", "{k: 1}");
    let input = Input {
        source: "x.yaml",
        text: wrong.as_bytes(),
    };
    assert!(read_documents_with(&[input], UnknownFields::Dropped).is_err());

    let mut value = wanted.clone();
    value["dat"] = json!({});
    value["metadata"]["labls"] = json!({"b": "c"});
    let kind = find("v1", "ConfigMap").unwrap();
    assert_eq!(messages(&kind.drop_unknown_fields(&mut value)), expected);
    assert_eq!(value, wanted);
    assert_eq!(kind.drop_unknown_fields(&mut value), []);
}

#[test]
fn objects_of_all_kinds_are_read_together() {
    let text: String = samples().iter().map(|sample| format!("---\n{sample}\n")).collect();
    let objects = objects(&text).unwrap();
    let kinds: Vec<&str> = objects.iter().map(|object| object.kind().kind).collect();
    let known: Vec<&str> = all().iter().map(|kind| kind.kind).collect();
    assert_eq!(kinds, known);
    let list = json!({"apiVersion": "v1", "kind": "List", "items": samples()});
    assert_eq!(super::tests::objects(&list.to_string()).unwrap(), objects);
    assert_eq!(super::tests::objects("").unwrap(), []);
}

#[test]
fn secret_values_are_not_shown() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: hunter2}\n";
    let found = objects(text).unwrap();
    let input = Input {
        source: "x.yaml",
        text: text.as_bytes(),
    };
    let documents = read_documents(&[input]).unwrap();
    let shown = format!("{found:?} {documents:?}");
    assert!(shown.contains("Some(\"a\")") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn data_is_limited_to_a_mebibyte() {
    let value = |bytes: usize| "x".repeat(bytes);
    let config_map = |bytes: usize| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": value(bytes - 1)}, "binaryData": {"b": "AA=="}});
    let secret = |bytes: usize| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"a": value(bytes)}});
    for (object, message) in [
        (
            &config_map as &dyn Fn(usize) -> Value,
            "[]: Too long: may not be more than 1048576 bytes",
        ),
        (
            &secret as &dyn Fn(usize) -> Value,
            "data: Too long: may not be more than 1048576 bytes",
        ),
    ] {
        let fits = object(MAX_DATA_BYTES);
        assert_eq!(messages(kind_of(&fits).validate(&defaulted(&fits))), [""; 0]);
        let large = object(MAX_DATA_BYTES + 1);
        assert_eq!(messages(kind_of(&large).validate(&defaulted(&large))), [message]);
    }
}

#[test]
fn a_config_map_of_ten_thousand_keys_is_read() {
    let data: serde_json::Map<String, Value> = (0..10_000)
        .map(|key| (format!("key.{key}"), json!("x".repeat(95))))
        .collect();
    let text = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data}).to_string();
    assert_eq!(objects(&text).unwrap().len(), 1);
}

#[test]
fn names_are_generated_once() {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"generateName": "a-"}});
    let once = defaulted(&secret);
    assert!(once["metadata"]["name"].as_str().unwrap().starts_with("a-"));
    assert_eq!(defaulted(&once), once);
}
