//! Changes of objects without any Pod by `patch`, `label`, `annotate`, `replace` and `edit`, and changes that are refused,
//! as in kubectl.

use serde_json::{Value, json};

use crate::host::{Running, alone, host};
use crate::objects::{Temporary, file_of, get, object, refuses, says};

#[test]
fn patches_of_every_type_give_the_result_of_their_rules() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/patched", "serviceaccount/patched"]);
    let file = file_of(
        "patched.json",
        &[object(
            "ConfigMap",
            "patched",
            &json!({ "data": { "a": "1", "b": "2" } }),
        )],
    );
    let changed = "configmap/patched patched\n";
    let same = "configmap/patched patched (no change)\n";
    for (kind, patch, said, data) in [
        ("merge", r#"{"data":{"a":"x"}}"#, changed, json!({ "a": "x", "b": "2" })),
        (
            "merge",
            r#"{"data":{"a":null,"c":"3"}}"#,
            changed,
            json!({ "b": "2", "c": "3" }),
        ),
        ("merge", r#"{"data":{"a":"1"}}"#, same, json!({ "a": "1", "b": "2" })),
        ("merge", r#"{"data":null}"#, changed, Value::Null),
        (
            "strategic",
            r#"{"data":{"b":"y"}}"#,
            changed,
            json!({ "a": "1", "b": "y" }),
        ),
        (
            "strategic",
            r#"{"data":{"$patch":"replace","z":"1"}}"#,
            changed,
            json!({ "z": "1" }),
        ),
        ("strategic", r#"{"data":{"$patch":"delete"}}"#, changed, Value::Null),
        (
            "strategic",
            r#"{"data":{"absent":null}}"#,
            same,
            json!({ "a": "1", "b": "2" }),
        ),
        (
            "json",
            r#"[{"op":"replace","path":"/data/a","value":"x"}]"#,
            changed,
            json!({ "a": "x", "b": "2" }),
        ),
        (
            "json",
            r#"[{"op":"add","path":"/data/c~1d","value":"3"},{"op":"move","from":"/data/c~1d","path":"/data/e"}]"#,
            changed,
            json!({ "a": "1", "b": "2", "e": "3" }),
        ),
        (
            "json",
            r#"[{"op":"test","path":"/data/a","value":"1"},{"op":"remove","path":"/data/a"}]"#,
            changed,
            json!({ "b": "2" }),
        ),
        (
            "json",
            r#"[{"op":"copy","from":"/data/a","path":"/data/copy"}]"#,
            changed,
            json!({ "a": "1", "b": "2", "copy": "1" }),
        ),
        ("json", "[]", same, json!({ "a": "1", "b": "2" })),
    ] {
        says(&format!("create -f {file}"), 0, "configmap/patched created\n");
        let kind = format!("--type={kind}");
        let patched = host().output(["patch", "configmap", "patched", &kind, "-p", patch]);
        assert_eq!(
            (patched.code(), &*patched.stdout),
            (0, said),
            "{kind} {patch}: {patched:?}"
        );
        assert_eq!(get("configmap", "patched")["data"], data, "{kind} {patch}");
        host().succeed(["delete", "configmap", "patched"]);
    }
    says(&format!("create -f {file}"), 0, "configmap/patched created\n");
    let before = get("configmap", "patched");
    for (kind, patch, part) in [
        (
            "json",
            r#"[{"op":"test","path":"/data/a","value":"other"},{"op":"remove","path":"/data/a"}]"#,
            "/data/a",
        ),
        ("json", r#"[{"op":"remove","path":"/data/absent"}]"#, "/data/absent"),
        ("json", r#"{"data":{}}"#, ""),
        (
            "merge",
            r#"{"metadata":{"resourceVersion":"1"},"data":{"a":"x"}}"#,
            "the object has been modified",
        ),
        ("merge", r#"{"metadata":{"name":"other"}}"#, "other"),
        (
            "merge",
            r#"{"data":{"a b":"x"}}"#,
            "a valid config key must consist of alphanumeric characters",
        ),
        ("merge", r#"{"data":{"a":1}}"#, "data"),
        ("merge", "{", ""),
        ("nonsense", "{}", "nonsense"),
    ] {
        let kind = format!("--type={kind}");
        let refused = host().output(["patch", "configmap", "patched", &kind, "-p", patch]);
        assert!(matches!(refused.code(), 1 | 2), "{kind} {patch}: {refused:?}");
        assert!(
            refused.stderr.contains(part),
            "{kind} {patch}: {part:?} is not in {refused:?}"
        );
        assert!(!refused.stderr.contains("panicked"), "{kind} {patch}: {refused:?}");
        assert_eq!(get("configmap", "patched"), before, "{kind} {patch}");
    }
    refuses("patch configmap absent -p {}", "configmaps \"absent\" not found");
    let dropped = host().output(["patch", "configmap", "patched", "-p", r#"{"foo":"bar"}"#]);
    assert_eq!((dropped.code(), &*dropped.stdout), (0, same), "{dropped:?}");
    assert!(dropped.stderr.contains("Warning: unknown field \"foo\""), "{dropped:?}");

    // Lists: merged by name, or replaced.
    let account = json!({ "secrets": [{ "name": "a" }, { "name": "b" }] });
    let file = file_of("patched-account.json", &[object("ServiceAccount", "patched", &account)]);
    for (kind, patch, expected) in [
        ("strategic", r#"{"secrets":[{"name":"c"}]}"#, &["a", "b", "c"][..]),
        ("strategic", r#"{"secrets":[{"name":"a","$patch":"delete"}]}"#, &["b"]),
        (
            "strategic",
            r#"{"secrets":[{"$patch":"replace"},{"name":"c"}]}"#,
            &["c"],
        ),
        ("merge", r#"{"secrets":[{"name":"c"}]}"#, &["c"]),
        (
            "json",
            r#"[{"op":"add","path":"/secrets/1","value":{"name":"c"}}]"#,
            &["a", "b", "c"],
        ),
        ("json", r#"[{"op":"remove","path":"/secrets/0"}]"#, &["b"]),
    ] {
        says(&format!("create -f {file}"), 0, "serviceaccount/patched created\n");
        host().succeed([
            "patch",
            "serviceaccount",
            "patched",
            &format!("--type={kind}"),
            "-p",
            patch,
        ]);
        let found = get("serviceaccount", "patched");
        let secrets = found["secrets"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> = secrets.iter().filter_map(|secret| secret["name"].as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{kind} {patch}: {found}");
        host().succeed(["delete", "serviceaccount", "patched"]);
    }
}

#[test]
fn labels_and_annotations_are_set_and_removed_with_kubectls_words() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/marked", "configmap/marked-too"]);
    says("create configmap marked", 0, "configmap/marked created\n");
    for (arguments, code, stdout, labels) in [
        (
            "a=1 b=1",
            0,
            "configmap/marked labeled\n",
            json!({ "a": "1", "b": "1" }),
        ),
        (
            "a=1",
            0,
            "configmap/marked not labeled\n",
            json!({ "a": "1", "b": "1" }),
        ),
        ("a=2", 1, "", json!({ "a": "1", "b": "1" })),
        (
            "a=2 --overwrite",
            0,
            "configmap/marked labeled\n",
            json!({ "a": "2", "b": "1" }),
        ),
        (
            "b- example.org/part=x",
            0,
            "configmap/marked labeled\n",
            json!({ "a": "2", "example.org/part": "x" }),
        ),
        (
            "a=3 --overwrite --dry-run=client",
            0,
            "configmap/marked labeled (dry run)\n",
            json!({ "a": "2", "example.org/part": "x" }),
        ),
        (
            "a=3 --overwrite --dry-run=server",
            0,
            "configmap/marked labeled (server dry run)\n",
            json!({ "a": "2", "example.org/part": "x" }),
        ),
        (
            "example.org/part-",
            0,
            "configmap/marked unlabeled\n",
            json!({ "a": "2" }),
        ),
        (
            "absent-",
            0,
            "label \"absent\" not found.\nconfigmap/marked not labeled\n",
            json!({ "a": "2" }),
        ),
        ("a-", 0, "configmap/marked unlabeled\n", Value::Null),
    ] {
        says(&format!("label configmap marked {arguments}"), code, stdout);
        assert_eq!(get("configmap", "marked")["metadata"]["labels"], labels, "{arguments}");
    }
    host().succeed(["label", "configmap", "marked", "a=1"]);
    refuses(
        "label configmap marked a=2",
        "'a' already has a value (1), and --overwrite is false",
    );
    refuses("label configmap marked a=_", "invalid label value");
    refuses("label configmap marked", "at least one label update is required");
    refuses("label configmap absent a=1", "configmaps \"absent\" not found");

    for (arguments, code, stdout, annotations) in [
        (
            "note=x y=",
            0,
            "configmap/marked annotated\n",
            json!({ "note": "x", "y": "" }),
        ),
        ("note=z", 1, "", json!({ "note": "x", "y": "" })),
        (
            "note=z --overwrite y-",
            0,
            "configmap/marked annotated\n",
            json!({ "note": "z" }),
        ),
        ("note-", 0, "configmap/marked annotated\n", Value::Null),
    ] {
        says(&format!("annotate configmap marked {arguments}"), code, stdout);
        assert_eq!(
            get("configmap", "marked")["metadata"]["annotations"],
            annotations,
            "{arguments}"
        );
    }

    // Several objects, by selector.
    says("create configmap marked-too", 0, "configmap/marked-too created\n");
    host().succeed(["label", "configmap", "marked", "marked-too", "group=g"]);
    says(
        "label configmaps -l group=g tier=front",
        0,
        "configmap/marked labeled\nconfigmap/marked-too labeled\n",
    );
    says(
        "get configmaps -l group=g,tier=front,a!=1 -o name",
        0,
        "configmap/marked-too\n",
    );
}

#[test]
fn replace_needs_the_object_and_its_current_version() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/replaced"]);
    let file = |fields: &Value| file_of("replaced.json", &[object("ConfigMap", "replaced", fields)]);
    refuses(
        &format!("replace -f {}", file(&json!({ "data": { "a": "1" } }))),
        "configmaps \"replaced\" not found",
    );
    let first = json!({ "metadata": { "labels": { "app": "x" } }, "data": { "a": "1", "b": "1" } });
    host().succeed(["create", "-f", &file(&first)]);
    let old = get("configmap", "replaced");
    says(
        &format!("replace -f {}", file(&json!({ "data": { "a": "2" } }))),
        0,
        "configmap/replaced replaced\n",
    );
    let found = get("configmap", "replaced");
    assert_eq!(found["data"], json!({ "a": "2" }));
    assert_eq!(found["metadata"]["labels"], Value::Null);
    assert_eq!(found["metadata"]["uid"], old["metadata"]["uid"]);
    assert_eq!(
        found["metadata"]["creationTimestamp"],
        old["metadata"]["creationTimestamp"]
    );
    let version = |object: &Value| {
        object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(version(&found) > version(&old), "{found}");
    refuses(
        &format!("replace -f {}", file_of("replaced-old.json", &[old])),
        "the object has been modified; please apply your changes to the latest version and try again",
    );
    says(
        &format!("replace -f {}", file_of("replaced-new.json", &[found])),
        0,
        "configmap/replaced replaced\n",
    );
}

/// A deleted ServiceAccount `default` comes back at once.
#[test]
fn the_default_service_account_can_be_replaced_by_force() {
    let _alone = alone();
    let before = get("serviceaccount", "default");
    let labelled = json!({ "metadata": { "name": "default", "labels": { "by": "force" } } });
    let file = file_of("account.json", &[object("ServiceAccount", "default", &labelled)]);
    let said = host().succeed(["replace", "--force", "-f", file.as_str()]);
    assert!(said.ends_with("serviceaccount/default replaced\n"), "{said}");
    let after = get("serviceaccount", "default");
    assert_eq!(after.pointer("/metadata/labels/by"), Some(&json!("force")));
    assert_ne!(after.pointer("/metadata/uid"), before.pointer("/metadata/uid"));
    host().succeed(["label", "serviceaccount", "default", "by-"]);
}

#[test]
fn edit_applies_what_the_editor_leaves() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/edited"]);
    host().succeed(["create", "configmap", "edited", "--from-literal=colour=blue"]);
    let edit = |editor: &str| {
        let mut command = host().microkube(["edit", "configmap", "edited"]);
        command.env("KUBE_EDITOR", editor).env("EDITOR", editor);
        Running::start(command, None).finish()
    };
    let edited = edit("sed -i s/blue/green/");
    assert_eq!(
        (edited.code(), &*edited.stdout),
        (0, "configmap/edited edited\n"),
        "{edited:?}"
    );
    assert_eq!(get("configmap", "edited")["data"], json!({ "colour": "green" }));
    let before = get("configmap", "edited");
    let cancelled = edit("true");
    assert_eq!(cancelled.code(), 0, "{cancelled:?}");
    let text = format!("{}{}", cancelled.stdout, cancelled.stderr);
    assert!(text.contains("Edit cancelled, no changes made."), "{text}");
    assert_eq!(get("configmap", "edited"), before);
}

#[test]
fn immutable_and_invalid_objects_are_refused_with_kubernetes_words() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/frozen", "secret/frozen", "secret/typed"]);
    let frozen = |kind: &str, fields: &Value| {
        let mut object = object(kind, "frozen", fields);
        object["immutable"] = true.into();
        object
    };
    let objects = [
        frozen("ConfigMap", &json!({ "data": { "a": "1" } })),
        frozen("Secret", &json!({ "stringData": { "a": "1" } })),
    ];
    host().succeed(["apply", "-f", &file_of("frozen.json", &objects)]);
    let immutable = "field is immutable when `immutable` is set";
    for (kind, patch, field) in [
        ("configmap", r#"{"data":{"a":"2"}}"#, "data"),
        ("configmap", r#"{"data":{"b":"1"}}"#, "data"),
        ("configmap", r#"{"binaryData":{"b":"AAAA"}}"#, "binaryData"),
        ("configmap", r#"{"immutable":false}"#, "immutable"),
        ("secret", r#"{"stringData":{"a":"2"}}"#, "data"),
        ("secret", r#"{"immutable":null}"#, "immutable"),
    ] {
        refuses(
            &format!("patch {kind} frozen --type=merge -p {patch}"),
            &format!("{field}: Forbidden: {immutable}"),
        );
    }
    says(
        "label configmap,secret frozen app=x",
        0,
        "configmap/frozen labeled\nsecret/frozen labeled\n",
    );

    host().succeed(["create", "secret", "generic", "typed", "--from-literal=a=1"]);
    refuses(
        r#"patch secret typed --type=merge -p {"type":"kubernetes.io/tls"}"#,
        "type: Invalid value: \"kubernetes.io/tls\": field is immutable",
    );
    for (options, message) in [
        (
            r#"-p {"metadata":{"name":"other"}}"#,
            "Error (BadRequest): the name of the object (other) does not match the name on the URL (typed)",
        ),
        (
            r#"--type=merge -p {"metadata":{"namespace":"other"}}"#,
            "Error (BadRequest): the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            r#"-p {"$patch":"delete"}"#,
            "Error (BadRequest): the name of the object (typed based on URL) was undeterminable: name must be provided",
        ),
        ("--type=merge -p null", "Error (BadRequest): Invalid JSON Patch"),
    ] {
        refuses(&format!("patch secret typed {options}"), message);
    }
    let invalid = |kind: &str, fields: &Value, message: &str| {
        let mut object = object(kind, "invalid", fields);
        if let Some(name) = fields.get("name") {
            object["metadata"]["name"] = name.clone();
            object.as_object_mut().unwrap().remove("name");
        }
        refuses(&format!("create -f {}", file_of("invalid.json", &[object])), message);
    };
    let secret = |own_type: &str, data: Value| json!({ "type": own_type, "stringData": data });
    for (fields, message) in [
        (
            secret("kubernetes.io/tls", json!({ "tls.crt": "c" })),
            "data[tls.key]: Required value",
        ),
        (
            secret("kubernetes.io/ssh-auth", json!({})),
            "data[ssh-privatekey]: Required value",
        ),
        (
            secret("kubernetes.io/basic-auth", json!({ "token": "t" })),
            "data[username]: Required value",
        ),
        (
            secret("kubernetes.io/dockerconfigjson", json!({})),
            "data[.dockerconfigjson]: Required value",
        ),
        (
            secret("kubernetes.io/dockercfg", json!({})),
            "data[.dockercfg]: Required value",
        ),
        (
            secret("kubernetes.io/service-account-token", json!({})),
            "metadata.annotations[kubernetes.io/service-account.name]: Required value",
        ),
        (
            secret("Opaque", json!({ "a b": "x" })),
            "data[a b]: Invalid value: \"a b\"",
        ),
        (
            secret("Opaque", json!({ "large": "x".repeat((1 << 20) + 1) })),
            "data: Too long: may not be more than 1048576 bytes",
        ),
    ] {
        invalid("Secret", &fields, message);
    }
    for (fields, message) in [
        (json!({ "data": { "..": "x" } }), "data[..]: Invalid value: \"..\""),
        (
            json!({ "data": { "a": "x" }, "binaryData": { "a": "AAAA" } }),
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
        ),
        (json!({ "date": {} }), "date"),
        (
            json!({ "name": "Not_A_Name" }),
            "metadata.name: Invalid value: \"Not_A_Name\"",
        ),
    ] {
        invalid("ConfigMap", &fields, message);
    }
    refuses("get configmap invalid", "configmaps \"invalid\" not found");
    refuses("get secret invalid", "secrets \"invalid\" not found");
}
