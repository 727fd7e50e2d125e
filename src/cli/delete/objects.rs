//! Deletes objects other than Pods. The content of a namespace is deleted first.

use std::time::Instant;

use anyhow::anyhow;
use microkube_manifest::kinds::Kind;
use microkube_store::{Conflict, Key, Object, Resource, Store, StoreError, Written};
use serde_json::Value;

use super::super::object_failure::as_kubectl_error;
use super::super::objects::arguments::not_found;
use super::super::objects::listing::Listing;
use super::super::objects::table::type_in_names;
use crate::objects::{ObjectError, Objects, begin_namespace_deletion, key, open, resource, wait_until_gone};
use crate::pod::operations::claims;
use crate::pod::operations::delete::DeleteOptions;
use crate::pod::operations::namespaces;
use crate::state::{Paths, PodRecord};

/// An object whose deletion was accepted.
pub(super) struct Deleted<'d> {
    /// `configmap`, `storageclass.storage.k8s.io`
    pub(super) kind: String,
    /// `None` for objects outside of namespaces.
    pub(super) namespace: Option<&'d str>,
    pub(super) name: &'d str,
}

impl<'d> Deleted<'d> {
    pub(super) fn pod(record: &'d PodRecord) -> Self {
        Self {
            kind: "pod".to_owned(),
            namespace: Some(&record.namespace),
            name: &record.name,
        }
    }
}

/// Objects to delete.
#[derive(Debug, Default)]
pub(super) struct Deletions(Vec<Deletion>);

#[derive(Debug)]
struct Deletion {
    kind: &'static Kind,
    key: Key,
    uid: String,
}

/// What a deletion that was accepted leaves.
enum Left {
    Nothing,
    /// Finalizers keep the object.
    Object,
    /// A namespace that must be emptied.
    Namespace(Object),
}

impl Deletion {
    /// Deletes the object, or begins the deletion of a namespace.
    fn begin(&self, target: &Objects) -> Result<Left, ObjectError> {
        let Self { kind, key, uid } = self;
        if kind.kind == "Namespace" {
            if let Some(found) = target.find(kind, key)?
                && found.uid() != uid
            {
                return Err(ObjectError::Store(StoreError::Conflict {
                    resource: resource(kind).qualified_kind(),
                    name: key.name.clone(),
                    conflict: Conflict::DeleteUid {
                        expected: uid.clone(),
                        found: found.uid().to_owned(),
                    },
                }));
            }
            return begin_namespace_deletion(target.store(), &key.name).map(Left::Namespace);
        }
        let deletion = microkube_store::Deletion {
            uid: Some(uid.clone()),
            ..Default::default()
        };
        Ok(match target.delete(kind, key, &deletion)? {
            Written::Removed(_) => Left::Nothing,
            _ => Left::Object,
        })
    }
}

impl Deletions {
    /// A single object.
    pub(super) fn of(kind: &'static Kind, key: Key, uid: &str) -> Self {
        let uid = uid.to_owned();
        Self(vec![Deletion { kind, key, uid }])
    }

    /// Adds the objects of a listing, and its errors to `errors`.
    pub(super) fn add(&mut self, listing: Listing, ignore_not_found: bool, errors: &mut Vec<anyhow::Error>) {
        let text = |object: &Value, field: &str| {
            let text = object.pointer(field).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        for object in &listing.objects {
            let namespace = text(object, "/metadata/namespace");
            self.0.push(Deletion {
                kind: listing.kind,
                key: key(listing.kind, &namespace, &text(object, "/metadata/name")),
                uid: text(object, "/metadata/uid"),
            });
        }
        if !ignore_not_found {
            let missing = listing.missing.iter();
            errors.extend(missing.map(|name| not_found(listing.kind, &name.name)));
        }
        errors.extend(listing.damaged);
    }

    /// UIDs of the objects, with their namespaces.
    pub(super) fn owners(&self) -> impl Iterator<Item = (String, Option<String>)> {
        let deletions = self.0.iter();
        deletions.map(|deletion| (deletion.uid.clone(), deletion.key.namespace.clone()))
    }

    /// `configmap/a`
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let deletions = self.0.iter();
        deletions.map(|deletion| format!("{}/{}", type_in_names(deletion.kind), deletion.key.name))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Drops the objects whose deletion would be refused, and adds the reasons to `errors`.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub(super) fn drop_refused(&mut self, paths: &Paths, errors: &mut Vec<anyhow::Error>) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let target = Objects::of(open(paths)?.dry_run());
        self.0.retain(|deletion| match deletion.begin(&target) {
            Ok(_) => true,
            Err(error) => {
                errors.push(as_kubectl_error(error, None));
                false
            }
        });
        Ok(())
    }

    /// Deletes the objects, and begins the deletion of namespaces. Calls `tell` for each accepted deletion, and adds
    /// the errors of the others to `errors`. Returns the objects that still exist.
    ///
    /// # Errors
    /// An error from `tell`, or if the store cannot be opened.
    pub(super) fn begin(
        self,
        paths: &Paths,
        dry_run: bool,
        tell: &dyn Fn(Deleted<'_>) -> anyhow::Result<()>,
        errors: &mut Vec<anyhow::Error>,
    ) -> anyhow::Result<Waiting> {
        let mut waiting = Waiting::default();
        if self.0.is_empty() {
            return Ok(waiting);
        }
        let store = open(paths)?;
        let target = Objects::of(if dry_run { store.dry_run() } else { store.clone() });
        let kinds: Vec<&Kind> = self.0.iter().map(|deletion| deletion.kind).collect();
        for deletion in self.0 {
            let left = match deletion.begin(&target) {
                Ok(left) => left,
                Err(error) => {
                    errors.push(as_kubectl_error(error, None));
                    continue;
                }
            };
            let Deletion { kind, key, uid } = deletion;
            tell(Deleted {
                kind: type_in_names(kind),
                namespace: key.namespace.as_deref(),
                name: &key.name,
            })?;
            match left {
                Left::Nothing => {}
                Left::Object => waiting.kept.push((resource(kind), key, uid)),
                Left::Namespace(namespace) => waiting.namespaces.push(namespace),
            }
        }
        claims::follow_changes(paths, &target, kinds);
        waiting.store = Some(store);
        Ok(waiting)
    }
}

/// Objects whose deletion has begun.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    store: Option<Store>,
    namespaces: Vec<Object>,
    /// Objects that remain because of their finalizers.
    kept: Vec<(Resource, Key, String)>,
}

impl Waiting {
    /// Empties and removes the namespaces, and waits for all objects if the options require it. Returns why objects
    /// still exist.
    ///
    /// # Errors
    /// If the store or the set of Pods cannot be read.
    pub(super) async fn finish(&self, paths: &Paths, options: &DeleteOptions) -> anyhow::Result<Vec<anyhow::Error>> {
        let Some(store) = &self.store else {
            return Ok(Vec::new());
        };
        let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
        let mut errors = Vec::new();
        for namespace in &self.namespaces {
            errors.extend(namespaces::empty(paths, store, namespace, options).await?);
        }
        for (resource, key, uid) in self.kept.iter().filter(|_| options.waits) {
            if !wait_until_gone(store, resource, key, uid, deadline)? {
                errors.push(anyhow!(
                    "timed out waiting for the condition on {}/{}",
                    resource.qualified_plural(),
                    key.name
                ));
            }
        }
        Ok(errors)
    }
}
