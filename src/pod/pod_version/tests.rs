use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PodStatus;
use microkube_manifest::kinds;
use microkube_store::{Event, Object, Scope, Watch};

use super::*;
use crate::objects::test_store::config_map;
use crate::pod::test_pods::{TestPods, manifest, record_of};

/// Tells the test binary that it is a writer: the directory and the writer's name.
const DIRECTORY: &str = "MICROKUBE_TEST_PODS_DIRECTORY";
const WRITER: &str = "MICROKUBE_TEST_PODS_WRITER";

fn paths(directory: &Path) -> Paths {
    Paths::new(directory.join("state"), directory.join("run"))
}

fn version(object: &Object) -> u64 {
    object.resource_version().map_or(0, |version| version.number())
}

/// `KIND/NAME`
fn name(object: &Object) -> String {
    format!("{}/{}", object.value()["kind"].as_str().unwrap(), object.name())
}

fn types() -> [(microkube_store::Resource, Scope); 2] {
    let config_maps = objects::resource(kinds::named("cm").unwrap());
    [(PODS, Scope::All), (config_maps, Scope::All)]
}

fn watch(store: &Store) -> Watch {
    store.watch_all(&store.list_all(&types()).unwrap()).unwrap()
}

/// `KIND NAME PHASE` of each event. Versions must increase.
fn events(watch: &mut Watch, last: &mut u64) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = watch.try_next().unwrap() {
        let object = event.object();
        assert!(version(object) > *last, "{event:?} after {last}");
        *last = version(object);
        let kind = match event {
            Event::Added(_) => "added",
            Event::Modified(_) => "modified",
            Event::Deleted(_) => "deleted",
        };
        let phase = object.value().pointer("/status/phase").and_then(|phase| phase.as_str());
        events.push(format!("{kind} {} {}", name(object), phase.unwrap_or("-")));
    }
    events
}

#[test]
fn versions_come_from_the_counter_of_all_objects() {
    let pods = TestPods::new();
    let number = |name: &str| {
        let mut record = record_of(&manifest(name, "nginx:1", "sleep"));
        drop(PodVersions::new(&pods.paths).create(&mut record).unwrap());
        record.pod.metadata.resource_version.unwrap().parse::<u64>().unwrap()
    };
    let (first, second) = (number("a"), number("b"));
    let store = objects::open(&pods.paths).unwrap();
    let [_, (config_maps, _)] = types();
    let created = store
        .create(&config_maps, Object::new(config_map("default", "a")).unwrap())
        .unwrap();
    assert!(
        first < second && second < version(&created),
        "{first} {second} {created:?}"
    );
}

#[test]
fn the_life_of_a_pod_is_in_the_watch_of_all_objects() {
    let pods = TestPods::new();
    let store = objects::open(&pods.paths).unwrap();
    let mut watch = watch(&store);
    let mut last = 0;
    let uid = pods.add("web", &[]);
    assert_eq!(events(&mut watch, &mut last), ["added Pod/web Pending"]);
    let [_, (config_maps, _)] = types();
    store
        .create(&config_maps, Object::new(config_map("default", "a")).unwrap())
        .unwrap();
    pods.set_status(&uid, serde_json::json!({ "phase": "Running" }));
    assert_eq!(
        events(&mut watch, &mut last),
        ["added ConfigMap/a -", "modified Pod/web Running"]
    );
    let versions = PodVersions::new(&pods.paths);
    let mut record = pods.records.get(&uid).unwrap().unwrap();
    record
        .pod
        .metadata
        .labels
        .get_or_insert_default()
        .insert("app".to_owned(), "shop".to_owned());
    versions.save(&mut record).unwrap();
    assert_eq!(events(&mut watch, &mut last), ["modified Pod/web Running"]);
    let found = store.get(&PODS, &Key::namespaced("default", "web")).unwrap();
    assert_eq!(found.value()["metadata"]["labels"]["app"], "shop");
    assert_eq!(record.pod.metadata.resource_version, Some(version(&found).to_string()));
    pods.hide(&uid);
    assert_eq!(events(&mut watch, &mut last), ["deleted Pod/web Running"]);
    // What its supervisor still does is not seen.
    pods.set_status(&uid, serde_json::json!({ "phase": "Failed" }));
    let other = pods.add("web", &[]);
    pods.remove(&uid);
    assert_eq!(events(&mut watch, &mut last), ["added Pod/web Pending"]);
    pods.remove(&other);
    assert_eq!(events(&mut watch, &mut last), ["deleted Pod/web Pending"]);
}

#[test]
fn a_pod_without_a_store_lives_and_ends() {
    let pods = TestPods::new();
    std::fs::create_dir_all(pods.paths.state_dir()).unwrap();
    std::fs::write(pods.paths.objects(), "no directory").unwrap();
    let uid = pods.add("web", &[]);
    pods.set_status(&uid, serde_json::json!({ "phase": "Running" }));
    pods.remove(&uid);
    assert!(pods.records.is_gone(&uid));
}

/// Not a test by itself: what each writer runs. It does with its Pods what their supervisors and the sweep do.
#[test]
fn writer() {
    let (Ok(directory), Ok(writer)) = (std::env::var(DIRECTORY), std::env::var(WRITER)) else {
        return;
    };
    let paths = paths(Path::new(&directory));
    let (versions, records) = (PodVersions::new(&paths), PodRecords::new(paths));
    for round in 0_u32.. {
        let name = format!("{writer}-{}", round % 2);
        // A Pod whose owner was killed while it was created or removed.
        for uid in records.uids().unwrap() {
            if records.get(&uid).unwrap().is_none()
                && let Some(_lock) = records.claim(&uid).unwrap()
                && records.get(&uid).unwrap().is_none()
            {
                versions.remove(&uid).unwrap();
            }
        }
        let Some(mut record) = records.find("default", &name).unwrap() else {
            let mut record = record_of(&manifest(&name, "nginx:1", "sleep"));
            record.detached = true;
            drop(versions.create(&mut record).unwrap());
            continue;
        };
        let Some(_lock) = records.claim(&record.uid).unwrap() else {
            continue;
        };
        let status = |phase: &str| StatusRecord {
            status: PodStatus {
                phase: Some(phase.to_owned()),
                ..PodStatus::default()
            },
            ..StatusRecord::default()
        };
        versions.save_status(&record, status("Running")).unwrap();
        versions.save(&mut record).unwrap();
        if round % 5 == 0 {
            versions.hide(&record.uid).unwrap();
        }
        if round % 3 != 0 {
            versions.save_status(&record, status("Succeeded")).unwrap();
            versions.remove(&record.uid).unwrap();
        }
    }
}

fn start(directory: &Path, writer: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pod::pod_version::tests::writer", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(WRITER, writer)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The objects as the events describe them. Versions must only increase.
fn follow(watch: &mut Watch, known: &mut BTreeMap<String, u64>, last: &mut u64) -> usize {
    let mut count = 0;
    while let Some(event) = watch.try_next().unwrap() {
        let at = version(event.object());
        assert!(at > *last, "{event:?} after {last}");
        *last = at;
        let fits = match &event {
            Event::Added(object) => known.insert(name(object), at).is_none(),
            Event::Modified(object) => known.insert(name(object), at).is_some(),
            Event::Deleted(object) => known.remove(&name(object)).is_some(),
        };
        assert!(fits, "an event that does not fit: {event:?}");
        count += 1;
    }
    count
}

fn all(store: &Store) -> (BTreeMap<String, u64>, u64, Vec<microkube_store::List>) {
    let lists = store.list_all(&types()).unwrap();
    assert!(lists.iter().all(|list| list.damaged.is_empty()), "{lists:?}");
    let items = lists.iter().flat_map(|list| &list.items);
    let known = items.map(|object| (name(object), version(object))).collect();
    (known, lists[0].resource_version.number(), lists)
}

#[test]
fn lists_and_watches_agree_while_writers_of_pods_are_killed() {
    let memory = Path::new("/dev/shm");
    let directory = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let paths = paths(directory.path());
    paths.create().unwrap();
    let store = objects::open(&paths).unwrap();
    let mut first = watch(&store);
    let (mut known, mut last) = (BTreeMap::new(), 0);
    let names = ["w0", "w1", "w2"];
    let mut writers: Vec<Child> = names.iter().map(|name| start(directory.path(), name)).collect();
    let until = Instant::now() + Duration::from_secs(3);
    let mut count = 0;
    while Instant::now() < until || count < 20 {
        // The moment is random enough: it depends on the scheduler.
        let random = uuid::Uuid::new_v4().as_u128();
        std::thread::sleep(Duration::from_millis((random % 40) as u64 + 60));
        let victim = (random >> 64) as usize % names.len();
        writers[victim].kill().unwrap();
        writers[victim].wait().unwrap();
        writers[victim] = start(directory.path(), names[victim]);
        count += follow(&mut first, &mut known, &mut last);
        // A list that is made now, and the watch from there, have no gap and no repetition.
        let (mut listed, mut at, lists) = all(&store);
        assert!(
            listed.values().all(|version| *version <= at),
            "newer than {at}: {listed:?}"
        );
        let mut next = store.watch_all(&lists).unwrap();
        follow(&mut next, &mut listed, &mut at);
    }
    for mut writer in writers {
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    follow(&mut first, &mut known, &mut last);
    assert_eq!(all(&store).0, known, "the watch and the list agree");
}
