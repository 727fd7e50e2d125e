//! Objects outside of the store's files, in its lists and watches.

use super::kept_records::{KeptRecords, open_with_records};
use super::{directory, key, version};
use crate::error::StoreError;
use crate::list::List;
use crate::resource::Scope;
use crate::store::Store;
use crate::test_types::{config_map, config_maps, object, pods};
use crate::watch::{Event, Watch};
use crate::write::Deletion;

fn all_types(store: &Store) -> Vec<List> {
    store
        .list_all(&[(pods(), Scope::All), (config_maps(), Scope::All)])
        .unwrap()
}

/// `NAME VERSION` of each object in a list.
fn items(list: &List) -> Vec<String> {
    let items = list.items.iter();
    items
        .map(|object| format!("{} {}", object.name(), version(object)))
        .collect()
}

/// `KIND TYPE NAME VERSION` of each event.
fn events(watch: &mut Watch) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = watch.try_next().unwrap() {
        let kind = match event {
            Event::Added(_) => "added",
            Event::Modified(_) => "modified",
            Event::Deleted(_) => "deleted",
        };
        let object = event.object();
        let of_type = object.value()["kind"].as_str().unwrap();
        events.push(format!("{kind} {of_type} {} {}", object.name(), version(object)));
    }
    events
}

#[test]
fn one_list_and_one_watch_show_objects_of_all_types_in_the_order_of_their_versions() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    records.write(&store, "web", "u1", Some("1"));
    store.create(&config_maps(), config_map("a", "1")).unwrap();
    let lists = all_types(&store);
    assert_eq!(lists.iter().map(items).collect::<Vec<_>>(), [["web 2"], ["a 3"]]);
    assert!(lists.iter().all(|list| list.resource_version.number() == 3));
    let mut watch = store.watch_all(&lists).unwrap();
    records.write(&store, "web", "u1", Some("2"));
    store.create(&config_maps(), config_map("b", "1")).unwrap();
    records.write(&store, "db", "u2", Some("1"));
    let first = ["modified Pod web 4", "added ConfigMap b 5", "added Pod db 6"];
    assert_eq!(events(&mut watch), first);
    store.delete(&config_maps(), &key("a"), &Deletion::default()).unwrap();
    records.write(&store, "web", "u1", None);
    records.write(&store, "web", "u3", Some("1"));
    let second = ["deleted ConfigMap a 7", "deleted Pod web 8", "added Pod web 9"];
    assert_eq!(events(&mut watch), second);
    assert_eq!(watch.resource_version().number(), 9);
    assert_eq!(store.get(&pods(), &key("web")).unwrap().uid(), "u3");
    assert!(store.get(&pods(), &key("none")).unwrap_err().is_not_found());
}

#[test]
fn a_list_waits_for_a_change_whose_number_is_taken() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    records.write(&store, "web", "u1", Some("1"));
    let lock = records.lock("u1");
    let announced = KeptRecords::announce(&store, "web", "u1", false);
    let (listed, mut watch) = std::thread::scope(|scope| {
        let listing = scope.spawn(|| store.list(&pods(), &Scope::All).unwrap());
        // The list finds the line before or after this one: both must be right.
        records.apply("web", "u1", announced, Some("2"));
        drop(lock);
        let list = listing.join().unwrap();
        (items(&list), store.watch(&list).unwrap())
    });
    assert_eq!(listed, ["web 3"]);
    assert!(events(&mut watch).is_empty());
}

#[test]
fn a_watch_waits_for_a_change_whose_number_is_taken() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    let mut watch = store.watch_all(&all_types(&store)).unwrap();
    let lock = records.lock("u1");
    let announced = KeptRecords::announce(&store, "web", "u1", false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| events(&mut watch));
        records.apply("web", "u1", announced, Some("1"));
        drop(lock);
        assert_eq!(watching.join().unwrap(), ["added Pod web 2"]);
    });
}

#[test]
fn what_a_killed_writer_announced_is_no_event() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    records.write(&store, "web", "u1", Some("1"));
    let mut watch = store.watch_all(&all_types(&store)).unwrap();
    for (uid, is_removal) in [("u1", false), ("u1", true), ("u2", false)] {
        KeptRecords::announce(&store, "web", uid, is_removal);
    }
    assert!(events(&mut watch).is_empty());
    records.write(&store, "web", "u1", Some("2"));
    assert_eq!(events(&mut watch), ["modified Pod web 6"]);
    records.write(&store, "web", "u1", None);
    assert_eq!(events(&mut watch), ["deleted Pod web 7"]);
}

#[test]
fn the_end_of_an_object_whose_name_another_has_is_no_event() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    records.write(&store, "web", "u1", Some("1"));
    let mut watch = store.watch_all(&all_types(&store)).unwrap();
    records.write(&store, "web", "u2", Some("1"));
    assert_eq!(events(&mut watch), ["deleted Pod web 2", "added Pod web 3"]);
    assert_eq!(items(&all_types(&store)[0]), ["web 3"]);
    records.write(&store, "web", "u1", None);
    assert!(events(&mut watch).is_empty());
    records.write(&store, "web", "u2", None);
    assert_eq!(events(&mut watch), ["deleted Pod web 5"]);
}

#[test]
fn after_a_gap_the_difference_is_reported_for_all_types() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    for (name, uid) in [("a", "u1"), ("b", "u2"), ("c", "u3")] {
        records.write(&store, name, uid, Some("1"));
    }
    store.create(&config_maps(), config_map("a", "1")).unwrap();
    let mut watch = store.watch_all(&all_types(&store)).unwrap();
    std::fs::remove_dir_all(directory.path().join("run")).unwrap();
    records.write(&store, "a", "u1", Some("2"));
    records.write(&store, "b", "u2", None);
    store.delete(&config_maps(), &key("a"), &Deletion::default()).unwrap();
    let mut events = events(&mut watch);
    events.sort();
    assert_eq!(
        events,
        ["deleted ConfigMap a 1028", "deleted Pod b 1028", "modified Pod a 1026"]
    );
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_and_the_others_are_shown() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    records.write(&store, "a", "u1", Some("1"));
    records.write(&store, "b", "u2", Some("1"));
    let mut watch = store.watch_all(&all_types(&store)).unwrap();
    records.write(&store, "a", "u1", Some("2"));
    let path = directory.path().join("records/u1/record.json");
    std::fs::write(&path, "torn").unwrap();
    let list = store.list(&pods(), &Scope::All).unwrap();
    assert_eq!((items(&list), list.damaged.len()), (vec!["b 3".to_owned()], 1));
    let error = watch.try_next().unwrap_err();
    assert!(matches!(error, StoreError::Record { .. }) && error.is_about_one_object());
    assert!(store.get(&pods(), &key("a")).is_err_and(|error| !error.is_not_found()));
    assert!(events(&mut watch).is_empty());
}

#[test]
fn the_store_does_not_write_objects_that_others_keep() {
    let directory = directory();
    let (store, records) = open_with_records(directory.path());
    records.write(&store, "web", "u1", Some("1"));
    let pod = serde_json::json!({ "metadata": { "name": "db", "namespace": "default" } });
    let created = store.create(&pods(), object(pod)).unwrap_err();
    let deleted = store.delete(&pods(), &key("web"), &Deletion::default()).unwrap_err();
    for error in [created, deleted] {
        assert_eq!(error.to_string(), "pods cannot be changed through the store of objects");
    }
}
