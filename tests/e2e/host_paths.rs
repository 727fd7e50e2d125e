//! hostPath volumes: files of the host in Pods.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::cases::Cases;
use crate::detached_pod::Detached;
use crate::host::{Running, alone, container, host, image, processes, wait_until};
use crate::recovery::kill;

const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A directory on the host, removed at the end.
pub struct Directory(tempfile::TempDir);

impl Directory {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Self(directory)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// A volume with this directory, or something in it.
    pub fn volume(&self, name: &str, path: &str, kind: &str) -> Value {
        json!({ "name": name, "hostPath": { "path": self.path(path), "type": kind } })
    }
}

fn servers() -> Vec<i32> {
    processes(&["microkube-file-server"])
}

#[test]
fn containers_work_with_files_of_the_host_as_with_their_own() {
    let _alone = alone();
    let shared = Directory::new();
    shared.write("from-host", "of the host\n");
    fs::create_dir(shared.path("part")).unwrap();
    shared.write("part/file", "of the part\n");
    symlink("/etc/hostname", shared.path("link-to-hostname")).unwrap();
    shared.write("single", "a single file\n");
    let files = container(
        "files",
        "cd /data; cat from-host; cat link-to-hostname; echo written > from-pod; chmod 640 from-pod; chown 7:8 from-pod; \
         ln from-pod hard; stat -c '%h %a %u:%g' hard; ln -s from-pod soft; cat soft; mv soft moved; \
         mkdir -p deep/a/b/c/d/e/f; echo deep > deep/a/b/c/d/e/f/file; find deep -type f | xargs cat; \
         rm -r deep; [ -e deep ] || echo removed; truncate -s 100M sparse; stat -c %s sparse; du -k sparse | cut -f 1; \
         dd if=/dev/urandom of=random bs=1M count=3 2> /dev/null; cp random copy; cmp random copy && echo same; \
         mkfifo fifo; echo through > fifo & cat fifo; mknod device c 1 3 2> /dev/null || echo no device; \
         touch \"$(printf 'name\\377')\"; ls | grep -c '^name'; df /data | tail -n 1 | wc -w",
    )
    .mount("data", "/data");
    let user = container(
        "user",
        "echo x > /data/of-user; stat -c %u:%g /data/of-user; cat /data/private 2> /dev/null || echo refused",
    )
    .set("securityContext", json!({ "runAsUser": 1000, "runAsGroup": 2000 }))
    .mount("data", "/data");
    let read_only = container(
        "read-only",
        "cat /part/file; echo x 2> /dev/null > /part/new || echo refused; cat /single; echo more >> /single; wc -l < /single; ls /made; \
         (echo x > /whole/new) 2> /dev/null || echo refused",
    )
    .set(
        "volumeMounts",
        json!([
            { "name": "data", "mountPath": "/part", "subPath": "part", "readOnly": true },
            { "name": "data", "mountPath": "/whole", "readOnly": true },
            { "name": "single", "mountPath": "/single" },
            { "name": "made", "mountPath": "/made" },
        ]),
    );
    shared.write("private", "secret\n");
    fs::set_permissions(shared.path("private"), fs::Permissions::from_mode(0o600)).unwrap();
    let cases = Cases::default()
        .expect(
            files,
            &[
                "of the host",
                "shared",
                "2 640 7:8",
                "written",
                "deep",
                "removed",
                "104857600",
                "0",
                "same",
                "through",
                "no device",
                "1",
                "6",
            ],
        )
        .expect(user, &["1000:2000", "refused"])
        .expect(read_only, &["of the part", "refused", "a single file", "2", "refused"]);
    let pod = cases
        .add_to(Pod::named("shared"))
        .volume(shared.volume("data", "", "Directory"))
        .volume(shared.volume("single", "single", "File"))
        .volume(shared.volume("made", "made/here", "DirectoryOrCreate"));
    let output = host().run(pod).success();
    cases.assert_output(&output);
    assert_eq!(shared.read("from-pod"), "written\n");
    assert_eq!(shared.read("single"), "a single file\nmore\n");
    let written = fs::metadata(shared.path("from-pod")).unwrap();
    assert_eq!((written.uid(), written.gid(), written.nlink()), (7, 8, 2));
    assert_eq!(fs::metadata(shared.path("of-user")).unwrap().uid(), 1000);
    assert!(fs::metadata(shared.path("made/here")).unwrap().is_dir());
    wait_until("the file server has ended", || servers().is_empty());
}

#[test]
fn pods_and_the_host_see_each_others_changes_and_locks() {
    let _alone = alone();
    let shared = Directory::new();
    shared.write("lock", "");
    shared.write("mapped", &"x".repeat(8192));
    let pod = |name: &str| {
        Detached::start(
            &Pod::named(name)
                .restart_policy("Always")
                .container(
                    Container::new("main", &image("debian-tools"))
                        .shell(WAIT)
                        .mount("data", "/data"),
                )
                .volume(shared.volume("data", "", "")),
        )
    };
    let (first, second) = (pod("first-sharer"), pod("second-sharer"));
    first.wait_ready();
    second.wait_ready();
    let exec = |pod: &Detached, script: &str| host().succeed(["exec", &pod.0, "--", "sh", "-c", script]);
    exec(&first, "echo one > /data/file");
    assert_eq!(exec(&second, "cat /data/file"), "one\n");
    shared.write("file", "from the host\n");
    assert_eq!(exec(&first, "cat /data/file"), "from the host\n");
    fs::rename(shared.path("file"), shared.path("renamed")).unwrap();
    assert_eq!(
        exec(&second, "ls /data/file 2> /dev/null; cat /data/renamed"),
        "from the host\n"
    );
    let mapped = fs::OpenOptions::new().write(true).open(shared.path("mapped")).unwrap();
    mapped.write_all_at(b"changed", 4096).unwrap();
    assert_eq!(exec(&first, "tail -c +4097 /data/mapped | head -c 7"), "changed");

    // A lock of one Pod keeps out the other one and the host.
    let mut holder = host().begin([
        "exec",
        "first-sharer",
        "--",
        "flock",
        "/data/lock",
        "sh",
        "-c",
        "echo held; sleep 1000",
    ]);
    holder.wait_for("held");
    assert_eq!(
        exec(&second, "flock -n /data/lock echo got || echo refused"),
        "refused\n"
    );
    let lock = fs::File::open(shared.path("lock")).unwrap();
    assert!(lock.try_lock().is_err(), "the host gets it as well");
    first.delete();
    assert_eq!(exec(&second, "flock /data/lock echo got"), "got\n");
    drop(holder);

    // The file server is part of the Pod's VM.
    let servers_left = servers();
    assert_eq!(servers_left.len(), 1);
    kill(servers_left[0]);
    wait_until("the container has restarted in another VM", || {
        let restarted = second.container("main");
        restarted["restartCount"] == 1 && restarted["ready"] == true
    });
    assert_eq!(exec(&second, "cat /data/renamed"), "from the host\n");
    second.delete();
    wait_until("the file servers have ended", || servers().is_empty());
}

#[test]
fn a_pod_waits_for_its_files_of_the_host_and_forbidden_ones_are_refused() {
    let _alone = alone();
    let shared = Directory::new();
    let pod = Detached::start(
        &Pod::named("waiting-for-directory")
            .container(container("main", "cat /data/file").mount("data", "/data"))
            .volume(shared.volume("data", "later", "Directory"))
            .restart_policy("Never"),
    );
    let message = format!(
        "MountVolume.SetUp failed for volume \"data\" : hostPath type check failed: {} is not a directory",
        shared.path("later").display()
    );
    wait_until("the failure is an event", || {
        host()
            .succeed(["events", "--for", "pod/waiting-for-directory"])
            .contains(&message)
    });
    fs::create_dir(shared.path("later")).unwrap();
    shared.write("later/file", "found\n");
    pod.wait_phase("Succeeded");
    assert_eq!(pod.logs("main"), "found\n");

    let config = host().file(
        "host-paths.yaml",
        &format!("security:\n  allowedHostPaths: [{}]\n", shared.path("later").display()),
    );
    symlink("/etc", shared.path("later/out")).unwrap();
    for (path, message) in [
        ("", "hostPath.pathPrefix: Invalid value: "),
        (
            "later/out",
            "is not allowed to be used: it is, or leads, outside of the paths in security.allowedHostPaths",
        ),
    ] {
        let pod = Pod::named("not-allowed")
            .container(container("main", "ls /data").mount("data", "/data"))
            .volume(shared.volume("data", path, ""));
        let mut command = host().microkube(["run", "-"]);
        command.env("MICROKUBE_CONFIG", &config);
        let mut running = Running::start(command, Some(&pod.to_string()));
        running.wait_for(message);
        running.signal(libc::SIGINT);
        running.finish();
    }
}
