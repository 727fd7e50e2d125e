//! Start order, hanging probes, termination reasons, forced deletion: behaviour that only real containers can show.

use microkube_tests::manifest::{Container, Pod, exec, exec_shell, probe};
use serde_json::json;

use crate::detached_pod::{Detached, status_of};
use crate::host::{alone, container, host, processes, shell_pod, wait_until};

/// A container that ends on SIGTERM.
fn waiting(name: &str, script: &str) -> Container {
    container(
        name,
        &format!("trap 'exit 143' TERM; {script}; while :; do sleep 1000 & wait $!; done"),
    )
}

#[test]
fn containers_wait_for_hooks_and_an_oom_killed_child_does_not_explain_a_later_end() {
    let _alone = alone();
    let first = waiting("first", "true")
        .mount("log", "/log")
        .set("lifecycle.postStart", exec_shell("sleep 1; echo hook > /log/hook"));
    // Fails if it starts too early.
    let second = waiting("second", "cat /log/hook /proc/self/oom_score_adj || exit 9").mount("log", "/log");
    // Its child is OOM-killed; a probe then makes the container end on its own.
    let parent = waiting("parent", "tail /dev/zero; echo child $?; touch /tmp/end")
        .set("resources.requests.cpu", "50m")
        .set(
            "livenessProbe",
            probe(
                exec(&["test", "!", "-e", "/tmp/end"]),
                json!({ "periodSeconds": 1, "timeoutSeconds": 60, "failureThreshold": 1 }),
            ),
        );
    let pod = Detached::start(
        &Pod::named("paced")
            .restart_policy("Always")
            .grace_period_seconds(2)
            .empty_dir("log")
            .container(first)
            .container(second)
            .container(parent),
    );

    wait_until("the child was killed and its parent has ended", || {
        restarts(&pod, "parent") > Some(0)
    });
    let ended = &pod.container("parent")["lastState"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&143.into(), &"Error".into()),
        "{ended}"
    );
    let second = pod.container("second");
    assert_eq!(second["restartCount"], 0, "{second}");
    assert_eq!(pod.logs("second"), "hook\n999\n");
    assert_eq!(second["volumeMounts"][0]["mountPath"], "/log", "{second}");
    let whole = pod.get();
    assert_eq!(
        (&whole["metadata"]["generation"], &whole["status"]["observedGeneration"]),
        (&1.into(), &1.into()),
        "{whole}"
    );
    pod.delete();
}

#[test]
fn a_probe_hanging_at_a_cpu_limit_restarts_its_container_and_leaves_no_process() {
    let _alone = alone();
    // At the CPU limit, even starting a command takes longer than the probe's timeout.
    let hanging = probe(
        exec(&["sleep", "6666"]),
        json!({ "periodSeconds": 2, "timeoutSeconds": 1, "failureThreshold": 2 }),
    );
    let slow = |name, script| container(name, script).limit("cpu", "50m");
    let busy = slow("busy", "while :; do :; done").set("livenessProbe", hanging.clone());
    // This container is not restarted, so any processes left by its probes would remain.
    let idle = slow("idle", "exec sleep 1000").set("readinessProbe", hanging);
    let pod = Detached::start(
        &Pod::named("hanging")
            .restart_policy("Always")
            .grace_period_seconds(2)
            .container(busy)
            .container(idle),
    );
    wait_until("the probe's timeouts restart the container", || {
        restarts(&pod, "busy") > Some(0)
    });
    let events = host().succeed(["events", "--for", "pod/hanging"]);
    for kind in ["Liveness", "Readiness"] {
        let failed = format!("{kind} probe failed: command timed out: \"sleep 6666\" timed out after 1s");
        assert!(events.contains(&failed), "{events}");
    }
    let running = host().succeed(["exec", "hanging", "-c", "idle", "--", "ps", "-o", "args"]);
    let probes = running.lines().filter(|line| line.contains("6666")).count();
    assert!(probes <= 1, "{running}");
    assert_eq!(restarts(&pod, "idle"), Some(0));
    pod.delete();
}

/// The container's restart count, once the Pod's status has one.
fn restarts(pod: &Detached, container: &str) -> Option<u64> {
    status_of(&pod.get(), container)?["restartCount"].as_u64()
}

/// Deletes by force; returns nothing, because the Pod no longer exists.
#[track_caller]
fn force_delete(name: &str) {
    let deleted = host().succeed(["delete", "pod", name, "--grace-period=0", "--force"]);
    assert_eq!(
        deleted,
        format!("pod \"{name}\" force deleted from default namespace\n")
    );
    let gone = host().output(["get", "pod", name]);
    assert_eq!(gone.code(), 1, "{gone:?}");
    assert!(gone.stderr.contains(&format!("pods \"{name}\" not found")), "{gone:?}");
}

#[test]
fn a_force_deleted_pod_frees_its_name_at_once_even_if_its_supervisor_hangs() {
    let _alone = alone();
    let before = host().leftovers();
    // Uses the whole grace period of two seconds.
    let manifest = shell_pod("forced", "trap '' TERM; while :; do sleep 0.1; done");
    let pod = Detached::start(&manifest);
    pod.wait_ready();
    let first = pod.get()["metadata"]["uid"].clone();
    force_delete("forced");

    let pod = Detached::start(&manifest);
    pod.wait_ready();
    let second = pod.get()["metadata"]["uid"].clone();
    assert_ne!(first, second);
    wait_until("the first one has ended", || {
        processes(&["supervise", first.as_str().unwrap()]).is_empty()
    });
    let supervisor = processes(&["supervise", second.as_str().unwrap()]);
    assert_eq!(supervisor.len(), 1);
    // SAFETY: kill(2) takes integers. The PID was found by the victim's command line a moment ago.
    unsafe { libc::kill(supervisor[0], libc::SIGSTOP) };
    force_delete("forced");
    host().assert_nothing_left_since(&before);
}
