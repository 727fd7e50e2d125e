//! The records of two Pods in every version of their format; `kept_records/vN` are state directories. Files of older
//! versions never change.
//!
//! `MICROKUBE_WRITE_EXPECTED=1` writes the files of the current version instead of comparing them. Use it only for a
//! new version.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::lifecycle::{ContainerAttempt, Lifecycle};
use super::machine_plan::MachinePlan;
use crate::state::{
    EventRecord, POD_RECORDS_VERSION, Paths, PodRecord, PodRecords, RecordFormat, StatusRecord, encode_record,
    read_record,
};

/// A running Pod, and one that is being deleted.
const PODS: [(&str, &str); 2] = [
    ("running", "2b4a7f0e-6d0e-4a55-9f0e-0d4b1f6f7a01"),
    ("ending", "2b4a7f0e-6d0e-4a55-9f0e-0d4b1f6f7a02"),
];

const FILES: [&str; 5] = ["pod.json", "status.json", "events.json", "lifecycle.json", "plan.json"];

fn kept(version: u32, pod: &str) -> PathBuf {
    let records = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pod/kept_records");
    records.join(format!("v{version}")).join(pod)
}

fn value(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[derive(Debug)]
struct Records {
    record: PodRecord,
    status: StatusRecord,
    events: Vec<EventRecord>,
    lifecycle: Lifecycle,
    plan: MachinePlan,
}

impl Records {
    fn read(paths: &Paths, uid: &str) -> Self {
        let records = PodRecords::new(paths.clone());
        records.refuse_newer(uid).unwrap();
        Self {
            record: records.get(uid).unwrap().unwrap(),
            status: records.status(uid).unwrap().unwrap(),
            events: records.events(uid).unwrap(),
            lifecycle: read_record(&paths.pod_state(uid).join("lifecycle.json"))
                .unwrap()
                .unwrap(),
            plan: MachinePlan::load(paths, uid).unwrap().unwrap(),
        }
    }

    /// The records as this build writes them, in the order of [`FILES`].
    fn written(&self) -> [Value; 5] {
        fn of(record: &impl RecordFormat) -> Value {
            serde_json::from_slice(&encode_record(record).unwrap()).unwrap()
        }
        let events = serde_json::json!({ "version": POD_RECORDS_VERSION, "events": &self.events });
        [
            of(&self.record),
            of(&self.status),
            events,
            of(&self.lifecycle),
            of(&self.plan),
        ]
    }
}

/// A state directory with the kept records of this version.
fn directory(version: u32) -> (tempfile::TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
    for (pod, uid) in PODS {
        std::fs::create_dir_all(paths.pod_state(uid)).unwrap();
        for file in FILES {
            std::fs::copy(kept(version, pod).join(file), paths.pod_state(uid).join(file)).unwrap();
        }
    }
    (dir, paths)
}

#[test]
fn records_of_all_versions_are_read_with_the_same_meaning() {
    for version in 0..POD_RECORDS_VERSION {
        let (_dir, paths) = directory(version);
        for (pod, uid) in PODS {
            let records = Records::read(&paths, uid);
            assert_eq!((records.record.name.as_str(), records.events.len() > 20), (pod, true));
            assert!(records.lifecycle.has_sandbox() && records.lifecycle.expects(ContainerAttempt::new(2, 0)));
            assert_eq!(records.status.deletion_timestamp.is_some(), pod == "ending");
            for (file, written) in FILES.into_iter().zip(records.written()) {
                let path = kept(POD_RECORDS_VERSION, pod).join(file);
                if std::env::var_os("MICROKUBE_WRITE_EXPECTED").is_some() {
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(&path, serde_json::to_vec_pretty(&written).unwrap()).unwrap();
                }
                assert_eq!(written, value(&path), "version {version} of {file} of the Pod {pod}");
            }
        }
    }
}

#[test]
fn records_are_written_in_the_current_version() {
    let (_dir, paths) = directory(POD_RECORDS_VERSION);
    for (pod, uid) in PODS {
        for (file, written) in FILES.into_iter().zip(Records::read(&paths, uid).written()) {
            let kept = value(&kept(POD_RECORDS_VERSION, pod).join(file));
            // A difference here needs a new version, unless older builds may ignore it (docs/decisions/versions.md).
            assert_eq!(written, kept, "{file} of the Pod {pod}");
        }
    }
}

#[test]
fn records_of_a_newer_version_are_refused_by_name() {
    let (_dir, paths) = directory(POD_RECORDS_VERSION);
    let (_, uid) = PODS[0];
    let records = PodRecords::new(paths.clone());
    for file in FILES {
        let path = paths.pod_state(uid).join(file);
        let content = std::fs::read(&path).unwrap();
        let mut newer = value(&path);
        newer["version"] = (POD_RECORDS_VERSION + 1).into();
        std::fs::write(&path, newer.to_string()).unwrap();
        let read = match file {
            "pod.json" => records.get(uid).map(drop),
            "status.json" => records.status(uid).map(drop),
            "events.json" => records.events(uid).map(drop),
            "lifecycle.json" => read_record::<Lifecycle>(&path).map(drop).map_err(Into::into),
            _ => MachinePlan::load(&paths, uid).map(drop).map_err(Into::into),
        };
        let said = format!(
            "{} was written by a newer microkube, in format version {}; this one reads versions up to {POD_RECORDS_VERSION}",
            path.display(),
            POD_RECORDS_VERSION + 1
        );
        for error in [read.unwrap_err(), records.refuse_newer(uid).unwrap_err()] {
            assert_eq!(error.to_string(), said);
            assert_eq!((error.newer_path(), error.damaged_path()), (Some(path.as_path()), None));
        }
        std::fs::write(&path, content).unwrap();
    }
    records.refuse_newer(uid).unwrap();
}
