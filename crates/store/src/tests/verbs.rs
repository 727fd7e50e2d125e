use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{all, bucket_path, data, directory, key, open, store, version, with_data};
use crate::commit::{Committed, Content};
use crate::error::StoreError;
use crate::key::Key;
use crate::object::Object;
use crate::resource::{Resource, Scope};
use crate::test_types::{config_map, config_maps, deployments, namespaces, object};
use crate::write::{Deletion, Written};

/// All files below a directory, with their mode.
fn files(directory: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        found.push((path.clone(), metadata.permissions().mode() & 0o777));
        if metadata.is_dir() {
            found.extend(files(&path));
        }
    }
    found
}

/// Names of the files in the directory of all objects.
fn object_files(directory: &Path) -> Vec<String> {
    let all = files(&directory.join("state/objects"));
    let mut names: Vec<_> = all
        .into_iter()
        .filter(|(path, _)| path.is_file())
        .map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// The version of a list.
fn latest_version(store: &crate::Store) -> u64 {
    let list = store.list(&config_maps(), &Scope::All).unwrap();
    list.resource_version.number()
}

#[test]
fn an_object_is_read_back_as_created_and_each_write_has_the_next_version() {
    let (directory, store) = store();
    assert!(all(&store).is_empty());
    let created = store.create(&config_maps(), config_map("a", "1")).unwrap();
    assert_eq!(version(&created), 2);
    assert_eq!(store.get(&config_maps(), &key("a")).unwrap(), created);
    let other = store.create(&config_maps(), config_map("b", "1")).unwrap();
    assert_ne!(other.uid(), created.uid());
    let updated = store.update(&config_maps(), with_data(&created, "2")).unwrap();
    let Written::Changed(updated) = updated else {
        panic!("{updated:?}");
    };
    assert_eq!(
        (version(&updated), data(&updated), updated.uid()),
        (4, "2", created.uid())
    );
    let removed = store.delete(&config_maps(), &key("b"), &Deletion::default()).unwrap();
    assert!(matches!(&removed, Written::Removed(last) if version(last) == 5 && last.uid() == other.uid()));
    assert_eq!(version(&store.create(&config_maps(), config_map("b", "2")).unwrap()), 6);
    assert_eq!(all(&store), [("a".to_owned(), 4), ("b".to_owned(), 6)]);
    assert_eq!(
        all(&open(directory.path())),
        all(&store),
        "another process sees the same"
    );
    assert_eq!(object_files(directory.path()), ["a%4.json", "b%6.json"]);
}

#[test]
fn files_are_readable_only_by_their_owner() {
    let (directory, store) = store();
    store.create(&config_maps(), config_map("a", "1")).unwrap();
    for (path, mode) in files(directory.path()) {
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", path.display());
    }
}

#[test]
fn objects_of_other_types_and_namespaces_are_separate() {
    let (_directory, store) = store();
    let elsewhere = object(json!({"metadata": {"namespace": "other", "name": "a"}}));
    store.create(&config_maps(), config_map("a", "1")).unwrap();
    store.create(&config_maps(), elsewhere.clone()).unwrap();
    store.create(&deployments(), elsewhere).unwrap();
    store
        .create(&namespaces(), object(json!({"metadata": {"name": "a"}})))
        .unwrap();
    let count = |resource: &Resource, scope: &Scope| store.list(resource, scope).unwrap().items.len();
    let default = Scope::Namespace("default".to_owned());
    assert_eq!(count(&config_maps(), &Scope::All), 2);
    assert_eq!(count(&config_maps(), &default), 1);
    assert_eq!(count(&deployments(), &default), 0);
    assert_eq!(count(&namespaces(), &Scope::All), 1);
    let list = store.list(&config_maps(), &Scope::All).unwrap();
    let order: Vec<_> = list.items.iter().map(|object| object.key().to_string()).collect();
    assert_eq!(order, ["default/a", "other/a"]);
    assert_eq!(list.resource_version.number(), 5, "the version is that of all objects");
}

#[test]
fn errors_have_kubernetes_texts() {
    let (_directory, store) = store();
    let created = store.create(&deployments(), config_map("a", "1")).unwrap();
    let uid = created.uid().to_owned();
    store.update(&deployments(), with_data(&created, "2")).unwrap();
    let text = |error: StoreError| error.to_string();
    assert_eq!(
        text(store.update(&deployments(), with_data(&created, "3")).unwrap_err()),
        "Operation cannot be fulfilled on deployments.apps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    assert_eq!(
        text(store.create(&deployments(), config_map("a", "1")).unwrap_err()),
        "deployments.apps \"a\" already exists"
    );
    for error in [
        store.get(&deployments(), &key("x")).unwrap_err(),
        store
            .delete(&deployments(), &key("x"), &Deletion::default())
            .unwrap_err(),
        store.update(&deployments(), config_map("x", "1")).unwrap_err(),
    ] {
        assert!(error.is_not_found());
        assert_eq!(text(error), "deployments.apps \"x\" not found");
    }
    let deletion = |uid: Option<&str>, resource_version| Deletion {
        uid: uid.map(str::to_owned),
        resource_version,
        grace_period_seconds: 0,
    };
    assert_eq!(
        text(
            store
                .delete(&deployments(), &key("a"), &deletion(Some("other"), None))
                .unwrap_err()
        ),
        format!(
            "Operation cannot be fulfilled on Deployment.apps \"a\": the UID in the precondition (other) does not match the \
             UID in record ({uid}). The object might have been deleted and then recreated"
        )
    );
    let old = deletion(Some(&uid), created.resource_version());
    assert_eq!(
        text(store.delete(&deployments(), &key("a"), &old).unwrap_err()),
        "Operation cannot be fulfilled on Deployment.apps \"a\": the ResourceVersion in the precondition (2) does not match \
         the ResourceVersion in record (3). The object might have been modified"
    );
    assert_eq!(
        text(
            store
                .create(&deployments(), object(json!({"metadata": {"namespace": "default"}})))
                .unwrap_err()
        ),
        "Deployment.apps \"\" is invalid: metadata.name: Required value: name or generateName is required"
    );
}

#[test]
fn a_write_that_changes_nothing_keeps_the_version() {
    let (_directory, store) = store();
    let created = store.create(&config_maps(), config_map("a", "1")).unwrap();
    assert_eq!(
        store.update(&config_maps(), created.clone()).unwrap(),
        Written::Unchanged(created.clone())
    );
    assert_eq!(
        store.update(&config_maps(), config_map("a", "1")).unwrap(),
        Written::Unchanged(created.clone())
    );
    let mut zero = config_map("a", "1").into_value();
    zero["metadata"]["resourceVersion"] = json!("0");
    let unconditional = store.update(&config_maps(), object(zero)).unwrap();
    assert_eq!(unconditional, Written::Unchanged(created.clone()));
    let kept = store
        .modify(&config_maps(), &key("a"), |_| Ok::<_, StoreError>(None))
        .unwrap();
    assert_eq!(kept, Written::Unchanged(created));
    assert_eq!(latest_version(&store), 2);
}

#[test]
fn a_change_is_repeated_with_the_newer_object() {
    let (directory, store) = store();
    store.create(&config_maps(), config_map("a", "0")).unwrap();
    let writers = 4;
    let each = 25;
    std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                let store = open(directory.path());
                for _ in 0..each {
                    let add = |object: &Object| {
                        let number: u32 = data(object).parse().unwrap();
                        Ok::<_, StoreError>(Some(with_data(object, &(number + 1).to_string())))
                    };
                    store.modify(&config_maps(), &key("a"), add).unwrap();
                }
            });
        }
    });
    let object = store.get(&config_maps(), &key("a")).unwrap();
    assert_eq!(data(&object), (writers * each).to_string());
    assert_eq!(version(&object), 2 + writers * each);
}

#[test]
fn an_error_of_a_change_writes_nothing() {
    #[derive(Debug, thiserror::Error)]
    enum Refused {
        #[error("refused")]
        Refused,
        #[error(transparent)]
        Store(#[from] StoreError),
    }
    let (_directory, store) = store();
    let created = store.create(&config_maps(), config_map("a", "1")).unwrap();
    let change = |name: &str| {
        store.modify(&config_maps(), &key(name), |_| {
            Err::<Option<Object>, _>(Refused::Refused)
        })
    };
    assert!(matches!(change("a"), Err(Refused::Refused)));
    assert!(matches!(change("b"), Err(Refused::Store(error)) if error.is_not_found()));
    let renamed = store.modify(&config_maps(), &key("a"), |_| {
        Ok::<_, StoreError>(Some(config_map("b", "1")))
    });
    assert_eq!(
        renamed.unwrap_err().to_string(),
        "the name of the object (b) does not match the name on the request (a)"
    );
    assert_eq!(store.get(&config_maps(), &key("a")).unwrap(), created);
}

#[test]
fn a_write_that_empties_the_finalizers_of_a_deleted_object_removes_it() {
    let (_directory, store) = store();
    let kept = object(json!({"metadata": {"namespace": "default", "name": "a", "finalizers": ["x"]}}));
    store.create(&config_maps(), kept).unwrap();
    let marked = store.delete(&config_maps(), &key("a"), &Deletion::default()).unwrap();
    let Written::Changed(marked) = marked else {
        panic!("{marked:?}");
    };
    assert!(marked.is_terminating() && version(&marked) == 3);
    assert_eq!(
        store
            .create(&config_maps(), config_map("a", "1"))
            .unwrap_err()
            .to_string(),
        "object is being deleted: configmaps \"a\" already exists"
    );
    let mut value = marked.into_value();
    value["metadata"]["finalizers"] = json!([]);
    let removed = store.update(&config_maps(), object(value)).unwrap();
    assert!(matches!(&removed, Written::Removed(last) if version(last) == 4));
    assert!(store.get(&config_maps(), &key("a")).unwrap_err().is_not_found());
}

#[test]
fn names_are_generated_until_one_is_free() {
    let (_directory, store) = store();
    let wanted = object(json!({"metadata": {"namespace": "default", "generateName": "web-"}}));
    let names: Vec<_> = (0..20)
        .map(|_| store.create(&config_maps(), wanted.clone()).unwrap().name().to_owned())
        .collect();
    assert_eq!(all(&store).len(), 20);
    assert!(
        names.iter().all(|name| name.starts_with("web-") && name.len() == 9),
        "{names:?}"
    );
    let clash = StoreError::AlreadyExists {
        resource: "pods".to_owned(),
        name: "web-x".to_owned(),
        terminating: false,
        generated: true,
    };
    assert_eq!(
        clash.to_string(),
        "pods \"web-x\" already exists, the server was not able to generate a unique name for the object"
    );
}

#[test]
fn a_dry_run_checks_everything_and_writes_nothing() {
    let (directory, store) = store();
    let created = store.create(&config_maps(), config_map("a", "1")).unwrap();
    let before = files(directory.path());
    let dry = store.dry_run();
    let new = dry.create(&config_maps(), config_map("b", "1")).unwrap();
    assert!(!new.uid().is_empty() && new.resource_version().is_none());
    assert!(
        dry.create(&config_maps(), config_map("a", "1"))
            .unwrap_err()
            .is_already_exists()
    );
    let changed = dry.update(&config_maps(), with_data(&created, "2")).unwrap();
    assert!(matches!(&changed, Written::Changed(object) if data(object) == "2" && version(object) == 2));
    let removed = dry.delete(&config_maps(), &key("a"), &Deletion::default()).unwrap();
    assert!(matches!(removed, Written::Removed(_)));
    assert_eq!(files(directory.path()), before);
    assert_eq!(store.get(&config_maps(), &key("a")).unwrap(), created);
}

#[test]
fn an_object_at_the_limit_is_stored_and_a_longer_one_is_not() {
    let (_directory, store) = store();
    let mut object = config_map("a", "");
    let mut fits = usize::try_from(crate::MAX_OBJECT_BYTES).unwrap() - 1000;
    store
        .create(&config_maps(), with_data(&object, &"x".repeat(fits)))
        .unwrap();
    fits += 2000;
    object = config_map("b", &"x".repeat(fits));
    let error = store.create(&config_maps(), object).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert_eq!(all(&store).len(), 1);
}

#[test]
fn a_store_without_its_counter_is_not_written() {
    let directory = directory();
    open(directory.path())
        .create(&config_maps(), config_map("a", "1"))
        .unwrap();
    let counter = directory.path().join("state/counter.json");
    std::fs::remove_file(&counter).unwrap();
    let error = crate::Store::open(&directory.path().join("state"), &directory.path().join("run")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("counter.json is damaged: it is missing, but there are objects"),
        "{error}"
    );
    std::fs::write(&counter, "{\"version\":1,\"reserved\":1000}").unwrap();
    let store = open(directory.path());
    assert_eq!(latest_version(&store), 1000);
    assert_eq!(
        version(&store.create(&config_maps(), config_map("b", "1")).unwrap()),
        1001
    );
}

#[test]
fn the_longest_names_can_be_stored() {
    let (_directory, store) = store();
    let name = "a".repeat(253);
    let namespace = "n".repeat(63);
    let object = object(json!({"metadata": {"namespace": &namespace, "name": &name}}));
    store.create(&config_maps(), object).unwrap();
    store
        .delete(&config_maps(), &Key::namespaced(namespace, name), &Deletion::default())
        .unwrap();
    assert!(all(&store).is_empty());
}

#[test]
fn the_sweep_removes_what_killed_writers_left() {
    let (directory, store) = store();
    store.create(&config_maps(), config_map("a", "1")).unwrap();
    store.create(&config_maps(), config_map("b", "1")).unwrap();
    let file = |name: &str, version: &str| bucket_path(directory.path(), name).join(format!("{name}%{version}"));
    // A replaced and a removed revision.
    std::fs::write(file("a", "1.json"), "old").unwrap();
    std::fs::write(file("b", "9.deleted"), "").unwrap();
    // Incomplete files of the counter and the journal.
    let incomplete = ["state/.new-1", "run/.new-1"].map(|name| directory.path().join(name));
    for path in &incomplete {
        std::fs::write(path, "").unwrap();
    }
    let before = all(&store);
    store.sweep().unwrap();
    assert!(incomplete.iter().all(|path| !path.exists()));
    assert_eq!(all(&store), before);
    assert_eq!(before, [("a".to_owned(), 2)]);
    assert_eq!(object_files(directory.path()), ["a%2.json"]);
}

#[test]
fn an_object_that_changed_before_the_lock_was_taken_is_not_overwritten() {
    let (_directory, store) = store();
    let old = store.create(&config_maps(), config_map("a", "1")).unwrap();
    store.update(&config_maps(), config_map("a", "2")).unwrap();
    let late = with_data(&old, "3");
    for (name, expected, content) in [
        ("a", Some(2), Content::Object(&late)),
        ("a", Some(2), Content::Removal),
        ("a", None, Content::Object(&late)),
        ("b", Some(2), Content::Object(&late)),
    ] {
        let committed = store
            .commit(&config_maps(), &key(name), expected, content, None)
            .unwrap();
        assert_eq!(committed, Committed::Outdated);
    }
    assert_eq!(all(&store), [("a".to_owned(), 3)]);
    assert_eq!(latest_version(&store), 3);
}
