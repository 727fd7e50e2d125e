//! `apply`, `diff` and dry runs of objects other than Pods, with three-way merges as in kubectl.

use serde_json::{Value, json};

use crate::host::{alone, host};
use crate::objects::{Temporary, config_map, file_of, get, object, refuses, says, secret};

/// A ConfigMap `three-way` with these fields.
fn three_way(fields: &Value) -> Value {
    object("ConfigMap", "three-way", fields)
}

#[test]
fn apply_merges_three_ways() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/three-way", "serviceaccount/three-way"]);
    let labels = |labels: Value, data: Value| json!({ "metadata": { "labels": labels }, "data": data });
    // The first configuration, another writer's patch, the second configuration, the verb's message, and the resulting
    // data and labels.
    let cases = [
        (
            "nothing changes",
            json!({ "data": { "a": "1" } }),
            json!({}),
            json!({ "data": { "a": "1" } }),
            "unchanged",
            json!({ "a": "1" }),
            Value::Null,
        ),
        (
            "a value changes",
            json!({ "data": { "a": "1", "b": "1" } }),
            json!({}),
            json!({ "data": { "a": "2", "b": "1" } }),
            "configured",
            json!({ "a": "2", "b": "1" }),
            Value::Null,
        ),
        (
            "a key is no longer in the file",
            json!({ "data": { "a": "1", "b": "1" } }),
            json!({}),
            json!({ "data": { "a": "1" } }),
            "configured",
            json!({ "a": "1" }),
            Value::Null,
        ),
        (
            "a key of another writer stays",
            json!({ "data": { "a": "1" } }),
            json!({ "data": { "theirs": "1" } }),
            json!({ "data": { "a": "2" } }),
            "configured",
            json!({ "a": "2", "theirs": "1" }),
            Value::Null,
        ),
        (
            "only another writer changed something",
            json!({ "data": { "a": "1" } }),
            json!({ "data": { "theirs": "1" } }),
            json!({ "data": { "a": "1" } }),
            "unchanged",
            json!({ "a": "1", "theirs": "1" }),
            Value::Null,
        ),
        (
            "a key of the file that another writer changed is restored",
            json!({ "data": { "a": "1" } }),
            json!({ "data": { "a": "theirs" } }),
            json!({ "data": { "a": "1" } }),
            "configured",
            json!({ "a": "1" }),
            Value::Null,
        ),
        (
            "a key of the file that another writer removed is restored",
            json!({ "data": { "a": "1", "b": "1" } }),
            json!({ "data": { "b": null } }),
            json!({ "data": { "a": "1", "b": "1" } }),
            "configured",
            json!({ "a": "1", "b": "1" }),
            Value::Null,
        ),
        (
            "a key that leaves the file is removed, although another writer changed it",
            json!({ "data": { "a": "1", "b": "1" } }),
            json!({ "data": { "b": "theirs" } }),
            json!({ "data": { "a": "1" } }),
            "configured",
            json!({ "a": "1" }),
            Value::Null,
        ),
        (
            "a key that another writer added joins the file",
            json!({ "data": { "a": "1" } }),
            json!({ "data": { "b": "theirs" } }),
            json!({ "data": { "a": "1", "b": "mine" } }),
            "configured",
            json!({ "a": "1", "b": "mine" }),
            Value::Null,
        ),
        (
            "all data leaves the file",
            json!({ "data": { "a": "1" } }),
            json!({}),
            json!({}),
            "configured",
            Value::Null,
            Value::Null,
        ),
        (
            "labels are merged too",
            labels(json!({ "app": "one", "tier": "front" }), json!({ "a": "1" })),
            json!({ "metadata": { "labels": { "theirs": "yes" } } }),
            labels(json!({ "app": "two" }), json!({ "a": "1" })),
            "configured",
            json!({ "a": "1" }),
            json!({ "app": "two", "theirs": "yes" }),
        ),
    ];
    for (name, first, theirs, second, word, data, labels) in cases {
        let first = file_of("three-way.json", &[three_way(&first)]);
        says(&format!("apply -f {first}"), 0, "configmap/three-way created\n");
        if theirs != json!({}) {
            host().succeed([
                "patch",
                "configmap",
                "three-way",
                "--type=merge",
                "-p",
                &theirs.to_string(),
            ]);
        }
        let second = file_of("three-way.json", &[three_way(&second)]);
        says(
            &format!("apply -f {second}"),
            0,
            &format!("configmap/three-way {word}\n"),
        );
        let found = get("configmap", "three-way");
        assert_eq!(found["data"], data, "{name}: {found}");
        assert_eq!(found["metadata"]["labels"], labels, "{name}: {found}");
        says(
            "delete configmap three-way",
            0,
            "configmap \"three-way\" deleted from default namespace\n",
        );
    }

    // `apply` removes nothing from an object that it did not create, and prints a warning.
    let file = file_of("three-way.json", &[config_map("three-way", &json!({ "a": "1" }))]);
    says(
        "create configmap three-way --from-literal=b=1",
        0,
        "configmap/three-way created\n",
    );
    let warning = says(&format!("apply -f {file}"), 0, "configmap/three-way configured\n");
    assert!(
        warning.contains("missing the kubectl.kubernetes.io/last-applied-configuration annotation"),
        "{warning}"
    );
    assert_eq!(get("configmap", "three-way")["data"], json!({ "a": "1", "b": "1" }));
    says(&format!("apply -f {file}"), 0, "configmap/three-way unchanged\n");

    // An object that has its configuration from the start.
    says(
        "delete configmap three-way",
        0,
        "configmap \"three-way\" deleted from default namespace\n",
    );
    says(
        "create configmap three-way --from-literal=b=1 --save-config",
        0,
        "configmap/three-way created\n",
    );
    let said = says(&format!("apply -f {file}"), 0, "configmap/three-way configured\n");
    assert!(!said.contains("Warning"), "{said}");
    assert_eq!(get("configmap", "three-way")["data"], json!({ "a": "1" }));

    // Lists with merge keys.
    let account = |names: &[&str]| {
        let names: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
        object("ServiceAccount", "three-way", &json!({ "secrets": names }))
    };
    let file = file_of("three-way-account.json", &[account(&["a", "b"])]);
    says(&format!("apply -f {file}"), 0, "serviceaccount/three-way created\n");
    host().succeed([
        "patch",
        "serviceaccount",
        "three-way",
        "-p",
        r#"{"secrets":[{"name":"theirs"}]}"#,
    ]);
    let file = file_of("three-way-account.json", &[account(&["a", "c"])]);
    says(&format!("apply -f {file}"), 0, "serviceaccount/three-way configured\n");
    let found = get("serviceaccount", "three-way");
    let secrets = found["secrets"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<_> = secrets.iter().filter_map(|secret| secret["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "c", "theirs"], "{found}");
}

#[test]
fn diff_shows_changes_and_says_with_its_exit_code_whether_there_are_any() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/differing", "secret/differing"]);
    let file = |value: &str| {
        file_of(
            "differing.json",
            &[config_map("differing", &json!({ "a": value, "b": "kept" }))],
        )
    };
    let of_new = host().output(["diff", "-f", &file("1")]);
    assert_eq!(of_new.code(), 1, "{of_new:?}");
    assert!(of_new.stdout.contains("\n+  a: \"1\"\n"), "{of_new:?}");
    host().succeed(["apply", "-f", &file("1")]);
    says(&format!("diff -f {}", file("1")), 0, "");
    let before = get("configmap", "differing");
    let changed = host().output(["diff", "-f", &file("2")]);
    assert_eq!(changed.code(), 1, "{changed:?}");
    for line in ["-  a: \"1\"", "+  a: \"2\"", "   b: kept"] {
        assert!(changed.stdout.lines().any(|shown| shown == line), "{line}: {changed:?}");
    }
    assert_eq!(get("configmap", "differing"), before);
    // Errors have another exit code than differences.
    let faulty = host().output(["diff", "-f", "/no/such/file.yaml"]);
    assert!(faulty.code() > 1, "{faulty:?}");

    let file = |value: &str| {
        file_of(
            "differing-secret.json",
            &[secret("differing", &json!({ "key": value }))],
        )
    };
    host().succeed(["apply", "-f", &file("one")]);
    let changed = host().output(["diff", "-f", &file("two")]);
    assert_eq!(changed.code(), 1, "{changed:?}");
    for (start, mask) in [("-  key:", "*** (before)"), ("+  key:", "*** (after)")] {
        let mut lines = changed.stdout.lines();
        assert!(
            lines.any(|line| line.starts_with(start) && line.contains(mask)),
            "{mask}: {changed:?}"
        );
    }
    // The value appears neither as text nor in base64.
    for value in ["one", "two", "b25l", "dHdv"] {
        assert!(!changed.stdout.contains(value), "{value}: {changed:?}");
    }
}

#[test]
fn dry_runs_report_and_change_nothing() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/rehearsed"]);
    let file = |value: &str| file_of("rehearsed.json", &[config_map("rehearsed", &json!({ "a": value }))]);
    for (place, words) in [("client", "(dry run)"), ("server", "(server dry run)")] {
        for line in [
            format!("apply -f {}", file("1")),
            format!("create -f {}", file("1")),
            "create configmap rehearsed --from-literal=a=1".to_owned(),
        ] {
            says(
                &format!("{line} --dry-run={place}"),
                0,
                &format!("configmap/rehearsed created {words}\n"),
            );
        }
        refuses("get configmap rehearsed", "configmaps \"rehearsed\" not found");
    }
    host().succeed(["apply", "-f", &file("1")]);
    let before = get("configmap", "rehearsed");
    for (place, words) in [("client", "(dry run)"), ("server", "(server dry run)")] {
        for (line, said) in [
            (format!("apply -f {}", file("2")), "configmap/rehearsed configured"),
            (format!("replace -f {}", file("2")), "configmap/rehearsed replaced"),
            (
                r#"patch configmap rehearsed -p {"data":{"a":"2"}}"#.to_owned(),
                "configmap/rehearsed patched",
            ),
            (
                "label configmap rehearsed x=y".to_owned(),
                "configmap/rehearsed labeled",
            ),
            (
                "annotate configmap rehearsed x=y".to_owned(),
                "configmap/rehearsed annotated",
            ),
        ] {
            says(&format!("{line} --dry-run={place}"), 0, &format!("{said} {words}\n"));
            assert_eq!(get("configmap", "rehearsed"), before, "{line} {place}");
        }
        let said = host().succeed(["delete", "configmap", "rehearsed", &format!("--dry-run={place}")]);
        assert!(
            said.starts_with(&format!("configmap \"rehearsed\" deleted {words}")),
            "{said}"
        );
        assert_eq!(get("configmap", "rehearsed"), before, "{place}");
    }
    // Prints the object that would be stored, with its defaults.
    let shown = host().succeed(["apply", "-f", &file("2"), "--dry-run=server", "-o", "json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["data"], json!({ "a": "2" }));
    assert_eq!(shown["metadata"]["uid"], before["metadata"]["uid"]);
    // A server's dry run has the errors of the change.
    refuses(
        r#"patch configmap rehearsed -p {"data":{"a/b":"2"}} --dry-run=server"#,
        "a valid config key must consist of alphanumeric characters",
    );
}

#[test]
fn apply_without_overwrite_refuses_to_change_what_others_have_set() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/kept", "configmap/kept-b", "secret/kept"]);
    let file = |value: &str| file_of("kept.json", &[config_map("kept", &json!({ "a": value }))]);
    let apply = |file: &str| format!("apply --overwrite=false -f {file}");
    says(&apply(&file("1")), 0, "configmap/kept created\n");
    says(&apply(&file("1")), 0, "configmap/kept unchanged\n");
    says(
        r#"patch configmap kept -p {"data":{"a":"2"}}"#,
        0,
        "configmap/kept patched\n",
    );
    let before = get("configmap", "kept");
    for line in [apply(&file("1")), format!("{} --dry-run=server", apply(&file("1")))] {
        refuses(
            &line,
            "\nfor: patch:\ndata:\n  a: \"1\"\n\nconflicts with changes made from original to current:\ndata:\n  a: \"2\"\n",
        );
    }
    assert_eq!(get("configmap", "kept"), before);
    // The new configuration is itself a change of the annotation.
    says(&format!("apply -f {}", file("1")), 0, "configmap/kept configured\n");
    refuses(&apply(&file("3")), "Name: \"kept\", Namespace: \"default\"\nfor: ");
    let hidden = object("Secret", "kept", &json!({ "data": { "a": "aGlkZGVu" } }));
    let hidden = file_of("kept-secret.json", &[hidden]);
    says(&apply(&hidden), 0, "secret/kept created\n");
    says(
        r#"patch secret kept -p {"data":{"a":"b3RoZXI="}}"#,
        0,
        "secret/kept patched\n",
    );
    let refused = host().output(apply(&hidden).split(' '));
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(
        !refused.stderr.contains("aGlkZGVu") && !refused.stderr.contains("b3RoZXI="),
        "{refused:?}"
    );
    // Several objects are a list with -o, and printed one by one with --template alone.
    let two = file_of(
        "kept-two.json",
        &[
            config_map("kept", &json!({ "a": "1" })),
            config_map("kept-b", &json!({})),
        ],
    );
    says(
        &format!("apply -f {two} -o go-template={{{{.kind}}}}{{{{.items|len}}}}"),
        0,
        "List2",
    );
    says(
        &format!("apply -f {two} --template={{{{.metadata.name}}}},"),
        0,
        "kept,kept-b,",
    );
}
