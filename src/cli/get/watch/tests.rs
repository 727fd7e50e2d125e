use microkube_manifest::kinds;
use microkube_store::{Deletion, StoreError};

use super::super::super::pods::test_pods::TestPods;
use super::super::tests::{args, later, requested, running};
use super::*;
use crate::objects::resource;
use crate::objects::test_store::{TestStore, config_map};
use crate::state::StatusRecord;

/// The text for all changes since the last call.
fn next(watch: &mut ObjectWatch<'_>, output: &mut Output<'_>) -> String {
    let mut text = String::new();
    while let Some(event) = watch.watch.try_next().unwrap() {
        text += &output.text(watch.after(&event).as_slice()).unwrap();
    }
    text
}

#[test]
fn a_watch_shows_every_change_once_and_a_deleted_pod_one_last_time() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    let args = args("pods -w");
    let requested = requested(&args).unwrap();
    let (mut watch, first) = ObjectWatch::start(&Reader::new(pods.paths.clone()), &requested, &args).unwrap();
    let mut output = Output::new(&requested, &args);
    assert_eq!(output.text(&first).unwrap().lines().count(), 2);
    let mut next = || next(&mut watch, &mut output);
    pods.set_status(&uid, running("10.88.0.5"));
    let line = next();
    assert!(line.starts_with("web    1/1     Running   0          "), "{line:?}");
    assert_eq!(line.lines().count(), 1);
    assert_eq!(next(), "");
    pods.add("a-longer-name", &[]);
    assert!(next().starts_with("a-longer-name   0/1     Pending   0 "));
    pods.remove(&uid);
    assert!(next().starts_with("web             1/1     Running"));
}

#[test]
fn a_force_deleted_pod_is_shown_one_last_time() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    let deleted = StatusRecord {
        deletion_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later())),
        ..StatusRecord::pending()
    };
    pods.save_status(&uid, deleted);
    let args = args("pods --watch-only -o jsonpath={.metadata.deletionTimestamp}");
    let requested = requested(&args).unwrap();
    let (mut watch, first) = ObjectWatch::start(&Reader::new(pods.paths.clone()), &requested, &args).unwrap();
    assert!(first.is_empty());
    let mut output = Output::new(&requested, &args);
    pods.hide(&uid);
    assert!(next(&mut watch, &mut output).starts_with("20"));
    pods.set_status(&uid, running("10.88.0.5"));
    assert_eq!(next(&mut watch, &mut output), "");
}

#[test]
fn several_kinds_are_watched_together_each_with_its_columns() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    let store = crate::objects::open(&pods.paths).unwrap();
    let config_maps = resource(kinds::named("cm").unwrap());
    let args = args("pods,cm -w");
    let requested = requested(&args).unwrap();
    let (mut watch, first) = ObjectWatch::start(&Reader::new(pods.paths.clone()), &requested, &args).unwrap();
    let mut output = Output::new(&requested, &args);
    let first = output.text(&first).unwrap();
    assert!(
        first.starts_with("NAME      READY ") && first.contains("\npod/web   0/1 "),
        "{first}"
    );
    let create = |name: &str| {
        let object = Object::new(config_map("default", name)).unwrap();
        store.create(&config_maps, object).unwrap();
    };
    create("a");
    create("b");
    pods.set_status(&uid, running("10.88.0.5"));
    let text = next(&mut watch, &mut output);
    let first_words: Vec<_> = text.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(
        first_words,
        ["", "NAME", "configmap/a", "configmap/b", "", "NAME", "pod/web"]
    );
}

#[test]
fn changes_of_objects_are_shown_until_they_are_deleted_or_no_longer_selected() {
    let store = TestStore::new();
    let kind = kinds::named("configmaps").unwrap();
    let labelled = |name: &str, value: &str| {
        let mut object = config_map("default", name);
        object["metadata"]["labels"] = json!({ "app": value });
        object
    };
    store.add(kind, labelled("a", "web"));
    store.add(kind, config_map("default", "other"));
    let args = args("cm -w -l app=web");
    let requested = requested(&args).unwrap();
    let reader = Reader::new(store.paths.clone());
    let (mut watch, first) = ObjectWatch::start(&reader, &requested, &args).unwrap();
    let mut output = Output::new(&requested, &args);
    let first = output.text(&first).unwrap();
    assert!(first.starts_with("NAME   DATA   AGE\na      1      "), "{first}");

    let modify = |name: &str, new: Value| {
        let key = Key::namespaced("default", name);
        let change = |_: &Object| Ok(Some(Object::new(new.clone())?));
        store.modify::<StoreError>(&resource(kind), &key, change).unwrap();
    };
    let mut next = || {
        let mut shown = Vec::new();
        while let Some(event) = watch.watch.try_next().unwrap() {
            if let Some(Shown { object, .. }) = watch.after(&event) {
                let data = object["data"].as_object().unwrap().len();
                shown.push(format!("{} {data}", object["metadata"]["name"].as_str().unwrap()));
            }
        }
        shown
    };
    store.add(kind, config_map("default", "unrelated"));
    assert_eq!(next(), [""; 0]);
    store.add(kind, labelled("b", "web"));
    let mut more = labelled("a", "web");
    more["data"] = json!({ "x": "1", "y": "2" });
    modify("a", more);
    assert_eq!(next(), ["b 1", "a 2"]);
    modify("b", labelled("b", "gone"));
    assert_eq!(next(), ["b 1"]);
    modify("b", labelled("b", "still gone"));
    assert_eq!(next(), [""; 0]);
    store
        .delete(&resource(kind), &Key::namespaced("default", "a"), &Deletion::default())
        .unwrap();
    assert_eq!(next(), ["a 2"]);
}

#[test]
fn events_can_be_shown_with_the_objects() {
    let store = TestStore::new();
    let kind = kinds::named("configmaps").unwrap();
    store.add(kind, config_map("default", "a"));
    let shown = |words: &str| {
        let args = args(words);
        let requested = requested(&args).unwrap();
        let (mut watch, first) = ObjectWatch::start(&Reader::new(store.paths.clone()), &requested, &args).unwrap();
        let mut output = Output::new(&requested, &args);
        let first = output.text(&first).unwrap();
        store.add(kind, config_map("default", "b"));
        let added = next(&mut watch, &mut output);
        let key = Key::namespaced("default", "b");
        store.delete(&resource(kind), &key, &Deletion::default()).unwrap();
        first + &added + &next(&mut watch, &mut output)
    };
    let table = shown("cm -w --output-watch-events --no-headers");
    let words: Vec<_> = table
        .lines()
        .map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(words, ["ADDED a", "ADDED b", "DELETED b"]);
    let json = shown("cm -w --output-watch-events -o json");
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["type"].as_str().unwrap(),
                event["object"]["metadata"]["name"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(names, [("ADDED", "a"), ("ADDED", "b"), ("DELETED", "b")]);
    assert!(json.starts_with("{\"type\":\"ADDED\",\"object\":{"), "{json}");
    let yaml = shown("cm -w --output-watch-events -o yaml");
    assert!(yaml.starts_with("---\nobject:\n  apiVersion: v1\n"), "{yaml}");
    assert!(yaml.ends_with("type: DELETED\n"), "{yaml}");
}

#[test]
fn a_watch_of_a_missing_object_fails() {
    let store = TestStore::new();
    let args = args("cm a -w");
    let requested = requested(&args).unwrap();
    let reader = Reader::new(store.paths.clone());
    let failure = ObjectWatch::start(&reader, &requested, &args).err().unwrap();
    assert_eq!(
        failure.error.to_string(),
        "Error (NotFound): configmaps \"a\" not found"
    );
}
