//! Reads the objects that a command line names: Pods from their records, all others from the node's store.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use microkube_manifest::kinds::{self, Kind};
use microkube_store::{List, Object, Resource, Scope, Store, StoreError, Watch};
use serde_json::Value;

use super::super::pods::snapshot::Snapshot;
use super::super::selector::Selector;
use super::arguments::{Group, Requested};
use super::name::ObjectName;
use crate::objects;
use crate::pod::operations::namespaces;
use crate::state::{Paths, PodRecords, RecordsError};

/// The selected objects of one kind, and why others cannot be shown.
#[derive(Debug)]
pub(in crate::cli) struct Listing {
    pub(in crate::cli) kind: &'static Kind,
    /// Sorted by namespace and name, or as on the command line.
    pub(in crate::cli) objects: Vec<Value>,
    /// Names without an object.
    pub(in crate::cli) missing: Vec<ObjectName>,
    /// Why other objects, which the command line may select, cannot be read.
    pub(in crate::cli) damaged: Vec<anyhow::Error>,
}

/// Reads objects. The store is opened when the first object other than a Pod is read.
#[derive(Debug)]
pub(in crate::cli) struct Reader {
    paths: Paths,
    store: OnceCell<Store>,
}

impl Reader {
    pub(in crate::cli) fn new(paths: Paths) -> Self {
        Self {
            paths,
            store: OnceCell::new(),
        }
    }

    pub(in crate::cli) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The node's store.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub(in crate::cli) fn store(&self) -> anyhow::Result<&Store> {
        if self.store.get().is_none() {
            let store = objects::open(&self.paths)?;
            let _ = self.store.set(store);
        }
        self.store.get().ok_or_else(|| anyhow::anyhow!("the store is not open"))
    }

    /// The node's store, after the creation of missing objects of these kinds that always exist.
    fn tidied<'k>(&self, kinds: impl IntoIterator<Item = &'k Kind>) -> anyhow::Result<&Store> {
        let store = self.store()?;
        if (kinds.into_iter()).any(|kind| matches!(kind.kind, "Namespace" | "ServiceAccount")) {
            namespaces::tidy(&self.paths, store)?;
        }
        Ok(store)
    }

    /// Reads the selected objects of a group.
    ///
    /// # Errors
    /// If the objects of the kind cannot be read at all.
    pub(in crate::cli) fn read(&self, group: &Group, requested: &Requested) -> anyhow::Result<Listing> {
        match group.kind.kind {
            "Pod" => self.pods(group, requested),
            _ if group.names.is_empty() => {
                let list = self.list(group.kind, requested)?;
                let objects = list.items.iter().filter(|object| is_selected(object, requested));
                Ok(Listing {
                    kind: group.kind,
                    objects: objects.map(|object| object.value().clone()).collect(),
                    missing: Vec::new(),
                    damaged: list.damaged.into_iter().map(Into::into).collect(),
                })
            }
            _ => self.named(group),
        }
    }

    /// All objects of a kind in the requested namespaces, as of one version.
    fn list(&self, kind: &'static Kind, requested: &Requested) -> anyhow::Result<List> {
        let store = self.tidied([kind])?;
        let (resource, scope) = scope(kind, requested);
        Ok(store.list(&resource, &scope)?)
    }

    /// All objects of the kinds of these groups in the requested namespaces, Pods included, as of one version, and a watch
    /// that continues from there.
    ///
    /// # Errors
    /// If the objects cannot be read at all, or cannot be watched.
    pub(in crate::cli) fn follow(&self, groups: &[Group], requested: &Requested) -> anyhow::Result<(Vec<List>, Watch)> {
        let store = self.tidied(groups.iter().map(|group| group.kind))?;
        let types: Vec<_> = groups.iter().map(|group| scope(group.kind, requested)).collect();
        let lists = store.list_all(&types).map_err(report)?;
        let watch = store.watch_all(&lists)?;
        Ok((lists, watch))
    }

    fn named(&self, group: &Group) -> anyhow::Result<Listing> {
        let store = self.tidied([group.kind])?;
        let mut listing = Listing {
            kind: group.kind,
            objects: Vec::new(),
            missing: Vec::new(),
            damaged: Vec::new(),
        };
        for name in &group.names {
            let key = objects::key(group.kind, name.namespace.as_deref().unwrap_or_default(), &name.name);
            match store.find(&objects::resource(group.kind), &key) {
                Ok(Some(object)) => listing.objects.push(object.into_value()),
                // An object with an invalid name does not exist.
                Ok(None) | Err(StoreError::Invalid { .. }) => listing.missing.push(name.clone()),
                Err(error) => listing.damaged.push(error.into()),
            }
        }
        Ok(listing)
    }

    fn pods(&self, group: &Group, requested: &Requested) -> anyhow::Result<Listing> {
        let snapshot = Snapshot::read(&PodRecords::new(self.paths.clone()), &requested.pods(group))?;
        let mut objects = Vec::with_capacity(snapshot.pods.len());
        for pod in &snapshot.pods {
            let pod = serde_json::to_value(pod)?;
            if requested.field_selector.matches(&pod) {
                objects.push(pod);
            }
        }
        let missing = snapshot.missing.into_iter().map(|name| ObjectName {
            namespace: name.namespace,
            name: name.name,
        });
        Ok(Listing {
            kind: group.kind,
            objects,
            missing: missing.collect(),
            damaged: snapshot.damaged.into_iter().map(Into::into).collect(),
        })
    }
}

/// The scope of the requested objects of a kind.
fn scope(kind: &'static Kind, requested: &Requested) -> (Resource, Scope) {
    let scope = match &requested.namespace {
        Some(namespace) if kind.namespaced => Scope::Namespace(namespace.clone()),
        _ => Scope::All,
    };
    (objects::resource(kind), scope)
}

/// The kind of an object in the store.
pub(in crate::cli) fn kind_of(object: &Object) -> Option<&'static Kind> {
    let text = |field: &str| object.value().get(field).and_then(Value::as_str).unwrap_or_default();
    kinds::find(text("apiVersion"), text("kind"))
}

/// The error for an object that cannot be read. The error for a Pod is the one of its records.
pub(in crate::cli) fn report(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Record { source, .. } | StoreError::Records { source, .. } => {
            match source.downcast::<RecordsError>() {
                Ok(error) => anyhow::Error::from(*error),
                Err(other) => anyhow::Error::from_boxed(other),
            }
        }
        error => error.into(),
    }
}

/// Whether the selectors select an object.
pub(in crate::cli) fn is_selected(object: &Arc<Object>, requested: &Requested) -> bool {
    has_labels(object.value(), &requested.selector) && requested.field_selector.matches(object.value())
}

fn has_labels(object: &Value, selector: &Selector) -> bool {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let labels: Option<BTreeMap<String, String>> = labels.map(|labels| {
        let labels = labels.iter();
        labels
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    });
    selector.matches(labels.as_ref())
}
