use std::os::unix::fs::MetadataExt;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use proptest::prelude::*;

use super::*;
use crate::test_directory::TestDirectory;

fn files(contents: &[(&str, &str)]) -> Files {
    let file = |content: &str| FileProjection {
        content: content.as_bytes().to_vec(),
        mode: 0o644,
        ..Default::default()
    };
    contents
        .iter()
        .map(|(path, content)| ((*path).to_owned(), file(content)))
        .collect()
}

fn writer(directory: &TestDirectory) -> AtomicWriter {
    AtomicWriter::new(directory.path().to_owned(), None)
}

/// The entries of the volume's root, with the targets of links; the data directory is called TIME.
fn root_entries(directory: &Path) -> Vec<String> {
    let plain = |name: &Path| match is_data_directory(name.as_os_str()) {
        true => "TIME".to_owned(),
        false => name.display().to_string(),
    };
    let entry = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let name = plain(Path::new(&entry.file_name()));
        match fs::read_link(entry.path()) {
            Ok(target) => format!("{name} -> {}", plain(&target)),
            Err(_) => name,
        }
    };
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(entry).collect();
    entries.sort();
    entries
}

/// All files that are reachable by names that do not start with "..", with their content.
fn visible_files(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        for entry in fs::read_dir(directory.join(&relative)).unwrap() {
            let path = relative.join(entry.unwrap().file_name());
            let there = directory.join(&path);
            let name = path.to_str().unwrap().to_owned();
            if name.starts_with("..") {
                continue;
            }
            match fs::metadata(&there) {
                Ok(metadata) if metadata.is_dir() => pending.push(path),
                Ok(_) => drop(found.insert(name, fs::read_to_string(there).unwrap())),
                Err(_) => drop(found.insert(name, "(dangling)".to_owned())),
            }
        }
    }
    found
}

fn contents(files: &Files) -> BTreeMap<String, String> {
    let text = |file: &FileProjection| String::from_utf8(file.content.clone()).unwrap();
    files.iter().map(|(path, file)| (path.clone(), text(file))).collect()
}

#[test]
fn the_first_write_has_the_kubelets_layout() {
    let directory = TestDirectory::new("writer-first");
    let wanted = files(&[
        ("podName", "web"),
        ("user/labels", "a=b"),
        ("user/x/y", ""),
        (".hidden", "h"),
    ]);
    assert!(writer(&directory).write(&wanted).unwrap());
    assert_eq!(
        root_entries(directory.path()),
        [
            "..data -> TIME",
            ".hidden -> ..data/.hidden",
            "TIME",
            "podName -> ..data/podName",
            "user -> ..data/user"
        ]
    );
    assert_eq!(visible_files(directory.path()), contents(&wanted));
}

#[test]
fn an_update_replaces_changes_adds_and_removes_files() {
    let directory = TestDirectory::new("writer-update");
    let writer = writer(&directory);
    writer
        .write(&files(&[
            ("a", "1"),
            ("b", "1"),
            ("dir/c", "1"),
            ("dir/d", "1"),
            ("gone/e", "1"),
        ]))
        .unwrap();
    let first = writer.current().unwrap();
    let wanted = files(&[("a", "2"), ("dir/d", "1"), ("new/f", "2")]);
    assert!(writer.write(&wanted).unwrap());
    assert_ne!(writer.current().unwrap(), first);
    assert_eq!(
        root_entries(directory.path()),
        [
            "..data -> TIME",
            "TIME",
            "a -> ..data/a",
            "dir -> ..data/dir",
            "new -> ..data/new"
        ]
    );
    assert_eq!(visible_files(directory.path()), contents(&wanted));
    assert!(writer.write(&Files::new()).unwrap());
    assert_eq!(root_entries(directory.path()), ["..data -> TIME", "TIME"]);
}

#[test]
fn a_file_can_become_a_directory_and_back() {
    let directory = TestDirectory::new("writer-kinds");
    let writer = writer(&directory);
    for wanted in [files(&[("a", "1")]), files(&[("a/b", "2")]), files(&[("a", "3")])] {
        assert!(writer.write(&wanted).unwrap());
        assert_eq!(visible_files(directory.path()), contents(&wanted));
    }
}

#[test]
fn unchanged_files_keep_their_directory_and_cause_no_event() {
    let directory = TestDirectory::new("writer-unchanged");
    let writer = writer(&directory);
    let wanted = files(&[("a", "1"), ("dir/b", "22")]);
    writer.write(&wanted).unwrap();
    let before = writer.current().unwrap();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    inotify
        .add_watch(directory.path(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE)
        .unwrap();
    assert!(!writer.write(&wanted).unwrap());
    assert_eq!(writer.current().unwrap(), before);
    assert!(inotify.read_events().is_err());
    for changed in [
        files(&[("a", "2"), ("dir/b", "22")]),
        files(&[("a", "2"), ("dir/b", "2")]),
        files(&[("a", "2")]),
        files(&[("a", "2"), ("c", "")]),
    ] {
        assert!(writer.write(&changed).unwrap());
        assert!(!writer.write(&changed).unwrap());
    }
}

#[test]
fn a_write_of_unchanged_files_completes_an_interrupted_update() {
    let directory = TestDirectory::new("writer-restore");
    let writer = writer(&directory);
    let wanted = files(&[("a", "1"), ("b", "1")]);
    writer.write(&wanted).unwrap();
    fs::remove_file(directory.join("b")).unwrap();
    symlink("..data/gone", directory.join("gone")).unwrap();
    fs::create_dir(directory.join("..2020_01_01")).unwrap();
    assert!(!writer.write(&wanted).unwrap());
    assert_eq!(
        root_entries(directory.path()),
        ["..data -> TIME", "TIME", "a -> ..data/a", "b -> ..data/b"]
    );
}

#[test]
fn an_update_that_ends_after_any_step_leaves_the_old_or_the_new_files() {
    let old = files(&[("a", "old"), ("dir/b", "old"), ("stale", "old")]);
    let new = files(&[("a", "new"), ("dir/b", "new"), ("added", "new")]);
    let common = |found: &BTreeMap<String, String>| {
        let content = |path| found.get(path).cloned().unwrap_or_default();
        [content("a"), content("dir/b")]
    };
    for step_count in 0..=STEPS.len() {
        let directory = TestDirectory::new(&format!("writer-step-{step_count}"));
        let writer = writer(&directory);
        writer.write(&old).unwrap();
        let update = Update::begin(&writer, &new).unwrap();
        for step in &STEPS[..step_count] {
            step(&update).unwrap();
        }
        let is_swapped = step_count >= 3;
        let expected = if is_swapped { &new } else { &old };
        let data = directory.join(DATA_LINK);
        assert_eq!(visible_files(&data), contents(expected), "after {step_count} steps");
        let found = visible_files(directory.path());
        assert_eq!(common(&found), common(&contents(expected)), "after {step_count} steps");

        // The next update works, and leaves nothing behind.
        let last = files(&[("a", "last")]);
        writer.write(&last).unwrap();
        assert_eq!(visible_files(directory.path()), contents(&last));
        assert_eq!(
            root_entries(directory.path()),
            ["..data -> TIME", "TIME", "a -> ..data/a"],
            "after {step_count} steps"
        );
    }
}

#[test]
fn a_failed_update_changes_nothing() {
    let directory = TestDirectory::new("writer-failed");
    let writer = writer(&directory);
    let old = files(&[("a", "1")]);
    writer.write(&old).unwrap();
    let error = writer
        .write(&files(&[("a", "2"), ("b", "2"), ("b/c", "2")]))
        .unwrap_err();
    assert_eq!(format!("{error:#}"), "cannot write b: File exists (os error 17)");
    assert_eq!(visible_files(directory.path()), contents(&old));
    assert_eq!(
        root_entries(directory.path()),
        ["..data -> TIME", "TIME", "a -> ..data/a"]
    );
}

#[test]
fn a_data_link_that_leads_elsewhere_is_an_error() {
    let other = TestDirectory::new("writer-other");
    let directory = TestDirectory::new("writer-hostile");
    for target in [other.path(), Path::new("../x"), Path::new("..2/../x"), Path::new("dir")] {
        symlink(target, directory.join(DATA_LINK)).unwrap();
        assert!(writer(&directory).write(&files(&[("a", "1")])).is_err());
        fs::remove_file(directory.join(DATA_LINK)).unwrap();
    }
    assert!(other.path().exists());
}

#[test]
fn a_lost_data_directory_is_written_again() {
    let directory = TestDirectory::new("writer-lost");
    let writer = writer(&directory);
    let wanted = files(&[("a", "1")]);
    writer.write(&wanted).unwrap();
    fs::remove_dir_all(directory.join(&writer.current().unwrap().unwrap().display().to_string())).unwrap();
    assert!(writer.write(&wanted).unwrap());
    assert_eq!(visible_files(directory.path()), contents(&wanted));
}

#[test]
fn what_a_sub_path_created_is_kept() {
    let directory = TestDirectory::new("writer-sub-path");
    let writer = writer(&directory);
    writer.write(&files(&[("a", "1")])).unwrap();
    fs::create_dir(directory.join("missing")).unwrap();
    writer.write(&files(&[("a", "1"), ("missing", "2")])).unwrap();
    writer.write(&files(&[("a", "2")])).unwrap();
    assert_eq!(
        root_entries(directory.path()),
        ["..data -> TIME", "TIME", "a -> ..data/a", "missing"]
    );
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    let directory = TestDirectory::new("writer-modes");
    let mut wanted = files(&[("a", ""), ("dir/b", "")]);
    wanted.get_mut("a").unwrap().mode = 0o666;
    wanted.get_mut("dir/b").unwrap().mode = 0;
    writer(&directory).write(&wanted).unwrap();
    let mode = |path: &str| fs::metadata(directory.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(["..data", "a", "dir", "dir/b"].map(mode), [0o755, 0o666, 0o755, 0]);
}

#[test]
fn an_fs_group_owns_everything_and_can_read_it() {
    let directory = TestDirectory::new("writer-group");
    let own = fs::metadata(directory.path()).unwrap();
    let writer = AtomicWriter::new(directory.path().to_owned(), Some(own.gid()));
    let mut wanted = files(&[("a", "1"), ("dir/b", "")]);
    wanted.get_mut("a").unwrap().mode = 0o400;
    wanted.get_mut("a").unwrap().fs_user = Some(own.uid());
    writer.write(&wanted).unwrap();
    for (path, mode) in [("..data", 0o2755), ("a", 0o440), ("dir", 0o2755), ("dir/b", 0o644)] {
        let metadata = fs::metadata(directory.join(path)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode, "{path}");
        assert_eq!(metadata.gid(), own.gid(), "{path}");
    }
}

#[test]
fn inotify_reports_the_swap() {
    let directory = TestDirectory::new("writer-inotify");
    let writer = writer(&directory);
    writer.write(&files(&[("a", "1")])).unwrap();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    inotify
        .add_watch(directory.path(), AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVE)
        .unwrap();
    writer.write(&files(&[("a", "2")])).unwrap();
    let event = |event: nix::sys::inotify::InotifyEvent| (event.mask, event.name.unwrap().into_string().unwrap());
    let events: Vec<_> = inotify.read_events().unwrap().into_iter().map(event).collect();
    let new = writer.current().unwrap().unwrap().display().to_string();
    assert_eq!(
        events,
        [
            (AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ISDIR, new),
            (AddWatchFlags::IN_CREATE, NEW_DATA_LINK.to_owned()),
            (AddWatchFlags::IN_MOVED_FROM, NEW_DATA_LINK.to_owned()),
            (AddWatchFlags::IN_MOVED_TO, DATA_LINK.to_owned()),
        ]
    );
}

#[test]
fn data_directories_are_named_after_the_time_in_utc() {
    let time = Duration::new(1_795_759_504, 12_345);
    assert_eq!(directory_name(time), "..2026_11_27_06_05_04.000012345");
    assert_eq!(directory_name(Duration::ZERO), "..1970_01_01_00_00_00.000000000");
    assert_eq!(
        directory_name(Duration::from_secs(1_709_164_800)),
        "..2024_02_29_00_00_00.000000000"
    );
    assert!(is_data_directory(OsStr::new(&directory_name(Duration::MAX))));
    for other in ["..data", "..data_tmp", "..", "a", "2026", "..2/x"] {
        assert!(!is_data_directory(OsStr::new(other)), "{other}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn after_any_updates_exactly_the_last_files_are_visible(
        versions in prop::collection::vec(
            prop::collection::btree_map("(f[0-3]|d[01]/g[01]|d[01]/e/g[01])", "[xy]{0,2}", 0..6), 1..6,
        ),
    ) {
        let directory = TestDirectory::new("writer-any");
        let writer = writer(&directory);
        let mut previous = None;
        for version in versions {
            let pairs: Vec<_> = version.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
            let changed = writer.write(&files(&pairs)).unwrap();
            prop_assert_eq!(changed, previous.as_ref() != Some(&version));
            prop_assert_eq!(&visible_files(directory.path()), &version);
            previous = Some(version);
        }
    }
}
