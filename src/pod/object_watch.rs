//! Follows the objects that a Pod refers to, so that its supervisor rereads them when they change.
//!
//! One thread follows each kind. Without a watch, for example because the host's inotify instances are used up, the
//! objects count as changed once a minute, the interval at which the kubelet rereads them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use microkube_base::causes::with_causes;
use microkube_manifest::kinds::{self, Kind};
use microkube_projection::{ObjectKind, references};
use microkube_store::{ObjectVersion, Scope, StoreError, Watch};
use tokio::sync::watch;

use crate::objects;
use crate::state::Paths;

/// How often the objects are reread without a watch (`syncFrequency` of the kubelet).
const POLL_PERIOD: Duration = Duration::from_secs(60);
/// The pause after an error of a watch.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Changes of the objects that a Pod refers to.
#[derive(Debug, Clone)]
pub struct ObjectChanges {
    /// The number of changes so far.
    count: watch::Receiver<u64>,
}

/// Names of objects by their kind.
type Names = BTreeMap<&'static str, BTreeSet<String>>;

impl ObjectChanges {
    /// Follows the objects that this Pod refers to, and the Pod's own object.
    #[must_use]
    pub fn of_pod(paths: &Paths, pod: &Pod) -> Self {
        let (sender, count) = watch::channel(0);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        for (kind, names) in names(pod) {
            let Some(kind) = kinds::find("v1", kind) else { continue };
            let followed = Followed {
                paths: paths.clone(),
                kind,
                namespace: namespace.clone(),
                names,
                changes: sender.clone(),
            };
            let thread = std::thread::Builder::new().name(format!("watch-{}", kind.plural));
            if let Err(error) = thread.spawn(move || followed.follow()) {
                tracing::warn!("cannot follow the Pod's objects of kind {}: {error}", kind.kind);
            }
        }
        Self { count }
    }

    /// Waits until at least one object may have changed since the last call. Cancel safe.
    pub async fn changed(&mut self) {
        if self.count.changed().await.is_err() {
            // The Pod refers to nothing.
            std::future::pending::<()>().await;
        }
    }
}

/// The objects that the Pod refers to, including its own, because its files can show its labels and annotations.
fn names(pod: &Pod) -> Names {
    let mut names = Names::new();
    for reference in references(pod) {
        let kind = match reference.kind {
            ObjectKind::ConfigMap => "ConfigMap",
            ObjectKind::Secret => "Secret",
        };
        names.entry(kind).or_default().insert(reference.name);
    }
    names
}

/// The objects of one kind that a thread follows.
struct Followed {
    paths: Paths,
    kind: &'static Kind,
    namespace: String,
    names: BTreeSet<String>,
    changes: watch::Sender<u64>,
}

impl Followed {
    /// Follows the objects until the receiver is dropped.
    fn follow(&self) {
        let mut is_reported = false;
        loop {
            match self.watch() {
                Ok(watch) => self.pass_on(watch),
                Err(error) if !is_reported => {
                    is_reported = true;
                    let period = POLL_PERIOD.as_secs();
                    let error = with_causes(&error);
                    tracing::warn!("changes of {} are noticed every {period} s: {error}", self.kind.plural);
                }
                Err(_) => {}
            }
            // The watch does not report earlier changes.
            self.note_change();
            if self.changes.is_closed() {
                return;
            }
            std::thread::sleep(POLL_PERIOD);
        }
    }

    /// The watch lasts for the Pod's whole life, so it keeps no values.
    fn watch(&self) -> Result<Watch<ObjectVersion>, StoreError> {
        let store = objects::open(&self.paths)?;
        let list = store.list(&objects::resource(self.kind), &Scope::Namespace(self.namespace.clone()))?;
        store.watch_versions(&list)
    }

    /// Passes changes on until the receivers are gone.
    fn pass_on(&self, mut watch: Watch<ObjectVersion>) {
        self.note_change();
        while !self.changes.is_closed() {
            match watch.next_until(Some(Instant::now() + POLL_PERIOD)) {
                Ok(Some(event)) if self.names.contains(&event.object().key.name) => self.note_change(),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!("cannot follow {}: {}", self.kind.plural, with_causes(&error));
                    self.note_change();
                    std::thread::sleep(ERROR_PAUSE);
                }
            }
        }
    }

    fn note_change(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use microkube_store::{Deletion, Object, Store};
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" }, "spec": spec,
        }))
        .unwrap()
    }

    fn create(store: &Store, name: &str) {
        let config_map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "shop" },
        });
        let resource = objects::resource(kinds::find("v1", "ConfigMap").unwrap());
        store.create(&resource, Object::new(config_map).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn changes_of_the_pods_objects_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let store = objects::open(&paths).unwrap();
        let spec = json!({ "containers": [], "volumes": [{ "name": "v", "configMap": { "name": "a" } }] });
        let mut changes = ObjectChanges::of_pod(&paths, &pod(spec));
        // Change the object once the watch exists.
        changes.changed().await;
        create(&store, "a");
        changes.changed().await;
        let kind = kinds::find("v1", "ConfigMap").unwrap();
        let key = objects::key(kind, "shop", "a");
        store
            .delete(&objects::resource(kind), &key, &Deletion::default())
            .unwrap();
        changes.changed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_without_references_never_changes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let mut changes = ObjectChanges::of_pod(&paths, &pod(json!({ "containers": [] })));
        let waited = tokio::time::timeout(Duration::from_secs(3600), changes.changed()).await;
        assert!(waited.is_err());
        assert!(!paths.objects().exists(), "the store is not opened");
    }

    #[test]
    fn each_kind_is_followed_once() {
        let names = names(&pod(json!({
            "containers": [{ "name": "c", "envFrom": [{ "secretRef": { "name": "s" } }] }],
            "volumes": [{ "name": "v", "secret": { "secretName": "t" } }, { "name": "w", "configMap": { "name": "c" } }],
        })));
        let names: Vec<_> = names.into_iter().collect();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(names, [("ConfigMap", set(&["c"])), ("Secret", set(&["s", "t"]))]);
    }
}
