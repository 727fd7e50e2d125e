//! Objects that others own (`metadata.ownerReferences`): they are deleted after or before their owners, or lose them.
//!
//! In Kubernetes, the garbage collector does this. Here it is the command that deletes the owners, so only their
//! dependents are concerned: an object whose owner never existed on this node stays.

mod ownership;

use std::collections::BTreeSet;
use std::convert::Infallible;

use k8s_openapi::api::core::v1::Pod;
use microkube_base::causes::with_causes;
use microkube_manifest::kinds::{self, Kind};
use microkube_store::{Deletion, Key, Object, Scope, Store, Written};
use serde_json::Value;

pub use self::ownership::Owners;
use self::ownership::{Known, Owned, Ownership, Plan};
use super::claims;
use super::delete::{DeleteError, DeleteOptions, delete as delete_pods};
use super::namespaces;
use super::update::{Mode, Part as PodPart, UpdateError, update};
use crate::objects::{self, ObjectError, Objects, Part, begin_namespace_deletion, namespace_resource, wait_until_gone};
use crate::pod::pod_update::has_finalizers;
use crate::state::{Paths, PodRecord, PodRecords};

/// What became of dependents whose deletion was requested.
#[derive(Debug, Default)]
struct Requested {
    /// Why some still exist.
    errors: Vec<anyhow::Error>,
    /// UIDs of those whose deletion failed.
    refused: BTreeSet<String>,
    /// UIDs of those that exist until their finalizers are removed.
    held: BTreeSet<String>,
}

/// What became of the dependents of deleted owners.
#[derive(Debug, Default)]
pub struct Followed {
    /// Why some still exist.
    pub errors: Vec<anyhow::Error>,
    /// Those that stay because finalizers keep their owners (`configmaps/NAME`).
    pub waiting: Vec<String>,
    /// The owners and all dependents: the owners to follow once nothing keeps them any more.
    pub owners: Owners,
}

/// The dependents of objects on this node.
#[derive(Debug)]
pub struct Dependents {
    paths: Paths,
    store: Store,
    owners: Owners,
    ownership: Ownership,
}

impl Dependents {
    /// Reads which objects these owners have.
    ///
    /// # Errors
    /// If the store or the set of Pods cannot be read.
    pub fn read(paths: &Paths, owners: Owners) -> anyhow::Result<Self> {
        let store = objects::open(paths)?;
        let (pods, others): (Vec<&'static Kind>, Vec<&'static Kind>) =
            kinds::all().iter().partition(|kind| kind.kind == "Pod");
        let types: Vec<_> = others
            .iter()
            .map(|&kind| (objects::resource(kind), Scope::All))
            .collect();
        let (mut known, mut is_incomplete) = (Vec::new(), false);
        let mut note_damage = |error: &(dyn std::error::Error + 'static)| {
            tracing::warn!("an object may lose its owners or keep them: {}", with_causes(error));
            is_incomplete = true;
        };
        for (kind, list) in others.into_iter().zip(store.list_all(&types)?) {
            for error in &list.damaged {
                note_damage(error);
            }
            known.extend(list.items.iter().map(|object| Known::object(kind, object)));
        }
        // The store's lists wait for each Pod that is being changed. Here the last record suffices.
        let records = PodRecords::new(paths.clone());
        for kind in pods {
            let (pods, damaged) = records.list_all()?;
            for error in &damaged {
                note_damage(error);
            }
            for record in pods {
                match records.status(&record.uid) {
                    Ok(None) if records.is_gone(&record.uid) => {}
                    Ok(status) => {
                        let is_terminating = status.is_some_and(|status| status.deletion_timestamp.is_some());
                        known.push(Known::pod(kind, record, is_terminating));
                    }
                    Err(error) => {
                        note_damage(&error);
                        known.push(Known::pod(kind, record, false));
                    }
                }
            }
        }
        Ok(Self {
            paths: paths.clone(),
            store,
            ownership: Ownership::of(known, is_incomplete, &owners),
            owners,
        })
    }

    /// Whether the owners own nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_owner = |owner: &String| self.owners.contains_key(owner);
        !self
            .ownership
            .owned
            .iter()
            .any(|owned| owned.owners.iter().any(is_owner))
    }

    /// Deletes what only these owners own, and what that owns, once the owners' deletion is requested
    /// (`--cascade=background`). Does not wait. Owners that were not deleted keep their dependents, and so do those that
    /// finalizers keep.
    pub async fn follow(&self) -> Followed {
        let (mut staying, mut held) = (BTreeSet::new(), BTreeSet::new());
        let mut deleted = BTreeSet::new();
        for owner in self.owners.keys() {
            if let Some(existing) = self.ownership.existing.get(owner) {
                if !existing.is_terminating {
                    continue;
                }
                if existing.has_finalizers {
                    held.insert(owner.clone());
                }
            }
            deleted.insert(owner.clone());
        }
        let plan = self.ownership.plan(deleted);
        let mut followed = Followed {
            owners: self.owners.clone(),
            ..Followed::default()
        };
        for level in &plan.levels {
            let mut free = Vec::new();
            for owned in level {
                followed.owners.insert(owned.uid.clone(), owned.key.namespace.clone());
                if owned.has_owner_in(&staying) {
                    staying.insert(owned.uid.clone());
                } else if owned.has_owner_in(&held) {
                    held.insert(owned.uid.clone());
                    followed
                        .waiting
                        .push(format!("{}/{}", owned.kind.qualified_plural(), owned.key.name));
                } else {
                    free.push(owned.clone());
                }
            }
            let requested = self.delete(&free, &DeleteOptions::default()).await;
            followed.errors.extend(requested.errors);
            staying.extend(requested.refused);
            held.extend(requested.held);
        }
        let Plan { shared, mut gone, .. } = plan;
        gone.retain(|uid| !staying.contains(uid) && !held.contains(uid));
        followed.errors.extend(self.release(&shared, &gone).await);
        followed
    }

    /// Deletes what only these owners own, and what that owns, before the owners, and waits until it is gone
    /// (`--cascade=foreground`). Returns why others still exist.
    pub async fn precede(&self, options: &DeleteOptions) -> Vec<anyhow::Error> {
        let plan = self.ownership.plan(self.owners.keys().cloned().collect());
        let mut errors = self.refusals(&plan);
        for level in plan.levels.iter().rev() {
            if !errors.is_empty() {
                return errors;
            }
            errors = self.delete(level, options).await.errors;
        }
        if errors.is_empty() {
            errors = self.release(&plan.shared, &plan.gone).await;
        }
        errors
    }

    /// Removes these owners from their dependents, which stay (`--cascade=orphan`). Returns why others still have them.
    pub async fn orphan(&self) -> Vec<anyhow::Error> {
        let owners: BTreeSet<String> = self.owners.keys().cloned().collect();
        self.release(&self.ownership.owned, &owners).await
    }

    /// Why namespaces among the dependents cannot be deleted.
    fn refusals(&self, plan: &Plan) -> Vec<anyhow::Error> {
        let store = self.store.dry_run();
        let owned = plan.levels.iter().flatten().filter(|owned| is_namespace(owned.kind));
        let refusals = owned.filter_map(|owned| begin_namespace(&store, &owned.key, &owned.uid).err());
        refusals.map(anyhow::Error::from).collect()
    }

    /// Requests the deletion of dependents, and waits as the options say.
    async fn delete(&self, dependents: &[Owned], options: &DeleteOptions) -> Requested {
        let mut requested = Requested::default();
        let (mut pods, mut ending, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let records = PodRecords::new(self.paths.clone());
        let objects = Objects::of(self.store.clone());
        for dependent in dependents {
            let Owned { kind, key, uid, .. } = dependent;
            if kind.kind == "Pod" {
                match records.visible(uid) {
                    Ok(record) => pods.extend(record),
                    Err(error) => requested.refuse(uid, error.into()),
                }
                continue;
            }
            if is_namespace(kind) {
                match begin_namespace(&self.store, key, uid) {
                    Ok(namespace) => ending.extend(namespace),
                    Err(error) => requested.refuse(uid, error.into()),
                }
                continue;
            }
            let deletion = Deletion {
                uid: Some(uid.clone()),
                ..Deletion::default()
            };
            match objects.delete(kind, key, &deletion) {
                Ok(Written::Removed(_)) => {}
                Ok(_) => {
                    requested.held.insert(uid.clone());
                    kept.push(dependent);
                }
                // Another process was faster.
                Err(error) if error.is_not_found() || error.reason() == Some("Conflict") => {}
                Err(error) => requested.refuse(uid, error.into()),
            }
        }
        claims::follow_changes(&self.paths, &objects, dependents.iter().map(|owned| owned.kind));
        self.delete_pods(pods, options, &mut requested).await;
        for namespace in &ending {
            if namespace.finalizers().next().is_some() {
                requested.held.insert(namespace.uid().to_owned());
            }
            let emptied = namespaces::empty(&self.paths, &self.store, namespace, options).await;
            let errors = emptied.unwrap_or_else(|error| vec![error]);
            requested.errors.extend(errors);
        }
        for dependent in kept.into_iter().filter(|_| options.waits) {
            let error = self.wait_for(dependent, options).await.unwrap_or_else(Some);
            requested.errors.extend(error);
        }
        requested
    }

    async fn delete_pods(&self, pods: Vec<PodRecord>, options: &DeleteOptions, requested: &mut Requested) {
        let finalized = pods
            .iter()
            .filter(|record| record.detached && has_finalizers(&record.pod));
        requested.held.extend(finalized.map(|record| record.uid.clone()));
        let mut refused: BTreeSet<String> = pods.iter().map(|record| record.uid.clone()).collect();
        let accepted = &mut |record: &PodRecord| {
            refused.remove(&record.uid);
            anyhow::Ok(())
        };
        match delete_pods(&self.paths, pods, options, accepted).await {
            Ok(failures) => {
                let reports = failures.into_iter().map(DeleteError::into_report);
                requested.errors.extend(reports);
            }
            Err(error) => requested.errors.push(error),
        }
        requested.refused.extend(refused);
    }

    /// Waits until a dependent that finalizers keep is gone.
    async fn wait_for(&self, dependent: &Owned, options: &DeleteOptions) -> anyhow::Result<Option<anyhow::Error>> {
        let deadline = options.timeout.map(|timeout| std::time::Instant::now() + timeout);
        let (store, Owned { kind, key, uid, .. }) = (self.store.clone(), dependent.clone());
        let resource = objects::resource(kind);
        let (name, plural) = (key.name.clone(), kind.plural);
        let waiting = tokio::task::spawn_blocking(move || wait_until_gone(&store, &resource, &key, &uid, deadline));
        let is_gone = waiting.await??;
        let timed_out = || anyhow::anyhow!("timed out waiting for the condition on {plural}/{name}");
        Ok((!is_gone).then(timed_out))
    }

    /// Removes owners from those of these objects that have them. Returns why others still have them.
    async fn release(&self, dependents: &[Owned], owners: &BTreeSet<String>) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        let objects = Objects::of(self.store.clone());
        for Owned { kind, key, .. } in dependents.iter().filter(|owned| owned.has_owner_in(owners)) {
            if kind.kind == "Pod" {
                errors.extend(self.release_pod(key, owners).await.err());
                continue;
            }
            let changed = objects.change(kind, key, Part::Main, |current| Ok(without_owners(current, owners)));
            match changed {
                Err(error) if !error.is_not_found() => errors.push(error.into()),
                _ => {}
            }
        }
        errors
    }

    async fn release_pod(&self, key: &Key, owners: &BTreeSet<String>) -> anyhow::Result<()> {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let mut change = |pod: &Pod| -> Result<Pod, Infallible> {
            let mut pod = pod.clone();
            let references = pod.metadata.owner_references.take().into_iter().flatten();
            let left: Vec<_> = references
                .filter(|reference| !owners.contains(&reference.uid))
                .collect();
            pod.metadata.owner_references = (!left.is_empty()).then_some(left);
            Ok(pod)
        };
        let changed = update(
            &self.paths,
            namespace,
            &key.name,
            PodPart::Pod,
            Mode::Write,
            &mut change,
        )
        .await;
        match changed {
            Err(UpdateError::NotFound { .. }) => Ok(()),
            changed => changed.map(drop).map_err(UpdateError::into_report),
        }
    }
}

impl Requested {
    fn refuse(&mut self, uid: &str, error: anyhow::Error) {
        self.refused.insert(uid.to_owned());
        self.errors.push(error);
    }
}

fn is_namespace(kind: &Kind) -> bool {
    kind.kind == "Namespace"
}

/// Begins the deletion of the namespace with this UID, unless it is gone.
fn begin_namespace(store: &Store, key: &Key, uid: &str) -> Result<Option<Object>, ObjectError> {
    let found = store.find(&namespace_resource(), key)?;
    if found.is_none_or(|namespace| namespace.uid() != uid) {
        return Ok(None);
    }
    match begin_namespace_deletion(store, &key.name) {
        // Another process was faster.
        Err(error) if error.is_not_found() => Ok(None),
        begun => begun.map(Some),
    }
}

/// The object without these owners; `None` if it has none of them.
fn without_owners(object: &Value, owners: &BTreeSet<String>) -> Option<Value> {
    let mut object = object.clone();
    let references = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let before = references.len();
    let is_owner = |reference: &Value| {
        let uid = reference.get("uid").and_then(Value::as_str);
        uid.is_some_and(|uid| owners.contains(uid))
    };
    references.retain(|reference| !is_owner(reference));
    (references.len() < before).then_some(object)
}

#[cfg(test)]
mod tests;
