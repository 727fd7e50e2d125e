//! Pods started by the previous build, after an upgrade.
//!
//! `MICROKUBE_PREVIOUS_PROGRAM` is that build's `microkube`; its `microkube-vmm` is next to it, and its guest is where
//! it looks for one. Without the variable the program under test is used instead. Then only the procedure is tested,
//! and compatibility between builds only by the unit tests that keep records and frames of every version.

use std::path::PathBuf;

use microkube_tests::built::microkube_program;

use crate::detached_pod::Detached;
use crate::host::{Running, alone, host, processes, shell_pod, wait_until};

/// Starts a Pod with the previous build.
fn start_with_previous(name: &str) -> Detached {
    const SCRIPT: &str = "trap 'echo bye; exit 0' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done";
    let file = host().manifest(&shell_pod(name, SCRIPT));
    let mut command = host().microkube(["run", "-d", file.to_str().unwrap()]);
    if let Some(previous) = std::env::var_os("MICROKUBE_PREVIOUS_PROGRAM") {
        let current = command;
        command = std::process::Command::new(PathBuf::from(previous));
        command.args(current.get_args());
        for (name, value) in current.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        for own in ["MICROKUBE_GUEST_DIR", "MICROKUBE_VMM"] {
            command.env_remove(own);
        }
    } else {
        println!(
            "MICROKUBE_PREVIOUS_PROGRAM is not set: {} stands in for the previous build",
            microkube_program().display()
        );
    }
    Running::start(command, None).finish().success();
    Detached(name.to_owned())
}

/// Asserts that the Pod answers get, logs and exec, and was not restarted.
fn assert_answers(pod: &Detached) {
    let status = pod.container("main");
    assert_eq!(status["restartCount"], 0, "{status}");
    assert!(status["state"]["running"].is_object(), "{status}");
    let table = host().succeed(["get", "pods"]);
    assert!(table.lines().any(|line| line.starts_with(&pod.0)), "{table}");
    let numbers: Vec<usize> = pod.logs("main").lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(
        numbers,
        (0..numbers.len()).collect::<Vec<_>>(),
        "nothing lost or duplicated"
    );
    let finished = host().output([
        "exec",
        &pod.0,
        "--",
        "/bin/sh",
        "-c",
        "echo reached; echo err >&2; exit 3",
    ]);
    assert_eq!(
        (finished.code(), finished.stdout.as_str()),
        (3, "reached\n"),
        "{finished:?}"
    );
    assert!(finished.stderr.starts_with("err\n"), "{finished:?}");
    let usage = host().succeed(["top", "pod", &pod.0]);
    assert!(usage.contains(&pod.0), "{usage}");
}

#[test]
fn a_pod_of_the_previous_build_answers_get_logs_exec_and_delete() {
    let _alone = alone();
    let before = host().leftovers();
    // One Pod keeps its supervisor. The other's supervisor is replaced by one of this build, which takes over VMM and
    // agent.
    let (kept, taken_over) = (start_with_previous("kept"), start_with_previous("taken-over"));
    for pod in [&kept, &taken_over] {
        pod.wait_ready();
        assert_answers(pod);
    }
    let uid = taken_over.get()["metadata"]["uid"].as_str().unwrap().to_owned();
    let supervisor = || processes(&["supervise", &uid]);
    let old = supervisor();
    assert_eq!(old.len(), 1);
    // SAFETY: kill(2) takes integers. The PID was found by the process's command line a moment ago.
    assert_eq!(unsafe { libc::kill(old[0], libc::SIGKILL) }, 0);
    wait_until("the supervisor is gone", || supervisor().is_empty());
    host().succeed(["recover"]);
    assert_ne!(supervisor(), old);
    assert_answers(&taken_over);
    for pod in [&kept, &taken_over] {
        let deleted = host().succeed(["delete", "pod", &pod.0]);
        assert!(deleted.contains("deleted"), "{deleted}");
    }
    host().assert_nothing_left_since(&before);
}
