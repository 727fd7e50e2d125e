//! Objects that others own (`metadata.ownerReferences`): they are deleted after or before their owners, or lose them.
//!
//! In Kubernetes, the garbage collector does this. Here it is the command that deletes the owners, so only their
//! dependents are concerned: an object whose owner never existed on this node stays.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use k8s_openapi::api::core::v1::Pod;
use microkube_base::causes::with_causes;
use microkube_manifest::kinds::{self, Kind};
use microkube_store::{Deletion, Key, List, Scope, Store, StoreError, Written};
use serde_json::Value;

use super::delete::{DeleteError, DeleteOptions, delete as delete_pods};
use super::update::{Mode, Part as PodPart, UpdateError, update};
use crate::objects::{self, Objects, Part, wait_until_gone};
use crate::state::{Paths, PodRecords};

/// An object that others own.
#[derive(Debug, Clone)]
struct Owned {
    kind: &'static Kind,
    key: Key,
    uid: String,
    /// UIDs.
    owners: Vec<String>,
}

/// All objects of the node, as far as owners matter.
#[derive(Debug, Default)]
struct Ownership {
    /// Of all objects, with whether they are being deleted.
    uids: BTreeMap<String, bool>,
    owned: Vec<Owned>,
    /// Some objects could not be read.
    is_incomplete: bool,
}

/// What becomes of the dependents of owners that are deleted.
#[derive(Debug, Default)]
struct Plan {
    /// Those without other owners: each level's owners are in earlier ones.
    levels: Vec<Vec<Owned>>,
    /// Those that have other owners.
    shared: Vec<Owned>,
    /// UIDs of all that are deleted.
    gone: BTreeSet<String>,
}

/// The dependents of objects on this node.
#[derive(Debug)]
pub struct Dependents {
    paths: Paths,
    store: Store,
    ownership: Ownership,
}

impl Dependents {
    /// Reads which object owns which.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn read(paths: &Paths) -> Result<Self, StoreError> {
        let store = objects::open(paths)?;
        let types: Vec<_> = kinds::all()
            .iter()
            .map(|kind| (objects::resource(kind), Scope::All))
            .collect();
        let lists = store.list_all(&types)?;
        Ok(Self {
            paths: paths.clone(),
            store,
            ownership: Ownership::of(lists),
        })
    }

    /// Deletes what only these owners own, and what that owns, after the owners (`--cascade=background`). Does not wait.
    /// Owners that were not deleted keep their dependents. Returns why others still exist.
    ///
    /// # Errors
    /// If the Pods cannot be followed.
    pub async fn follow(&self, owners: BTreeSet<String>) -> anyhow::Result<Vec<anyhow::Error>> {
        let owners = owners.into_iter().filter(|owner| !self.ownership.stays(owner));
        let plan = self.ownership.plan(owners.collect());
        let mut errors = Vec::new();
        for level in &plan.levels {
            errors.extend(self.delete(level, &DeleteOptions::default()).await?);
        }
        errors.extend(self.release(&plan.shared, &plan.gone).await);
        Ok(errors)
    }

    /// Deletes what only these owners own, and what that owns, before the owners, and waits until it is gone
    /// (`--cascade=foreground`). Returns why others still exist.
    ///
    /// # Errors
    /// If the store cannot be read, or the Pods not be followed.
    pub async fn precede(
        &self,
        owners: BTreeSet<String>,
        options: &DeleteOptions,
    ) -> anyhow::Result<Vec<anyhow::Error>> {
        let plan = self.ownership.plan(owners);
        let mut errors = Vec::new();
        for level in plan.levels.iter().rev() {
            errors.extend(self.delete(level, options).await?);
            if !errors.is_empty() {
                return Ok(errors);
            }
        }
        errors.extend(self.release(&plan.shared, &plan.gone).await);
        Ok(errors)
    }

    /// Removes these owners from their dependents, which stay (`--cascade=orphan`). Returns why others still have them.
    pub async fn orphan(&self, owners: &BTreeSet<String>) -> Vec<anyhow::Error> {
        let is_dependent = |owned: &&Owned| owned.owners.iter().any(|owner| owners.contains(owner));
        let dependents: Vec<Owned> = self.ownership.owned.iter().filter(is_dependent).cloned().collect();
        self.release(&dependents, owners).await
    }

    async fn delete(&self, dependents: &[Owned], options: &DeleteOptions) -> anyhow::Result<Vec<anyhow::Error>> {
        let (mut errors, mut pods, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let records = PodRecords::new(self.paths.clone());
        let objects = Objects::of(self.store.clone());
        for dependent in dependents {
            let Owned { kind, key, uid, .. } = dependent;
            if kind.kind == "Pod" {
                match records.visible(uid) {
                    Ok(record) => pods.extend(record),
                    Err(error) => errors.push(error.into()),
                }
                continue;
            }
            let deletion = Deletion {
                uid: Some(uid.clone()),
                ..Deletion::default()
            };
            match objects.delete(kind, key, &deletion) {
                Ok(Written::Removed(_)) => {}
                Ok(_) => kept.push(dependent),
                // Another process was faster.
                Err(error) if error.is_not_found() || error.reason() == Some("Conflict") => {}
                Err(error) => errors.push(error.into()),
            }
        }
        let failures = delete_pods(&self.paths, pods, options, &mut |_| Ok(())).await?;
        errors.extend(failures.into_iter().map(DeleteError::into_report));
        for dependent in kept.into_iter().filter(|_| options.waits) {
            errors.extend(self.wait_for(dependent, options).await?);
        }
        Ok(errors)
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

    /// Removes owners from objects that stay.
    async fn release(&self, dependents: &[Owned], owners: &BTreeSet<String>) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        let objects = Objects::of(self.store.clone());
        for Owned { kind, key, .. } in dependents {
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

impl Ownership {
    fn of(lists: Vec<List>) -> Self {
        let mut ownership = Self::default();
        for (kind, list) in kinds::all().iter().zip(lists) {
            for error in &list.damaged {
                tracing::warn!("an object may lose its owners or keep them: {}", with_causes(error));
                ownership.is_incomplete = true;
            }
            for object in &list.items {
                ownership.uids.insert(object.uid().to_owned(), object.is_terminating());
                let references = object.value().pointer("/metadata/ownerReferences");
                let references = references.and_then(Value::as_array).into_iter().flatten();
                let owners = references.filter_map(|reference| reference.get("uid")?.as_str());
                let owners: Vec<String> = owners.map(str::to_owned).collect();
                if !owners.is_empty() {
                    ownership.owned.push(Owned {
                        kind,
                        key: objects::key(kind, object.namespace().unwrap_or_default(), object.name()),
                        uid: object.uid().to_owned(),
                        owners,
                    });
                }
            }
        }
        ownership
    }

    /// Whether an object exists and is not being deleted.
    fn stays(&self, uid: &str) -> bool {
        self.uids.get(uid).is_some_and(|is_terminating| !is_terminating)
    }

    /// Which dependents are deleted with these owners.
    fn plan(&self, owners: BTreeSet<String>) -> Plan {
        let mut plan = Plan {
            gone: owners,
            ..Plan::default()
        };
        loop {
            let gone = &plan.gone;
            let may_exist =
                |owner: &String| !gone.contains(owner) && (self.is_incomplete || self.uids.contains_key(owner));
            let is_next = |owned: &&Owned| {
                !gone.contains(&owned.uid)
                    && owned.owners.iter().any(|owner| gone.contains(owner))
                    && !owned.owners.iter().any(may_exist)
            };
            let level: Vec<Owned> = self.owned.iter().filter(is_next).cloned().collect();
            if level.is_empty() {
                break;
            }
            plan.gone.extend(level.iter().map(|owned| owned.uid.clone()));
            plan.levels.push(level);
        }
        let is_shared = |owned: &&Owned| {
            !plan.gone.contains(&owned.uid) && owned.owners.iter().any(|owner| plan.gone.contains(owner))
        };
        plan.shared = self.owned.iter().filter(is_shared).cloned().collect();
        plan
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
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::test_store::config_map;
    use crate::pod::test_pods::{TestPods, manifest};

    fn owned_by(mut object: Value, owners: &[&str]) -> Value {
        let reference = |uid: &&str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid });
        object["metadata"]["ownerReferences"] = owners.iter().map(reference).collect();
        object
    }

    /// A node with objects that own each other.
    struct Node {
        pods: TestPods,
        objects: Objects,
        owner: String,
        other: String,
    }

    impl Node {
        /// `owner` owns `child`, the Pod `worker`, and with `other` the ConfigMap `shared` and the Pod `both`. The Pod
        /// `worker` owns `grandchild`. The owner of `foreign` never existed.
        fn new() -> Self {
            let pods = TestPods::new();
            let objects = Objects::open(&pods.paths).unwrap();
            let create = |name: &str, owners: &[&str]| {
                let object = owned_by(config_map("default", name), owners);
                let created = objects.create(kinds::named("cm").unwrap(), &object).unwrap();
                created.uid().to_owned()
            };
            let (owner, other) = (create("owner", &[]), create("other", &[]));
            create("child", &[&owner]);
            let worker = pods.add_ended(&owned_by(manifest("worker", "nginx:1", "a"), &[&owner]));
            pods.add_ended(&owned_by(manifest("both", "nginx:1", "a"), &[&owner, &other]));
            create("grandchild", &[&worker]);
            create("shared", &[&other, &owner]);
            create("foreign", &["never"]);
            Self {
                pods,
                objects,
                owner,
                other,
            }
        }

        fn owners(&self) -> BTreeSet<String> {
            BTreeSet::from([self.owner.clone()])
        }

        /// `NAME` or `NAME < NUMBER OF OWNERS` of all ConfigMaps and Pods.
        fn left(&self) -> Vec<String> {
            let types = ["cm", "pods"].map(|name| (objects::resource(kinds::named(name).unwrap()), Scope::All));
            let lists = self.objects.store().list_all(&types).unwrap();
            let items = lists.iter().flat_map(|list| &list.items);
            let text = |object: &std::sync::Arc<microkube_store::Object>| {
                let owners = object.value().pointer("/metadata/ownerReferences");
                match owners.and_then(Value::as_array).map_or(0, Vec::len) {
                    0 => object.name().to_owned(),
                    count => format!("{} < {count}", object.name()),
                }
            };
            items.map(text).collect()
        }
    }

    #[tokio::test]
    async fn what_only_deleted_objects_own_is_deleted_with_its_own_dependents() {
        let waiting = DeleteOptions {
            waits: true,
            ..DeleteOptions::default()
        };
        for is_first in [true, false] {
            let node = Node::new();
            let dependents = Dependents::read(&node.pods.paths).unwrap();
            let errors = match is_first {
                true => dependents.precede(node.owners(), &waiting).await.unwrap(),
                false => {
                    // Its deletion has failed.
                    let errors = dependents.follow(node.owners()).await.unwrap();
                    assert!(errors.is_empty() && node.left().len() == 8, "{errors:?}");
                    let (cm, key) = (kinds::named("cm").unwrap(), Key::namespaced("default", "owner"));
                    node.objects.delete(cm, &key, &Deletion::default()).unwrap();
                    let dependents = Dependents::read(&node.pods.paths).unwrap();
                    dependents.follow(node.owners()).await.unwrap()
                }
            };
            assert!(errors.is_empty(), "{errors:?}");
            let left = node.left().into_iter().filter(|name| name != "owner");
            assert_eq!(
                left.collect::<Vec<_>>(),
                ["foreign < 1", "other", "shared < 1", "both < 1"]
            );
        }
    }

    #[tokio::test]
    async fn orphans_stay_without_their_owners() {
        let node = Node::new();
        let dependents = Dependents::read(&node.pods.paths).unwrap();
        let owners = BTreeSet::from([node.owner.clone(), node.other.clone()]);
        let errors = dependents.orphan(&owners).await;
        assert!(errors.is_empty(), "{errors:?}");
        let left = [
            "child",
            "foreign < 1",
            "grandchild < 1",
            "other",
            "owner",
            "shared",
            "both",
            "worker",
        ];
        assert_eq!(node.left(), left);
    }

    #[test]
    fn dependents_with_owners_that_may_exist_are_kept() {
        let node = Node::new();
        let mut ownership = Dependents::read(&node.pods.paths).unwrap().ownership;
        let mut circle = ownership.owned.first().unwrap().clone();
        circle.owners = vec![node.owner.clone(), "unreadable".to_owned(), circle.uid.clone()];
        ownership.owned = vec![circle];
        assert_eq!(ownership.plan(node.owners()).levels.len(), 0, "it owns itself");
        ownership.owned.first_mut().unwrap().owners.pop();
        assert_eq!(ownership.plan(node.owners()).levels.len(), 1);
        ownership.is_incomplete = true;
        let plan = ownership.plan(node.owners());
        assert_eq!((plan.levels.len(), plan.shared.len()), (0, 1));
    }
}
