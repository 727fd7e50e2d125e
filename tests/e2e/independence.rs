//! Operations on one Pod do not wait for other Pods.

use std::process::{Child, Stdio};

use crate::detached_pod::Detached;
use crate::host::{alone, host, processes, shell_pod, wait_until};

/// A process that is stopped until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn stop(pid: i32) -> Self {
        // SAFETY: kill(2) takes integers. The PID was found by the process's command line a moment ago.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: as above; a stopped process cannot have ended.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

fn supervisor_of(name: &str) -> i32 {
    let json = host().succeed(["get", "pod", name, "-o", "json"]);
    let pod: serde_json::Value = serde_json::from_str(&json).unwrap();
    let found = processes(&["supervise", pod["metadata"]["uid"].as_str().unwrap()]);
    assert_eq!(found.len(), 1);
    found[0]
}

fn spawn_without_output(args: &[&str]) -> Child {
    let mut command = host().microkube(args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

const SERVE: &str = "echo ready; trap 'exit 0' TERM; while :; do sleep 0.1; done";

#[test]
fn no_verb_waits_for_another_pod_that_hangs_or_is_being_deleted() {
    let _alone = alone();
    let before = host().leftovers();
    // A Pod whose command line was killed, and whose stopped supervisor cannot end it.
    let mut cli = host().start(shell_pod("abandoned", SERVE));
    cli.wait_for("ready");
    let stopped = Stopped::stop(supervisor_of("abandoned"));
    cli.signal(libc::SIGKILL);
    cli.finish();
    // A Pod that a waiting command deletes, and that ends slowly.
    let patient = shell_pod("deleted", "trap 'echo term' TERM; while :; do sleep 0.1; done");
    let deleted = Detached::start(&patient.grace_period_seconds(600));
    deleted.wait_ready();
    let mut deletion = spawn_without_output(&["delete", "pod", "deleted"]);
    deleted.wait_for_log("main", "term");

    let manifest = shell_pod("free", SERVE);
    let free = Detached::start(&manifest);
    free.wait_ready();
    assert_eq!(host().succeed(["exec", "free", "--", "echo", "reached"]), "reached\n");
    assert_eq!(free.logs("main"), "ready\n");
    for line in [
        "get pods",
        "get pod free -o yaml",
        "describe pods",
        "events",
        "top pod free",
        "image ls",
    ] {
        host().succeed(line.split(' '));
    }
    let file = host().manifest(&manifest);
    let applied = host().succeed(["apply", "-f", file.to_str().unwrap()]);
    // `run` keeps no configuration, so the apply records it.
    assert_eq!(applied, "pod/free configured\n");
    host().succeed(["cp", file.to_str().unwrap(), "free:/copied"]);
    let ended = host().succeed(["delete", "pod", "free"]);
    assert!(ended.contains("\"free\" deleted"), "{ended}");

    let names = host().succeed(["get", "pods", "-o", "name"]);
    assert_eq!(names, "pod/abandoned\npod/deleted\n");
    assert!(deletion.try_wait().unwrap().is_none(), "the deletion has not ended");
    // Only a Pod with the same name has to wait.
    let file = host().manifest(&shell_pod("abandoned", SERVE));
    let mut successor = spawn_without_output(&["run", "-d", file.to_str().unwrap()]);
    drop(stopped);
    deleted.delete();
    assert!(deletion.wait().unwrap().success());
    assert!(successor.wait().unwrap().success());
    let successor = Detached("abandoned".to_owned());
    successor.wait_ready();
    successor.delete();
    wait_until("supervisors have ended", || processes(&["supervise"]).is_empty());
    host().assert_nothing_left_since(&before);
}
