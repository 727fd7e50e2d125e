//! Output that cannot be written, and state directories that cannot be used: every verb reports them with the remedy
//! and a non-zero exit code, and no Pod is lost.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microkube_tests::manifest::{Container, Pod};

use crate::host::{Finished, Running, alone, host, wait_until};

/// Command lines that print something without any Pod.
const PRINTING: [&str; 9] = [
    "get pods -o yaml",
    "events -o json",
    "explain pod",
    "completion bash",
    "doctor",
    "machine needed",
    "--version",
    "--help",
    "get --help",
];

#[test]
fn a_closed_output_ends_a_verb_silently() {
    let _alone = alone();
    for line in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = host().microkube(line.split(' ')).stdout(writer).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "", "{line}");
        assert_eq!(output.status.code(), Some(128 + libc::SIGPIPE), "{line}");
    }
}

#[test]
fn unwritable_output_is_an_error() {
    let _alone = alone();
    for line in PRINTING.into_iter().chain(["image ls"]) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = host().microkube(line.split(' ')).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        // Its exit code 1 means that KVM works.
        let expected = if line == "machine needed" { 125 } else { 1 };
        assert_eq!(output.status.code(), Some(expected), "{line}: {stderr}");
        assert_eq!(
            stderr, "microkube: cannot write to standard output: No space left on device (os error 28)\n",
            "{line}"
        );
    }
}

#[test]
fn unwritable_messages_do_not_abort_a_verb() {
    let _alone = alone();
    for (line, code) in [
        ("get pods", 0),
        ("events", 0),
        ("describe pods", 0),
        ("get pod none", 1),
        ("logs none", 1),
        ("logs -l app=none", 0),
        ("exec none -- true", 1),
        ("attach none", 1),
        ("top pods", 0),
        ("delete pod none", 1),
        ("delete pods --all --grace-period=0 --force", 0),
        ("wait pod/none --for=delete", 0),
        ("run /no/such.yaml", 1),
        ("run a b --image=nginx", 1),
        ("explain nodes", 1),
        ("no-such-verb", 1),
        ("image prune", 0),
    ] {
        for is_full in [true, false] {
            let mut command = host().microkube(line.split(' '));
            if is_full {
                command.stderr(File::options().write(true).open("/dev/full").unwrap());
            } else {
                // The read end is already closed.
                command.stderr(std::io::pipe().unwrap().1);
            }
            let status = command.stdout(Stdio::null()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{line}");
        }
    }
}

/// Separate state directories, on a small file system, for Pods that wait for a missing image and therefore need no
/// virtual machine.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let place = Self {
            dir: host().state_dir.with_file_name(name),
        };
        std::fs::create_dir_all(place.state()).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=4m", "tmpfs"], &place.state());
        place
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn pods(&self) -> PathBuf {
        self.state().join("pods")
    }

    fn manifest(&self, name: &str) -> String {
        let main = Container::new("main", "nowhere").pull_policy("Never");
        let pod = Pod::named(name).restart_policy("Always").container(main);
        let path = self.dir.join(format!("{name}.yaml"));
        std::fs::write(&path, pod.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Creates a Pod that waits.
    fn start(&self, name: &str) {
        assert_eq!(
            self.run(&["apply", "-f", &self.manifest(name)]).success(),
            format!("pod/{name} created\n")
        );
        wait_until("the Pod waits for its image", || {
            self.run(&["get", "pod", name]).stdout.contains("ErrImageNeverPull")
        });
    }

    fn run(&self, args: &[&str]) -> Finished {
        let mut command = host().microkube(args);
        command
            .env("MICROKUBE_STATE_DIR", self.state())
            .env("MICROKUBE_RUN_DIR", self.dir.join("run"));
        Running::start(command, None).finish()
    }

    /// Runs a verb that must fail with this text.
    #[track_caller]
    fn fails(&self, args: &[&str], parts: &[&str]) -> Finished {
        let finished = self.run(args);
        assert_eq!(finished.code(), 1, "{args:?}: {finished:?}");
        for part in parts {
            assert!(
                finished.stderr.contains(part),
                "{args:?}: {part:?} is not in {finished:?}"
            );
        }
        assert!(!finished.stderr.contains("panicked"), "{finished:?}");
        finished
    }

    fn names(&self) -> Vec<String> {
        let table = self.run(&["get", "pods", "--no-headers"]).stdout;
        let name = |line: &str| line.split(' ').next().unwrap().to_owned();
        table.lines().map(name).collect()
    }
}

impl Drop for Place {
    /// Removes the Pods, mounts and directories that a failed test may have left.
    fn drop(&mut self) {
        let state = self.state();
        if state.is_dir() {
            let _ = self.run(&["delete", "pods", "--all", "--now"]);
            while Command::new("umount")
                .arg(&state)
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
            {}
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[track_caller]
fn mount(options: &[&str], at: &Path) {
    let status = Command::new("mount").args(options).arg(at).status().unwrap();
    assert!(status.success(), "mount {options:?} {}", at.display());
}

#[test]
fn pods_in_a_read_only_state_directory_are_shown() {
    let _alone = alone();
    let place = Place::new("read-only");
    place.start("one");
    let state = place.state();
    // While it waits for its image, the Pod keeps its disk open for writing through the mount that exists at that time.
    wait_until("the Pod's disk is created", || {
        let mut pods = std::fs::read_dir(place.pods()).unwrap();
        pods.any(|pod| pod.unwrap().path().join("scratch.img").exists())
    });
    mount(&["--bind", state.to_str().unwrap()], &state);
    // Records may still be being written.
    wait_until("nothing is written there any more", || {
        let remount = ["-o", "remount,bind,ro"];
        Command::new("mount")
            .args(remount)
            .arg(&state)
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    });
    assert_eq!(place.names(), ["one"]);
    for line in [
        &["describe", "pod", "one"][..],
        &["events", "--for", "pod/one"],
        &["get", "pod", "one", "-o", "yaml"],
        &["wait", "pod/one", "--for=jsonpath={.status.phase}=Pending"],
        &["image", "ls"],
    ] {
        assert!(!place.run(line).success().is_empty(), "{line:?}");
    }
    let remedy = &["Read-only file system", "writable", "MICROKUBE_STATE_DIR"];
    let two = place.manifest("two");
    for line in [
        &["apply", "-f", &two][..],
        &["create", "-f", &two],
        &["run", &two],
        &["image", "prune"],
    ] {
        place.fails(line, remedy);
    }
    assert_eq!(place.names(), ["one"]);
}

#[test]
fn a_full_state_directory_suggests_a_remedy_and_loses_nothing() {
    let _alone = alone();
    let place = Place::new("full");
    place.start("one");
    let filler = place.state().join("filler");
    // Fails once the file system is full.
    assert!(std::fs::write(&filler, vec![0; 8 << 20]).is_err());
    let two = place.manifest("two");
    for line in [&["apply", "-f", &two][..], &["run", &two]] {
        place.fails(
            line,
            &["No space left on device", "free space", "microkube image prune --all"],
        );
    }
    assert_eq!(place.names(), ["one"]);
    std::fs::remove_file(&filler).unwrap();
    place.start("two");
    assert_eq!(place.names(), ["one", "two"]);
    place.run(&["delete", "pod", "one", "two", "--now"]).success();
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn invalid_records_are_reported_and_kept_and_hide_no_other_pod() {
    let _alone = alone();
    let place = Place::new("garbage");
    place.start("one");
    let record = |name: &str| {
        let dir = place.pods().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir.join("pod.json")
    };
    std::fs::write(record("half"), "{\"uid\": \"half").unwrap();
    File::create(record("huge")).unwrap().set_len(1 << 30).unwrap();
    std::os::unix::fs::symlink("/dev/zero", record("endless")).unwrap();
    std::fs::create_dir(record("directory")).unwrap();
    make_pipe(&record("pipe"));
    std::fs::write(place.pods().join("a-file"), "").unwrap();
    let all = ["half", "huge", "endless", "directory", "pipe"];

    assert_eq!(place.names(), ["one"]);
    for line in ["get pods", "describe pods", "events", "top pods", "recover"] {
        let line: Vec<_> = line.split(' ').collect();
        place.fails(
            &line,
            &all.map(|name| place.pods().join(name).to_str().unwrap().to_owned())
                .each_ref()
                .map(String::as_str),
        );
    }
    assert!(place.run(&["get", "pod", "one"]).success().contains("one"));
    let remedy = &[
        "is damaged",
        "restore the file, or abandon the Pod: remove",
        "microkube recover",
    ];
    let two = place.manifest("two");
    for line in [
        &["apply", "-f", &two][..],
        &["run", &two],
        &["logs", "two"],
        &["get", "pods"],
    ] {
        place.fails(line, remedy);
    }
    for name in all {
        assert!(
            place.pods().join(name).join("pod.json").symlink_metadata().is_ok(),
            "{name}"
        );
        std::fs::remove_dir_all(place.pods().join(name)).unwrap();
    }
    place.run(&["recover"]).success();
    place.start("two");
    assert_eq!(place.names(), ["one", "two"]);
    assert!(place.pods().join("a-file").exists());
}

fn make_pipe(path: &Path) {
    let status = Command::new("mkfifo").arg(path).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_file_in_place_of_the_state_directory_fails_every_verb() {
    let _alone = alone();
    let dir = host().state_dir.with_file_name("file");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("state"), "").unwrap();
    // Without a separate file system.
    let place = Place { dir };
    let pod = place.manifest("pod");
    for line in [
        "get pods",
        "describe pods",
        "events",
        "logs pod",
        "exec pod -- true",
        "attach pod",
        "cp pod:/a /tmp/none",
        "top pod",
        "wait pod/pod --for=delete",
        "delete pod pod",
        "recover",
        "image ls",
        "image pull nowhere",
        &format!("apply -f {pod}"),
        &format!("create -f {pod}"),
        &format!("run {pod}"),
    ] {
        let line: Vec<_> = line.split(' ').collect();
        place.fails(
            &line,
            &["is not a directory: remove it, or set MICROKUBE_STATE_DIR to a directory"],
        );
    }
}
