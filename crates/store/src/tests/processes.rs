//! Several processes write at the same time, and are killed at random moments. The processes write objects in the
//! store's files and elsewhere.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::kept_records::open_with_records;
use super::{data, directory, key, version};
use crate::error::StoreError;
use crate::list::List;
use crate::object::Object;
use crate::resource::Scope;
use crate::store::Store;
use crate::test_types::{config_map, config_maps, object, pods};
use crate::watch::{Event, Watch};
use crate::write::Deletion;

/// Tells the test binary that it is a writer: the store's directory and the writer's name.
const DIRECTORY: &str = "MICROKUBE_TEST_STORE_DIRECTORY";
const WRITER: &str = "MICROKUBE_TEST_STORE_WRITER";
const COUNTED: &str = "counted";

/// Runs as the code of each writer process. Tests nothing when run alone.
#[test]
fn writer() {
    let (Ok(directory), Ok(name)) = (std::env::var(DIRECTORY), std::env::var(WRITER)) else {
        return;
    };
    let (store, records) = open_with_records(Path::new(&directory));
    let mut own = 0;
    loop {
        // Each writer has its own count in the object that all write.
        let mut count = 0;
        let counted = store
            .modify(&config_maps(), &key(COUNTED), |current| {
                let mut value = current.clone().into_value();
                count = value["data"][&name]
                    .as_str()
                    .map_or(0, |count| count.parse::<u64>().unwrap())
                    + 1;
                value["data"][&name] = count.to_string().into();
                Ok::<_, StoreError>(Some(object(value)))
            })
            .unwrap();
        say(&format!("counted {count} {}", version(counted.object())));
        own += 1;
        let own_name = format!("{name}-{}", own % 3);
        let written = match store.create(&config_maps(), config_map(&own_name, &own.to_string())) {
            Ok(created) => created,
            Err(error) if error.is_already_exists() => store
                .delete(&config_maps(), &key(&own_name), &Deletion::default())
                .unwrap()
                .into_object(),
            Err(error) => panic!("{error}"),
        };
        say(&format!("wrote {}", version(&written)));
        // Like a supervisor: only this process writes these objects, and changes each several times until it removes
        // it.
        let pod = format!("{name}-pod-{}", own % 4);
        let existing = store.find(&pods(), &key(&pod)).unwrap();
        let uid = existing.map_or_else(|| uuid::Uuid::new_v4().to_string(), |pod| pod.uid().to_owned());
        let text = (own % 3 != 0 || !records.exists(&uid)).then(|| own.to_string());
        say(&format!("wrote {}", records.write(&store, &pod, &uid, text.as_deref())));
    }
}

fn say(line: &str) {
    // A single write, so that a killed writer leaves no part of a line that looks complete.
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn start(directory: &Path, name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::processes::writer", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(WRITER, name)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The report of a writer before it was killed.
struct Report {
    /// The last count that was acknowledged.
    count: u64,
    /// All versions that were acknowledged.
    versions: Vec<u64>,
}

/// Kills the writer and reads its report.
fn end(mut writer: Child) -> Report {
    writer.kill().unwrap();
    let mut report = Report {
        count: 0,
        versions: Vec::new(),
    };
    let mut unknown = Vec::new();
    for line in BufReader::new(writer.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["counted", count, version] => {
                report.count = count.parse().unwrap();
                report.versions.push(version.parse().unwrap());
            }
            ["wrote", version] => report.versions.push(version.parse().unwrap()),
            _ => unknown.push(line),
        }
    }
    writer.wait().unwrap();
    assert!(unknown.is_empty(), "{unknown:#?}");
    report
}

/// The objects that result from the events. Versions must only increase.
fn follow(watch: &mut Watch, known: &mut BTreeMap<String, u64>, last: &mut u64) {
    while let Some(event) = watch.try_next().unwrap() {
        let at = version(event.object());
        assert!(at > *last, "{at} after {last}");
        *last = at;
        let name = name(event.object());
        let before = match event {
            Event::Added(_) => known.insert(name, at).is_none(),
            Event::Modified(_) => known.insert(name, at).is_some(),
            Event::Deleted(_) => known.remove(&name).is_some(),
        };
        assert!(before, "an event that does not fit: {at}");
    }
}

/// `KIND/NAME`
fn name(object: &Object) -> String {
    format!("{}/{}", object.value()["kind"].as_str().unwrap(), object.name())
}

fn all_types(store: &Store) -> Vec<List> {
    let types = [(config_maps(), Scope::All), (pods(), Scope::All)];
    store.list_all(&types).unwrap()
}

/// Names and versions of all objects. None may be damaged.
fn all(store: &Store) -> Vec<(String, u64)> {
    let lists = all_types(store);
    assert!(lists.iter().all(|list| list.damaged.is_empty()), "{lists:?}");
    let items = lists.iter().flat_map(|list| &list.items);
    items.map(|object| (name(object), version(object))).collect()
}

/// Follows objects from lists that are made while others write. No change between a list and its watch may be missed or
/// repeated.
fn follow_from_new_lists(store: &Store, until: Instant) {
    while Instant::now() < until {
        let lists = all_types(store);
        let listed = lists[0].resource_version.number();
        let items = lists.iter().flat_map(|list| &list.items);
        let mut known: BTreeMap<String, u64> = items.map(|object| (name(object), version(object))).collect();
        assert!(known.values().all(|version| *version <= listed), "newer than {listed}");
        let mut watch = store.watch_all(&lists).unwrap();
        let mut last = listed;
        for _ in 0..5 {
            follow(&mut watch, &mut known, &mut last);
        }
    }
}

fn kill_writers_at_random(seconds: u64, store: &Store, directory: &Path) {
    let counted = object(json!({"metadata": {"namespace": "default", "name": COUNTED}, "data": {"key": "x"}}));
    let mut last = version(&store.create(&config_maps(), counted).unwrap());
    let mut watch = store.watch_all(&all_types(store)).unwrap();
    let mut known = BTreeMap::from([(format!("ConfigMap/{COUNTED}"), last)]);

    let names = ["w0", "w1", "w2", "w3"];
    let mut writers: Vec<Option<Child>> = names.iter().map(|name| Some(start(directory, name))).collect();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut kills: BTreeMap<&str, u64> = BTreeMap::new();
    let mut versions = Vec::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    let other = store.clone();
    let following = std::thread::spawn(move || follow_from_new_lists(&other, until));
    let mut note = |name, report: Report| {
        if report.count > 0 {
            counts.insert(name, report.count);
        }
        *kills.entry(name).or_default() += 1;
        versions.extend(report.versions);
    };
    while Instant::now() < until {
        // The moment is random enough, because it depends on the scheduler.
        let random = uuid::Uuid::new_v4().as_u128();
        std::thread::sleep(Duration::from_millis((random % 40) as u64 + 20));
        let victim = (random >> 64) as usize % names.len();
        if let Some(writer) = writers[victim].take() {
            note(names[victim], end(writer));
        }
        writers[victim] = Some(start(directory, names[victim]));
        follow(&mut watch, &mut known, &mut last);
    }
    for (name, writer) in names.iter().zip(writers) {
        note(name, end(writer.unwrap()));
    }
    following.join().unwrap();

    follow(&mut watch, &mut known, &mut last);
    let objects = all(store);
    let expected: Vec<_> = known.into_iter().collect();
    assert_eq!(objects, expected, "the watch and the list agree");
    let answered = versions.len();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), answered, "no version was used twice");
    assert!(answered > 20, "only {answered} writes");
    let object = store.get(&config_maps(), &key(COUNTED)).unwrap();
    for (name, answered) in counts {
        let count: u64 = object.value()["data"][name].as_str().unwrap().parse().unwrap();
        // Each kill may have hit a writer between its write and its report.
        let most = answered + kills[name];
        assert!(
            (answered..=most).contains(&count),
            "{name}: {count}, but {answered} were answered"
        );
    }
    let newest: u64 = *versions.last().unwrap();
    let next = store.create(&config_maps(), config_map("last", "1")).unwrap();
    assert!(version(&next) > newest);
    assert_eq!(data(&Object::clone(&next)), "1");
}

#[test]
fn killed_writers_lose_no_update_and_tear_no_file() {
    let directory = directory();
    let (store, _records) = open_with_records(directory.path());
    kill_writers_at_random(3, &store, directory.path());
    store.sweep().unwrap();
    assert!(all(&store).iter().any(|(name, _)| name.ends_with(COUNTED)));
}
