//! Whatever dies, the next command brings every detached Pod to a state that Kubernetes allows.

use crate::detached::Detached;
use crate::host::{alone, host, processes, shell_pod, wait_until};

fn kill(pid: i32) {
    // SAFETY: kill(2) takes integers. The PID was found by the victim's command line a moment ago.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

fn kill_only(words: &[&str]) {
    let found = processes(words);
    assert_eq!(found.len(), 1, "{words:?}");
    kill(found[0]);
    wait_until("it is gone", || !processes(words).contains(&found[0]));
}

/// Numbers without a gap and without one twice, from 0.
fn assert_counts(log: &str) {
    for (number, line) in log.lines().enumerate() {
        assert_eq!(line, number.to_string(), "in {log}");
    }
}

const COUNT: &str = "n=0; trap 'exit 0' TERM; while :; do echo $n; n=$((n+1)); done";

#[test]
fn a_pod_whose_supervisor_was_killed_is_taken_over_with_no_container_restarted_and_no_output_lost_or_doubled() {
    let _alone = alone();
    let before = host().leftovers();
    // Written faster than a terminal could show it, and long enough that the log is rotated.
    let slower = COUNT.replace("echo $n;", "echo $n; test $((n % 500)) != 0 || sleep 0.1;");
    let pod = Detached::start("survivor", &shell_pod("survivor", &slower));
    pod.wait_ready();
    for _ in 0..3 {
        pod.wait_for_log("main", "\n1000\n");
        kill_only(&["supervise"]);
        host().succeed(["recover"]);
        pod.wait_ready();
        let count = pod.logs("main").lines().count();
        wait_until("it goes on counting", || pod.logs("main").lines().count() > count + 100);
    }
    assert_counts(&pod.logs("main"));
    let status = pod.container("main");
    assert_eq!(status["restartCount"], 0, "{status}");
    assert!(
        status["lastState"].as_object().is_none_or(serde_json::Map::is_empty),
        "{status}"
    );
    assert_eq!(
        host().succeed(["exec", "survivor", "--", "echo", "reached"]),
        "reached\n"
    );
    pod.delete();
    host().assert_nothing_left_since(&before);
}

#[test]
fn a_pod_that_ended_while_it_had_no_supervisor_has_its_exit_code_and_all_its_output() {
    let _alone = alone();
    let script = "echo before; while [ ! -e /go ]; do sleep 0.1; done; sleep 1; echo after; exit 9";
    let pod = Detached::start("unheard", &shell_pod("unheard", script));
    pod.wait_for_log("main", "before");
    host().succeed(["exec", "unheard", "--", "touch", "/go"]);
    kill_only(&["supervise"]);
    // Long enough for it to end unheard: what is tested is that nothing depends on when.
    std::thread::sleep(std::time::Duration::from_secs(3));
    host().succeed(["recover"]);
    pod.wait_phase("Failed");
    assert_eq!(pod.logs("main"), "before\nafter\n");
    assert_eq!(pod.container("main")["state"]["terminated"]["exitCode"], 9);
}

#[test]
fn a_pod_whose_machine_was_killed_counts_its_containers_as_lost_and_starts_them_again() {
    let _alone = alone();
    let before = host().leftovers();
    let manifest = shell_pod("reborn", COUNT).replace("echo $n;", "echo $n; sleep 0.1;");
    let pod = Detached::start(
        "reborn",
        &manifest.replace("restartPolicy: Never", "restartPolicy: Always"),
    );
    pod.wait_ready();
    let address = pod.get()["status"]["podIP"].clone();
    kill_only(&["microkube-vmm", "supervised", "--pod"]);
    pod.wait("jsonpath={.status.containerStatuses[0].restartCount}=1");
    pod.wait_ready();
    let status = pod.container("main");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status}");
    assert_eq!(pod.get()["status"]["podIP"], address);
    // Both at once: as when the whole host loses its power.
    for pid in [processes(&["supervise"]), processes(&["microkube-vmm", "supervised"])].concat() {
        kill(pid);
    }
    host().succeed(["recover"]);
    pod.wait("jsonpath={.status.containerStatuses[0].restartCount}=2");
    pod.wait_ready();
    pod.delete();
    host().assert_nothing_left_since(&before);
}

#[test]
fn a_termination_that_was_cut_off_is_begun_again_and_finished() {
    let _alone = alone();
    let before = host().leftovers();
    let script = "trap 'echo term' TERM; echo ready; while :; do sleep 0.1; done";
    let manifest = shell_pod("stubborn", script).replace(
        "restartPolicy: Never",
        "restartPolicy: Never\n  terminationGracePeriodSeconds: 4",
    );
    let pod = Detached::start("stubborn", &manifest);
    pod.wait_ready();
    host().succeed(["delete", "pod", "stubborn", "--wait=false"]);
    pod.wait_for_log("main", "term");
    let table = host().succeed(["get", "pod", "stubborn"]);
    assert!(table.contains("Terminating"), "{table}");
    kill_only(&["supervise"]);
    host().succeed(["recover"]);
    host().succeed(["wait", "--for=delete", "pod/stubborn", "--timeout=60s"]);
    host().assert_nothing_left_since(&before);
}
