//! Lists while others write.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{data, open, store, version};
use crate::resource::Scope;
use crate::test_types::{config_map, config_maps};

#[test]
fn a_list_is_complete_as_of_its_version() {
    const OBJECTS: u64 = 20;
    let (directory, store) = store();
    let name = |number: u64| format!("a{}", number % OBJECTS);
    for number in 0..OBJECTS {
        let object = config_map(&name(number), &number.to_string());
        store.create(&config_maps(), object).unwrap();
    }
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let store = open(directory.path());
            // The objects are replaced in turn, so that their numbers are consecutive at any moment.
            let mut number = OBJECTS;
            while !enough.load(Ordering::Relaxed) {
                let object = config_map(&name(number), &number.to_string());
                store.update(&config_maps(), object).unwrap();
                number += 1;
            }
        });
        let mut last = 0;
        for _ in 0..300 {
            let list = store.list(&config_maps(), &Scope::All).unwrap();
            let mut numbers: Vec<u64> = list.items.iter().map(|object| data(object).parse().unwrap()).collect();
            numbers.sort_unstable();
            let expected: Vec<u64> = (numbers[0]..numbers[0] + OBJECTS).collect();
            let newest = list.items.iter().map(|object| version(object)).max();
            let result = (numbers == expected, newest == Some(list.resource_version.number()));
            let at = list.resource_version.number();
            if result != (true, true) || at < last {
                enough.store(true, Ordering::Relaxed);
                panic!("{numbers:?} at {at} after {last}");
            }
            last = at;
        }
        enough.store(true, Ordering::Relaxed);
    });
}

#[test]
fn many_objects_are_listed_by_several_threads() {
    let (_directory, store) = store();
    let mut names: Vec<String> = (0..600).map(|number| format!("object-{number}")).collect();
    for name in &names {
        store.create(&config_maps(), config_map(name, name)).unwrap();
    }
    names.sort();
    let list = store.list(&config_maps(), &Scope::All).unwrap();
    let listed: Vec<&str> = list.items.iter().map(|object| object.name()).collect();
    assert_eq!(listed, names);
    assert!(list.items.iter().all(|object| object.name() == data(object)));
}
