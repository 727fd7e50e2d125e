//! Files that the store did not write.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{all, bucket_path, key, store};
use crate::resource::Scope;
use crate::test_types::{config_map, config_maps};
use crate::write::Deletion;

/// Replaces the file of an object with something else, and returns its path.
fn replace_file(bucket: &Path, with: impl FnOnce(&Path)) -> PathBuf {
    let path = bucket.join("a%2.json");
    if path.is_dir() {
        std::fs::remove_dir(&path).unwrap();
    } else {
        std::fs::remove_file(&path).unwrap();
    }
    with(&path);
    path
}

#[test]
fn a_damaged_object_is_an_error_that_names_its_file_and_hides_no_other() {
    let (directory, store) = store();
    let created = store.create(&config_maps(), config_map("a", "hidden")).unwrap();
    store.create(&config_maps(), config_map("b", "1")).unwrap();
    let bucket = bucket_path(directory.path(), "a");
    let whole = std::fs::read(bucket.join("a%2.json")).unwrap();
    let other = String::from_utf8(whole.clone()).unwrap().replace("\"a\"", "\"x\"");
    let without_uid = String::from_utf8(whole.clone()).unwrap().replace(created.uid(), "");
    let other_file = bucket_path(directory.path(), "b").join("b%3.json");
    type Damaging<'d> = Box<dyn Fn(&Path) + 'd>;
    let write = |content: &[u8]| -> Damaging<'_> {
        let content = content.to_owned();
        Box::new(move |path| std::fs::write(path, &content).unwrap())
    };
    let damages: Vec<Damaging<'_>> = vec![
        write(b""),
        write(&whole[..whole.len() / 2]),
        write(b"[\"hidden\"]"),
        write(b"{\"metadata\": \"hidden\"}"),
        write(b"\xff\xfe"),
        write("[".repeat(100_000).as_bytes()),
        write(other.as_bytes()),
        write(without_uid.as_bytes()),
        Box::new(|path| std::fs::create_dir(path).unwrap()),
        Box::new(|path| symlink("/dev/zero", path).unwrap()),
        Box::new(|path| symlink(&other_file, path).unwrap()),
        Box::new(|path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        Box::new(|path| std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
    ];
    for (index, damage) in damages.iter().enumerate() {
        let path = replace_file(&bucket, damage);
        let said = format!("{} is damaged: ", path.display());
        let list = store.list(&config_maps(), &Scope::All).unwrap();
        assert_eq!(list.items.len(), 1, "{index}");
        let mut errors = list.damaged;
        errors.push(store.get(&config_maps(), &key("a")).unwrap_err());
        errors.push(store.update(&config_maps(), config_map("a", "2")).unwrap_err());
        errors.push(store.create(&config_maps(), config_map("a", "2")).unwrap_err());
        errors.push(
            store
                .delete(&config_maps(), &key("a"), &Deletion::default())
                .unwrap_err(),
        );
        assert_eq!(errors.len(), 5, "{index}");
        for error in errors {
            let text = format!("{error} {error:?}");
            assert!(text.starts_with(&said) && text.contains("remove it"), "{index}: {text}");
            assert!(!text.contains("hidden"), "{index}: {text}");
        }
        store.sweep().unwrap();
    }
    replace_file(&bucket, |path| std::fs::write(path, &whole).unwrap());
    assert_eq!(store.get(&config_maps(), &key("a")).unwrap(), created);
}

#[test]
fn foreign_files_are_reported_and_left_alone() {
    let (directory, store) = store();
    store.create(&config_maps(), config_map("a", "1")).unwrap();
    let of_type = directory.path().join("state/objects/configmaps");
    let bucket = bucket_path(directory.path(), "a");
    let in_bucket = [
        "note",
        "a%1.json~",
        "a%01.json",
        "%1.json",
        "a%99999999999999999999.json",
    ];
    for name in in_bucket {
        std::fs::write(bucket.join(name), "").unwrap();
    }
    std::fs::create_dir(of_type.join("_cluster")).unwrap();
    std::fs::create_dir(of_type.join("default/default")).unwrap();
    std::fs::write(of_type.join("default/0"), "").unwrap();
    symlink(&bucket, of_type.join("linked")).unwrap();
    for round in 0..2 {
        let list = store.list(&config_maps(), &Scope::All).unwrap();
        let names: Vec<_> = list.items.iter().map(|object| object.name()).collect();
        assert_eq!(names, ["a"], "{round}");
        let mut damaged: Vec<_> = list.damaged.iter().map(ToString::to_string).collect();
        damaged.sort();
        assert_eq!(damaged.len(), in_bucket.len() + 4, "{damaged:#?}");
        for name in in_bucket
            .into_iter()
            .chain(["_cluster", "default/default", "default/0", "linked"])
        {
            let said = format!("/{name} is damaged: it");
            assert!(damaged.iter().any(|text| text.contains(&said)), "{name}: {damaged:#?}");
        }
        // The sweep reports the links and files in place of directories.
        assert!(store.sweep().is_ok());
        store
            .update(&config_maps(), config_map("a", &round.to_string()))
            .unwrap();
    }
}

#[test]
fn a_link_or_file_in_place_of_a_directory_is_damage() {
    let (directory, store) = store();
    let namespace = directory.path().join("state/objects/configmaps/default");
    std::fs::create_dir_all(&namespace).unwrap();
    let bucket = bucket_path(directory.path(), "a");
    std::os::unix::fs::symlink(&namespace, namespace.with_file_name("linked")).unwrap();
    let linked = store
        .list(&config_maps(), &Scope::Namespace("linked".to_owned()))
        .unwrap();
    assert!(linked.items.is_empty() && linked.damaged.len() == 1);
    std::fs::remove_file(namespace.with_file_name("linked")).unwrap();
    for make in [
        |path: &Path| symlink("/", path).unwrap(),
        |path: &Path| std::fs::write(path, "").unwrap(),
    ] {
        make(&bucket);
        for error in [
            store.get(&config_maps(), &key("a")).unwrap_err(),
            store.create(&config_maps(), config_map("a", "1")).unwrap_err(),
        ] {
            let said = format!("{} is damaged: it is not a directory", bucket.display());
            assert!(error.to_string().starts_with(&said), "{error}");
        }
        std::fs::remove_file(&bucket).unwrap();
    }
    store.create(&config_maps(), config_map("a", "1")).unwrap();
    assert_eq!(all(&store).len(), 1);
}
