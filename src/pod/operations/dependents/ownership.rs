//! Which objects own which, and what follows from the deletion of some.

use std::collections::{BTreeMap, BTreeSet};

use microkube_manifest::kinds::{self, Kind};
use microkube_store::{Key, Object};
use serde_json::Value;

use crate::objects;
use crate::pod::pod_update::has_finalizers;
use crate::state::PodRecord;

/// UIDs of owners, with their namespaces; `None` for owners outside of namespaces.
pub type Owners = BTreeMap<String, Option<String>>;

/// An object of the node, as far as owners matter.
#[derive(Debug)]
pub(super) struct Known {
    kind: &'static Kind,
    key: Key,
    uid: String,
    is_terminating: bool,
    has_finalizers: bool,
    references: Vec<Reference>,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug)]
struct Reference {
    api_version: String,
    kind: String,
    uid: String,
}

/// An object that others own.
#[derive(Debug, Clone)]
pub(super) struct Owned {
    pub(super) kind: &'static Kind,
    pub(super) key: Key,
    pub(super) uid: String,
    /// UIDs.
    pub(super) owners: Vec<String>,
    /// The object is in no namespace, but its owner is: the owner cannot be looked up, so it may exist.
    pub(super) has_invalid_owner: bool,
}

/// An object that exists.
#[derive(Debug)]
pub(super) struct Existing {
    /// `None` if it is outside of namespaces.
    pub(super) namespace: Option<String>,
    pub(super) is_terminating: bool,
    pub(super) has_finalizers: bool,
}

/// All objects of the node, as far as owners matter.
#[derive(Debug, Default)]
pub(super) struct Ownership {
    /// All objects, by UID.
    pub(super) existing: BTreeMap<String, Existing>,
    pub(super) owned: Vec<Owned>,
    /// Some objects could not be read.
    pub(super) is_incomplete: bool,
}

/// What becomes of the dependents of owners that are deleted.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Those without other owners: each level's owners are in earlier ones.
    pub(super) levels: Vec<Vec<Owned>>,
    /// Those that have other owners.
    pub(super) shared: Vec<Owned>,
    /// UIDs of all that are deleted.
    pub(super) gone: BTreeSet<String>,
}

impl Known {
    pub(super) fn object(kind: &'static Kind, object: &Object) -> Self {
        let references = object.value().pointer("/metadata/ownerReferences");
        let references = references.and_then(Value::as_array).into_iter().flatten();
        Self {
            kind,
            key: objects::key(kind, object.namespace().unwrap_or_default(), object.name()),
            uid: object.uid().to_owned(),
            is_terminating: object.is_terminating(),
            has_finalizers: object.finalizers().next().is_some(),
            references: references.filter_map(Reference::of).collect(),
        }
    }

    pub(super) fn pod(kind: &'static Kind, record: PodRecord, is_terminating: bool) -> Self {
        // Without that, a Pod ends with its command line.
        let has_finalizers = record.detached && has_finalizers(&record.pod);
        let references = record.pod.metadata.owner_references.into_iter().flatten();
        let references = references.map(|reference| Reference {
            api_version: reference.api_version,
            kind: reference.kind,
            uid: reference.uid,
        });
        Self {
            kind,
            key: Key::namespaced(record.namespace, record.name),
            uid: record.uid,
            is_terminating,
            has_finalizers,
            references: references.collect(),
        }
    }
}

impl Reference {
    fn of(value: &Value) -> Option<Self> {
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            api_version: text("apiVersion").unwrap_or_default(),
            kind: text("kind").unwrap_or_default(),
            uid: text("uid")?,
        })
    }
}

impl Owned {
    pub(super) fn has_owner_in(&self, uids: &BTreeSet<String>) -> bool {
        self.owners.iter().any(|owner| uids.contains(owner))
    }
}

impl Ownership {
    /// Resolves the references. `deleted` may no longer exist.
    pub(super) fn of(known: Vec<Known>, is_incomplete: bool, deleted: &Owners) -> Self {
        let existing = known.iter().map(|known| {
            let existing = Existing {
                namespace: known.key.namespace.clone(),
                is_terminating: known.is_terminating,
                has_finalizers: known.has_finalizers,
            };
            (known.uid.clone(), existing)
        });
        let mut ownership = Self {
            existing: existing.collect(),
            owned: Vec::new(),
            is_incomplete,
        };
        for known in known {
            let owned = ownership.resolve(known, deleted);
            if !owned.owners.is_empty() || owned.has_invalid_owner {
                ownership.owned.push(owned);
            }
        }
        ownership
    }

    /// Owners are outside of namespaces, or in the namespace of the dependent; other references name no owner.
    fn resolve(&self, known: Known, deleted: &Owners) -> Owned {
        let mut owned = Owned {
            kind: known.kind,
            key: known.key,
            uid: known.uid,
            owners: Vec::new(),
            has_invalid_owner: false,
        };
        for reference in known.references {
            let existing = self.existing.get(&reference.uid);
            let owner = existing.map(|existing| &existing.namespace);
            let owner = owner.or_else(|| deleted.get(&reference.uid));
            let is_namespaced = match owner {
                Some(namespace) => namespace.is_some(),
                None => kinds::find(&reference.api_version, &reference.kind).is_some_and(|kind| kind.namespaced),
            };
            if is_namespaced && owned.key.namespace.is_none() {
                owned.has_invalid_owner = true;
            } else if !is_namespaced || owner.is_none_or(|namespace| *namespace == owned.key.namespace) {
                owned.owners.push(reference.uid);
            }
        }
        owned
    }

    /// Which dependents are deleted with these owners.
    pub(super) fn plan(&self, owners: BTreeSet<String>) -> Plan {
        let mut plan = Plan {
            gone: owners,
            ..Plan::default()
        };
        loop {
            let gone = &plan.gone;
            let may_exist =
                |owner: &String| !gone.contains(owner) && (self.is_incomplete || self.existing.contains_key(owner));
            let is_next = |owned: &&Owned| {
                !gone.contains(&owned.uid)
                    && !owned.has_invalid_owner
                    && owned.has_owner_in(gone)
                    && !owned.owners.iter().any(may_exist)
            };
            let level: Vec<Owned> = self.owned.iter().filter(is_next).cloned().collect();
            if level.is_empty() {
                break;
            }
            plan.gone.extend(level.iter().map(|owned| owned.uid.clone()));
            plan.levels.push(level);
        }
        let is_shared = |owned: &&Owned| !plan.gone.contains(&owned.uid) && owned.has_owner_in(&plan.gone);
        plan.shared = self.owned.iter().filter(is_shared).cloned().collect();
        plan
    }
}
