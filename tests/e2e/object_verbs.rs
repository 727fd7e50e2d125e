//! Verbs that create, show and delete objects without any Pod: their messages, tables and exit codes, as in kubectl.

use serde_json::{Value, json};

use crate::host::{alone, host, wait_until};
use crate::objects::{Temporary, config_map, documents, file_of, get, object, refuses, secret, secret_of_type};

/// A table without its last column, the age, which changes.
#[track_caller]
fn table(line: &str) -> Vec<String> {
    let text = host().succeed(line.split(' '));
    let age = text.find("AGE").unwrap_or_else(|| panic!("{line}: {text}"));
    let cut = |row: &str| row.chars().take(age).collect::<String>().trim_end().to_owned();
    text.lines().map(cut).collect()
}

fn shop() -> Vec<Value> {
    let labels = json!({ "app": "shop" });
    let labelled = |mut object: Value| {
        object["metadata"]["labels"] = labels.clone();
        object
    };
    vec![
        labelled(config_map("shop-settings", &json!({ "a": "1", "b": "2" }))),
        labelled(object(
            "ConfigMap",
            "shop-assets",
            &json!({ "data": { "a": "1" }, "binaryData": { "b": "AAEC", "c": "AAEC" } }),
        )),
        labelled(config_map("shop-a", &json!({}))),
        labelled(secret("shop-plain", &json!({ "key": "value" }))),
        labelled(secret_of_type(
            "kubernetes.io/tls",
            "shop-tls",
            &json!({ "tls.crt": "c", "tls.key": "k" }),
        )),
        labelled(object("ServiceAccount", "shop-robot", &json!({}))),
    ]
}

#[test]
fn get_prints_kubectls_tables() {
    let _alone = alone();
    let _temporary = Temporary(&[
        "configmap/shop-settings",
        "configmap/shop-assets",
        "configmap/shop-a",
        "secret/shop-plain",
        "secret/shop-tls",
        "serviceaccount/shop-robot",
    ]);
    host().succeed(["apply", "-f", &file_of("shop.json", &shop())]);
    let config_maps = [
        "NAME            DATA",
        "shop-a          0",
        "shop-assets     3",
        "shop-settings   2",
    ];
    for kind in ["configmap", "configmaps", "cm", "ConfigMap"] {
        assert_eq!(table(&format!("get {kind} -l app=shop")), config_maps);
    }
    assert_eq!(
        table("get secrets -l app=shop"),
        [
            "NAME         TYPE                DATA",
            "shop-plain   Opaque              1",
            "shop-tls     kubernetes.io/tls   2",
        ]
    );
    assert_eq!(table("get sa -l app=shop"), ["NAME", "shop-robot"]);
    assert_eq!(
        table("get cm -A -l app=shop"),
        [
            "NAMESPACE   NAME            DATA",
            "default     shop-a          0",
            "default     shop-assets     3",
            "default     shop-settings   2",
        ]
    );
    let both = host().succeed(["get", "cm,sa", "-l", "app=shop"]);
    let rows: Vec<Vec<&str>> = both.lines().map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<_> = rows
        .iter()
        .map(|row| row.first().copied().unwrap_or_default())
        .collect();
    assert_eq!(
        names,
        [
            "NAME",
            "configmap/shop-a",
            "configmap/shop-assets",
            "configmap/shop-settings",
            "",
            "NAME",
            "serviceaccount/shop-robot",
        ],
        "{both}"
    );
    assert_eq!(
        (&rows[0], &rows[5]),
        (&vec!["NAME", "DATA", "AGE"], &vec!["NAME", "AGE"])
    );
    let text = |line: &str| host().succeed(line.split(' '));
    assert_eq!(
        text("get configmaps,secrets -l app=shop -o name"),
        "configmap/shop-a\nconfigmap/shop-assets\nconfigmap/shop-settings\nsecret/shop-plain\nsecret/shop-tls\n"
    );
    assert_eq!(
        text("get cm/shop-a secret/shop-tls -o name"),
        "configmap/shop-a\nsecret/shop-tls\n"
    );
    let labels = text("get configmap shop-a --show-labels --no-headers");
    assert!(
        labels.starts_with("shop-a   0 ") && labels.trim_end().ends_with(" app=shop"),
        "{labels}"
    );
    assert_eq!(
        text(
            "get cm -l app=shop -o custom-columns=NAME:.metadata.name,A:.data.a --sort-by={.metadata.uid} --no-headers"
        )
        .lines()
        .count(),
        3
    );
    assert_eq!(
        text("get cm shop-settings -o custom-columns=NAME:.metadata.name,A:.data.a,NONE:.data.z"),
        "NAME            A     NONE\nshop-settings   1     <none>\n"
    );
    assert_eq!(text("get cm -l app=shop -o jsonpath={.items[*].data.b}"), "2");
    assert_eq!(
        text("get cm -l app=shop -o go-template={{range.items}}{{.metadata.name}},{{end}}"),
        "shop-a,shop-assets,shop-settings,"
    );
    assert_eq!(
        text("get secret shop-plain -o go-template={{.data.key|base64decode|len}}/{{.none}}"),
        "5/<no value>"
    );
    // The verbs that write apply a template to each object.
    assert_eq!(
        text("label cm -l app=shop app=shop --template={{.metadata.name}},"),
        "shop-a,shop-assets,shop-settings,"
    );
    assert_eq!(
        text(
            "annotate cm/shop-a cm/shop-settings a=b --dry-run=server -o jsonpath --template={.metadata.annotations.a}"
        ),
        "bb"
    );
    let yaml = text("label cm/shop-a cm/shop-settings app=shop -o yaml");
    assert_eq!(yaml.matches("---\n").count(), 1, "{yaml}");
    let failed = host().output("get cm shop-settings -o go-template=a{{.data.a.b}}".split(' '));
    assert_eq!(
        (failed.code(), &*failed.stderr),
        (
            1,
            "microkube: error executing template \"a{{.data.a.b}}\": template: output:1:8: executing \"output\" at <.data.a.b>: can't \
             evaluate field b in type interface {}\n"
        )
    );
    assert!(
        failed
            .stdout
            .starts_with("aError executing template: template: output:1:8: ")
            && failed
                .stdout
                .contains("\n\ttemplate was:\n\t\ta{{.data.a.b}}\n\traw data was:\n\t\t{\"apiVersion\":\"v1\",")
            && failed
                .stdout
                .contains("\n\tobject given to template engine was:\n\t\tmap[apiVersion:v1 data:map[a:1 b:2] "),
        "{failed:?}"
    );
    let kyaml = text("get cm shop-settings -o kyaml");
    assert!(
        kyaml.starts_with("---\n{\n  apiVersion: \"v1\",\n  data: {\n    a: \"1\",\n") && kyaml.ends_with("},\n}\n"),
        "{kyaml}"
    );
    assert_eq!(
        text("get cm -l app=shop --field-selector metadata.name=shop-a -o name"),
        "configmap/shop-a\n"
    );
    // Values of Secrets are base64, `stringData` is gone, and the table of types has set the type.
    assert_eq!(
        text("get secret shop-plain -o jsonpath={.data.key}|{.stringData}|{.type}"),
        "dmFsdWU=||Opaque"
    );

    let empty = host().output(["get", "configmaps", "-n", "get-empty"]);
    assert_eq!(
        (empty.code(), &*empty.stdout, &*empty.stderr),
        (0, "", "No resources found in get-empty namespace.\n")
    );
    let empty = host().output(["get", "configmaps", "-l", "app=absent"]);
    assert_eq!(
        (empty.code(), &*empty.stdout, &*empty.stderr),
        (0, "", "No resources found in default namespace.\n")
    );
    refuses("get configmap absent", "configmaps \"absent\" not found");
    refuses(
        "get storageclass absent",
        "storageclasses.storage.k8s.io \"absent\" not found",
    );
    assert_eq!(text("get configmap absent --ignore-not-found"), "");
    let some = host().output(["get", "configmap", "shop-a", "absent", "-o", "name"]);
    assert_eq!((some.code(), &*some.stdout), (1, "configmap/shop-a\n"), "{some:?}");
    assert!(some.stderr.contains("configmaps \"absent\" not found"), "{some:?}");
}

#[test]
fn describe_shows_config_maps_whole_and_secrets_by_size() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/described", "secret/described"]);
    let config_map = json!({ "metadata": { "labels": { "app": "d" } }, "data": { "a": "1", "b": "two\nlines" }, "binaryData": { "c": "AAEC" } });
    let objects = [
        object("ConfigMap", "described", &config_map),
        secret("described", &json!({ "key": "value", "longer": "" })),
    ];
    host().succeed(["create", "-f", &file_of("described.json", &objects)]);
    let described = host().succeed(["describe", "configmap", "described"]);
    assert_eq!(
        described,
        "Name:         described\nNamespace:    default\nLabels:       app=d\nAnnotations:  <none>\n\n\
         Data\n====\na:\n----\n1\n\nb:\n----\ntwo\nlines\n\n\nBinaryData\n====\nc: 3 bytes\n\nEvents:  <none>\n"
    );
    let described = host().succeed(["describe", "secret", "described"]);
    assert_eq!(
        described,
        "Name:         described\nNamespace:    default\nLabels:       <none>\nAnnotations:  <none>\n\n\
         Type:  Opaque\n\nData\n====\nkey:     5 bytes\nlonger:  0 bytes\n"
    );
    refuses("describe configmap absent", "configmaps \"absent\" not found");
}

#[test]
fn create_makes_config_maps_and_secrets_from_literals_and_files() {
    let _alone = alone();
    let _temporary = Temporary(&[
        "configmap/made",
        "secret/made",
        "secret/made-registry",
        "serviceaccount/made",
    ]);
    let directory = host().file("made", "").with_file_name("made-files");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(directory.join("subdirectory")).unwrap();
    std::fs::write(directory.join("app.properties"), "a=1\n").unwrap();
    std::fs::write(directory.join("binary"), [0xff, 0x00, 0x01]).unwrap();
    std::fs::write(directory.join("subdirectory/ignored"), "x").unwrap();
    let directory = directory.to_str().unwrap();
    let variables = host().file("made.env", "# comment\nA=1\nB=two words\nC=\n");
    let variables = variables.to_str().unwrap();
    let check = |line: &str, said: &str, kind: &str, name: &str, expected: &Value| {
        let line = line.replace("DIR", directory).replace("ENV", variables);
        assert_eq!(host().succeed(line.split(' ')), said, "{line}");
        let found = get(kind, name);
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(found[field], *value, "{line}: {found}");
        }
        host().succeed(["delete", kind, name]);
    };
    let made = "configmap/made created\n";
    for (line, expected) in [
        ("create configmap made", json!({ "data": null, "binaryData": null })),
        (
            "create cm made --from-literal=a=1 --from-literal=b=x=y --from-literal=c=",
            json!({ "data": { "a": "1", "b": "x=y", "c": "" } }),
        ),
        (
            "create configmap made --from-file=DIR/app.properties",
            json!({ "data": { "app.properties": "a=1\n" } }),
        ),
        (
            "create configmap made --from-file=renamed=DIR/app.properties",
            json!({ "data": { "renamed": "a=1\n" } }),
        ),
        (
            "create configmap made --from-file=DIR",
            json!({ "data": { "app.properties": "a=1\n" }, "binaryData": { "binary": "/wAB" } }),
        ),
        (
            "create configmap made --from-env-file=ENV",
            json!({ "data": { "A": "1", "B": "two words", "C": "" } }),
        ),
    ] {
        check(line, made, "configmap", "made", &expected);
    }
    let secret = "secret/made created\n";
    for (line, expected) in [
        (
            "create secret generic made --from-literal=a=value",
            json!({ "type": "Opaque", "data": { "a": "dmFsdWU=" } }),
        ),
        (
            "create secret generic made --from-file=DIR --type=example.org/x",
            json!({ "type": "example.org/x", "data": { "app.properties": "YT0xCg==", "binary": "/wAB" } }),
        ),
        (
            "create secret generic made --from-env-file=ENV",
            json!({ "data": { "A": "MQ==", "B": "dHdvIHdvcmRz", "C": "" } }),
        ),
    ] {
        check(line, secret, "secret", "made", &expected);
    }
    assert_eq!(
        host().succeed([
            "create",
            "secret",
            "docker-registry",
            "made-registry",
            "--docker-server=registry.test",
            "--docker-username=u",
            "--docker-password=p",
            "--docker-email=e@example.org",
        ]),
        "secret/made-registry created\n"
    );
    let found = get("secret", "made-registry");
    assert_eq!(found["type"], "kubernetes.io/dockerconfigjson");
    assert!(found["data"][".dockerconfigjson"].is_string(), "{found}");
    assert_eq!(
        host().succeed(["create", "serviceaccount", "made"]),
        "serviceaccount/made created\n"
    );

    host().succeed(["create", "configmap", "made", "--from-literal=a=1"]);
    let before = get("configmap", "made");
    refuses(
        "create configmap made --from-literal=a=2",
        "configmaps \"made\" already exists",
    );
    let file = file_of("made.json", &[config_map("made", &json!({ "a": "2" }))]);
    refuses(&format!("create -f {file}"), "configmaps \"made\" already exists");
    assert_eq!(get("configmap", "made"), before);
    let shown = host().succeed([
        "create",
        "configmap",
        "other",
        "--from-literal=a=1",
        "--dry-run=client",
        "-o",
        "json",
    ]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        (&shown["kind"], &shown["metadata"]["name"], &shown["data"]),
        (&"ConfigMap".into(), &"other".into(), &json!({ "a": "1" }))
    );
    for (line, part) in [
        ("create configmap", ""),
        ("create configmap other --from-literal=nothing", "expected key=value"),
        ("create configmap other --from-file=/no/such/file", "/no/such/file"),
        ("create configmap other --from-literal=a=1 --from-literal=a=2", "\"a\""),
        ("create secret generic other --from-literal=a/b=1", "a/b"),
        (
            "create secret tls other --cert=/no/such/file --key=/no/such/file",
            "/no/such/file",
        ),
        ("create configmap Other", "Other"),
    ] {
        let refused = host().output(line.split(' '));
        assert!(matches!(refused.code(), 1 | 2), "{line}: {refused:?}");
        assert!(refused.stderr.contains(part), "{line}: {refused:?}");
        assert!(!refused.stderr.contains("panicked"), "{line}: {refused:?}");
    }
    assert_eq!(host().succeed(["get", "configmap", "other", "--ignore-not-found"]), "");
}

#[test]
fn several_documents_and_lists_are_applied_and_deleted_whole() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/several-a", "configmap/several-b", "secret/several-c"]);
    let objects = [
        config_map("several-a", &json!({ "a": "1" })),
        config_map("several-b", &json!({ "a": "1" })),
        // `stringData` is left out, because it counts as a change each time.
        object("Secret", "several-c", &json!({ "data": { "a": "MQ==" } })),
    ];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    let typed = json!({ "apiVersion": "v1", "kind": "ConfigMapList", "items": objects[..2] });
    let all = "configmap/several-a created\nconfigmap/several-b created\nsecret/several-c created\n";
    for (name, text, said) in [
        ("several-documents.yaml", documents(&objects), all),
        ("several-list.json", list.to_string(), all),
        (
            "several-typed.json",
            typed.to_string(),
            "configmap/several-a created\nconfigmap/several-b created\n",
        ),
    ] {
        let file = host().file(name, &text);
        let file = file.to_str().unwrap();
        assert_eq!(host().succeed(["apply", "-f", file]), said, "{name}");
        let again = said.replace("created", "unchanged");
        assert_eq!(host().succeed(["apply", "-f", file]), again, "{name}");
        let gone: String = said
            .lines()
            .map(|line| {
                let (kind, name) = line.trim_end_matches(" created").split_once('/').unwrap();
                format!("{kind} \"{name}\" deleted from default namespace\n")
            })
            .collect();
        assert_eq!(host().succeed(["delete", "-f", file]), gone, "{name}");
    }
    // An existing object does not prevent the creation of the others.
    host().succeed(["create", "configmap", "several-a"]);
    let some = host().output(["create", "-f", &file_of("several-some.json", &objects)]);
    assert_eq!(
        (some.code(), &*some.stdout),
        (1, "configmap/several-b created\nsecret/several-c created\n"),
        "{some:?}"
    );
    assert!(
        some.stderr.contains("configmaps \"several-a\" already exists"),
        "{some:?}"
    );
    // A faulty document prevents changes of all others.
    let mut faulty = objects.to_vec();
    faulty[0]["data"]["a"] = "2".into();
    faulty[2]["data"] = json!({ "a": 7 });
    let refused = host().output(["apply", "-f", &file_of("several-faulty.json", &faulty)]);
    assert_eq!((refused.code(), &*refused.stdout), (1, ""), "{refused:?}");
    assert_eq!(get("configmap", "several-a")["data"], Value::Null);
    // By selector, and all.
    host().succeed(["label", "configmap", "several-a", "several-b", "group=several"]);
    assert_eq!(
        host().succeed(["delete", "configmaps,secrets", "-l", "group=several"]),
        "configmap \"several-a\" deleted from default namespace\nconfigmap \"several-b\" deleted from default namespace\n"
    );
    refuses("delete configmap several-a", "configmaps \"several-a\" not found");
    assert_eq!(
        host().succeed(["delete", "configmap", "several-a", "--ignore-not-found"]),
        ""
    );
}

#[test]
fn namespaces_come_with_their_objects_and_go_with_them() {
    let _alone = alone();
    let _temporary = Temporary(&["namespace/spaces", "namespace/spaces-two"]);
    assert_eq!(
        host().succeed(["create", "configmap", "inside", "-n", "spaces", "--from-literal=a=1"]),
        "configmap/inside created\n"
    );
    let space = get("namespace", "spaces");
    assert_eq!(
        space["metadata"]["labels"],
        json!({ "kubernetes.io/metadata.name": "spaces" })
    );
    assert_eq!(space["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(space["status"]["phase"], "Active");
    assert_eq!(
        table("get ns spaces default"),
        ["NAME      STATUS", "spaces    Active", "default   Active"]
    );
    assert_eq!(
        host().succeed(["create", "namespace", "spaces-two"]),
        "namespace/spaces-two created\n"
    );
    refuses("create namespace spaces", "namespaces \"spaces\" already exists");
    for space in ["default", "spaces", "spaces-two"] {
        let accounts = table(&format!("get sa -n {space}"));
        assert!(accounts.iter().any(|line| line.starts_with("default")), "{accounts:?}");
        refuses(
            &format!("create sa default -n {space}"),
            "serviceaccounts \"default\" already exists",
        );
    }
    let account = || get("serviceaccount", "default")["metadata"]["uid"].clone();
    let first = account();
    assert_eq!(
        host().succeed(["delete", "sa", "default"]),
        "serviceaccount \"default\" deleted from default namespace\n"
    );
    assert_ne!(account(), first);
    // The same name in two namespaces.
    let mut other = config_map("inside", &json!({ "a": "2" }));
    other["metadata"]["namespace"] = "spaces-two".into();
    host().succeed(["apply", "-f", &file_of("spaces.json", &[other])]);
    let value = |space: &str| host().succeed(["get", "cm", "inside", "-n", space, "-o", "jsonpath={.data.a}"]);
    assert_eq!((&*value("spaces"), &*value("spaces-two")), ("1", "2"));
    refuses("get configmap inside", "configmaps \"inside\" not found");
    let file = file_of(
        "spaces.json",
        &[{
            let mut other = config_map("inside", &json!({ "a": "3" }));
            other["metadata"]["namespace"] = "spaces-two".into();
            other
        }],
    );
    refuses(
        &format!("apply -f {file} -n spaces"),
        "the namespace from the provided object \"spaces-two\" does not match the namespace \"spaces\"",
    );

    assert_eq!(
        host().succeed(["delete", "namespace", "spaces"]),
        "namespace \"spaces\" deleted\n"
    );
    refuses("get namespace spaces", "namespaces \"spaces\" not found");
    refuses("get configmap inside -n spaces", "configmaps \"inside\" not found");
    assert_eq!(value("spaces-two"), "2");
    refuses("delete namespace default", "this namespace may not be deleted");
}

#[test]
fn finalizers_hold_up_a_deletion_until_they_are_removed() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/finalized"]);
    let finalized = object(
        "ConfigMap",
        "finalized",
        &json!({ "metadata": { "finalizers": ["example.org/clean-up"] }, "data": { "a": "1" } }),
    );
    host().succeed(["create", "-f", &file_of("finalized.json", &[finalized])]);
    let uid = get("configmap", "finalized")["metadata"]["uid"].clone();
    let deletion = host().begin(["delete", "configmap", "finalized"]);
    wait_until("it is being deleted", || {
        get("configmap", "finalized")["metadata"]["deletionTimestamp"].is_string()
    });
    // It can still be changed, but not be given more finalizers.
    host().succeed(["patch", "configmap", "finalized", "-p", r#"{"data":{"a":"2"}}"#]);
    refuses(
        r#"patch configmap finalized --type=merge -p {"metadata":{"finalizers":["example.org/clean-up","example.org/more"]}}"#,
        "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted",
    );
    let found = get("configmap", "finalized");
    assert_eq!(
        (&found["metadata"]["uid"], &found["data"]),
        (&uid, &json!({ "a": "2" }))
    );
    host().succeed([
        "patch",
        "configmap",
        "finalized",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    assert_eq!(
        deletion.finish().success(),
        "configmap \"finalized\" deleted from default namespace\n"
    );
    refuses("get configmap finalized", "configmaps \"finalized\" not found");
}

#[test]
fn a_watch_prints_a_row_for_each_change() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/watched"]);
    let mut watch = host().begin([
        "get",
        "configmaps",
        "--field-selector",
        "metadata.name=watched",
        "-w",
        "-o",
        "json",
    ]);
    let mut named = host().begin(["get", "configmaps", "-l", "watched=yes", "-w", "--no-headers"]);
    host().succeed(["create", "configmap", "watched", "--from-literal=a=first"]);
    watch.wait_for("\"a\": \"first\"");
    host().succeed(["label", "configmap", "watched", "watched=yes"]);
    named.wait_for("watched   1");
    host().succeed(["patch", "configmap", "watched", "-p", r#"{"data":{"b":"second"}}"#]);
    watch.wait_for("\"b\": \"second\"");
    named.wait_for("watched   2");
    host().succeed(["delete", "configmap", "watched"]);
}

#[test]
fn explain_describes_the_fields_of_every_kind() {
    let _alone = alone();
    for (field, parts) in [
        ("configmap", &["KIND:", "ConfigMap", "binaryData", "immutable"][..]),
        ("secret.stringData", &["stringData", "map[string]string"]),
        ("serviceaccounts.imagePullSecrets.name", &["name", "string"]),
        ("ns.spec", &["finalizers"]),
    ] {
        let text = host().succeed(["explain", field]);
        for part in parts {
            assert!(text.contains(part), "{field}: {part:?} is not in {text}");
        }
    }
    let refused = host().output(["explain", "configmap.data.nothing.more"]);
    assert!(!refused.status.success(), "{refused:?}");
}
