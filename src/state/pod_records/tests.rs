use k8s_openapi::api::core::v1::Pod;

use super::*;

fn record(uid: &str, name: &str) -> PodRecord {
    PodRecord {
        uid: uid.to_owned(),
        namespace: "default".to_owned(),
        name: name.to_owned(),
        pod: Pod::default(),
        pull_secrets: Vec::new(),
        detached: false,
        released: false,
        client: None,
        supervisor: None,
        vmm: None,
    }
}

fn records() -> (tempfile::TempDir, PodRecords) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
    (dir, PodRecords::new(paths))
}

#[test]
fn a_second_pod_of_the_same_name_is_refused_while_the_first_has_an_owner() {
    let (_dir, records) = records();
    let lock = records.create(&record("u1", "web")).unwrap();
    let error = records.create(&record("u2", "web")).unwrap_err();
    assert!(matches!(error, RecordsError::AlreadyExists(..)), "{error}");
    drop(lock);
    records.create(&record("u3", "web")).unwrap();
}

#[test]
fn an_abandoned_pod_can_be_claimed_and_removed_without_a_trace() {
    let (dir, records) = records();
    let lock = records.create(&record("u1", "web")).unwrap();
    assert!(records.claim("u1").unwrap().is_none());
    drop(lock);
    let claimed = records.claim("u1").unwrap();
    assert!(claimed.is_some());
    records.remove("u1").unwrap();
    assert_eq!(records.uids().unwrap(), Vec::<String>::new());
    assert!(!dir.path().join("state/pods/u1").exists());
}

#[test]
fn a_pods_record_is_removed_before_its_other_files() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    let (dir, records) = records();
    let _lock = records.create(&record("u1", "web")).unwrap();
    let state = dir.path().join("state/pods/u1");
    for number in 0..30 {
        std::fs::write(state.join(format!("{number}.json")), "").unwrap();
    }
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    inotify.add_watch(&state, AddWatchFlags::IN_DELETE).unwrap();
    records.remove("u1").unwrap();
    let removed = inotify.read_events().unwrap();
    assert_eq!(removed[0].name.as_deref(), Some(std::ffi::OsStr::new(RECORD_FILE)));
}

#[test]
fn exactly_one_of_many_concurrent_creations_of_a_name_succeeds() {
    let (_dir, records) = records();
    let won: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let records = records.clone();
                scope.spawn(move || records.create(&record(&format!("u{n}"), "web")).ok())
            })
            .collect();
        threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(won.len(), 1);
}

#[test]
fn a_pod_being_created_or_removed_is_never_claimed() {
    let (_dir, records) = records();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    for uid in records.uids().unwrap() {
                        assert!(records.claim(&uid).unwrap().is_none(), "{uid} has an owner");
                    }
                }
            });
        }
        let created: Result<(), RecordsError> = (0..300).try_for_each(|n| {
            let uid = format!("u{n}");
            let _lock = records.create(&record(&uid, &uid))?;
            records.save(&record(&uid, &uid))?;
            records.remove(&uid)
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        created.unwrap();
    });
}

#[test]
fn an_ended_detached_pod_keeps_its_name_until_it_is_removed() {
    let (_dir, records) = records();
    let mut ended = record("u1", "web");
    ended.detached = true;
    drop(records.create(&ended).unwrap());
    assert!(matches!(
        records.create(&record("u2", "web")),
        Err(RecordsError::AlreadyExists(..))
    ));
    records.remove("u1").unwrap();
    records.create(&record("u2", "web")).unwrap();
}

#[test]
fn a_hidden_pod_is_visible_only_to_its_owner_and_its_name_is_free() {
    let (_dir, records) = records();
    let mut first = record("u1", "web");
    first.detached = true;
    let _owner = records.create(&first).unwrap();
    records.save_status("u1", &StatusRecord::pending()).unwrap();
    assert!(!records.is_gone("u1"));
    records.hide("u1").unwrap();

    assert!(records.is_hidden("u1") && records.is_gone("u1"));
    assert_eq!(records.find("default", "web").unwrap(), None);
    assert_eq!(records.visible("u1").unwrap(), None);
    let (found, damaged) = records.list_all().unwrap();
    assert!(found.is_empty() && damaged.is_empty(), "{found:?} {damaged:?}");
    let _other = records.create(&record("u2", "web")).unwrap();
    assert_eq!(records.find("default", "web").unwrap().unwrap().uid, "u2");

    // Its owner still handles the Pod, and so does the sweep for dead owners.
    records.save(&first).unwrap();
    records.save_status("u1", &StatusRecord::default()).unwrap();
    assert_eq!(records.get("u1").unwrap(), Some(first));
    assert_eq!(records.uids().unwrap(), ["u1", "u2"]);
    assert!(records.is_hidden("u1"));
    records.remove("u1").unwrap();
    assert!(records.is_gone("u1") && !records.is_hidden("u1"));
}

#[test]
fn missing_status_and_events_are_none_and_a_vanished_pod_is_not_an_error() {
    let (_dir, records) = records();
    let _lock = records.create(&record("u1", "web")).unwrap();
    assert_eq!(records.status("u1").unwrap(), None);
    assert_eq!(records.events("u1").unwrap(), []);
    records.save_status("u1", &StatusRecord::pending()).unwrap();
    assert_eq!(records.status("u1").unwrap(), Some(StatusRecord::pending()));
    records.remove("u1").unwrap();
    assert_eq!(records.status("u1").unwrap(), None);
    assert_eq!(records.find("default", "web").unwrap(), None);
    assert!(
        records.save_status("u1", &StatusRecord::pending()).is_err(),
        "a Pod that is gone is not brought back"
    );
}

#[test]
fn records_of_an_attached_pod_are_not_synced_to_disk() {
    let (_dir, records) = records();
    let syncs_of = |uid: &str, detached: bool| {
        let before = record::SYNCS.get();
        let record = PodRecord {
            detached,
            ..record(uid, uid)
        };
        let lock = records.create(&record).unwrap();
        records.save(&record).unwrap();
        records.save_status(uid, &StatusRecord::pending()).unwrap();
        let log = event_log::EventLog::open(&records.events_path(uid)).unwrap();
        let mut log = log.lasting(records.lifetime(uid));
        log.add(false, "Pulled", "m", None, std::time::SystemTime::now())
            .unwrap();
        drop(lock);
        records.remove(uid).unwrap();
        record::SYNCS.get() - before
    };
    assert_eq!(syncs_of("attached", false), 0);
    // A file and its directory each, and the directory of all Pods.
    assert_eq!(syncs_of("detached", true), 9);
}

#[test]
fn records_torn_by_a_power_cut_are_ignored_and_removable() {
    let (dir, records) = records();
    drop(records.create(&record("u1", "web")).unwrap());
    for file in [STATUS_FILE, EVENTS_FILE] {
        std::fs::write(dir.path().join("state/pods/u1").join(file), "").unwrap();
    }
    assert_eq!(records.status("u1").unwrap(), None);
    assert_eq!(records.events("u1").unwrap(), []);
    std::fs::write(dir.path().join("state/pods/u1/pod.json"), "").unwrap();
    assert_eq!(records.get("u1").unwrap(), None);
    // The hidden Pod blocks no other Pod, and the sweep finds it.
    let _lock = records.create(&record("u2", "web")).unwrap();
    assert_eq!(records.uids().unwrap(), ["u1", "u2"]);
    assert!(records.claim("u1").unwrap().is_some());
    records.remove("u1").unwrap();
    assert_eq!(records.uids().unwrap(), ["u2"]);
}

#[test]
fn a_removed_pod_counts_as_hidden() {
    let (dir, records) = records();
    records.hide("u1").unwrap();
    assert!(records.is_gone("u1") && !dir.path().join("state/pods/u1").exists());
}

#[test]
fn a_damaged_record_is_reported_and_hides_no_other() {
    let (dir, records) = records();
    let detached = |name| PodRecord {
        detached: true,
        ..record(name, name)
    };
    let _locks = ["a", "b", "c"].map(|name| records.create(&detached(name)).unwrap());
    std::fs::write(dir.path().join("state/pods/b/pod.json"), "{").unwrap();
    let (found, damaged) = records.list_all().unwrap();
    let names: Vec<_> = found.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    let [error] = damaged.as_slice() else {
        panic!("{damaged:?}")
    };
    assert!(
        error.to_string().contains("state/pods/b/pod.json is damaged"),
        "{error}"
    );
    assert_eq!(records.find("default", "c").unwrap().unwrap().uid, "c");
    assert!(
        records.find("default", "b").is_err(),
        "the damaged Pod may have this name"
    );
    std::fs::write(dir.path().join("state/pods/a/status.json"), "[]").unwrap();
    assert!(records.status("a").unwrap_err().to_string().contains("a/status.json"));
}

#[test]
fn listing_pods_during_creations_and_removals_never_fails() {
    let (_dir, records) = records();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let (found, damaged) = records.list_all().unwrap();
                assert!(damaged.is_empty(), "{damaged:?}");
                for record in found {
                    records.status(&record.uid).unwrap();
                    records.events(&record.uid).unwrap();
                }
            }
        });
        let result: Result<(), RecordsError> = (0..100).try_for_each(|n| {
            let uid = format!("u{n}");
            let _lock = records.create(&record(&uid, &uid))?;
            records.save_status(&uid, &StatusRecord::pending())?;
            records.remove(&uid)
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        result.unwrap();
    });
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn any_status_content_is_read_or_refused_by_file_name(content in "[\\PC]{0,80}") {
        let (dir, records) = records();
        let detached = PodRecord { detached: true, ..record("u1", "web") };
        let _lock = records.create(&detached).unwrap();
        std::fs::write(dir.path().join("state/pods/u1/status.json"), content).unwrap();
        if let Err(error) = records.status("u1") {
            proptest::prop_assert!(error.to_string().contains("status.json"));
        }
    }
}
