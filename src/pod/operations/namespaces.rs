//! Deletes namespaces with everything in them: Pods first, then all other objects, then the namespace.
//!
//! No process runs between two commands, so the command that deletes a namespace empties it. If it does not wait, or
//! dies, a later command removes the namespace once it is empty ([`tidy`]).

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::anyhow;
use microkube_base::causes::with_causes;
use microkube_store::{Key, Object, Resource, Scope, Store};

use super::delete::{DeleteError, DeleteOptions, delete as delete_pods};
use crate::objects::{
    DEFAULT_NAMESPACE, delete_content, end_namespace, ensure_account, ensure_namespace, ensure_standard_class,
    is_empty, namespace_resource, note_remaining, open, remove_account, wait_until_gone,
};
use crate::pod::claims::settle_or_warn;
use crate::state::{Paths, PodRecord, PodRecords};

/// How often a waiting deletion empties the namespace again. Objects may still appear in it, for example one whose
/// creation began before the deletion.
const ATTEMPTS: usize = 10;

/// A namespace that is being deleted gets no new Pods.
#[derive(Debug, thiserror::Error)]
#[error(
    "pods {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated"
)]
pub struct NamespaceEnds {
    name: String,
    namespace: String,
}

/// Checks that a Pod can be created in a namespace. Succeeds if the store cannot be read.
///
/// A deletion that begins later does not see a Pod without a record. The caller must therefore check again once the
/// record exists, and remove the record if that check fails.
///
/// # Errors
/// If the namespace is being deleted.
pub fn check(paths: &Paths, namespace: &str, name: &str) -> Result<(), NamespaceEnds> {
    if !paths.objects().exists() {
        return Ok(());
    }
    let found = open(paths).and_then(|store| store.find(&namespace_resource(), &Key::cluster(namespace)));
    match found {
        Ok(Some(found)) if found.is_terminating() => Err(NamespaceEnds {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(
                namespace,
                error = &error as &dyn std::error::Error,
                "cannot read a namespace"
            );
            Ok(())
        }
    }
}

/// Creates the default namespace, the StorageClass `standard`, the namespaces of Pods and the ServiceAccounts of namespaces if they do not exist. Removes the
/// empty ones among the namespaces whose deletion has begun, and notes what keeps the others. Reports a damaged record
/// of a Pod, and then keeps all namespaces, because the Pod may be in any of them.
///
/// # Errors
/// If the store or the set of Pods cannot be read, or the store cannot be written.
pub fn tidy(paths: &Paths, store: &Store) -> anyhow::Result<()> {
    ensure_namespace(store, DEFAULT_NAMESPACE)?;
    if let Err(error) = ensure_standard_class(paths, store) {
        // Objects are shown even if nothing can be written. The next command tries again.
        tracing::warn!("there is no default StorageClass: {}", with_causes(&error));
    }
    let of_pods = || -> anyhow::Result<_> {
        let (records, damaged) = PodRecords::new(paths.clone()).list_all()?;
        let namespaces: BTreeSet<String> = records.into_iter().map(|record| record.namespace).collect();
        Ok((namespaces, damaged))
    };
    for namespace in of_pods()?.0 {
        ensure_namespace(store, &namespace)?;
    }
    let namespaces = store.list(&namespace_resource(), &Scope::All)?.items;
    let (ending, kept): (Vec<_>, Vec<_>) = namespaces.into_iter().partition(|object| object.is_terminating());
    for namespace in &kept {
        ensure_account(store, namespace)?;
    }
    if ending.is_empty() {
        return Ok(());
    }
    // Pods that were created before their namespaces began to end are in this list.
    let (with_pods, damaged) = of_pods()?;
    for error in &damaged {
        tracing::warn!("namespaces that are being deleted stay: {}", with_causes(error));
    }
    for namespace in ending.iter().filter(|_| damaged.is_empty()) {
        let name = namespace.name();
        if !with_pods.contains(name) {
            // The command that began the deletion may have died before it deleted the account.
            remove_account(store, name, None)?;
            if is_empty(store, name)? {
                end_namespace(store, namespace)?;
            }
        }
        note_remaining(store, name)?;
    }
    Ok(())
}

/// Deletes everything in a namespace whose deletion has begun, and then the namespace. If the options say to wait, the
/// namespace is gone afterwards. Returns why Pods or the namespace still exist.
///
/// # Errors
/// If the store or the set of Pods cannot be read, or the Pods cannot be waited for.
pub async fn empty(
    paths: &Paths,
    store: &Store,
    namespace: &Object,
    options: &DeleteOptions,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
    let name = namespace.name();
    let timed_out = || anyhow!("timed out waiting for the condition on namespaces/{name}");
    for _ in 0..ATTEMPTS {
        let options = DeleteOptions {
            timeout: deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
            ..*options
        };
        let failures = delete_pods(paths, pods_in(paths, name)?, &options, &mut |_| Ok(())).await?;
        if !failures.is_empty() {
            // Delete the other objects nevertheless.
            delete_objects(paths, store, name)?;
            return Ok(failures.into_iter().map(DeleteError::into_report).collect());
        }
        for (resource, key, uid) in delete_objects(paths, store, name)? {
            if options.waits && !is_gone(store, resource, key, uid, deadline).await? {
                return Ok(vec![timed_out()]);
            }
        }
        if pods_in(paths, name)?.is_empty() && is_empty(store, name)? {
            end_namespace(store, namespace)?;
            let (resource, key, uid) = (namespace_resource(), Key::cluster(name), namespace.uid().to_owned());
            // Finalizers in its metadata may keep it.
            let is_done = !options.waits || is_gone(store, resource, key, uid, deadline).await?;
            return Ok(if is_done { Vec::new() } else { vec![timed_out()] });
        }
        if !options.waits {
            return Ok(Vec::new());
        }
    }
    Ok(vec![timed_out()])
}

/// Deletes all objects but Pods. Returns those that remain because of finalizers.
fn delete_objects(paths: &Paths, store: &Store, namespace: &str) -> anyhow::Result<Vec<(Resource, Key, String)>> {
    let kept = delete_content(store, namespace)?;
    if kept
        .iter()
        .any(|(resource, ..)| resource.kind == "PersistentVolumeClaim")
    {
        settle_or_warn(paths);
    }
    Ok(kept)
}

/// Waits until an object is gone; `false` if it still exists at the deadline.
async fn is_gone(
    store: &Store,
    resource: Resource,
    key: Key,
    uid: String,
    deadline: Option<Instant>,
) -> anyhow::Result<bool> {
    let store = store.clone();
    let waiting = tokio::task::spawn_blocking(move || wait_until_gone(&store, &resource, &key, &uid, deadline));
    Ok(waiting.await??)
}

/// The Pods in a namespace.
fn pods_in(paths: &Paths, namespace: &str) -> anyhow::Result<Vec<PodRecord>> {
    let (records, damaged) = PodRecords::new(paths.clone()).list_all()?;
    if let Some(error) = damaged.into_iter().next() {
        // The Pod with the damaged record may be in this namespace.
        return Err(error.into());
    }
    let in_namespace = records.into_iter().filter(|record| record.namespace == namespace);
    Ok(in_namespace.collect())
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use microkube_store::{Event, StoreError};
    use serde_json::json;

    use super::*;
    use crate::objects::test_store::{TestStore, config_map};
    use crate::objects::{begin_namespace_deletion, resource};
    use crate::pod::test_pods::{manifest, record_of};

    fn names(store: &TestStore) -> Vec<String> {
        let list = store.list(&namespace_resource(), &Scope::All).unwrap();
        list.items.iter().map(|namespace| namespace.name().to_owned()).collect()
    }

    #[test]
    fn the_default_namespace_always_exists() {
        let store = TestStore::new();
        tidy(&store.paths, &store).unwrap();
        assert_eq!(names(&store), ["default"]);
    }

    #[test]
    fn every_namespace_has_a_service_account() {
        let store = TestStore::new();
        // Earlier builds created namespaces without accounts.
        let shop = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
        store.add(kinds::named("ns").unwrap(), shop);
        tidy(&store.paths, &store).unwrap();
        let accounts = store
            .list(&resource(kinds::named("sa").unwrap()), &Scope::All)
            .unwrap()
            .items;
        let found: Vec<_> = accounts
            .iter()
            .map(|account| (account.namespace(), account.name()))
            .collect();
        assert_eq!(found, [(Some("default"), "default"), (Some("shop"), "default")]);
    }

    #[test]
    fn a_namespace_exists_as_long_as_it_has_pods() {
        let store = TestStore::new();
        let mut pod = manifest("web", "nginx:1", "sleep");
        pod["metadata"]["namespace"] = "shop".into();
        let _lock = PodRecords::new(store.paths.clone()).create(&record_of(&pod)).unwrap();
        tidy(&store.paths, &store).unwrap();
        assert_eq!(names(&store), ["default", "shop"]);
    }

    #[test]
    fn a_terminating_namespace_gets_no_new_pods() {
        let store = TestStore::new();
        let check = |namespace: &str| check(&store.paths, namespace, "web").map_err(|error| error.to_string());
        assert_eq!(check("shop"), Ok(()));
        ensure_namespace(&store, "shop").unwrap();
        assert_eq!(check("shop"), Ok(()));
        begin_namespace_deletion(&store, "shop").unwrap();
        assert_eq!(
            check("shop").unwrap_err(),
            "pods \"web\" is forbidden: unable to create new content in namespace shop because it is being terminated"
        );
        assert_eq!(check("other"), Ok(()));
    }

    #[tokio::test]
    async fn a_namespace_disappears_with_its_content() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        store.add(kinds::named("cm").unwrap(), config_map("shop", "a"));
        let namespace = begin_namespace_deletion(&store, "shop").unwrap();
        let options = DeleteOptions {
            waits: true,
            ..DeleteOptions::default()
        };
        let failures = empty(&store.paths, &store, &namespace, &options).await.unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        assert_eq!(names(&store), Vec::<String>::new());
        assert!(is_empty(&store, "shop").unwrap());
    }

    #[test]
    fn a_terminating_namespace_stays_while_it_has_pods_or_objects() {
        let store = TestStore::new();
        for name in ["a", "b", "c"] {
            ensure_namespace(&store, name).unwrap();
            begin_namespace_deletion(&store, name).unwrap();
        }
        store.add(kinds::named("cm").unwrap(), config_map("a", "a"));
        let mut pod = manifest("web", "nginx:1", "sleep");
        pod["metadata"]["namespace"] = "b".into();
        let _lock = PodRecords::new(store.paths.clone()).create(&record_of(&pod)).unwrap();
        tidy(&store.paths, &store).unwrap();
        assert_eq!(names(&store), ["a", "b", "default"]);
        let message = |name: &str| {
            let namespace = store.get(&namespace_resource(), &Key::cluster(name)).unwrap();
            namespace.value()["status"]["conditions"][3]["message"].clone()
        };
        let one = |kind: &str| {
            json!(format!(
                "Some resources are remaining: {kind}. has 1 resource instances"
            ))
        };
        assert_eq!((message("a"), message("b")), (one("configmaps"), one("pods")));
    }

    #[tokio::test]
    async fn what_appears_in_a_namespace_while_it_is_emptied_is_deleted_too() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        let config_maps = resource(kinds::named("cm").unwrap());
        let mut kept = config_map("shop", "kept");
        kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
        store.add(kinds::named("cm").unwrap(), kept);
        let list = store.list(&config_maps, &Scope::All).unwrap();
        let watch = store.watch(&list).unwrap();
        let namespace = begin_namespace_deletion(&store, "shop").unwrap();
        let writer = Store::clone(&store);
        let appearing = std::thread::spawn(move || {
            let mut events = watch.map(Result::unwrap);
            let is_marked = |event: &Event| event.object().name() == "kept" && event.object().is_terminating();
            events.find(is_marked).unwrap();
            let late = Object::new(config_map("shop", "late")).unwrap();
            writer.create(&config_maps, late).unwrap();
            writer
                .modify::<StoreError>(&config_maps, &Key::namespaced("shop", "kept"), |current| {
                    let mut value = current.value().clone();
                    value["metadata"]["finalizers"] = json!([]);
                    Ok(Some(Object::new(value)?))
                })
                .unwrap();
        });
        let options = DeleteOptions {
            waits: true,
            ..DeleteOptions::default()
        };
        let failures = empty(&store.paths, &store, &namespace, &options).await.unwrap();
        appearing.join().unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        assert!(is_empty(&store, "shop").unwrap());
        assert_eq!(names(&store), Vec::<String>::new());
    }

    #[test]
    fn a_damaged_record_of_a_pod_keeps_terminating_namespaces_and_is_no_error() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        begin_namespace_deletion(&store, "shop").unwrap();
        let record = record_of(&manifest("web", "nginx:1", "sleep"));
        let _lock = PodRecords::new(store.paths.clone()).create(&record).unwrap();
        std::fs::write(store.paths.pod_state(&record.uid).join("pod.json"), "torn").unwrap();
        tidy(&store.paths, &store).unwrap();
        assert_eq!(names(&store), ["default", "shop"]);
    }
}
