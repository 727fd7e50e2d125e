//! Dependents of ConfigMaps, namespaces and Pods.

use serde_json::json;

use super::*;
use crate::objects::test_store::config_map;
use crate::pod::test_pods::{TestPods, manifest};

fn owned_by(mut object: Value, owners: &[&str]) -> Value {
    let reference = |uid: &&str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid });
    object["metadata"]["ownerReferences"] = owners.iter().map(reference).collect();
    object
}

fn namespaces_kind() -> &'static Kind {
    kinds::named("namespaces").unwrap()
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

    fn dependents_of(&self, owners: &[(&str, Option<&str>)]) -> Dependents {
        let owners = owners.iter();
        let owners = owners.map(|(uid, namespace)| ((*uid).to_owned(), namespace.map(str::to_owned)));
        Dependents::read(&self.pods.paths, owners.collect()).unwrap()
    }

    fn dependents(&self) -> Dependents {
        self.dependents_of(&[(self.owner.as_str(), Some("default"))])
    }

    /// Adds a namespace with these owners; returns its UID.
    fn add_namespace(&self, name: &str, owners: &[&str]) -> String {
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        let created = self.objects.create(namespaces_kind(), &owned_by(namespace, owners));
        created.unwrap().uid().to_owned()
    }

    fn add_config_map(&self, namespace: &str, name: &str, owners: &[&str]) {
        let object = owned_by(config_map(namespace, name), owners);
        self.objects.create(kinds::named("cm").unwrap(), &object).unwrap();
    }

    fn has_namespace(&self, name: &str) -> bool {
        let found = self.objects.find(namespaces_kind(), &Key::cluster(name)).unwrap();
        found.is_some()
    }

    fn has_config_map(&self, namespace: &str, name: &str) -> bool {
        let key = Key::namespaced(namespace, name);
        self.objects.find(kinds::named("cm").unwrap(), &key).unwrap().is_some()
    }

    /// Deletes `owner`, or only marks it if it has finalizers.
    fn delete_owner(&self) {
        let (cm, key) = (kinds::named("cm").unwrap(), Key::namespaced("default", "owner"));
        self.objects.delete(cm, &key, &Deletion::default()).unwrap();
    }

    fn set_finalizers_of_owner(&self, finalizers: &Value) {
        let (cm, key) = (kinds::named("cm").unwrap(), Key::namespaced("default", "owner"));
        let changed = self.objects.change(cm, &key, Part::Main, |current| {
            let mut object = current.clone();
            object["metadata"]["finalizers"] = finalizers.clone();
            Ok(Some(object))
        });
        changed.unwrap();
    }

    /// Makes the namespace `default` a dependent.
    fn own_default(&self, owner: &str) -> String {
        let key = Key::cluster("default");
        let changed = self.objects.change(namespaces_kind(), &key, Part::Main, |current| {
            Ok(Some(owned_by(current.clone(), &[owner])))
        });
        changed.unwrap().object().uid().to_owned()
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
        let dependents = node.dependents();
        let errors = match is_first {
            true => dependents.precede(&waiting).await,
            false => {
                // Its deletion has failed.
                let errors = dependents.follow().await.errors;
                assert!(errors.is_empty() && node.left().len() == 8, "{errors:?}");
                node.delete_owner();
                node.dependents().follow().await.errors
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
    let dependents = node.dependents_of(&[
        (node.owner.as_str(), Some("default")),
        (node.other.as_str(), Some("default")),
    ]);
    let errors = dependents.orphan().await;
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
    let mut ownership = node.dependents().ownership;
    let owners = || BTreeSet::from([node.owner.clone()]);
    let mut circle = ownership.owned.first().unwrap().clone();
    circle.owners = vec![node.owner.clone(), "unreadable".to_owned(), circle.uid.clone()];
    ownership.owned = vec![circle];
    assert_eq!(ownership.plan(owners()).levels.len(), 0, "it owns itself");
    ownership.owned.first_mut().unwrap().owners.pop();
    assert_eq!(ownership.plan(owners()).levels.len(), 1);
    ownership.is_incomplete = true;
    let plan = ownership.plan(owners());
    assert_eq!((plan.levels.len(), plan.shared.len()), (0, 1));
}

#[tokio::test]
async fn a_namespace_that_others_own_is_deleted_with_its_content() {
    let waiting = DeleteOptions {
        waits: true,
        ..DeleteOptions::default()
    };
    for is_first in [true, false] {
        let node = Node::new();
        let parent = node.add_namespace("parent", &[]);
        node.add_namespace("inner", &[&parent]);
        node.add_config_map("inner", "content", &[]);
        let dependents = || node.dependents_of(&[(parent.as_str(), None)]);
        let errors = match is_first {
            true => dependents().precede(&waiting).await,
            false => {
                begin_namespace_deletion(node.objects.store(), "parent").unwrap();
                dependents().follow().await.errors
            }
        };
        assert!(errors.is_empty(), "{errors:?}");
        assert!(!node.has_namespace("inner") && !node.has_config_map("inner", "content"));
        assert!(node.has_namespace("default"));
    }
}

#[tokio::test]
async fn a_protected_namespace_stays_with_what_it_owns() {
    for is_first in [true, false] {
        let node = Node::new();
        let parent = node.add_namespace("parent", &[]);
        let default = node.own_default(&parent);
        node.add_namespace("of-default", &[&default]);
        let dependents = || node.dependents_of(&[(parent.as_str(), None)]);
        let errors = match is_first {
            true => dependents().precede(&DeleteOptions::default()).await,
            false => {
                begin_namespace_deletion(node.objects.store(), "parent").unwrap();
                dependents().follow().await.errors
            }
        };
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            ["namespaces \"default\" is forbidden: this namespace may not be deleted"]
        );
        assert!(node.has_namespace("default") && node.has_namespace("of-default"));
        assert_eq!(node.left().len(), 8);
    }
}

#[tokio::test]
async fn owners_are_outside_of_namespaces_or_in_the_namespace_of_the_dependent() {
    let node = Node::new();
    let parent = node.add_namespace("parent", &[]);
    node.add_namespace("invalid", &[&node.owner]);
    node.add_namespace("partly-invalid", &[&parent, &node.owner]);
    node.add_config_map("elsewhere", "foreign", &[&node.owner]);
    node.add_config_map("elsewhere", "of-parent", &[&parent]);
    // Both while the owners exist and when they are gone.
    let before = node.dependents();
    assert_eq!(
        before.ownership.plan(BTreeSet::from([node.owner.clone()])).levels.len(),
        2
    );
    node.delete_owner();
    begin_namespace_deletion(node.objects.store(), "parent").unwrap();
    let dependents = node.dependents_of(&[(node.owner.as_str(), Some("default")), (parent.as_str(), None)]);
    let errors = dependents.follow().await.errors;
    assert!(errors.is_empty(), "{errors:?}");
    assert!(node.has_namespace("invalid") && node.has_namespace("partly-invalid"));
    assert!(node.has_config_map("elsewhere", "foreign") && !node.has_config_map("elsewhere", "of-parent"));
    assert!(!node.has_config_map("default", "child"));
}

#[test]
fn dependents_are_read_while_a_pod_is_being_changed() {
    let node = Node::new();
    let worker = node.pods.records.find("default", "worker").unwrap().unwrap();
    let lock = node.pods.records.lock_change(&worker.uid).unwrap();
    assert!(lock.is_some());
    let dependents = node.dependents();
    assert!(!dependents.is_empty());
    let owned = &dependents.ownership.owned;
    assert!(owned.iter().any(|owned| owned.uid == worker.uid));
    assert!(node.dependents_of(&[("none", None)]).is_empty());
}

#[tokio::test]
async fn dependents_stay_until_finalizers_no_longer_keep_their_owner() {
    let node = Node::new();
    node.set_finalizers_of_owner(&json!(["example.com/wait"]));
    node.delete_owner();
    let followed = node.dependents().follow().await;
    assert!(followed.errors.is_empty(), "{:?}", followed.errors);
    assert_eq!(
        followed.waiting,
        ["configmaps/child", "pods/worker", "configmaps/grandchild"]
    );
    assert_eq!(node.left().len(), 8);
    assert!(node.left().contains(&"shared < 2".to_owned()));

    node.set_finalizers_of_owner(&json!([]));
    let dependents = Dependents::read(&node.pods.paths, followed.owners).unwrap();
    let followed = dependents.follow().await;
    assert!(
        followed.errors.is_empty() && followed.waiting.is_empty(),
        "{followed:?}"
    );
    assert_eq!(node.left(), ["foreign < 1", "other", "shared < 1", "both < 1"]);
}
