//! The power fails between any two operations on the disk, and any unsynced data may be lost.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};

use super::{directory, key, open, version, with_data};
use crate::error::StoreError;
use crate::power_cut::{KILLED, Operation, Record, Recorder, killed_before};
use crate::resource::Scope;
use crate::revisions;
use crate::store::Store;
use crate::test_types::{config_map, config_maps, object};
use crate::write::{Deletion, Written};

/// Random numbers, the same for the same seed.
struct Dice(TestRng);

impl Dice {
    fn seeded(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    fn roll(&mut self, sides: u32) -> u32 {
        self.0.next_u32() % sides
    }
}

/// Performs a random write, which may be killed, and records its answer.
fn random_write(store: &Store, recorder: &Recorder, dice: &mut Dice, texts: &AtomicU64) {
    let name = ["a", "b"][dice.roll(2) as usize];
    let text = texts.fetch_add(1, Ordering::Relaxed).to_string();
    let answer = |written: Result<Written, StoreError>| match written {
        Ok(written) => {
            recorder.answered(name, version(written.object()));
        }
        Err(StoreError::Io { source, .. }) if source.to_string() == KILLED => {}
        Err(error) => assert!(
            error.is_not_found() || error.is_already_exists() || error.is_conflict(),
            "{error}"
        ),
    };
    // Most verbs take between 9 and 20 operations, including those that only read.
    let killed = (dice.roll(2) == 0).then(|| dice.roll(20));
    let verb = dice.roll(6);
    if verb == 5 {
        let _ = killed_before(killed, || store.sweep());
        return;
    }
    let finalizers = (dice.roll(3) == 0).then(|| json!(["x"]));
    answer(killed_before(killed, || match verb {
        0 => {
            let mut value = config_map(name, &text).into_value();
            value["metadata"]["finalizers"] = json!(finalizers);
            store.create(&config_maps(), object(value)).map(Written::Changed)
        }
        1 => store.delete(&config_maps(), &key(name), &Deletion::default()),
        2 => store.modify(&config_maps(), &key(name), |current| {
            let mut value = current.clone().into_value();
            value["metadata"]["finalizers"] = Value::Null;
            Ok(Some(object(value)))
        }),
        3 => store.modify(&config_maps(), &key(name), |_| Ok(None)),
        _ => store.modify(&config_maps(), &key(name), |current| {
            Ok(Some(with_data(current, &text)))
        }),
    }));
}

/// Random writes of several threads.
fn record(seed: u64, threads: u64, writes: u32) -> Record {
    let directory = directory();
    let recorder = Recorder::default();
    let (state, run) = (directory.path().join("state"), directory.path().join("run"));
    let texts = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (recorder, state, run, texts) = (&recorder, &state, &run, &texts);
            scope.spawn(move || {
                let mut dice = Dice::seeded(seed * 100 + thread);
                let store = Store::open_recorded(state, run, Some(recorder.clone())).unwrap();
                for _ in 0..writes {
                    random_write(&store, recorder, &mut dice, texts);
                }
            });
        }
    });
    recorder.record()
}

/// Checks the store that a power cut at this moment leaves.
fn check(record: &Record, moment: usize, directory: &Path, dice: &mut Dice) {
    std::fs::create_dir_all(directory.join("state")).unwrap();
    record.cut(moment, &directory.join("state"), || dice.roll(2) == 0);
    // The directory `run` is empty, as after a reboot.
    let store = open(directory);
    let list = store.list(&config_maps(), &Scope::All).unwrap();
    assert!(list.damaged.is_empty(), "{:?}", list.damaged);
    let left: BTreeMap<&str, _> = list.items.iter().map(|object| (object.name(), object)).collect();

    let mut highest_used = 0;
    let mut named: BTreeMap<(String, u64), Option<&[u8]>> = BTreeMap::new();
    for (file, content) in record.named_before(moment) {
        if let Some((stem, revision)) = revisions::parse(file) {
            highest_used = highest_used.max(revision.version);
            let name = stem.name().unwrap().to_owned();
            named.insert((name, revision.version), (!revision.is_removal).then_some(content));
        }
    }
    let mut answered: BTreeMap<&str, u64> = BTreeMap::new();
    for operation in &record.log[..moment] {
        if let Operation::Answered { name, version } = operation {
            let newest = answered.entry(name).or_default();
            *newest = (*newest).max(*version);
        }
    }
    for name in ["a", "b"] {
        let answered = answered.get(name).copied().unwrap_or(0);
        match left.get(name) {
            Some(object) => {
                let at = version(object);
                assert!(at >= answered, "{name} is at {at}, but {answered} was answered");
                let content = named[&(name.to_owned(), at)].expect("an object and no removal");
                let written: Value = serde_json::from_slice(content).unwrap();
                assert_eq!(object.value()["data"], written["data"]);
            }
            None => {
                let later = named.range((name.to_owned(), answered)..=(name.to_owned(), u64::MAX));
                let was_removed = later.into_iter().any(|(_, content)| content.is_none());
                assert!(
                    was_removed || answered == 0,
                    "{name} is gone, but {answered} was answered"
                );
            }
        }
    }

    store.sweep().unwrap();
    let after = store.list(&config_maps(), &Scope::All).unwrap();
    assert_eq!(after.items, list.items, "the sweep changed an object");
    let new = store.create(&config_maps(), config_map("new", "1")).unwrap();
    assert!(version(&new) > highest_used, "{} after {highest_used}", version(&new));
}

fn cut_at_every_moment(seed: u64, threads: u64, writes: u32) {
    println!("seed {seed}");
    let record = record(seed, threads, writes);
    let mut dice = Dice::seeded(seed);
    for moment in 0..=record.log.len() {
        let directory = directory();
        check(&record, moment, directory.path(), &mut dice);
    }
}

#[test]
fn what_was_answered_survives_a_power_cut_at_any_moment() {
    for seed in 0..12 {
        cut_at_every_moment(seed, 1, 20);
    }
}

#[test]
fn what_was_answered_survives_a_power_cut_while_several_write() {
    for seed in 12..24 {
        cut_at_every_moment(seed, 3, 8);
    }
}

#[test]
fn the_sweep_removes_nothing_that_a_power_cut_could_bring_back_into_force() {
    let mut dice = Dice::seeded(1);
    for operation in 0..20 {
        for verb in [false, true] {
            let recorder = Recorder::default();
            let directory = directory();
            let (state, run) = (directory.path().join("state"), directory.path().join("run"));
            let store = Store::open_recorded(&state, &run, Some(recorder.clone())).unwrap();
            let created = store.create(&config_maps(), config_map("a", "1")).unwrap();
            recorder.answered("a", version(&created));
            let _ = killed_before(Some(operation), || {
                if verb {
                    store.delete(&config_maps(), &key("a"), &Deletion::default())
                } else {
                    store.update(&config_maps(), config_map("a", "2"))
                }
            });
            store.sweep().unwrap();
            let record = recorder.record();
            for moment in 0..=record.log.len() {
                for _ in 0..4 {
                    let directory = super::directory();
                    check(&record, moment, directory.path(), &mut dice);
                }
            }
        }
    }
}
