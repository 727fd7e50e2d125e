//! Log rotation while containers are restarted and a client reads the logs.

use microkube_tests::manifest::Pod;

use crate::detached_pod::Detached;
use crate::host::{alone, container, host};

/// Enough for a rotation: a line takes about fifty bytes in the log, and a file holds 10 MiB.
const LINES_BEFORE: usize = 250_000;
const LINES_AFTER: usize = 1000;

/// Asserts that the lines contain consecutive numbers starting at `first`, each once and in order.
#[track_caller]
fn assert_numbers<'a>(lines: impl Iterator<Item = &'a str>, first: usize, count: usize) {
    let mut expected = first;
    for line in lines {
        assert_eq!(line, expected.to_string());
        expected += 1;
    }
    assert_eq!(expected, first + count);
}

/// Names of the log files of all containers.
fn log_files() -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![host().state_dir.join("pods")];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                pending.push(entry.path());
            } else {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    found
}

#[test]
fn following_across_rotations_and_a_restart_shows_every_line_once_in_order() {
    let _alone = alone();
    let all = LINES_BEFORE + LINES_AFTER;
    let script = format!(
        "if mkdir /state/restarted 2>/dev/null; then echo begin; while [ ! -e /state/go ]; do sleep 0.1; done; seq 0 {}; exit 1; fi; seq {LINES_BEFORE} {}; echo end; sleep 1000",
        LINES_BEFORE - 1,
        all - 1
    );
    let pod = Detached::start(
        &Pod::named("chatty")
            .restart_policy("OnFailure")
            .empty_dir("state")
            .container(container("main", &script).mount("state", "/state")),
    );
    pod.wait_ready();
    let mut follow = host().begin(["logs", "-f", "chatty"]);
    follow.wait_for("begin");
    host().succeed(["exec", "chatty", "--", "touch", "/state/go"]);
    follow.wait_for("end");
    let files = log_files();
    for file in ["0.log", "0.log.1", "1.log"] {
        assert!(files.iter().any(|name| name == file), "{file} is not among {files:?}");
    }

    // A later reader gets the same lines from the files.
    let previous = host().succeed(["logs", "chatty", "-p"]);
    assert_numbers(previous.strip_prefix("begin\n").unwrap().lines(), 0, LINES_BEFORE);
    let current = pod.logs("main");
    assert_numbers(
        current.strip_suffix("end\n").unwrap().lines(),
        LINES_BEFORE,
        LINES_AFTER,
    );

    // `logs -f` ends when the container ends for good, not at the restart.
    pod.delete();
    let followed = follow.finish();
    assert_eq!(followed.code(), 0, "{}", followed.stderr);
    let mut lines: Vec<&str> = followed.stdout.lines().collect();
    assert_eq!((lines.remove(0), lines.pop()), ("begin", Some("end")));
    assert_numbers(lines.into_iter(), 0, all);
}
