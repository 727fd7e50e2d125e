use std::time::Instant;

use microkube_manifest::kinds;
use serde_json::json;

use super::super::pods::test_pods::{CREATED, TestPods};
use super::*;
use crate::objects::test_store::{TestStore, config_map};
use crate::state::{Paths, StatusRecord};

pub(super) fn later() -> Timestamp {
    CREATED.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(200)
}

pub(super) fn running(ip: &str) -> Value {
    json!({
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "containerStatuses": [{
            "name": "main", "image": "", "imageID": "", "restartCount": 0, "ready": true, "state": { "running": {} },
        }],
    })
}

/// The arguments of `get`, separated by spaces.
pub(super) fn args(words: &str) -> GetArgs {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: GetArgs,
    }
    let words = ["get"].into_iter().chain(words.split(' '));
    <Cli as clap::Parser>::try_parse_from(words).unwrap().args
}

pub(super) fn requested(args: &GetArgs) -> Result<Requested, Failure> {
    let field_selector = args.field_selector.field_selector.as_ref();
    Requested::new(&args.objects, &args.scope, &args.selector, field_selector)
}

/// The result and the output of `get` with these arguments.
fn found(paths: &Paths, words: &str) -> (Vec<Listing>, String) {
    let args = args(words);
    let requested = requested(&args).unwrap();
    let listings = read(&Reader::new(paths.clone()), &requested, &args.show).unwrap();
    let text = text(&listings, &requested, &args.show, later()).unwrap();
    (listings, text)
}

fn printed(paths: &Paths, words: &str) -> String {
    found(paths, words).1
}

fn names(listing: &Listing) -> Vec<&str> {
    let objects = listing.objects.iter();
    objects
        .map(|object| object["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[test]
fn the_table_matches_kubectl() {
    let pods = TestPods::new();
    let web = pods.add("web", &[("app", "shop"), ("tier", "front")]);
    pods.add("db", &[]);
    pods.add_to("other", "job", &[]);
    pods.set_status(&web, running("10.88.0.5"));
    let table = |words: &str| printed(&pods.paths, words);
    assert_eq!(
        table("pods"),
        "\
NAME   READY   STATUS    RESTARTS   AGE
db     0/1     Pending   0          3m20s
web    1/1     Running   0          3m20s
"
    );
    assert_eq!(table("all"), table("pods"));
    assert_eq!(
        table("pods -A -o wide --show-labels"),
        "\
NAMESPACE   NAME   READY   STATUS    RESTARTS   AGE     IP          NODE     NOMINATED NODE   READINESS GATES   LABELS
default     db     0/1     Pending   0          3m20s   <none>      <none>   <none>           <none>            <none>
default     web    1/1     Running   0          3m20s   10.88.0.5   <none>   <none>           <none>            app=shop,tier=front
other       job    0/1     Pending   0          3m20s   <none>      <none>   <none>           <none>            <none>
"
    );
    assert_eq!(table("pods web db -o name"), "pod/web\npod/db\n");
    assert_eq!(table("pods -o name --selector=tier!=back,app"), "pod/web\n");
    assert_eq!(table("pods -o name --field-selector=status.phase=Running"), "pod/web\n");
    assert_eq!(
        table("pods -n other --no-headers"),
        "job   0/1   Pending   0     3m20s\n"
    );
}

/// A store with objects of several kinds, whose age is unknown.
fn store() -> TestStore {
    let store = TestStore::new();
    for (kind, mut value) in [
        ("cm", config_map("default", "b")),
        ("cm", config_map("default", "a")),
        ("cm", config_map("shop", "c")),
        (
            "secret",
            json!({ "metadata": { "name": "tls", "namespace": "default" }, "type": "kubernetes.io/tls", "data": {} }),
        ),
        (
            "secret",
            json!({
                "metadata": { "name": "token", "namespace": "default", "labels": { "app": "web" } },
                "type": "Opaque", "data": { "a": "QQ==" },
            }),
        ),
        ("sc", json!({ "metadata": { "name": "fast" }, "provisioner": "p" })),
    ] {
        let kind = kinds::named(kind).unwrap();
        value["apiVersion"] = kind.api_version().into();
        value["kind"] = kind.kind.into();
        store.add(kind, value);
    }
    store
}

/// The text without the last column of its lines: ages depend on the time.
fn without_ages(text: &str) -> String {
    let line = |line: &str| match line.rsplit_once(' ') {
        Some((cells, _)) => cells.trim_end().to_owned() + "\n",
        None => line.to_owned() + "\n",
    };
    text.lines().map(line).collect()
}

#[test]
fn several_types_are_shown_in_one_table_each_with_types_in_names() {
    let store = store();
    assert_eq!(
        without_ages(&printed(&store.paths, "cm,pods,secrets")),
        "\
NAME          DATA
configmap/a   1
configmap/b   1

NAME           TYPE                DATA
secret/tls     kubernetes.io/tls   0
secret/token   Opaque              1
"
    );
    assert_eq!(
        without_ages(&printed(&store.paths, "sc,cm -A --no-headers")),
        "\
storageclass.storage.k8s.io/fast   p     Delete   Immediate   false
default   configmap/a   1
default   configmap/b   1
shop      configmap/c   1
"
    );
    assert_eq!(
        printed(&store.paths, "cm/b secret/tls sc/fast cm/a -o name"),
        "configmap/b\nsecret/tls\nstorageclass.storage.k8s.io/fast\nconfigmap/a\n"
    );
}

#[test]
fn objects_are_selected_by_namespace_labels_and_fields() {
    let store = store();
    let names = |words: &str| printed(&store.paths, &format!("{words} -o name"));
    assert_eq!(names("cm -n shop"), "configmap/c\n");
    assert_eq!(names("secret -l app=web"), "secret/token\n");
    assert_eq!(names("secret --field-selector type=kubernetes.io/tls"), "secret/tls\n");
    assert_eq!(
        names("cm -A --field-selector metadata.namespace!=default"),
        "configmap/c\n"
    );
    let refused = requested(&args("cm,secret --field-selector type=Opaque")).unwrap_err();
    assert_eq!(refused.exit_code, 1);
    assert!(
        refused
            .error
            .to_string()
            .contains("\"type\" is not a known field selector")
    );
}

#[test]
fn types_are_shown_in_names_on_request() {
    let store = store();
    assert_eq!(
        without_ages(&printed(&store.paths, "cm --show-kind")),
        "NAME          DATA\nconfigmap/a   1\nconfigmap/b   1\n"
    );
}

#[test]
fn contradicting_arguments_are_refused() {
    for (words, part) in [
        (
            "cm --output-watch-events",
            "can only be used with --watch or --watch-only",
        ),
        (
            "pods --subresource=status",
            "cannot be used when bulk resources are specified",
        ),
        ("cm a --subresource=status", "configmaps have no subresource \"status\""),
    ] {
        let args = args(words);
        let error = args.check(&requested(&args).unwrap()).unwrap_err().error.to_string();
        assert!(error.contains(part), "{words}: {error}");
    }
    for words in [
        "pod web --subresource=status",
        "cm --watch-only --output-watch-events",
        "cm --chunk-size=0",
    ] {
        let args = args(words);
        assert!(args.check(&requested(&args).unwrap()).is_ok(), "{words}");
    }
}

#[test]
fn missing_fields_of_templates_can_be_errors() {
    let store = store();
    let shown = |words: &str| {
        let mut args = args(words);
        args.show.prepare().unwrap();
        let requested = requested(&args).unwrap();
        let listings = read(&Reader::new(store.paths.clone()), &requested, &args.show).unwrap();
        let shown = text(&listings, &requested, &args.show, later());
        shown.map_err(|error| error.to_string())
    };
    assert_eq!(shown("cm a -o jsonpath={.none}"), Ok(String::new()));
    assert_eq!(shown("cm a --template {{.kind}}"), Ok("ConfigMap".to_owned()));
    assert_eq!(
        shown("cm a -o template --template={{.none}}"),
        Ok("<no value>".to_owned())
    );
    assert_eq!(
        shown("cm a -o jsonpath={.none} --allow-missing-template-keys=false"),
        Err("error executing jsonpath \"{.none}\": Error executing template: none is not found".to_owned())
    );
}

#[test]
fn one_named_object_is_printed_alone_and_others_as_a_list() {
    let store = store();
    let names = |words: &str| {
        printed(
            &store.paths,
            &format!("{words} -o jsonpath={{.kind}}:{{.items[*].metadata.name}}"),
        )
    };
    assert_eq!(names("cm a"), "ConfigMap:");
    assert_eq!(names("cm a b"), "List:a b");
    assert_eq!(names("cm/a secret/tls"), "List:a tls");
    assert_eq!(names("cm,secret -n shop"), "List:c");
    assert_eq!(names("cm none"), "");
    assert_eq!(names("sa"), "List:default");
}

#[test]
fn managed_fields_are_shown_on_request() {
    let store = TestStore::new();
    let mut value = config_map("default", "a");
    value["metadata"]["managedFields"] = json!([{ "manager": "me" }]);
    store.add(kinds::named("cm").unwrap(), value);
    assert!(!printed(&store.paths, "cm a -o yaml").contains("managedFields"));
    assert!(printed(&store.paths, "cm a -o yaml --show-managed-fields").contains("manager: me"));
}

#[test]
fn missing_objects_are_named_as_by_kubectl() {
    let store = store();
    let (listings, text) = found(&store.paths, "cm,sc a fast -o name");
    assert_eq!(text, "configmap/a\nstorageclass.storage.k8s.io/fast\n");
    let missing: Vec<String> = listings
        .iter()
        .flat_map(|listing| {
            listing
                .missing
                .iter()
                .map(|name| not_found(listing.kind, &name.name).to_string())
        })
        .collect();
    assert_eq!(
        missing,
        [
            "Error (NotFound): configmaps \"fast\" not found",
            "Error (NotFound): storageclasses.storage.k8s.io \"a\" not found",
        ]
    );
    let (listings, _) = found(&store.paths, "cm ..");
    assert_eq!(listings[0].missing.len(), 1);
    for (words, message) in [
        ("cm", "No resources found in default namespace."),
        ("cm -A", "No resources found"),
        ("cm,ns", "No resources found"),
    ] {
        assert_eq!(requested(&args(words)).unwrap().nothing_found(), message, "{words}");
    }
}

#[test]
fn the_default_namespace_is_always_there() {
    let store = TestStore::new();
    assert_eq!(
        without_ages(&printed(&store.paths, "ns")),
        "NAME      STATUS\ndefault   Active\n"
    );
    assert_eq!(
        printed(&TestStore::new().paths, "ns/default -o name"),
        "namespace/default\n"
    );
}

#[test]
fn missing_and_damaged_pods_are_reported_and_hide_no_other() {
    let pods = TestPods::new();
    let uids = ["a", "b", "c"].map(|name| pods.add(name, &[]));
    std::fs::write(pods.paths.pod_state(&uids[1]).join("status.json"), "{").unwrap();
    let newer = pods.paths.pod_state(&uids[0]).join("pod.json");
    std::fs::write(newer, r#"{"version": 2}"#).unwrap();
    let (all, _) = found(&pods.paths, "pods");
    assert_eq!((all[0].objects.len(), all[0].damaged.len()), (1, 2));

    let (listings, _) = found(&pods.paths, "pods c none b");
    assert_eq!(names(&listings[0]), ["c"]);
    let missing: Vec<&str> = listings[0].missing.iter().map(|name| name.name.as_str()).collect();
    assert_eq!(missing, ["none"]);
    let damaged: Vec<_> = listings[0].damaged.iter().map(ToString::to_string).collect();
    assert!(
        damaged.iter().any(|said| said.contains("status.json is damaged")),
        "{damaged:?}"
    );
}

#[test]
fn objects_are_sorted_by_any_field() {
    let pods = TestPods::new();
    for (name, ip) in [("a", "10.0.0.9"), ("b", "10.0.0.1")] {
        let uid = pods.add(name, &[]);
        pods.set_status(&uid, running(ip));
    }
    pods.add("c", &[]);
    let (listings, _) = found(&pods.paths, "pods -A --sort-by .status.podIP");
    assert_eq!(names(&listings[0]), ["c", "b", "a"]);
    let store = store();
    assert_eq!(
        printed(&store.paths, "secrets --sort-by=.type -o name"),
        "secret/token\nsecret/tls\n"
    );
}

#[test]
fn a_field_to_sort_by_that_no_object_has_is_an_error() {
    let store = store();
    let sorted = |words: &str| {
        let args = args(words);
        let requested = requested(&args).unwrap();
        let listings = read(&Reader::new(store.paths.clone()), &requested, &args.show);
        listings.map(drop).map_err(|error| error.to_string())
    };
    let error = "couldn't find any field with path \"{.metadata.nope}\" in the list of objects";
    for words in [
        "cm --sort-by=.metadata.nope",
        "cm a --sort-by metadata.nope",
        "cm -o name --sort-by={.metadata.nope}",
        "cm,secrets --sort-by=.metadata.nope",
    ] {
        assert_eq!(sorted(words), Err(error.to_owned()), "{words}");
    }
    for words in [
        "pvc --sort-by=.metadata.nope",
        "cm a -o name --sort-by=.metadata.nope",
        "secrets --sort-by=.metadata.labels.app",
    ] {
        assert_eq!(sorted(words), Ok(()), "{words}");
    }
}

#[test]
fn pods_are_sorted_by_a_key_with_dots() {
    let pods = TestPods::new();
    for (name, app) in [("a", "zoo"), ("b", "ant")] {
        pods.add(name, &[("app.kubernetes.io/name", app)]);
    }
    for path in [
        r"{.metadata.labels['app\.kubernetes\.io/name']}",
        r".metadata.labels.app\.kubernetes\.io/name",
        r"{['metadata.labels.app\.kubernetes\.io/name']}",
    ] {
        let (listings, _) = found(&pods.paths, &format!("pods --sort-by {path}"));
        assert_eq!(names(&listings[0]), ["b", "a"], "{path}");
    }
}

#[test]
fn a_hundred_pods_are_listed_with_one_read() {
    let pods = TestPods::new();
    for n in 0..100 {
        let uid = pods.add(&format!("web-{n:03}"), &[("app", "shop")]);
        pods.set_status(&uid, running("10.88.0.5"));
    }
    let start = Instant::now();
    let table = printed(&pods.paths, "pods");
    say!("100 Pods in {:?}", start.elapsed());
    assert_eq!(table.lines().count(), 101);
    assert!(table.lines().skip(1).all(|line| line.contains("1/1     Running")));
}

#[test]
fn a_deleted_pod_has_a_new_generation() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    let mut record = pods.records.get(&uid).unwrap().unwrap();
    record.pod.metadata.generation = Some(1);
    pods.records.save(&record).unwrap();
    let generation = || printed(&pods.paths, "pod web -o jsonpath={.metadata.generation}");
    assert_eq!(generation(), "1");
    let deleted = StatusRecord {
        deletion_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later())),
        ..StatusRecord::pending()
    };
    pods.save_status(&uid, deleted);
    assert_eq!(generation(), "2");
    pods.hide(&uid);
    assert_eq!(generation(), "");
}
