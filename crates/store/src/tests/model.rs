//! Random verbs against a model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{all, directory, open, version};
use crate::error::StoreError;
use crate::key::Key;
use crate::resource::{Generation, Resource, Scope};
use crate::store::Store;
use crate::test_types::{config_maps, object};
use crate::watch::Event;
use crate::write::{Deletion, Written};

#[derive(Debug, Clone)]
enum Verb {
    Create {
        name: usize,
        finalizer: bool,
        text: u8,
    },
    /// Expects the current version, an old one, or none.
    Update {
        name: usize,
        version: Which,
        text: u8,
    },
    Modify {
        name: usize,
        text: u8,
    },
    ReleaseFinalizers {
        name: usize,
    },
    Delete {
        name: usize,
        uid: Which,
        grace: u32,
    },
    /// Another process opens the store.
    Reopen,
    /// The host boots: the journal is lost.
    Reboot,
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Current,
    Other,
    Absent,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone, PartialEq)]
struct Expected {
    uid: String,
    version: u64,
    generation: i64,
    text: u8,
    finalizer: bool,
    /// The grace period of a deletion that has begun.
    deleted: Option<u32>,
}

fn verb() -> impl Strategy<Value = Verb> {
    let name = 0..NAMES.len();
    let which = prop_oneof![Just(Which::Current), Just(Which::Other), Just(Which::Absent)];
    prop_oneof![
        4 => (name.clone(), any::<bool>(), 0..3u8)
            .prop_map(|(name, finalizer, text)| Verb::Create { name, finalizer, text }),
        3 => (name.clone(), which.clone(), 0..3u8).prop_map(|(name, version, text)| Verb::Update { name, version, text }),
        2 => (name.clone(), 0..3u8).prop_map(|(name, text)| Verb::Modify { name, text }),
        2 => name.clone().prop_map(|name| Verb::ReleaseFinalizers { name }),
        3 => (name, which, prop_oneof![3 => Just(0), 1 => 1..40u32])
            .prop_map(|(name, uid, grace)| Verb::Delete { name, uid, grace }),
        1 => Just(Verb::Reopen),
        1 => Just(Verb::Reboot),
    ]
}

fn resource() -> Resource {
    Resource {
        generation: Generation::OfSpec,
        ..config_maps()
    }
}

fn key(name: usize) -> Key {
    Key::namespaced("default", NAMES[name])
}

fn content(name: usize, text: u8, finalizer: bool) -> Value {
    let mut value =
        json!({"metadata": {"namespace": "default", "name": NAMES[name]}, "data": {"key": text.to_string()}});
    if finalizer {
        value["metadata"]["finalizers"] = json!(["x"]);
    }
    value
}

/// The model, and the highest version used.
#[derive(Default)]
struct Model {
    objects: BTreeMap<usize, Expected>,
    last: u64,
}

impl Model {
    /// Compares the result of a write with the expected one, and records its version.
    fn written(&mut self, name: usize, result: Result<Written, StoreError>, mut expected: Option<Expected>) {
        let before = self.objects.get(&name).cloned();
        let written = result.unwrap();
        let at = version(written.object());
        match (&written, &mut expected) {
            (Written::Unchanged(_), Some(expected)) => {
                assert_eq!(Some(&*expected), before.as_ref());
                assert_eq!(at, expected.version);
            }
            (Written::Changed(object), Some(expected)) => {
                assert!(at > self.last, "{at} after {}", self.last);
                assert_ne!(Some(&*expected), before.as_ref());
                expected.version = at;
                if expected.uid.is_empty() {
                    expected.uid = object.uid().to_owned();
                }
            }
            (Written::Removed(_), None) => assert!(at > self.last),
            other => panic!("{other:?}"),
        }
        self.last = self.last.max(at);
        match expected {
            Some(expected) => self.objects.insert(name, expected),
            None => self.objects.remove(&name),
        };
    }

    fn apply(&mut self, store: &Store, verb: &Verb) {
        let resource = resource();
        match *verb {
            Verb::Create { name, finalizer, text } => {
                let result = store.create(&resource, object(content(name, text, finalizer)));
                if self.objects.contains_key(&name) {
                    assert!(result.unwrap_err().is_already_exists());
                    return;
                }
                let expected = Expected {
                    uid: String::new(),
                    version: 0,
                    generation: 1,
                    text,
                    finalizer,
                    deleted: None,
                };
                self.written(name, result.map(Written::Changed), Some(expected));
            }
            Verb::Update { name, version, text } => {
                let current = self.objects.get(&name).cloned();
                let mut value = content(name, text, current.as_ref().is_some_and(|current| current.finalizer));
                let at = current.as_ref().map_or(1, |current| current.version);
                match version {
                    Which::Current => value["metadata"]["resourceVersion"] = at.to_string().into(),
                    Which::Other => value["metadata"]["resourceVersion"] = (at - 1).to_string().into(),
                    Which::Absent => {}
                }
                let result = store.update(&resource, object(value));
                match (current, version) {
                    (None, _) => assert!(result.unwrap_err().is_not_found()),
                    (Some(_), Which::Other) => assert!(result.unwrap_err().is_conflict()),
                    (Some(current), _) => self.written(name, result, current.with_text(text)),
                }
            }
            Verb::Modify { name, text } => {
                let result = store.modify(&resource, &key(name), |current| {
                    let mut value = current.clone().into_value();
                    value["data"]["key"] = text.to_string().into();
                    Ok::<_, StoreError>(Some(object(value)))
                });
                match self.objects.get(&name).cloned() {
                    None => assert!(result.unwrap_err().is_not_found()),
                    Some(current) => self.written(name, result, current.with_text(text)),
                }
            }
            Verb::ReleaseFinalizers { name } => {
                let result = store.modify(&resource, &key(name), |current| {
                    let mut value = current.clone().into_value();
                    value["metadata"]["finalizers"] = json!([]);
                    Ok::<_, StoreError>(Some(object(value)))
                });
                match self.objects.get(&name).cloned() {
                    None => assert!(result.unwrap_err().is_not_found()),
                    Some(current) => {
                        let is_last = current.deleted == Some(0);
                        let expected = Expected {
                            finalizer: false,
                            ..current
                        };
                        self.written(name, result, (!is_last).then_some(expected));
                    }
                }
            }
            Verb::Delete { name, uid, grace } => {
                let current = self.objects.get(&name).cloned();
                let deletion = Deletion {
                    uid: match uid {
                        Which::Current => current.as_ref().map(|current| current.uid.clone()),
                        Which::Other => Some("other".to_owned()),
                        Which::Absent => None,
                    },
                    resource_version: None,
                    grace_period_seconds: grace,
                };
                let result = store.delete(&resource, &key(name), &deletion);
                match (current, uid) {
                    (None, _) => assert!(result.unwrap_err().is_not_found()),
                    (Some(_), Which::Other) => assert!(result.unwrap_err().is_conflict()),
                    (Some(current), _) => self.written(name, result, current.deleted_in(grace)),
                }
            }
            Verb::Reopen | Verb::Reboot => {}
        }
    }
}

impl Expected {
    fn with_text(self, text: u8) -> Option<Self> {
        if self.deleted == Some(0) && !self.finalizer {
            return None;
        }
        let generation = self.generation + i64::from(text != self.text);
        Some(Self {
            generation,
            text,
            ..self
        })
    }

    fn deleted_in(self, grace: u32) -> Option<Self> {
        let remaining = match self.deleted {
            None => grace,
            Some(pending) => grace.min(pending),
        };
        if remaining == 0 && !self.finalizer {
            return None;
        }
        Some(Self {
            generation: self.generation + i64::from(self.deleted.is_none()),
            deleted: Some(remaining),
            ..self
        })
    }
}

/// Checks that the stored objects are those of the model.
fn compare(store: &Store, model: &Model) {
    let list = store.list(&resource(), &Scope::All).unwrap();
    assert!(list.damaged.is_empty());
    assert!(list.resource_version.number() >= model.last);
    assert_eq!(list.items.len(), model.objects.len());
    for (object, (name, expected)) in list.items.iter().zip(&model.objects) {
        assert_eq!(object.name(), NAMES[*name]);
        let found = Expected {
            uid: object.uid().to_owned(),
            version: version(object),
            generation: object.integer("generation").unwrap(),
            text: object.value()["data"]["key"].as_str().unwrap().parse().unwrap(),
            finalizer: object.finalizers().next().is_some(),
            deleted: object
                .is_terminating()
                .then(|| u32::try_from(object.integer("deletionGracePeriodSeconds").unwrap()).unwrap()),
        };
        assert_eq!(&found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_verbs_do_what_the_model_does(verbs in prop::collection::vec(verb(), 1..60)) {
        let directory = directory();
        let mut store = open(directory.path());
        let mut model = Model::default();
        let list = store.list(&resource(), &Scope::All).unwrap();
        let mut watch = store.watch(&list).unwrap();
        let mut watched: BTreeMap<String, u64> = BTreeMap::new();
        for verb in &verbs {
            match verb {
                Verb::Reopen => store = open(directory.path()),
                Verb::Reboot => {
                    std::fs::remove_dir_all(directory.path().join("run")).unwrap();
                    store = open(directory.path());
                }
                verb => model.apply(&store, verb),
            }
            compare(&store, &model);
            if verbs.len().is_multiple_of(2) {
                follow(&mut watch, &mut watched);
            }
        }
        follow(&mut watch, &mut watched);
        prop_assert_eq!(watched.into_iter().collect::<Vec<_>>(), all(&store));
    }
}

fn follow(watch: &mut crate::watch::Watch, watched: &mut BTreeMap<String, u64>) {
    while let Some(event) = watch.try_next().unwrap() {
        let name = event.object().name().to_owned();
        let fits = match &event {
            Event::Added(object) => watched.insert(name, version(object)).is_none(),
            Event::Modified(object) => watched
                .insert(name, version(object))
                .is_some_and(|old| old < version(object)),
            Event::Deleted(_) => watched.remove(&name).is_some(),
        };
        assert!(fits, "{event:?}");
    }
}
