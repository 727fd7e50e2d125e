use serde_json::json;

use super::*;
use crate::objects::test_store::TestStore;

/// The page of an object.
fn shown(kind: &str, object: Value) -> String {
    shown_among(kind, object, &Surroundings::default())
}

fn shown_among(kind: &str, object: Value, surroundings: &Surroundings) -> String {
    let now = "2026-11-21T10:05:00Z".parse().unwrap();
    page(
        kinds::named(kind).unwrap(),
        &object,
        surroundings,
        Some(&[]),
        now,
        &TimeZone::UTC,
    )
}

#[test]
fn a_config_map_shows_its_data_as_it_is() {
    let config_map = json!({
        "metadata": {
            "name": "settings", "namespace": "shop", "labels": { "app": "web" },
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "kept" },
        },
        "data": { "app.conf": "a\tb\n  c: d\n", "empty": "" },
        "binaryData": { "logo": "AAEC" },
    });
    assert_eq!(
        shown("cm", config_map),
        "\
Name:         settings
Namespace:    shop
Labels:       app=web
Annotations:  note: kept

Data
====
app.conf:
----
a\tb
  c: d


empty:
----



BinaryData
====
logo: 3 bytes

Events:  <none>
"
    );
}

#[test]
fn a_secret_shows_only_sizes() {
    let last_applied = r#"{"data":{"password":"aGlkZGVu"}}"#;
    let secret = json!({
        "metadata": {
            "name": "login", "namespace": "default",
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": last_applied },
        },
        "type": "Opaque",
        "data": { "password": "aGlkZGVu", "u": "" },
    });
    assert_eq!(
        shown("secret", secret),
        "\
Name:         login
Namespace:    default
Labels:       <none>
Annotations:  <none>

Type:  Opaque

Data
====
password:  6 bytes
u:         0 bytes
"
    );
    let token = json!({
        "metadata": { "name": "token" }, "type": TOKEN_TYPE, "data": { "token": "aGlkZGVu" },
    });
    let shown = shown("secret", token);
    assert!(
        shown.ends_with("token:  6 bytes\n") && !shown.contains("hidden"),
        "{shown}"
    );
}

#[test]
fn a_namespace_shows_its_phase() {
    let namespace = json!({
        "metadata": { "name": "shop", "labels": { "kubernetes.io/metadata.name": "shop" } }, "status": { "phase": "Active" },
    });
    assert_eq!(
        shown("ns", namespace),
        "\
Name:         shop
Labels:       kubernetes.io/metadata.name=shop
Annotations:  <none>
Status:       Active

No resource quota.

No LimitRange resource.
"
    );
}

#[test]
fn a_namespace_that_ends_shows_what_keeps_it() {
    let condition = json!({
        "type": "NamespaceContentRemaining", "status": "True", "lastTransitionTime": "2026-11-21T10:00:00Z",
        "reason": "SomeResourcesRemain", "message": "Some resources are remaining: pods. has 1 resource instances",
    });
    let namespace = json!({
        "metadata": { "name": "shop" }, "status": { "phase": "Terminating", "conditions": [condition] },
    });
    assert_eq!(
        shown("ns", namespace),
        "\
Name:         shop
Labels:       <none>
Annotations:  <none>
Status:       Terminating
Conditions:
  Type                       Status  LastTransitionTime               Reason               Message
  ----                       ------  ------------------               ------               -------
  NamespaceContentRemaining  True    Sat, 21 Nov 2026 10:00:00 +0000  SomeResourcesRemain  Some resources are remaining: pods. has 1 resource instances

No resource quota.

No LimitRange resource.
"
    );
}

#[test]
fn a_service_account_shows_its_secrets_and_which_are_missing() {
    let account = json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "u" },
        "imagePullSecrets": [{ "name": "registry" }, { "name": "gone" }],
    });
    let token = json!({
        "metadata": { "name": "web-token", "annotations": {
            "kubernetes.io/service-account.name": "web", "kubernetes.io/service-account.uid": "u",
        } },
        "type": TOKEN_TYPE,
    });
    let surroundings = Surroundings {
        secrets: [json!({ "metadata": { "name": "registry" } }), token]
            .iter()
            .map(typed)
            .collect(),
        ..Surroundings::default()
    };
    assert_eq!(
        shown_among("sa", account, &surroundings),
        "\
Name:                web
Namespace:           shop
Labels:              <none>
Annotations:         <none>
Image pull secrets:  registry
                     gone (not found)
Mountable secrets:   <none>
Tokens:              web-token
Events:              <none>
"
    );
}

#[test]
fn a_volume_shows_its_claim_and_its_source() {
    let volume = json!({
        "metadata": { "name": "disk", "finalizers": ["kubernetes.io/pv-protection"] },
        "spec": {
            "capacity": { "storage": "10Gi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": { "namespace": "shop", "name": "data" }, "storageClassName": "fast", "volumeMode": "Filesystem",
            "local": { "path": "/mnt/disk" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": ["a", "b"] },
                { "key": "ssd", "operator": "Exists" },
            ] }] } },
        },
        "status": { "phase": "Bound" },
    });
    assert_eq!(
        shown("pv", volume),
        "\
Name:              disk
Labels:            <none>
Annotations:       <none>
Finalizers:        [kubernetes.io/pv-protection]
StorageClass:      fast
Status:            Bound
Claim:             shop/data
Reclaim Policy:    Retain
Access Modes:      RWO
VolumeMode:        Filesystem
Capacity:          10Gi
Node Affinity:
  Required Terms:
    Term 0:        kubernetes.io/hostname in [a, b]
                   ssd exists
Message:
Source:
    Type:  LocalVolume (a persistent volume backed by local storage on a node)
    Path:  /mnt/disk
Events:    <none>
"
    );
}

#[test]
fn a_claim_shows_its_volume_and_the_pods_that_use_it() {
    let claim = json!({
        "metadata": { "name": "data", "namespace": "shop", "deletionTimestamp": "2026-11-21T10:03:00Z" },
        "spec": { "volumeName": "disk", "volumeMode": "Filesystem", "storageClassName": "fast" },
        "status": { "phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "10Gi" } },
    });
    let user = |name: &str, claim: &str| {
        typed(&json!({
            "metadata": { "name": name },
            "spec": { "containers": [], "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": claim } }] },
        }))
    };
    let surroundings = Surroundings {
        pods: vec![user("web", "data"), user("db", "other")],
        ..Surroundings::default()
    };
    assert_eq!(
        shown_among("pvc", claim, &surroundings),
        "\
Name:          data
Namespace:     shop
StorageClass:  fast
Status:        Terminating (lasts 2m)
Volume:        disk
Labels:        <none>
Annotations:   <none>
Finalizers:    []
Capacity:      10Gi
Access Modes:  RWO
VolumeMode:    Filesystem
Used By:       web
Events:        <none>
"
    );
}

#[test]
fn a_claim_shows_its_conditions_its_owner_and_its_own_events() {
    let claim = json!({
        "metadata": {
            "name": "web-scratch", "namespace": "shop", "uid": "u-1",
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u-web" }],
        },
        "status": { "phase": "Pending", "conditions": [{
            "type": "FileSystemResizePending", "status": "True", "lastTransitionTime": "2026-11-21T10:00:00Z",
            "message": "Waiting for user to (re-)start a pod",
        }] },
    });
    let pod = |name: &str, uid: &str| {
        typed(&json!({ "metadata": { "name": name, "uid": uid }, "spec": { "containers": [] } }))
    };
    let surroundings = Surroundings {
        pods: vec![pod("web", "u-web"), pod("db", "u-db")],
        ..Surroundings::default()
    };
    let event = |uid: &str, message: &str| ObjectEvent {
        object: crate::state::InvolvedObject {
            kind: "PersistentVolumeClaim".to_owned(),
            namespace: Some("shop".to_owned()),
            name: "web-scratch".to_owned(),
            uid: uid.to_owned(),
        },
        component: "persistentvolume-controller".to_owned(),
        event: crate::state::EventRecord {
            warning: false,
            reason: "FailedBinding".to_owned(),
            message: message.to_owned(),
            field_path: None,
            count: 2,
            first_seen: "2026-11-21T10:01:00Z".parse().unwrap(),
            last_seen: "2026-11-21T10:04:30Z".parse().unwrap(),
        },
    };
    let events = [event("u-0", "of an earlier claim"), event("u-1", "no volume")];
    let kind = kinds::named("pvc").unwrap();
    let now = "2026-11-21T10:05:00Z".parse().unwrap();
    let page = |events: Option<&[ObjectEvent]>| page(kind, &claim, &surroundings, events, now, &TimeZone::UTC);
    let shown = page(Some(&events));
    let row = |cells: [&str; 6]| {
        let [kind, status, probed, changed, reason, message] = cells;
        format!("  {kind:<26}{status:<8}{probed:<34}{changed:<34}{reason:<8}{message}\n")
    };
    let table = [
        row([
            "Type",
            "Status",
            "LastProbeTime",
            "LastTransitionTime",
            "Reason",
            "Message",
        ]),
        row([
            "----",
            "------",
            "-----------------",
            "------------------",
            "------",
            "-------",
        ]),
        row([
            "FileSystemResizePending",
            "True",
            "Mon, 01 Jan 0001 00:00:00 +0000",
            "Sat, 21 Nov 2026 10:00:00 +0000",
            "",
            "Waiting for user to (re-)start a pod",
        ]),
    ];
    let expected = format!("Used By:       web\nConditions:\n{}Events:\n", table.concat());
    assert!(shown.contains(&expected), "{shown}\n{expected}");
    let expected = "\
  Type    Reason         Age               From                         Message
  ----    ------         ----              ----                         -------
  Normal  FailedBinding  30s (x2 over 4m)  persistentvolume-controller  no volume
";
    assert!(shown.ends_with(expected), "{shown}");
    assert!(!page(None).contains("Events:"));
}

#[test]
fn a_storage_class_shows_its_parameters() {
    let class = json!({
        "metadata": { "name": "fast", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": "p", "parameters": { "a": "b", "c": "d" }, "mountOptions": ["noatime"],
        "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
    });
    assert_eq!(
        shown("sc", class),
        "\
Name:                  fast
IsDefaultClass:        Yes
Annotations:           storageclass.kubernetes.io/is-default-class=true
Provisioner:           p
Parameters:            a=b,c=d
AllowVolumeExpansion:  <unset>
MountOptions:
  noatime
ReclaimPolicy:      Delete
VolumeBindingMode:  Immediate
Events:             <none>
"
    );
}

#[test]
fn surroundings_are_read_from_the_objects_namespace() {
    let store = TestStore::new();
    let kind = kinds::named("secrets").unwrap();
    for (namespace, name) in [("shop", "a"), ("other", "b")] {
        let metadata = json!({ "name": name, "namespace": namespace });
        store.add(
            kind,
            json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque" }),
        );
    }
    let reader = Reader::new(store.paths.clone());
    let account = json!({ "metadata": { "name": "web", "namespace": "shop" } });
    let read = Surroundings::read(&reader, kinds::named("sa").unwrap(), &account).unwrap();
    assert_eq!(read.secrets.len(), 1);
    let claim = Surroundings::read(&reader, kinds::named("pvc").unwrap(), &account).unwrap();
    assert!(claim.pods.is_empty() && claim.secrets.is_empty());
}
