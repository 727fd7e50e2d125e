use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Store, node, pod_from};

/// The objects of most tests.
fn store() -> Store {
    Store::default()
        .config_map(
            "settings",
            json!({"data": {"COLOR": "blue", "size.max": "10", "REF": "$(COLOR)"}, "binaryData": {"BIN": "AAE="}}),
        )
        .config_map("other", json!({"data": {"COLOR": "red"}}))
        .config_map("empty", json!({}))
        .secret("login", json!({"USER": "YWRtaW4=", "PASSWORD": "aHVudGVyMg=="}))
}

fn of_container(container: Value, store: &Store) -> Result<Environment, ProjectionError> {
    let pod = pod_from(json!({
        "metadata": {"name": "web", "namespace": "ns", "labels": {"app": "web"}},
        "spec": {"containers": [container], "serviceAccountName": "robot", "volumes": [{"name": "vars", "emptyDir": {}}]},
    }));
    let node = node();
    let bound = node.bind(&pod);
    environment(&bound, &bound.containers()[0], store)
}

fn found(env_from: &Value, env: &Value, store: &Store) -> Result<Vec<String>, String> {
    let container = json!({"name": "c", "envFrom": env_from, "env": env, "resources": {"limits": {"cpu": "2"}}});
    match of_container(container, store) {
        Ok(environment) => Ok(environment
            .variables
            .iter()
            .map(|variable| format!("{}={}", variable.name, variable.value))
            .collect()),
        Err(error) => Err(error.to_string()),
    }
}

fn config_map_ref(name: &str) -> Value {
    json!({"configMapRef": {"name": name}})
}

fn secret_ref(name: &str) -> Value {
    json!({"secretRef": {"name": name}})
}

fn value(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn value_from(name: &str, source: Value) -> Value {
    json!({"name": name, "valueFrom": source})
}

#[test]
fn objects_and_values_become_variables_in_order() {
    let store = store();
    let prefixed = json!({"prefix": "APP_", "configMapRef": {"name": "other"}});
    for (env_from, env, expected) in [
        (json!(null), json!(null), &[][..]),
        // An object's variables are in the order of its keys; binaryData and the empty object have none.
        (
            json!([config_map_ref("settings")]),
            json!(null),
            &["COLOR=blue", "REF=$(COLOR)", "size.max=10"],
        ),
        (json!([config_map_ref("empty")]), json!(null), &[]),
        (
            json!([secret_ref("login")]),
            json!(null),
            &["PASSWORD=hunter2", "USER=admin"],
        ),
        (json!([prefixed]), json!(null), &["APP_COLOR=red"]),
        // Later sources replace earlier ones at their place.
        (
            json!([config_map_ref("settings"), config_map_ref("other")]),
            json!(null),
            &["COLOR=red", "REF=$(COLOR)", "size.max=10"],
        ),
        (
            json!([config_map_ref("other"), config_map_ref("settings")]),
            json!(null),
            &["COLOR=blue", "REF=$(COLOR)", "size.max=10"],
        ),
        // `env` replaces `envFrom`, and can refer to it.
        (
            json!([config_map_ref("other")]),
            json!([value("COLOR", "green")]),
            &["COLOR=green"],
        ),
        (
            json!([config_map_ref("other")]),
            json!([value("SHOWN", "<$(COLOR)>")]),
            &["COLOR=red", "SHOWN=<red>"],
        ),
        (
            json!([config_map_ref("other")]),
            json!([value("COLOR", "$(COLOR)!")]),
            &["COLOR=red!"],
        ),
        (
            json!([config_map_ref("other")]),
            json!([{"name": "COLOR"}]),
            &["COLOR="],
        ),
        // Only earlier variables are known.
        (
            json!(null),
            json!([value("A", "$(B)"), value("B", "b"), value("C", "$(B)$$(B)")]),
            &["A=$(B)", "B=b", "C=b$(B)"],
        ),
        (json!(null), json!([value("A", "1"), value("A", "2")]), &["A=2"]),
        (json!(null), json!([value("A", "")]), &["A="]),
        // Values from objects are not expanded, but can be used.
        (
            json!(null),
            json!([
                value_from("REF", json!({"configMapKeyRef": {"name": "settings", "key": "REF"}})),
                value("USED", "$(REF)"),
            ]),
            &["REF=$(COLOR)", "USED=$(COLOR)"],
        ),
        (
            json!(null),
            json!([value_from(
                "P",
                json!({"secretKeyRef": {"name": "login", "key": "PASSWORD"}})
            )]),
            &["P=hunter2"],
        ),
        (
            json!(null),
            json!([
                value_from("NAME", json!({"fieldRef": {"fieldPath": "metadata.name"}})),
                value_from("APP", json!({"fieldRef": {"fieldPath": "metadata.labels['app']"}})),
                value_from("IP", json!({"fieldRef": {"fieldPath": "status.podIP"}})),
                value_from("CPU", json!({"resourceFieldRef": {"resource": "limits.cpu"}})),
                value_from(
                    "MEMORY",
                    json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}})
                ),
            ]),
            &["NAME=web", "APP=web", "IP=10.88.0.2", "CPU=2", "MEMORY=2048"],
        ),
        // Any printable ASCII except `=` can be in a name.
        (json!(null), json!([value("a b:c/{d}", "1")]), &["a b:c/{d}=1"]),
        (json!(null), json!([{"name": "A", "valueFrom": {}}]), &["A="]),
    ] {
        let expected = expected.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(found(&env_from, &env, &store), Ok(expected), "{env_from} {env}");
    }
}

#[test]
fn missing_objects_and_keys_have_the_kubelets_words() {
    let store = store();
    let key = |kind: &str, name: &str, key: &str| json!([value_from("A", json!({kind: {"name": name, "key": key}}))]);
    for (env_from, env, expected) in [
        (json!([config_map_ref("x")]), json!(null), r#"configmap "x" not found"#),
        (json!([secret_ref("x")]), json!(null), r#"secret "x" not found"#),
        (
            json!(null),
            key("configMapKeyRef", "x", "k"),
            r#"configmap "x" not found"#,
        ),
        (json!(null), key("secretKeyRef", "x", "k"), r#"secret "x" not found"#),
        (
            json!(null),
            key("configMapKeyRef", "settings", "k"),
            "couldn't find key k in ConfigMap ns/settings",
        ),
        // A key of binaryData does not become a variable.
        (
            json!(null),
            key("configMapKeyRef", "settings", "BIN"),
            "couldn't find key BIN in ConfigMap ns/settings",
        ),
        (
            json!(null),
            key("secretKeyRef", "login", "k"),
            "couldn't find key k in Secret ns/login",
        ),
        // The first error counts.
        (
            json!([secret_ref("x"), config_map_ref("y")]),
            json!(null),
            r#"secret "x" not found"#,
        ),
        (
            json!(null),
            json!([value_from("A", json!({"fieldRef": {"fieldPath": "spec.x"}}))]),
            "unsupported fieldPath: spec.x",
        ),
        (
            json!(null),
            json!([value_from(
                "A",
                json!({"resourceFieldRef": {"resource": "limits.cpu", "containerName": "x"}})
            )]),
            "container x not found",
        ),
    ] {
        assert_eq!(found(&env_from, &env, &store), Err(expected.into()), "{env_from} {env}");
    }
}

#[test]
fn optional_references_are_left_out() {
    let store = store();
    let optional = |kind: &str, name: &str, key: &str| {
        value_from("A", json!({kind: {"name": name, "key": key, "optional": true}}))
    };
    for (env_from, env) in [
        (json!([{"configMapRef": {"name": "x", "optional": true}}]), json!(null)),
        (json!([{"secretRef": {"name": "x", "optional": true}}]), json!(null)),
        (json!(null), json!([optional("configMapKeyRef", "x", "k")])),
        (json!(null), json!([optional("configMapKeyRef", "settings", "k")])),
        (json!(null), json!([optional("secretKeyRef", "x", "k")])),
        (json!(null), json!([optional("secretKeyRef", "login", "k")])),
    ] {
        assert_eq!(found(&env_from, &env, &store), Ok(vec![]), "{env_from} {env}");
    }
    // An earlier value stays.
    let env = json!([value("A", "1"), optional("secretKeyRef", "x", "k")]);
    assert_eq!(found(&json!(null), &env, &store), Ok(vec!["A=1".into()]));
    // The same name can be optional in one place and required in another.
    let env_from = json!([{"configMapRef": {"name": "x", "optional": true}}, config_map_ref("x")]);
    assert_eq!(
        found(&env_from, &json!(null), &store),
        Err(r#"configmap "x" not found"#.into())
    );
}

#[test]
fn a_failed_lookup_is_an_error_even_if_the_object_is_optional() {
    let mut store = store();
    store.broken = Some("permission denied".into());
    for (env_from, expected) in [
        (
            json!([{"configMapRef": {"name": "settings", "optional": true}}]),
            r#"cannot read configmap "settings": permission denied"#,
        ),
        (
            json!([{"secretRef": {"name": "login", "optional": true}}]),
            r#"cannot read secret "login": permission denied"#,
        ),
    ] {
        assert_eq!(found(&env_from, &json!(null), &store), Err(expected.into()));
    }
}

#[test]
fn each_object_is_looked_up_once() {
    let store = store();
    let key = |key: &str| value_from(key, json!({"configMapKeyRef": {"name": "settings", "key": key}}));
    let env_from = json!([config_map_ref("settings"), {"prefix": "P_", "configMapRef": {"name": "settings"}}]);
    found(&env_from, &json!([key("COLOR"), key("REF")]), &store).unwrap();
    assert_eq!(store.lookups.get(), 1);
}

#[test]
fn keys_that_are_no_names_are_skipped_with_the_kubelets_event() {
    let store = Store::default()
        .config_map("c", json!({"data": {"A": "1", "B=": "2", "": "3", "Ü": "4"}}))
        .secret("s", json!({"B\u{0}": "MQ=="}));
    let container = json!({"name": "c", "envFrom": [config_map_ref("c"), secret_ref("s"), {
        "prefix": "P", "configMapRef": {"name": "c"},
    }]});
    let environment = of_container(container, &store).unwrap();
    let names: Vec<&str> = environment.variables.iter().map(|own| own.name.as_str()).collect();
    // With a prefix, the empty key becomes a name.
    assert_eq!(names, ["A", "P", "PA"]);
    let events: Vec<String> = environment.skipped.iter().map(ToString::to_string).collect();
    assert_eq!(
        events,
        [
            "Keys [, B=, Ü] from the EnvFrom configMap ns/c were skipped since they are considered invalid environment \
             variable names.",
            "Keys [B\0] from the EnvFrom secret ns/s were skipped since they are considered invalid environment variable \
             names.",
            "Keys [PB=, PÜ] from the EnvFrom configMap ns/c were skipped since they are considered invalid environment \
             variable names.",
        ]
    );
    let env = json!([value("A=B", "1")]);
    assert_eq!(
        found(&json!(null), &env, &store),
        Err(
            "\"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='"
                .into()
        )
    );
}

#[test]
fn values_that_linux_cannot_pass_on_are_errors_unless_replaced() {
    let long = "x".repeat(MAX_EXPANDED_BYTES);
    let store = Store::default()
        .config_map("nul", json!({"data": {"A": "a\u{0}b"}}))
        .config_map("long", json!({"data": {"A": long}}))
        .secret("binary", json!({"A": "/w=="}));
    for (env_from, expected) in [
        (
            config_map_ref("nul"),
            "environment variable \"A\" is not UTF-8 text without NUL",
        ),
        (
            secret_ref("binary"),
            "environment variable \"A\" is not UTF-8 text without NUL",
        ),
        (
            config_map_ref("long"),
            "environment variable \"A\" is too long: at most 131071 bytes with its name",
        ),
    ] {
        let env_from = json!([env_from]);
        assert_eq!(found(&env_from, &json!(null), &store), Err(expected.into()));
        let replaced = found(&env_from, &json!([value("A", "good")]), &store);
        assert_eq!(replaced, Ok(vec!["A=good".into()]));
    }
    let env = json!([value("A", &"x".repeat(MAX_EXPANDED_BYTES - 2)), value("B", "$(A)")]);
    assert!(found(&json!(null), &env, &store).is_ok());
    let env = json!([value("A", &"x".repeat(MAX_EXPANDED_BYTES - 2)), value("B", "$(A)x")]);
    assert!(
        found(&json!(null), &env, &store)
            .unwrap_err()
            .contains("\"B\" is too long")
    );
    let env = json!([
        value("A", &"x".repeat(MAX_EXPANDED_BYTES / 2)),
        value("B", "$(A)$(A)$(A)")
    ]);
    assert!(
        found(&json!(null), &env, &store)
            .unwrap_err()
            .contains("\"B\" is too long")
    );
}

#[test]
fn the_environment_is_no_larger_than_linux_allows() {
    let mut env = vec![value("A", &"x".repeat(130_000))];
    env.extend((0..47).map(|number| value(&format!("V{number}"), "$(A)")));
    assert!(found(&json!(null), &json!(env), &Store::default()).is_ok());
    env.push(value("LAST", "$(A)"));
    assert_eq!(
        found(&json!(null), &json!(env), &Store::default()),
        Err("environment is too large: at most 6291456 bytes".into())
    );
}

#[test]
fn skipped_keys_are_bounded_too() {
    let data: std::collections::BTreeMap<String, &str> = (0..100).map(|n| (format!("k{n}"), "")).collect();
    let store = Store::default().config_map("c", json!({"data": data}));
    let env_from = json!([{"prefix": "=".repeat(100_000), "configMapRef": {"name": "c"}}]);
    assert!(
        found(&env_from, &json!(null), &store)
            .unwrap_err()
            .starts_with("environment is too large")
    );
}

#[test]
fn values_come_from_files_of_volumes() {
    let store = Store::default()
        .file("vars", "app.env", "HOST='db'\nEMPTY=''\nNOTE='two\nlines'\n")
        .file("vars", "bad.env", "HOST=db\n");
    let of = |volume: &str, path: &str, key: &str, optional: bool| {
        let source = json!({"volumeName": volume, "path": path, "key": key, "optional": optional});
        found(
            &json!(null),
            &json!([value_from("A", json!({"fileKeyRef": source}))]),
            &store,
        )
    };
    assert_eq!(of("vars", "app.env", "HOST", false), Ok(vec!["A=db".into()]));
    assert_eq!(of("vars", "app.env", "NOTE", false), Ok(vec!["A=two\nlines".into()]));
    assert_eq!(of("vars", "app.env", "NONE", true), Ok(vec![]));
    for (found, expected) in [
        (
            of("vars", "app.env", "NONE", false),
            r#"environment variable key "NONE" not found in file "app.env""#,
        ),
        (
            of("vars", "app.env", "EMPTY", false),
            r#"environment variable key "EMPTY" not found in file "app.env""#,
        ),
        (of("vars", "bad.env", "HOST", true), "couldn't parse env file"),
        (of("vars", "none.env", "HOST", true), "couldn't parse env file"),
        (
            of("none", "app.env", "HOST", false),
            r#"cannot find the volume "none" referenced by FileKeyRef"#,
        ),
    ] {
        assert_eq!(found, Err(expected.into()));
    }
}

#[test]
fn no_value_is_in_debug_output_or_errors() {
    let store = store();
    let container = json!({"name": "c", "envFrom": [secret_ref("login")]});
    let shown = format!("{:?}", of_container(container, &store).unwrap());
    assert!(
        shown.contains("PASSWORD=(7 bytes)") && !shown.contains("hunter2"),
        "{shown}"
    );
    let store = Store::default().secret_of("s", &[("A", b"hunter2\0")]);
    let container = json!({"name": "c", "envFrom": [secret_ref("s")]});
    let error = of_container(container, &store).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

fn data() -> impl Strategy<Value = std::collections::BTreeMap<String, String>> {
    prop::collection::btree_map("[A-C]{1,2}", "[a-z$()A-C]{0,6}", 0..5)
}

proptest! {
    #[test]
    fn every_key_is_there_once_with_the_value_of_the_last_source(
        sources in prop::collection::vec(data(), 0..4),
    ) {
        let mut store = Store::default();
        let mut expected = std::collections::BTreeMap::new();
        let mut env_from = Vec::new();
        for (index, data) in sources.iter().enumerate() {
            let name = format!("c{index}");
            store = store.config_map(&name, json!({"data": data}));
            env_from.push(config_map_ref(&name));
            expected.extend(data.clone());
        }
        let environment = of_container(json!({"name": "c", "envFrom": env_from}), &store).unwrap();
        prop_assert_eq!(environment.variables.len(), expected.len());
        let found: std::collections::BTreeMap<_, _> =
            environment.variables.into_iter().map(|own| (own.name, own.value)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn the_result_depends_only_on_the_input(data in data(), text in "[$()A-C]{0,12}") {
        let store = Store::default().config_map("c", json!({"data": data}));
        let container = json!({"name": "c", "envFrom": [config_map_ref("c")], "env": [value("Z", &text)]});
        prop_assert_eq!(of_container(container.clone(), &store), of_container(container, &store));
    }

    #[test]
    fn hostile_objects_do_not_panic(
        keys in prop::collection::vec((any::<String>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5),
        prefix in any::<String>(),
        name in any::<String>(),
        path in any::<String>(),
        resource in "(limits|requests|.{0,3})\\.(cpu|memory|.{0,5})",
        amount in "[-+0-9.eEmKi]{0,8}",
    ) {
        let keys: Vec<(&str, &[u8])> = keys.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        let store = Store::default().secret_of("s", &keys);
        for variable in [
            value(&name, &path),
            value_from(&name, json!({"fieldRef": {"fieldPath": path}})),
            value_from("A", json!({"fieldRef": {"fieldPath": format!("metadata.labels['{path}']")}})),
            value_from("A", json!({"resourceFieldRef": {"resource": resource, "divisor": amount}})),
        ] {
            let container = json!({
                "name": "c",
                "envFrom": [{"prefix": prefix, "secretRef": {"name": "s"}}],
                "env": [variable],
                "resources": {"limits": {"cpu": amount, "memory": amount}, "requests": {"cpu": amount}},
            });
            if let Ok(environment) = of_container(container, &store) {
                for own in environment.variables {
                    prop_assert!(!own.name.is_empty() && !own.name.contains('=') && !own.value.contains('\0'));
                }
            }
        }
    }
}
