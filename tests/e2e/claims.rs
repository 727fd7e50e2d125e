//! Volume claims: disks of the node in Pods.

use std::fs;
use std::path::PathBuf;

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::detached_pod::Detached;
use crate::host::{alone, container, host, image, wait_until};
use crate::recovery::kill_everything;

const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A claim; deleted when the test ends. Its Pods must be deleted before.
pub struct Claim(&'static str);

impl Claim {
    #[track_caller]
    pub fn new(name: &'static str, mode: &str, size: &str) -> Self {
        Self::with(name, mode, size, &json!({}))
    }

    /// A claim with further fields in its `spec`.
    #[track_caller]
    fn with(name: &'static str, mode: &str, size: &str, fields: &Value) -> Self {
        apply(&manifest(name, mode, size, fields));
        Self(name)
    }

    fn phase(&self) -> String {
        field("pvc", self.0, ".status.phase")
    }

    pub fn volume(&self) -> Value {
        json!({ "name": "data", "persistentVolumeClaim": { "claimName": self.0 } })
    }

    /// The file of its disk.
    #[track_caller]
    fn disk(&self) -> PathBuf {
        let volume = field("pvc", self.0, ".spec.volumeName");
        disk_file(&field("pv", &volume, ".spec.csi.volumeHandle"))
    }

    fn pod(&self, name: &str, script: &str) -> Pod {
        Pod::named(name)
            .container(container("main", script).mount("data", "/data"))
            .volume(self.volume())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = host().output(["delete", "pvc", self.0, "--ignore-not-found", "--timeout=60s"]);
    }
}

fn manifest(name: &str, mode: &str, size: &str, fields: &Value) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": name },
        "spec": { "accessModes": [mode], "resources": { "requests": { "storage": size } } },
    });
    for (field, value) in fields.as_object().unwrap() {
        claim["spec"][field] = value.clone();
    }
    claim
}

#[track_caller]
fn apply(object: &Value) {
    let name = object["metadata"]["name"].as_str().unwrap();
    let file = host().file(&format!("{name}.json"), &object.to_string());
    host().succeed(["apply", "-f", file.to_str().unwrap()]);
}

#[track_caller]
fn field(kind: &str, name: &str, path: &str) -> String {
    let format = format!("jsonpath={{{path}}}");
    host().succeed(["get", kind, name, "-o", &format])
}

fn exists(kind: &str, name: &str) -> bool {
    host()
        .succeed(["get", kind, name, "--ignore-not-found", "-o", "name"])
        .contains(name)
}

fn disk_file(name: &str) -> PathBuf {
    host().state_dir.join("volumes/disks").join(name)
}

#[track_caller]
fn run(pod: Pod) -> String {
    host().run(pod.restart_policy("Never")).success()
}

fn exec(pod: &Detached, script: &str) -> String {
    host().succeed(["exec", &pod.0, "--", "sh", "-c", script])
}

/// Whether this machine lets root grow a file system: some containers and test machines have no `CAP_SYS_RESOURCE`.
fn may_grow_file_systems() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> CAP_SYS_RESOURCE & 1 == 1
}

fn running(claim: &Claim, name: &str) -> Detached {
    let main = Container::new("main", &image("debian-tools"))
        .shell(WAIT)
        .mount("data", "/data");
    let pod = Detached::start(
        &Pod::named(name)
            .restart_policy("Always")
            .container(main)
            .volume(claim.volume()),
    );
    pod.wait_ready();
    pod
}

#[test]
fn a_claim_is_provisioned_and_keeps_its_files_for_the_next_pods() {
    let _alone = alone();
    let claim = Claim::new("kept", "ReadWriteOnce", "64Mi");
    assert_eq!(claim.phase(), "Pending", "it waits for its first Pod");
    let written = run(claim.pod(
        "writer",
        "echo files: $(ls -A /data | wc -l); echo kept > /data/file; \
         dd if=/dev/zero of=/data/big bs=1M count=100 conv=fsync 2>&1 | grep -o 'No space left on device'; rm /data/big; sync",
    ));
    assert!(written.contains("files: 0"), "{written}");
    assert!(written.contains("No space left on device"), "{written}");
    assert_eq!(claim.phase(), "Bound");
    assert!(claim.disk().exists());
    assert!(run(claim.pod("reader", "cat /data/file")).contains("kept"));

    let (first, second) = (running(&claim, "first-user"), running(&claim, "second-user"));
    exec(&first, "echo both > /data/both");
    assert_eq!(exec(&second, "cat /data/both"), "both\n");

    // It grows while both use it.
    let larger = json!({ "spec": { "resources": { "requests": { "storage": "256Mi" } } } });
    host().succeed(["patch", "pvc", "kept", "-p", &larger.to_string()]);
    if may_grow_file_systems() {
        assert_eq!(field("pvc", "kept", ".status.capacity.storage"), "256Mi");
        exec(&first, "dd if=/dev/zero of=/data/big bs=1M count=150 2> /dev/null");
        assert_eq!(exec(&second, "stat -c %s /data/big"), "157286400\n");
    } else {
        assert_eq!(
            field("pvc", "kept", ".status.conditions[0].type"),
            "FileSystemResizePending"
        );
        assert_eq!(exec(&second, "cat /data/file"), "kept\n");
    }

    // A claim is deleted after its Pods.
    let disk = claim.disk();
    host().succeed(["delete", "pvc", "kept", "--wait=false"]);
    assert!(exists("pvc", "kept"));
    assert_eq!(exec(&first, "cat /data/file"), "kept\n");
    first.delete();
    assert!(exists("pvc", "kept"));
    second.delete();
    wait_until("the claim is gone", || !exists("pvc", "kept"));
    wait_until("its disk is deleted", || !disk.exists());
}

#[test]
fn files_survive_the_death_of_everything_after_fsync() {
    let _alone = alone();
    let claim = Claim::new("durable", "ReadWriteOnce", "64Mi");
    let pod = running(&claim, "dying");
    exec(&pod, "echo synced > /data/file; sync /data/file /data");
    kill_everything();
    host().succeed(["recover"]);
    wait_until("the container runs in another VM", || {
        let main = pod.container("main");
        main["restartCount"] == 1 && main["ready"] == true
    });
    assert_eq!(exec(&pod, "cat /data/file"), "synced\n");
    pod.delete();
}

#[test]
fn an_exclusive_claim_has_one_pod_at_a_time() {
    let _alone = alone();
    let claim = Claim::new("exclusive", "ReadWriteOncePod", "64Mi");
    let first = running(&claim, "first-owner");
    let second = Detached::start(&claim.pod("second-owner", "echo has it").restart_policy("Never"));
    wait_until("the second Pod says why it waits", || {
        host()
            .succeed(["events", "--for", "pod/second-owner"])
            .contains("ReadWriteOncePod access mode")
    });
    let status = second.get()["status"].clone();
    assert_eq!(status["phase"], "Pending");
    assert_eq!(
        status["conditions"][0]["message"],
        "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    first.delete();
    second.wait_phase("Succeeded");
}

#[test]
fn a_pod_waits_for_its_claim() {
    let _alone = alone();
    let claim = Claim("late");
    let pod = Detached::start(&claim.pod("early", "echo started").restart_policy("Never"));
    wait_until("it says why it waits", || {
        host()
            .succeed(["events", "--for", "pod/early"])
            .contains("persistentvolumeclaim \"late\" not found")
    });
    wait_until("it is not scheduled", || {
        let status = pod.get()["status"].clone();
        let condition = &status["conditions"][0];
        (&condition["type"], &condition["status"], &condition["reason"])
            == (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable"))
            && status["containerStatuses"].is_null()
            && status["startTime"].is_null()
    });
    let reasons = || host().succeed(["events", "--for", "pod/early", "-o", "jsonpath={.items[*].reason}"]);
    assert_eq!(reasons(), "FailedScheduling");
    apply(&manifest("late", "ReadWriteOnce", "64Mi", &json!({})));
    pod.wait_phase("Succeeded");
    assert!(reasons().split(' ').any(|reason| reason == "Scheduled"));
}

#[test]
fn events_say_what_becomes_of_a_claim() {
    let _alone = alone();
    let claim = Claim::new("told", "ReadWriteOnce", "64Mi");
    let events = |format: &str| {
        let format = format!("jsonpath={format}");
        host().succeed(["events", "--for", "pvc/told", "-o", &format])
    };
    assert_eq!(events("{.items[*].reason}"), "WaitForFirstConsumer");
    let described = host().succeed(["describe", "pvc", "told"]);
    assert!(
        described.contains("persistentvolume-controller  waiting for first consumer to be created before binding"),
        "{described}"
    );
    run(claim.pod("consumer", "true"));
    assert!(
        events("{.items[*].reason}")
            .split(' ')
            .any(|reason| reason == "ProvisioningSucceeded")
    );
    assert_eq!(
        events("{.items[0].involvedObject.uid}"),
        field("pvc", "told", ".metadata.uid")
    );
    drop(claim);
    // They outlive their object, but do not count as those of another one.
    let _claim = Claim::new("told", "ReadWriteOnce", "64Mi");
    let described = host().succeed(["describe", "pvc", "told"]);
    assert!(!described.contains("ProvisioningSucceeded"), "{described}");
    assert!(events("{.items[*].reason}").contains("ProvisioningSucceeded"));
}

#[test]
fn a_retained_disk_stays_after_its_claim() {
    let _alone = alone();
    apply(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "retained" },
        "provisioner": "microkube.io/disk-image", "reclaimPolicy": "Retain", "volumeBindingMode": "Immediate",
    }));
    let claim = Claim::with(
        "retained",
        "ReadWriteOnce",
        "64Mi",
        &json!({ "storageClassName": "retained" }),
    );
    assert_eq!(claim.phase(), "Bound", "without a Pod");
    let (volume, disk) = (field("pvc", "retained", ".spec.volumeName"), claim.disk());
    drop(claim);
    assert_eq!(field("pv", &volume, ".status.phase"), "Released");
    host().succeed(["delete", "pv", &volume]);
    assert!(disk.exists());
    fs::remove_file(disk).unwrap();
    host().succeed(["delete", "sc", "retained"]);
}

#[test]
fn a_volume_can_be_a_directory_of_the_host() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "by-hand" },
        "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteMany"], "storageClassName": "",
            "hostPath": { "path": directory.path() },
        },
    }));
    let claim = Claim::with("by-hand", "ReadWriteMany", "1Gi", &json!({ "storageClassName": "" }));
    assert_eq!(claim.phase(), "Bound");
    run(claim.pod("host-writer", "echo x > /data/file"));
    assert_eq!(fs::read_to_string(directory.path().join("file")).unwrap(), "x\n");
    drop(claim);
    host().succeed(["delete", "pv", "by-hand"]);
    assert!(directory.path().join("file").exists());
}

#[test]
fn an_ephemeral_volume_goes_with_its_pod_and_its_group_can_write() {
    let _alone = alone();
    let template = json!({
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "64Mi" } } },
    });
    let volume = json!({ "name": "data", "ephemeral": { "volumeClaimTemplate": template } });
    let script = "echo x > /data/file && stat -c %g /data/file";
    let main = container("main", script)
        .mount("data", "/data")
        .set("securityContext", json!({ "runAsUser": 1000, "runAsGroup": 1000 }));
    let pod = Pod::named("brief")
        .container(main)
        .volume(volume)
        .restart_policy("Never")
        .set("spec.securityContext", json!({ "fsGroup": 2000 }));
    let pod = Detached::start(&pod);
    pod.wait_phase("Succeeded");
    assert_eq!(pod.logs("main"), "2000\n");
    assert!(exists("pvc", "brief-data"));
    pod.delete();
    wait_until("the claim is gone", || !exists("pvc", "brief-data"));
}
