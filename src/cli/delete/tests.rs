use std::cell::RefCell;

use microkube_manifest::kinds;
use microkube_store::{Key, Scope};
use serde_json::json;

use super::super::pods::test_pods::{manifest, record_of};
use super::*;
use crate::objects::test_store::{TestStore, config_map};
use crate::objects::{ensure_namespace, namespace_resource, resource};
use crate::state::PodRecords;

fn grace(grace_period: i64, force: bool, now: bool) -> Result<Option<u64>, String> {
    let args = GraceArgs {
        grace_period,
        force,
        now,
    };
    args.period()
        .map(|period| period.map(|period| period.as_secs()))
        .map_err(|error| error.to_string())
}

#[test]
fn grace_periods_follow_the_rules_of_kubectl() {
    assert_eq!(grace(-1, false, false), Ok(None));
    assert_eq!(grace(5, false, false), Ok(Some(5)));
    assert_eq!(grace(0, false, false), Ok(Some(1)), "a whole second without --force");
    assert_eq!(grace(0, true, false), Ok(Some(0)));
    assert_eq!(grace(-1, true, false), Ok(Some(0)));
    assert_eq!(grace(-1, false, true), Ok(Some(1)));
    assert!(grace(5, false, true).unwrap_err().contains("--now and --grace-period"));
    assert!(
        grace(5, true, false)
            .unwrap_err()
            .contains("--force and --grace-period")
    );
    assert!(
        grace(-1, true, true)
            .unwrap_err()
            .contains("--force and --grace-period")
    );
    assert!(grace(-2, false, false).unwrap_err().contains("-1 or greater"));
}

#[test]
fn a_deletion_is_confirmed_by_y_only() {
    let asked = |answer: &[u8]| {
        let told = RefCell::new(String::new());
        let tell = |text: &str| {
            told.borrow_mut().push_str(text);
            Ok(())
        };
        let names = ["pod/web".to_owned(), "configmap/a".to_owned()];
        let is_confirmed = is_confirmed(&names, &tell, &mut &*answer).unwrap();
        (is_confirmed, told.take())
    };
    let question =
        "You are about to delete the following 2 resource(s):\npod/web\nconfigmap/a\nDo you want to continue? (y/N): ";
    for (answer, expected) in [
        (&b"y\n"[..], true),
        (b" Y ", true),
        (b"", false),
        (b"\n", false),
        (b"n\n", false),
        (b"yes\n", false),
        (b"\xff\n", false),
    ] {
        assert_eq!(asked(answer), (expected, question.to_owned()), "{answer:?}");
    }
}

/// The output of `delete` with these arguments, and its errors.
fn deleted(store: &TestStore, words: &str) -> (String, Vec<String>) {
    let (told, errors) = performed(store, words);
    let errors = errors.unwrap();
    (told, errors.iter().map(|error| format!("{error:#}")).collect())
}

fn performed(store: &TestStore, words: &str) -> (String, anyhow::Result<Vec<anyhow::Error>>) {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: DeleteArgs,
    }
    let words = ["delete"].into_iter().chain(words.split(' '));
    let args = <Cli as clap::Parser>::try_parse_from(words).unwrap().args;
    let grace = args.grace.period().unwrap();
    let told = RefCell::new(String::new());
    let tell = |text: &str| {
        told.borrow_mut().push_str(text);
        Ok(())
    };
    let errors = perform(&store.paths, &requested(&args).unwrap(), &args, grace, &tell);
    (told.take(), errors)
}

fn names(store: &TestStore, kind: &str) -> Vec<String> {
    let list = store.list(&resource(kinds::named(kind).unwrap()), &Scope::All).unwrap();
    list.items.iter().map(|object| object.name().to_owned()).collect()
}

/// ConfigMaps `a`, `b` and `c` in `default`, and a StorageClass.
fn store() -> TestStore {
    let store = TestStore::new();
    for name in ["a", "b", "c"] {
        let mut value = config_map("default", name);
        value["metadata"]["labels"] = json!({ "name": name });
        store.add(kinds::named("cm").unwrap(), value);
    }
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "fast" }, "provisioner": "p",
    });
    store.add(kinds::named("sc").unwrap(), class);
    store
}

#[test]
fn deleted_objects_are_named_as_by_kubectl() {
    let store = store();
    let none = Vec::<String>::new();
    assert_eq!(
        deleted(&store, "cm/a sc/fast --dry-run"),
        (
            "configmap \"a\" deleted (dry run) from default namespace\nstorageclass.storage.k8s.io \"fast\" deleted (dry run)\n"
                .to_owned(),
            none.clone()
        )
    );
    assert_eq!(names(&store, "cm"), ["a", "b", "c"]);
    assert_eq!(
        deleted(&store, "cm a -o name --cascade=orphan"),
        ("configmap/a\n".to_owned(), none.clone())
    );
    assert_eq!(
        deleted(&store, "sc fast --grace-period=0 --force"),
        (
            "storageclass.storage.k8s.io \"fast\" force deleted\n".to_owned(),
            none.clone()
        )
    );
    assert_eq!(
        deleted(&store, "cm -l name=b"),
        (
            "configmap \"b\" deleted from default namespace\n".to_owned(),
            none.clone()
        )
    );
    assert_eq!(
        deleted(&store, "cm,secret --all -o name"),
        ("configmap/c\n".to_owned(), none.clone())
    );
    assert_eq!(
        deleted(&store, "cm --all"),
        ("No resources found\n".to_owned(), none.clone())
    );
    assert_eq!(deleted(&store, "cm --all --ignore-not-found"), (String::new(), none));
}

#[test]
fn a_missing_object_does_not_keep_the_others() {
    let store = store();
    let (told, errors) = deleted(&store, "cm a none c -o name");
    assert_eq!(told, "configmap/a\nconfigmap/c\n");
    assert_eq!(errors, ["Error (NotFound): configmaps \"none\" not found"]);
    assert_eq!(deleted(&store, "cm none --ignore-not-found").1, [""; 0]);
}

#[test]
fn an_object_with_finalizers_is_waited_for() {
    let store = TestStore::new();
    let mut value = config_map("default", "kept");
    value["metadata"]["finalizers"] = json!(["example.com/wait"]);
    store.add(kinds::named("cm").unwrap(), value);
    let (told, errors) = deleted(&store, "cm kept --timeout=1ms");
    assert_eq!(told, "configmap \"kept\" deleted from default namespace\n");
    assert_eq!(errors, ["timed out waiting for the condition on configmaps/kept"]);
    assert_eq!(deleted(&store, "cm kept --wait=false").1, [""; 0]);
    assert_eq!(names(&store, "cm"), ["kept"]);
}

#[test]
fn a_namespace_is_deleted_with_its_content() {
    let store = store();
    ensure_namespace(&store, "shop").unwrap();
    store.add(kinds::named("cm").unwrap(), config_map("shop", "in-shop"));
    assert_eq!(
        deleted(&store, "ns shop"),
        ("namespace \"shop\" deleted\n".to_owned(), Vec::new())
    );
    assert_eq!(names(&store, "ns"), ["default"]);
    assert_eq!(names(&store, "cm"), ["a", "b", "c"]);
    assert_eq!(
        deleted(&store, "ns default none").1,
        [
            "Error (NotFound): namespaces \"none\" not found",
            "Error (Forbidden): namespaces \"default\" is forbidden: this namespace may not be deleted",
        ]
    );
}

#[test]
fn a_namespace_that_is_not_waited_for_ends_once_it_is_empty() {
    let store = TestStore::new();
    ensure_namespace(&store, "shop").unwrap();
    let mut value = config_map("shop", "kept");
    value["metadata"]["finalizers"] = json!(["example.com/wait"]);
    store.add(kinds::named("cm").unwrap(), value);
    assert_eq!(
        deleted(&store, "ns shop --wait=false"),
        ("namespace \"shop\" deleted\n".to_owned(), Vec::new())
    );
    let namespace = store.get(&namespace_resource(), &Key::cluster("shop")).unwrap();
    assert!(namespace.is_terminating());
    let config_maps = resource(kinds::named("cm").unwrap());
    store
        .modify::<microkube_store::StoreError>(&config_maps, &Key::namespaced("shop", "kept"), |current| {
            let mut value = current.value().clone();
            value["metadata"]["finalizers"] = json!([]);
            Ok(Some(microkube_store::Object::new(value)?))
        })
        .unwrap();
    let (_, errors) = deleted(&store, "ns shop");
    assert_eq!(errors, ["Error (NotFound): namespaces \"shop\" not found"]);
}

#[test]
fn a_dry_run_names_pods_and_leaves_them_alone() {
    let store = TestStore::new();
    let records = PodRecords::new(store.paths.clone());
    let _lock = records
        .create(&record_of(&manifest("web", "nginx:1", "sleep")))
        .unwrap();
    assert_eq!(
        deleted(&store, "pods --field-selector=metadata.name!=web --dry-run").0,
        "No resources found\n"
    );
    assert_eq!(
        deleted(&store, "pods --field-selector=status.phase=Pending --dry-run -o name").0,
        "pod/web\n"
    );
    assert_eq!(
        deleted(&store, "pod web --dry-run=server"),
        (
            "pod \"web\" deleted (server dry run) from default namespace\n".to_owned(),
            Vec::new()
        )
    );
    assert!(records.find("default", "web").unwrap().is_some());
}

/// Adds the ConfigMap `owned`, which this ConfigMap owns.
fn add_owned(store: &TestStore, owner: &str) {
    let config_maps = kinds::named("cm").unwrap();
    let found = store.get(&resource(config_maps), &Key::namespaced("default", owner));
    let mut owned = config_map("default", "owned");
    owned["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": found.unwrap().uid() }]);
    store.add(config_maps, owned);
}

#[test]
fn dependents_go_with_their_owners_unless_they_become_orphans() {
    for (words, left) in [
        ("cm a", vec!["b", "c"]),
        ("cm a --cascade=foreground", vec!["b", "c"]),
        ("cm a --cascade=orphan", vec!["b", "c", "owned"]),
        ("cm a --dry-run=server", vec!["a", "b", "c", "owned"]),
    ] {
        let store = store();
        add_owned(&store, "a");
        let (told, errors) = deleted(&store, words);
        assert!(
            told.contains("configmap \"a\" deleted") && !told.contains("owned"),
            "{told}"
        );
        assert_eq!(
            (errors, names(&store, "cm")),
            (vec![], left.iter().map(|name| (*name).to_owned()).collect()),
            "{words}"
        );
    }
}

#[test]
fn dependents_of_a_protected_namespace_do_not_change() {
    for cascade in ["background", "foreground", "orphan"] {
        let store = TestStore::new();
        ensure_namespace(&store, "default").unwrap();
        let default = store.get(&namespace_resource(), &Key::cluster("default")).unwrap();
        let reference = json!({ "apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": default.uid() });
        let owned = store.add(
            kinds::named("ns").unwrap(),
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "owned", "ownerReferences": [reference] } }),
        );
        let (told, errors) = deleted(&store, &format!("ns default --cascade={cascade}"));
        assert_eq!(told, "");
        assert_eq!(
            errors,
            ["Error (Forbidden): namespaces \"default\" is forbidden: this namespace may not be deleted"]
        );
        let found = store.get(&namespace_resource(), &Key::cluster("owned")).unwrap();
        assert_eq!(found, owned, "{cascade}");
    }
}

#[test]
fn dependents_go_even_if_the_command_fails_while_it_waits() {
    let store = store();
    add_owned(&store, "a");
    ensure_namespace(&store, "shop").unwrap();
    // The Pod may be in the namespace, which therefore cannot be emptied.
    let damaged = store.paths.pod_state("damaged");
    std::fs::create_dir_all(&damaged).unwrap();
    std::fs::write(damaged.join("pod.json"), "torn").unwrap();
    let (_, errors) = performed(&store, "cm/a ns/shop");
    assert!(errors.is_err(), "{errors:?}");
    assert_eq!(names(&store, "cm"), ["b", "c"]);
}

#[test]
fn dependents_stay_while_finalizers_keep_their_owner() {
    let store = TestStore::new();
    let mut kept = config_map("default", "kept");
    kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
    store.add(kinds::named("cm").unwrap(), kept);
    add_owned(&store, "kept");
    assert_eq!(deleted(&store, "cm kept --wait=false").1, [""; 0]);
    assert_eq!(
        deleted(&store, "cm kept --timeout=1ms").1,
        ["timed out waiting for the condition on configmaps/kept"]
    );
    assert_eq!(names(&store, "cm"), ["kept", "owned"]);
}
