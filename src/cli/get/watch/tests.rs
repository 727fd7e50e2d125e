use std::time::{Duration, Instant};

use microkube_manifest::kinds;
use microkube_store::Deletion;
use serde_json::json;

use super::super::super::pods::test_pods::TestPods;
use super::super::tests::{args, later, requested, running};
use super::*;
use crate::objects::resource;
use crate::objects::test_store::{TestStore, config_map};
use crate::state::StatusRecord;

fn deadline() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

fn pods_kind() -> &'static Kind {
    kinds::named("pods").unwrap()
}

#[test]
fn a_watch_shows_every_change_once_and_a_deleted_pod_one_last_time() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    let args = args("pods -w");
    let requested = requested(&args).unwrap();
    let mut changes = Changes::of(&pods.paths).unwrap();
    let scope = requested.pods(&requested.groups[0]);
    let (mut watch, first) = PodWatch::start(pods.records.clone(), scope, &requested, &args).unwrap();
    let mut output = Output::new(pods_kind(), &requested, &args);
    assert_eq!(output.text(&first).unwrap().lines().count(), 2);
    let mut next = || {
        let shown = watch.after(&changes.wait(deadline(), &[]).unwrap()).unwrap();
        output.text(&shown).unwrap()
    };
    pods.set_status(&uid, running("10.88.0.5"));
    let line = next();
    assert!(line.starts_with("web    1/1     Running   0          "), "{line:?}");
    assert_eq!(line.lines().count(), 1);
    pods.set_status(&uid, running("10.88.0.5"));
    assert_eq!(next(), "");
    pods.add("a-longer-name", &[]);
    assert!(next().starts_with("a-longer-name   0/1     Pending   0 "));
    pods.records.remove(&uid).unwrap();
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
    pods.records.save_status(&uid, &deleted).unwrap();
    let args = args("pods --watch-only");
    let requested = requested(&args).unwrap();
    let mut changes = Changes::of(&pods.paths).unwrap();
    let scope = requested.pods(&requested.groups[0]);
    let (mut watch, first) = PodWatch::start(pods.records.clone(), scope, &requested, &args).unwrap();
    assert_eq!(first, Vec::<Value>::new());
    let mut next = || watch.after(&changes.wait(deadline(), &[]).unwrap()).unwrap();
    pods.records.hide(&uid).unwrap();
    let shown = next();
    assert_eq!(shown.len(), 1);
    assert!(shown[0]["metadata"]["deletionTimestamp"].is_string());
    pods.set_status(&uid, running("10.88.0.5"));
    assert_eq!(next(), Vec::<Value>::new());
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
    let (mut watch, first) = ObjectWatch::start(&reader, &requested.groups[0], &requested, &args).unwrap();
    let mut output = Output::new(kind, &requested, &args);
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
            for object in watch.after(Some(&event)) {
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
fn a_watch_of_a_missing_object_fails() {
    let store = TestStore::new();
    let args = args("cm a -w");
    let requested = requested(&args).unwrap();
    let reader = Reader::new(store.paths.clone());
    let failure = ObjectWatch::start(&reader, &requested.groups[0], &requested, &args)
        .err()
        .unwrap();
    assert_eq!(
        failure.error.to_string(),
        "Error (NotFound): configmaps \"a\" not found"
    );
}
