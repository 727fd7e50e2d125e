//! Output that cannot be written, and state directories that cannot be used: every verb says so with the remedy and a non-zero exit
//! code, and no Pod is lost.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microkube_tests::manifest::{Container, Pod};

use crate::host::{Finished, Running, alone, host, wait_until};

/// What prints something without any Pod.
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
fn output_that_nobody_reads_ends_a_verb_in_silence() {
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
fn output_that_cannot_be_written_is_an_error() {
    let _alone = alone();
    for line in PRINTING.into_iter().chain(["image ls"]) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = host().microkube(line.split(' ')).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {stderr}");
        assert_eq!(
            stderr, "microkube: cannot write to standard output: No space left on device (os error 28)\n",
            "{line}"
        );
    }
}

#[test]
fn messages_that_cannot_be_written_end_no_verb() {
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
        ("run /no/such.yaml", 2),
        ("run a b --image=nginx", 2),
        ("explain nodes", 2),
        ("no-such-verb", 2),
        ("image prune", 0),
    ] {
        for is_full in [true, false] {
            let mut command = host().microkube(line.split(' '));
            if is_full {
                command.stderr(File::options().write(true).open("/dev/full").unwrap());
            } else {
                // Of a reader that is gone.
                command.stderr(std::io::pipe().unwrap().1);
            }
            let status = command.stdout(Stdio::null()).status().unwrap();
            assert_eq!(status.code(), Some(code), "{line}");
        }
    }
}

/// Directories of microkube's own, on a small file system, for Pods that wait for an image which is not there: they need no virtual
/// machine.
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

    /// A Pod that is there and waits.
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

    /// Runs a verb that must fail with these words.
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
    /// Pods, file systems and directories, whatever a test that failed has left.
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
fn a_state_directory_that_is_read_only_still_shows_its_pods() {
    let _alone = alone();
    let place = Place::new("read-only");
    place.start("one");
    let state = place.state();
    // The Pod keeps its disk open for writing while it waits for its image: through the mount that there is by then.
    wait_until("the Pod's disk is made", || {
        let mut pods = std::fs::read_dir(place.pods()).unwrap();
        pods.any(|pod| pod.unwrap().path().join("scratch.img").exists())
    });
    mount(&["--bind", state.to_str().unwrap()], &state);
    // Records may still be written.
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
    let remedy = &["Read-only file system", "must be writable", "MICROKUBE_STATE_DIR"];
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
fn a_state_directory_that_is_full_says_how_to_make_room_and_loses_nothing() {
    let _alone = alone();
    let place = Place::new("full");
    place.start("one");
    let filler = place.state().join("filler");
    // Ends with an error, when nothing more fits.
    assert!(std::fs::write(&filler, vec![0; 8 << 20]).is_err());
    let two = place.manifest("two");
    for line in [&["apply", "-f", &two][..], &["run", &two]] {
        place.fails(line, &["No space left on device", "make room", "microkube image prune"]);
    }
    assert_eq!(place.names(), ["one"]);
    std::fs::remove_file(&filler).unwrap();
    place.start("two");
    assert_eq!(place.names(), ["one", "two"]);
    place.run(&["delete", "pod", "one", "two", "--now"]).success();
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn records_that_are_none_are_told_of_and_kept_and_hide_no_other_pod() {
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
    let remedy = &["is damaged", "restore the file, or remove", "microkube recover"];
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
fn a_file_in_place_of_the_state_directory_is_an_error_of_every_verb() {
    let _alone = alone();
    let dir = host().state_dir.with_file_name("file");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("state"), "").unwrap();
    // Without a file system of its own.
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
        place.fails(&line, &["must be a directory: MICROKUBE_STATE_DIR names another"]);
    }
}
