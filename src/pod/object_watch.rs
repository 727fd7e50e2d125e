//! Follows the objects that a Pod refers to, so that its supervisor rereads them when they change.
//!
//! One thread follows each kind. Without a watch, for example because the host's inotify instances are used up, the
//! objects count as changed once a minute, the interval at which the kubelet rereads them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use microkube_base::causes::with_causes;
use microkube_base::lock::lock;
use microkube_manifest::kinds::{self, Kind};
use microkube_projection::{ObjectKind, references};
use microkube_store::{ObjectVersion, Scope, StoreError, Watch};
use tokio::sync::watch;

use super::claims::claim_names;
use super::service_account_token::service_account;
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
    following: Arc<Following>,
}

/// What is followed so far.
#[derive(Debug)]
struct Following {
    paths: Paths,
    namespace: String,
    changes: watch::Sender<u64>,
    by_kind: Mutex<BTreeMap<&'static str, SharedNames>>,
}

/// Names of objects by their kind.
type Names = BTreeMap<&'static str, BTreeSet<String>>;

/// The names that a thread follows. Others can be added.
type SharedNames = Arc<Mutex<BTreeSet<String>>>;

impl ObjectChanges {
    /// Follows the objects that this Pod refers to.
    #[must_use]
    pub fn of_pod(paths: &Paths, pod: &Pod) -> Self {
        let (changes, count) = watch::channel(0);
        let changes = Self {
            count,
            following: Arc::new(Following {
                paths: paths.clone(),
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                changes,
                by_kind: Mutex::default(),
            }),
        };
        changes.follow(pod);
        changes
    }

    /// Follows also the objects that the Pod refers to now, after a container was added to it. Call this before they are
    /// looked up.
    pub fn follow(&self, pod: &Pod) {
        let mut by_kind = lock(&self.following.by_kind);
        for (kind, names) in names(pod) {
            if let Some(followed) = by_kind.get(kind) {
                lock(followed).extend(names);
            } else if let Some(kind) = kinds::find("v1", kind) {
                let names = Arc::new(Mutex::new(names));
                by_kind.insert(kind.kind, Arc::clone(&names));
                self.following.start(kind, names);
            }
        }
    }

    /// Waits until at least one object may have changed since the last call. Cancel safe.
    pub async fn changed(&mut self) {
        // There is always a sender, in `following`.
        let _ = self.count.changed().await;
    }
}

impl Following {
    fn start(&self, kind: &'static Kind, names: SharedNames) {
        let followed = Followed {
            paths: self.paths.clone(),
            kind,
            namespace: self.namespace.clone(),
            names,
            changes: self.changes.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("watch-{}", kind.plural));
        if let Err(error) = thread.spawn(move || followed.follow()) {
            tracing::warn!("cannot follow the Pod's objects of kind {}: {error}", kind.kind);
        }
    }
}

/// The objects that the Pod refers to.
fn names(pod: &Pod) -> Names {
    let mut names = Names::new();
    for reference in references(pod) {
        let kind = match reference.kind {
            ObjectKind::ConfigMap => "ConfigMap",
            ObjectKind::Secret => "Secret",
        };
        names.entry(kind).or_default().insert(reference.name);
    }
    let claims: BTreeSet<String> = claim_names(pod).collect();
    if !claims.is_empty() {
        names.insert("PersistentVolumeClaim", claims);
    }
    if has_token(pod) {
        let account = service_account(pod).to_owned();
        names.entry("ServiceAccount").or_default().insert(account);
    }
    names
}

/// Whether a volume has a token of the Pod's service account.
fn has_token(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut sources = volumes
        .filter_map(|volume| volume.projected.as_ref())
        .flat_map(|projected| projected.sources.iter().flatten());
    sources.any(|source| source.service_account_token.is_some())
}

/// The objects of one kind that a thread follows.
struct Followed {
    paths: Paths,
    kind: &'static Kind,
    namespace: String,
    names: SharedNames,
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
                Ok(Some(event)) if lock(&self.names).contains(&event.object().key.name) => self.note_change(),
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

    #[tokio::test]
    async fn objects_that_only_an_added_container_refers_to_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let store = objects::open(&paths).unwrap();
        for volumes in [json!([]), json!([{ "name": "v", "configMap": { "name": "volume" } }])] {
            let mut changes = ObjectChanges::of_pod(&paths, &pod(json!({ "containers": [], "volumes": volumes })));
            let is_followed = volumes != json!([]);
            if is_followed {
                changes.changed().await;
            }
            changes.follow(&pod(
                json!({ "containers": [], "volumes": volumes, "ephemeralContainers": [
                { "name": "debug", "envFrom": [{ "configMapRef": { "name": format!("debug-{is_followed}") } }] },
            ] }),
            ));
            if !is_followed {
                changes.changed().await;
            }
            create(&store, &format!("debug-{is_followed}"));
            changes.changed().await;
        }
    }

    #[test]
    fn the_service_account_of_a_pod_with_a_token_is_followed() {
        let of = |sources: Value| {
            let volumes = json!([{ "name": "v", "projected": { "sources": sources } }]);
            names(&pod(
                json!({ "containers": [], "volumes": volumes, "serviceAccountName": "web" }),
            ))
        };
        assert_eq!(of(json!([])), Names::new());
        let names = of(json!([{ "serviceAccountToken": { "path": "token" } }]));
        assert_eq!(names, [("ServiceAccount", ["web".to_owned()].into())].into());
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
