use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::error::failed_mount_message;
use crate::payload::MAX_VOLUME_BYTES;
use crate::testing::{Store, node, pod_from};

fn store() -> Store {
    Store::default()
        .config_map(
            "settings",
            json!({"data": {"app.conf": "color=blue\n", "b": "2"}, "binaryData": {"logo": "AAH/"}}),
        )
        .config_map("other", json!({"data": {"b": "other"}}))
        .config_map("empty", json!({}))
        .secret("login", json!({"user": "YWRtaW4=", "password": "aHVudGVyMg=="}))
}

fn of_pod(spec: Value, volume: Value, store: &Store) -> Result<Vec<File>, ProjectionError> {
    let pod = pod_from(json!({
        "metadata": {"name": "web", "namespace": "ns", "labels": {"b": "2", "a": "1"}, "annotations": {"note": "x"}},
        "spec": spec,
    }));
    let node = node();
    let mut volume = volume;
    volume["name"] = json!("v");
    let volume: Volume = serde_json::from_value(volume).unwrap();
    volume_files(&node.bind(&pod), &volume, store)
}

fn spec() -> Value {
    json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}}}]})
}

/// `PATH MODE CONTENT` for every file.
fn found(volume: &Value, store: &Store) -> Result<Vec<String>, String> {
    let text = |file: &File| {
        let content = String::from_utf8_lossy(file.content.as_bytes());
        format!("{} {:o} {content}", file.path, file.mode)
    };
    match of_pod(spec(), volume.clone(), store) {
        Ok(files) => Ok(files.iter().map(text).collect()),
        Err(error) => Err(error.to_string()),
    }
}

fn item(key: &str, path: &str) -> Value {
    json!({"key": key, "path": path})
}

#[test]
fn the_keys_of_objects_become_files() {
    let store = store();
    let config_map = |fields: Value| {
        let mut source = json!({"name": "settings"});
        source
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"configMap": source})
    };
    let secret = |fields: Value| {
        let mut source = json!({"secretName": "login"});
        source
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        json!({"secret": source})
    };
    for (volume, expected) in [
        (
            config_map(json!({})),
            &["app.conf 644 color=blue\n", "b 644 2", "logo 644 \u{0}\u{1}\u{fffd}"][..],
        ),
        (
            config_map(json!({"defaultMode": 0o400})),
            &["app.conf 400 color=blue\n", "b 400 2", "logo 400 \u{0}\u{1}\u{fffd}"],
        ),
        (
            config_map(json!({"items": [item("app.conf", "etc/app/main.conf")]})),
            &["etc/app/main.conf 644 color=blue\n"],
        ),
        (
            config_map(json!({"items": [item("logo", "logo")]})),
            &["logo 644 \u{0}\u{1}\u{fffd}"],
        ),
        (
            config_map(
                json!({"defaultMode": 0o440, "items": [{"key": "b", "path": "x", "mode": 0o700}, item("b", "y")]}),
            ),
            &["x 700 2", "y 440 2"],
        ),
        // A later item replaces an earlier one with the same path.
        (
            config_map(json!({"items": [item("app.conf", "x"), item("b", "./x")]})),
            &["x 644 2"],
        ),
        (config_map(json!({"name": "empty"})), &[]),
        (config_map(json!({"name": "none", "optional": true})), &[]),
        (
            config_map(json!({"optional": true, "items": [item("none", "x"), item("b", "y")]})),
            &["y 644 2"],
        ),
        (secret(json!({})), &["password 644 hunter2", "user 644 admin"]),
        (
            secret(json!({"defaultMode": 0o400, "items": [item("password", "p")]})),
            &["p 400 hunter2"],
        ),
        (secret(json!({"secretName": "none", "optional": true})), &[]),
        (secret(json!({"optional": true, "items": [item("none", "x")]})), &[]),
        (json!({"emptyDir": {}}), &[]),
    ] {
        let expected = expected.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(found(&volume, &store), Ok(expected), "{volume}");
    }
}

#[test]
fn missing_objects_keys_and_faulty_paths_are_errors() {
    let store = store();
    let items = |key: &str, path: &str| json!({"configMap": {"name": "settings", "items": [item(key, path)]}});
    for (volume, expected) in [
        (json!({"configMap": {"name": "x"}}), r#"configmap "x" not found"#),
        (json!({"secret": {"secretName": "x"}}), r#"secret "x" not found"#),
        (json!({"secret": {}}), r#"secret "" not found"#),
        (items("k", "x"), "configmap references non-existent config key: k"),
        (
            json!({"secret": {"secretName": "login", "items": [item("k", "x")]}}),
            "references non-existent secret key: k",
        ),
        (items("b", "/x"), "invalid path: must be relative path: /x"),
        (items("b", "a/../x"), "invalid path: must not contain '..': a/../x"),
        (items("b", "..x"), "invalid path: must not start with '..': ..x"),
        (items("b", ""), "invalid path: must not be empty: \"\""),
        (
            json!({"configMap": {"name": "settings", "items": [item("b", "x"), item("b", "x/y")]}}),
            "x is a file and also the directory of x/y",
        ),
        (
            json!({"configMap": {"name": "settings", "defaultMode": 0o1000}}),
            "app.conf: must be a number between 0 and 0777 (octal), both inclusive",
        ),
    ] {
        assert_eq!(found(&volume, &store), Err(expected.into()), "{volume}");
    }
}

#[test]
fn a_failed_mount_has_the_kubelets_event() {
    for (volume, expected) in [
        (
            json!({"configMap": {"name": "x"}}),
            r#"MountVolume.SetUp failed for volume "v" : configmap "x" not found"#,
        ),
        (
            json!({"configMap": {"name": "settings", "items": [item("k", "x")]}}),
            r#"MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: k"#,
        ),
        (
            json!({"projected": {"sources": [{"secret": {"name": "x"}}, {"configMap": {"name": "y"}}]}}),
            r#"MountVolume.SetUp failed for volume "v" : [secret "x" not found, configmap "y" not found]"#,
        ),
    ] {
        let error = of_pod(spec(), volume, &store()).unwrap_err();
        assert_eq!(failed_mount_message("v", &error), expected);
    }
}

#[test]
fn fields_of_the_pod_become_files() {
    let field = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let memory = json!({
        "path": "limits/memory", "mode": 0o400,
        "resourceFieldRef": {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"},
    });
    let volume = json!({"downwardAPI": {"items": [
        field("labels", "metadata.labels"), field("annotations", "metadata.annotations"),
        field("name", "metadata.name"), field("uid", "metadata.uid"),
        field("a", "metadata.labels['a']"), field("none", "metadata.labels['none']"), memory,
    ]}});
    let expected = [
        "a 644 1",
        "annotations 644 note=\"x\"",
        "labels 644 a=\"1\"\nb=\"2\"",
        "limits/memory 400 64",
        "name 644 web",
        "none 644 ",
        "uid 644 u-1",
    ];
    assert_eq!(found(&volume, &store()), Ok(expected.map(str::to_owned).to_vec()));
    let volume = json!({"downwardAPI": {"defaultMode": 0o440, "items": [field("name", "metadata.name")]}});
    assert_eq!(found(&volume, &store()), Ok(vec!["name 440 web".into()]));
}

#[test]
fn all_faulty_fields_are_reported() {
    let volume = json!({"downwardAPI": {"items": [
        {"path": "a", "fieldRef": {"fieldPath": "status.podIP"}},
        {"path": "b", "fieldRef": {"fieldPath": "metadata.name"}},
        {"path": "c", "resourceFieldRef": {"containerName": "x", "resource": "limits.cpu"}},
    ]}});
    let expected = "[unsupported fieldPath: status.podIP, container x not found]";
    assert_eq!(found(&volume, &store()), Err(expected.into()));
}

#[test]
fn sources_are_projected_in_order() {
    let projected = |sources: Value| json!({"projected": {"sources": sources}});
    for (volume, expected) in [
        (projected(json!([])), &[][..]),
        (
            projected(json!([
                {"secret": {"name": "login", "items": [item("user", "login/user")]}},
                {"configMap": {"name": "settings", "items": [{"key": "b", "path": "b", "mode": 0o600}]}},
                {"downwardAPI": {"items": [{"path": "pod/name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                {"serviceAccountToken": {"path": "token"}},
            ])),
            &[
                "b 600 2",
                "login/user 644 admin",
                "pod/name 644 web",
                "token 644 token for the API of 3600 s",
            ],
        ),
        (
            projected(
                json!([{"configMap": {"name": "settings", "items": [item("b", "b")]}}, {"configMap": {"name": "other"}}]),
            ),
            &["b 644 other"],
        ),
        (
            projected(
                json!([{"configMap": {"name": "other"}}, {"configMap": {"name": "settings", "items": [item("b", "b")]}}]),
            ),
            &["b 644 2"],
        ),
        (
            projected(json!([{"secret": {"name": "x", "optional": true}}, {"configMap": {"name": "other"}}])),
            &["b 644 other"],
        ),
        (
            projected(json!([{"serviceAccountToken": {"path": "t", "audience": "vault", "expirationSeconds": 600}}])),
            &["t 644 token for vault of 600 s"],
        ),
        (
            json!({"projected": {"defaultMode": 0o400, "sources": [{"configMap": {"name": "other"}}]}}),
            &["b 400 other"],
        ),
    ] {
        let expected = expected.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(found(&volume, &store()), Ok(expected), "{volume}");
    }
}

#[test]
fn all_faulty_sources_are_reported() {
    let volume = |sources: Value| json!({"projected": {"sources": sources}});
    for (volume, expected) in [
        (
            volume(json!([{"secret": {"name": "x"}}, {"configMap": {"name": "other"}}, {"configMap": {"name": "x"}}])),
            r#"[secret "x" not found, configmap "x" not found]"#,
        ),
        (
            volume(json!([{"secret": {"name": "x"}}, {"secret": {"name": "x"}}])),
            r#"secret "x" not found"#,
        ),
        (
            volume(json!([{"clusterTrustBundle": {"path": "ca.pem"}}])),
            "projected volume source clusterTrustBundle is not supported",
        ),
        (
            volume(json!([{"podCertificate": {"signerName": "a/b", "keyType": "ED25519"}}])),
            "projected volume source podCertificate is not supported",
        ),
        (
            volume(json!([{"configMap": {"name": "other", "items": [item("b", "x")]}},
                          {"serviceAccountToken": {"path": "x/token"}}])),
            "x is a file and also the directory of x/token",
        ),
    ] {
        assert_eq!(found(&volume, &store()), Err(expected.into()), "{volume}");
    }
    let mut broken = store();
    broken.broken = Some("no key".into());
    assert_eq!(
        found(&volume(json!([{"serviceAccountToken": {"path": "t"}}])), &broken),
        Err("failed to fetch token: no key".into())
    );
}

#[test]
fn a_token_is_readable_only_for_the_user_or_group_of_the_pod_if_it_has_one() {
    let token = |context: Value| {
        let spec = json!({"containers": [{"name": "c"}], "securityContext": context});
        let volume = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}});
        let file = of_pod(spec, volume, &store()).unwrap().remove(0);
        (file.mode, file.owner)
    };
    assert_eq!(token(json!({})), (0o644, None));
    assert_eq!(token(json!({"runAsUser": 1000})), (0o600, Some(1000)));
    assert_eq!(token(json!({"fsGroup": 2000})), (0o600, None));
}

#[test]
fn the_files_of_many_sources_are_bounded() {
    let mut store = Store::default();
    let mut sources = Vec::new();
    for number in 0..17 {
        let name = format!("c{number}");
        store = store.config_map(&name, json!({"data": {&name: "x".repeat(1 << 20)}}));
        sources.push(json!({"configMap": {"name": name}}));
    }
    let expected = "volume is too large: at most 16777216 bytes";
    assert_eq!(
        found(&json!({"projected": {"sources": sources}}), &store),
        Err(expected.into())
    );
    sources.truncate(15);
    assert_eq!(
        found(&json!({"projected": {"sources": sources}}), &store)
            .unwrap()
            .len(),
        15
    );
}

#[test]
fn ten_thousand_keys_are_ten_thousand_files() {
    let data: BTreeMap<String, String> = (0..10_000).map(|n| (format!("key-{n}"), "x".repeat(90))).collect();
    let store = Store::default().config_map("c", json!({"data": data}));
    assert_eq!(
        found(&json!({"configMap": {"name": "c"}}), &store).unwrap().len(),
        10_000
    );
}

#[test]
fn no_content_is_in_debug_output() {
    let files = of_pod(spec(), json!({"secret": {"secretName": "login"}}), &store()).unwrap();
    let shown = format!("{files:?}");
    assert!(
        shown.contains("(7 bytes)") && !shown.contains("hunter2") && !shown.contains("104"),
        "{shown}"
    );
}

#[test]
fn kinds_with_files_are_known() {
    for (volume, expected) in [
        (json!({"configMap": {}}), true),
        (json!({"secret": {}}), true),
        (json!({"downwardAPI": {}}), true),
        (json!({"projected": {}}), true),
        (json!({"emptyDir": {}}), false),
    ] {
        let mut volume = volume;
        volume["name"] = json!("v");
        assert_eq!(is_projected(&serde_json::from_value(volume).unwrap()), expected);
    }
}

fn data() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[a-c.-]{1,3}", "[a-z]{0,6}", 0..6)
}

proptest! {
    #[test]
    fn every_key_of_a_config_map_is_one_file(data in data(), binary in data()) {
        let text = |data: &BTreeMap<String, String>| data.keys().cloned().collect::<Vec<_>>();
        let binary = binary.into_iter().filter(|(key, _)| !data.contains_key(key));
        let binary: BTreeMap<String, ByteString> =
            binary.map(|(key, value)| (key, ByteString(value.into_bytes()))).collect();
        let store = Store::default().config_map("c", json!({"data": data, "binaryData": binary}));
        match of_pod(spec(), json!({"configMap": {"name": "c"}}), &store) {
            Ok(files) => {
                let mut keys = text(&data);
                keys.extend(binary.into_keys());
                keys.sort();
                let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
                prop_assert_eq!(paths, keys);
                for file in files {
                    if let Some(value) = data.get(&file.path) {
                        prop_assert_eq!(file.content.as_bytes(), value.as_bytes());
                    }
                }
            }
            // Kubernetes refuses keys that are `.` or begin with `..`.
            Err(error) => prop_assert!(
                data.keys().chain(binary.keys()).any(|key| key == "." || key.starts_with("..")),
                "{}", error
            ),
        }
    }

    #[test]
    fn the_last_source_with_a_path_wins(sources in prop::collection::vec(
        prop::collection::btree_map("[a-c]{1,2}", "[a-z]{0,6}", 0..6), 0..4,
    )) {
        let mut store = Store::default();
        let (mut expected, mut projections) = (BTreeMap::new(), Vec::new());
        for (index, data) in sources.into_iter().enumerate() {
            let name = format!("c{index}");
            store = store.config_map(&name, json!({"data": data}));
            projections.push(json!({"configMap": {"name": name}}));
            expected.extend(data);
        }
        let files = of_pod(spec(), json!({"projected": {"sources": projections}}), &store).unwrap();
        let found: Vec<(String, Vec<u8>)> =
            files.into_iter().map(|file| (file.path, file.content.into_vec())).collect();
        let expected: Vec<(String, Vec<u8>)> =
            expected.into_iter().map(|(key, value)| (key, value.into_bytes())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn hostile_volumes_do_not_panic(
        key in any::<String>(),
        path in any::<String>(),
        mode in any::<i32>(),
        field in any::<String>(),
        content in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let store = Store::default().secret_of("s", &[(&key, &content)]);
        let item = json!({"key": key, "path": path, "mode": mode});
        let items = [
            json!({"path": path, "mode": mode, "fieldRef": {"fieldPath": field}}),
            json!({"path": path, "resourceFieldRef": {"resource": field, "containerName": "c", "divisor": path}}),
            json!({"path": path}),
        ];
        for volume in [
            json!({"secret": {"secretName": "s"}}),
            json!({"secret": {"secretName": "s", "items": [item], "defaultMode": mode}}),
            json!({"downwardAPI": {"items": items}}),
            json!({"projected": {"defaultMode": mode, "sources": [
                {"secret": {"name": "s", "items": [item]}}, {"downwardAPI": {"items": items}},
                {"serviceAccountToken": {"path": path}}, {"configMap": {"name": field}}, {},
            ]}}),
        ] {
            for file in of_pod(spec(), volume, &store).unwrap_or_default() {
                prop_assert!(!file.path.starts_with('/') && !file.path.split('/').any(|name| name == ".."));
                prop_assert!(file.mode <= 0o777);
            }
        }
    }
}

proptest! {
    // Up to 16 MiB each.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_files_of_a_volume_are_bounded(count in 1_usize..24, mib in 0_usize..3) {
        let store = Store::default().config_map("c", json!({"data": {"k": "x".repeat(mib << 20)}}));
        let items: Vec<Value> = (0..count).map(|number| item("k", &format!("f{number}"))).collect();
        let volume = json!({"configMap": {"name": "c", "items": items}});
        match of_pod(spec(), volume, &store) {
            Ok(files) => {
                let bytes: usize = files.iter().map(|file| file.path.len() + file.content.as_bytes().len()).sum();
                prop_assert!(bytes <= MAX_VOLUME_BYTES);
            }
            Err(error) => {
                prop_assert!(count * (mib << 20) + count * 3 > MAX_VOLUME_BYTES);
                prop_assert_eq!(error, ProjectionError::VolumeTooLarge(MAX_VOLUME_BYTES));
            }
        }
    }
}
