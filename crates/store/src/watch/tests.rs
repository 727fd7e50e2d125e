use std::path::Path;

use serde_json::json;

use super::*;
use crate::error::StoreError;
use crate::journal::Change;
use crate::resource::Scope;
use crate::test_types::{config_map, config_maps, deployments, object};
use crate::tests::{bucket_path, key, open, store};
use crate::write::Deletion;

fn watch(store: &Store) -> Watch {
    store.watch(&list(store)).unwrap()
}

fn list(store: &Store) -> List {
    store.list(&config_maps(), &Scope::All).unwrap()
}

fn create(store: &Store, name: &str, text: &str) {
    store.create(&config_maps(), config_map(name, text)).unwrap();
}

fn update(store: &Store, name: &str, text: &str) {
    store.update(&config_maps(), config_map(name, text)).unwrap();
}

fn delete(store: &Store, name: &str) {
    store.delete(&config_maps(), &key(name), &Deletion::default()).unwrap();
}

/// `KIND NAME VERSION TEXT`
fn text(event: &Event) -> String {
    let kind = match event {
        Event::Added(_) => "added",
        Event::Modified(_) => "modified",
        Event::Deleted(_) => "deleted",
    };
    let object = event.object();
    let version = object.resource_version().unwrap();
    let data = object.value()["data"]["key"].as_str().unwrap_or_default();
    format!("{kind} {} {version} {data}", object.name())
}

fn events(watch: &mut Watch) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = watch.try_next().unwrap() {
        events.push(text(&event));
    }
    events
}

fn is_readable(watch: &Watch) -> bool {
    let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).unwrap() > 0
}

#[test]
fn changes_since_the_list_are_reported_once_in_their_order() {
    let (_directory, store) = store();
    create(&store, "a", "1");
    let before = list(&store);
    create(&store, "b", "1");
    let mut watch = store.watch(&before).unwrap();
    assert_eq!(events(&mut watch), ["added b 3 1"]);
    update(&store, "a", "2");
    delete(&store, "b");
    assert_eq!(events(&mut watch), ["modified a 4 2", "deleted b 5 1"]);
    assert!(events(&mut watch).is_empty());
    assert_eq!(watch.resource_version().number(), 5);
}

#[test]
fn changes_of_one_object_are_merged() {
    let (_directory, store) = store();
    create(&store, "a", "1");
    create(&store, "b", "1");
    let mut watch = watch(&store);
    update(&store, "b", "2");
    update(&store, "a", "2");
    update(&store, "b", "3");
    assert_eq!(events(&mut watch), ["modified a 5 2", "modified b 6 3"]);
    create(&store, "c", "1");
    delete(&store, "c");
    assert!(events(&mut watch).is_empty(), "it was never seen");
    delete(&store, "a");
    create(&store, "a", "new");
    assert_eq!(events(&mut watch), ["deleted a 9 2", "added a 10 new"]);
    delete(&store, "a");
    create(&store, "a", "x");
    delete(&store, "a");
    assert_eq!(events(&mut watch), ["deleted a 13 new"]);
}

#[test]
fn other_types_and_namespaces_are_not_reported() {
    let (_directory, store) = store();
    let scope = Scope::Namespace("other".to_owned());
    let list = store.list(&config_maps(), &scope).unwrap();
    let mut watch = store.watch(&list).unwrap();
    create(&store, "a", "1");
    let elsewhere = object(json!({"metadata": {"namespace": "other", "name": "a"}}));
    store.create(&deployments(), elsewhere.clone()).unwrap();
    assert!(events(&mut watch).is_empty());
    store.create(&config_maps(), elsewhere).unwrap();
    assert_eq!(events(&mut watch), ["added a 4 "]);
}

#[test]
fn writes_without_a_change_are_not_reported() {
    let (_directory, store) = store();
    create(&store, "a", "1");
    let mut watch = watch(&store);
    update(&store, "a", "1");
    store.dry_run().update(&config_maps(), config_map("a", "2")).unwrap();
    assert!(events(&mut watch).is_empty());
    assert!(!is_readable(&watch));
}

/// The state after a writer is killed between its line in the journal and its change.
fn announce(store: &Store, name: &str, deleted: bool) {
    let mut locked = store.lock(Sharing::Exclusive).unwrap();
    let change = |version| Change {
        version,
        resource: "configmaps".to_owned(),
        namespace: Some("default".to_owned()),
        name: name.to_owned(),
        uid: None,
        deleted,
    };
    locked.next_version(change).unwrap();
}

#[test]
fn a_change_that_a_killed_writer_announced_is_not_reported() {
    let (_directory, store) = store();
    create(&store, "a", "1");
    let mut watch = watch(&store);
    for (name, deleted) in [("a", false), ("a", true), ("b", false)] {
        announce(&store, name, deleted);
    }
    assert!(events(&mut watch).is_empty());
    update(&store, "a", "2");
    assert_eq!(events(&mut watch), ["modified a 6 2"]);
    delete(&store, "a");
    assert_eq!(events(&mut watch), ["deleted a 7 2"]);
}

#[test]
fn a_removal_that_a_killed_writer_announced_does_not_end_a_later_object() {
    let (_directory, store) = store();
    create(&store, "a", "1");
    let mut watch = watch(&store);
    announce(&store, "a", true);
    delete(&store, "a");
    create(&store, "a", "new");
    announce(&store, "a", true);
    assert_eq!(events(&mut watch), ["deleted a 4 1", "added a 5 new"]);
    announce(&store, "a", true);
    update(&store, "a", "newer");
    assert_eq!(events(&mut watch), ["modified a 8 newer"]);
}

#[test]
fn the_descriptor_is_readable_while_there_may_be_changes() {
    let (directory, store) = store();
    let mut watch = watch(&store);
    let other = open(directory.path());
    for round in 0..3 {
        assert!(!is_readable(&watch));
        create(&other, &format!("a{round}"), "1");
        assert!(is_readable(&watch));
        assert_eq!(events(&mut watch).len(), 1);
    }
    let soon = Some(Instant::now() + Duration::from_millis(20));
    assert!(watch.next_until(soon).unwrap().is_none());
    assert!(Some(Instant::now()) >= soon);
}

#[test]
fn the_iterator_waits_for_other_threads() {
    let (_directory, store) = store();
    let watch = watch(&store);
    let names: Vec<String> = (0..20).map(|number| format!("a{number}")).collect();
    let seen: Vec<String> = std::thread::scope(|scope| {
        scope.spawn(|| names.iter().for_each(|name| create(&store, name, "1")));
        watch
            .take(names.len())
            .map(|event| event.unwrap().object().name().to_owned())
            .collect()
    });
    assert_eq!(seen, names);
}

#[test]
fn many_changed_objects_are_reported_in_order() {
    let (_directory, store) = store();
    let mut watch = watch(&store);
    for number in 0..3 * BATCH {
        create(&store, &format!("a{}", number % 150), "1");
        if number.is_multiple_of(7) {
            update(&store, "a0", &number.to_string());
        }
        if number == 2 * BATCH {
            break;
        }
    }
    let mut known = BTreeMap::new();
    let mut last = 0;
    while let Some(event) = watch.try_next().unwrap() {
        let version = event.object().resource_version().unwrap().number();
        assert!(version > last);
        last = version;
        known.insert(event.object().name().to_owned(), version);
    }
    let expected: BTreeMap<_, _> = list(&store)
        .items
        .iter()
        .map(|object| (object.name().to_owned(), object.resource_version().unwrap().number()))
        .collect();
    assert_eq!(known, expected);
}

/// Loses the journal, as if a process had removed the directory.
fn lose_journal(directory: &Path) {
    std::fs::remove_dir_all(directory.join("run")).unwrap();
}

#[test]
fn after_a_gap_the_difference_to_what_was_reported_is() {
    let (directory, store) = store();
    for name in ["changed", "deleted", "recreated", "same"] {
        create(&store, name, "1");
    }
    let mut watch = watch(&store);
    update(&store, "changed", "2");
    delete(&store, "deleted");
    delete(&store, "recreated");
    lose_journal(directory.path());
    create(&store, "recreated", "2");
    create(&store, "added", "1");
    assert_eq!(
        events(&mut watch),
        [
            "modified changed 6 2",
            "deleted recreated 1025 1",
            "added recreated 1026 2",
            "added added 1027 1",
            "deleted deleted 1027 1"
        ]
    );
    update(&store, "same", "2");
    assert_eq!(events(&mut watch), ["modified same 1028 2"]);
    assert!(!is_readable(&watch));
    create(&store, "later", "1");
    assert!(is_readable(&watch), "the new directory is watched");
}

#[test]
fn a_list_from_before_the_journal_is_compared_with_the_present() {
    let (directory, store) = store();
    create(&store, "a", "1");
    create(&store, "b", "1");
    let before = list(&store);
    delete(&store, "a");
    lose_journal(directory.path());
    let mut watch = store.watch(&before).unwrap();
    assert_eq!(events(&mut watch), ["deleted a 1025 1"]);
}

#[test]
fn an_object_that_cannot_be_read_is_an_error_and_the_watch_continues() {
    let (directory, store) = store();
    create(&store, "a", "1");
    create(&store, "b", "1");
    let mut watch = watch(&store);
    update(&store, "a", "2");
    let path = bucket_path(directory.path(), "a").join("a%4.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "torn").unwrap();
    update(&store, "b", "2");
    assert_eq!(text(&watch.try_next().unwrap().unwrap()), "modified b 5 2");
    assert!(matches!(watch.try_next().unwrap_err(), StoreError::Damaged { .. }));
    assert!(events(&mut watch).is_empty());
    lose_journal(directory.path());
    assert!(matches!(watch.try_next().unwrap_err(), StoreError::Damaged { .. }));
    assert!(
        events(&mut watch).is_empty(),
        "it may exist, so it is not reported as deleted"
    );
    std::fs::write(&path, whole).unwrap();
    update(&store, "a", "3");
    assert_eq!(events(&mut watch), ["modified a 1026 3"]);
}

#[test]
fn an_object_that_was_replaced_by_hand_is_reported_as_deleted_and_added() {
    let (directory, store) = store();
    create(&store, "a", "1");
    create(&store, "b", "1");
    let mut watch = watch(&store);
    std::fs::remove_file(bucket_path(directory.path(), "a").join("a%2.json")).unwrap();
    create(&store, "a", "new");
    assert_eq!(events(&mut watch), ["deleted a 3 1", "added a 4 new"]);
}

#[test]
fn a_watch_of_versions_reports_the_same_changes_and_keeps_no_content() {
    let (directory, store) = store();
    create(&store, "a", "secret-1");
    let before = list(&store);
    let mut versions = store.watch_versions(&before).unwrap();
    let mut watch = store.watch(&before).unwrap();
    let mut compare = |count| {
        let mut without_content = Vec::new();
        while let Some(event) = watch.try_next().unwrap() {
            without_content.push(match event {
                Event::Added(object) => Event::Added(ObjectVersion::of(object)),
                Event::Modified(object) => Event::Modified(ObjectVersion::of(object)),
                Event::Deleted(object) => Event::Deleted(ObjectVersion::of(object)),
            });
        }
        let mut events = Vec::new();
        while let Some(event) = versions.try_next().unwrap() {
            events.push(event);
        }
        assert_eq!(events, without_content);
        assert_eq!(events.len(), count);
        let kept = format!("{versions:?}");
        assert!(!kept.contains("secret"), "{kept}");
    };
    create(&store, "b", "secret-2");
    update(&store, "a", "secret-3");
    compare(2);
    delete(&store, "a");
    create(&store, "a", "secret-4");
    compare(2);
    update(&store, "b", "secret-5");
    delete(&store, "a");
    lose_journal(directory.path());
    create(&store, "c", "secret-6");
    compare(3);
}
