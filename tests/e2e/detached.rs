//! Detached Pods: their life as the verbs show it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use microkube_tests::manifest::{Container, Pod, documents, exec, exec_shell, probe};
use serde_json::{Value, json};

use crate::detached_pod::{Detached, status_of};
use crate::host::{alone, container, host, image, processes, shell_pod, wait_until};

/// Asserts that the only VMM has no descriptors other than its VM's, and may write no file beyond its disk.
fn assert_vmm_has_only_its_own() {
    let vmms = processes(&["microkube-vmm", "supervised"]);
    let [vmm] = vmms[..] else { panic!("{vmms:?}") };
    let directory = PathBuf::from(format!("/proc/{vmm}"));
    let open: Vec<(PathBuf, String)> = std::fs::read_dir(directory.join("fd"))
        .unwrap()
        .filter_map(|entry| {
            // The guest's connections come and go.
            let path = entry.ok()?.path();
            let target = std::fs::read_link(&path).ok()?;
            Some((path, target.to_string_lossy().into_owned()))
        })
        .collect();
    let is_disk = |target: &str| target.ends_with("/scratch.img");
    let is_expected = |target: &str| {
        ["pipe:", "socket:", "anon_inode:"]
            .iter()
            .any(|kind| target.starts_with(kind))
            || ["/dev/null", "/dev/net/tun"].contains(&target)
            || target.ends_with(".erofs")
            || is_disk(target)
    };
    let strange: Vec<_> = open.iter().filter(|(_, target)| !is_expected(target)).collect();
    assert!(strange.is_empty(), "{strange:?}");
    let disks: Vec<_> = open.iter().filter(|(_, target)| is_disk(target)).collect();
    let [(disk, _)] = disks[..] else { panic!("{open:?}") };
    assert!(open.iter().any(|(_, target)| target == "/dev/net/tun"), "{open:?}");
    let limits = std::fs::read_to_string(directory.join("limits")).unwrap();
    let of_files = limits.lines().find_map(|line| line.strip_prefix("Max file size"));
    let of_files: Vec<_> = of_files.unwrap().split_whitespace().take(2).collect();
    let largest = std::fs::metadata(disk).unwrap().len().max(16 << 20).to_string();
    assert_eq!(of_files, [largest.as_str(), largest.as_str()], "{limits}");
}

#[test]
fn a_detached_pod_outlives_its_client_and_leaves_nothing_after_deletion() {
    let _alone = alone();
    let before = host().leftovers();
    let script = "echo hello; trap 'echo bye; exit 0' TERM; while :; do sleep 0.1; done";
    let manifest = shell_pod("detached", script);
    let pod = Detached::start(&manifest);
    pod.wait_ready();
    host().leftovers().assert_one_pod_more_than(&before);
    assert_vmm_has_only_its_own();
    let table = host().succeed(["get", "pods"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(lines[1][..4], ["detached", "1/1", "Running", "0"]);
    let node = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap()
        .to_lowercase();
    let wide = host().succeed(["get", "pods", "-o", "wide"]);
    assert!(wide.contains(&format!(" {} ", node.trim())), "{node}: {wide}");
    let described = host().succeed(["describe", "pod", "detached"]);
    for part in ["Name:", "detached", "Status:", "Running", "QoS Class:", "Started"] {
        assert!(described.contains(part), "{part:?} is not in {described}");
    }
    assert_eq!(pod.logs("main"), "hello\n");
    let reasons = host().event_reasons("detached");
    assert_eq!(reasons.first().map(String::as_str), Some("Scheduled"), "{reasons:?}");
    for reason in ["Pulled", "Created", "Started"] {
        assert!(reasons.iter().any(|one| one == reason), "{reason}: {reasons:?}");
    }
    let again = host().output(["run", "-d", host().manifest(&manifest).to_str().unwrap()]);
    assert_eq!(again.code(), 1, "{again:?}");
    assert!(again.stderr.contains("already exists"), "{again:?}");
    assert_eq!(
        host().succeed(["delete", "pod", "detached"]),
        "pod \"detached\" deleted from default namespace\n"
    );
    let gone = host().output(["get", "pod", "detached"]);
    assert_eq!(gone.code(), 1, "{gone:?}");
    assert!(gone.stderr.contains("pods \"detached\" not found"), "{gone:?}");
    host().assert_nothing_left_since(&before);
}

#[test]
fn init_containers_run_in_order_and_sidecars_start_first_and_end_last() {
    let _alone = alone();
    let step = |name: &str, script: &str| container(name, script).mount("log", "/log");
    // Each takes some time before it writes: a container that did not wait for it would write first.
    let note = |word: &str| format!("sleep 0.5; echo {word} >> /log/order");
    let lasting = |name: &str, at_end: &str| {
        let (begin, end) = (note(name), note(&format!("end-{name}")));
        format!("trap '{end}; {at_end} exit 0' TERM; {begin}; while :; do sleep 0.1; done")
    };
    let started = exec(&["grep", "-q", "sidecar", "/log/order"]);
    let often = json!({ "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 60 });
    // It ends last, when only its log can still be read.
    let sidecar = step("sidecar", &lasting("sidecar", "cat /log/order;"))
        .restart_policy("Always")
        .set("startupProbe", probe(started, often));
    let keeper = "cat /log/order; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let manifest = Pod::named("ordered")
        .empty_dir("log")
        .init_container(step("first", &note("first")))
        .init_container(sidecar)
        .init_container(step("second", &note("second")))
        .container(step("main", &lasting("main", "")))
        .container(step("keeper", keeper));
    let pod = Detached::start(&manifest);
    pod.wait_ready();
    let mut order = String::new();
    wait_until("the last container has recorded its start", || {
        order = host().succeed(["exec", "ordered", "-c", "keeper", "--", "cat", "/log/order"]);
        order.contains("main")
    });
    assert_eq!(order, "first\nsidecar\nsecond\nmain\n");
    assert_eq!(pod.container("first")["state"]["terminated"]["reason"], "Completed");
    assert_eq!(pod.container("sidecar")["started"], true);
    let follow = host().begin(["logs", "-f", "ordered", "-c", "sidecar"]);
    host().succeed(["delete", "pod", "ordered"]);
    assert_eq!(follow.finish().success(), order + "end-main\nend-sidecar\n");
}

#[test]
fn a_container_that_fails_is_restarted_with_the_kubelets_back_off() {
    let _alone = alone();
    let pod = Detached::start(&shell_pod("crashing", "echo attempt; exit 3").restart_policy("Always"));
    // However slow the polling is, each status is consistent in itself.
    let mut status = Value::Null;
    wait_until("it waits to be restarted", || {
        status = status_of(&pod.get(), "main").unwrap_or_default();
        status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 3, "{status}");
    let delay = match status["restartCount"].as_u64().unwrap() {
        1 => "10s",
        2 => "20s",
        3 => "40s",
        other => panic!("{other} restarts: {status}"),
    };
    let message = status["state"]["waiting"]["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!("back-off {delay} restarting failed container=main")),
        "{status}"
    );
    assert_eq!(pod.get()["status"]["phase"], "Running");
    wait_until("the table shows it", || {
        host().succeed(["get", "pod", "crashing"]).contains("CrashLoopBackOff")
    });
    assert_eq!(host().succeed(["logs", "crashing", "-p"]), "attempt\n");
    assert!(host().event_reasons("crashing").contains(&"BackOff".to_owned()));
    // However slow the polling is, it sees every attempt that is followed by a wait: each wait is at least ten seconds.
    let mut attempts = BTreeMap::new();
    let mut waited = None;
    wait_until("two attempts with a wait between them were seen", || {
        let status = status_of(&pod.get(), "main").unwrap();
        let ended = &status["lastState"]["terminated"];
        let second = |field: &str| {
            let time: jiff::Timestamp = ended[field].as_str().unwrap().parse().unwrap();
            time.as_second()
        };
        if status["state"]["waiting"]["reason"] == "CrashLoopBackOff" {
            let restarts = status["restartCount"].as_u64().unwrap();
            assert!(restarts > 0, "the first restart is not waited for: {status}");
            attempts.insert(restarts, (second("startedAt"), second("finishedAt")));
        }
        let mut pairs = attempts.iter().zip(attempts.iter().skip(1));
        // After attempt n (starting at 0): 10 s * 2^(n-1).
        waited = pairs.find_map(|((earlier, (_, finished)), (later, (started, _)))| {
            let expected = 10 << (earlier - 1);
            (later - earlier == 1).then_some((started - finished, expected))
        });
        waited.is_some()
    });
    let (waited_s, expected_s) = waited.unwrap();
    assert!(
        waited_s >= expected_s,
        "{waited_s} s instead of {expected_s} s: {attempts:?}"
    );
}

#[test]
fn on_failure_ends_with_the_first_success_and_phase_succeeded() {
    let _alone = alone();
    let script = "test -e /state/tried || { touch /state/tried; exit 1; }";
    let pod = Detached::start(
        &Pod::named("retry")
            .restart_policy("OnFailure")
            .empty_dir("state")
            .container(container("main", script).mount("state", "/state")),
    );
    pod.wait_phase("Succeeded");
    assert_eq!(pod.container("main")["restartCount"], 1);
    let table = host().succeed(["get", "pod", "retry"]);
    assert!(table.contains("Completed"), "{table}");
    // The container has ended, but its log still exists.
    assert_eq!(pod.logs("main"), "");
}

#[test]
fn hooks_run_around_a_container_and_its_termination_message_is_kept() {
    let _alone = alone();
    // The liveness probe ends the container, so that the Pod still exists to report the end.
    let alive = exec(&["test", "!", "-e", "/tmp/end"]);
    let often = json!({ "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 1 });
    let script =
        "trap 'echo term; echo last words > /dev/termination-log; exit 7' TERM; echo main; while :; do sleep 0.1; done";
    let main = container("main", script)
        .set("lifecycle.postStart", exec_shell("echo post-start > /proc/1/fd/1"))
        .set("lifecycle.preStop", exec_shell("echo pre-stop > /proc/1/fd/1"))
        .set("livenessProbe", probe(alive, often));
    let pod = Detached::start(&Pod::named("hooks").restart_policy("Always").container(main));
    pod.wait_ready();
    pod.wait_for_log("main", "main");
    host().succeed(["exec", "hooks", "--", "touch", "/tmp/end"]);
    pod.wait("jsonpath={.status.containerStatuses[0].restartCount}=1");
    pod.wait_ready();
    let ended = &pod.container("main")["lastState"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["message"]),
        (&7.into(), &"last words\n".into()),
        "{ended}"
    );
    let log = host().succeed(["logs", "hooks", "-p"]);
    let mut lines: Vec<_> = log.lines().collect();
    // The hook and the container's main process start at the same time.
    lines[..2].sort_unstable();
    assert_eq!(lines, ["main", "post-start", "pre-stop", "term"]);

    // The same when the Pod is deleted.
    pod.wait_for_log("main", "post-start");
    let mut follow = host().begin(["logs", "-f", "hooks"]);
    follow.wait_for("post-start");
    pod_deleted_in_the_background(&pod);
    follow.wait_for("pre-stop");
    follow.wait_for("term");
    follow.finish();
}

fn pod_deleted_in_the_background(pod: &Detached) {
    host().succeed(["delete", "pod", &pod.0, "--wait=false"]);
}

#[test]
fn probes_restart_dead_containers_and_report_unready_ones() {
    let _alone = alone();
    let script = "echo serving; mkdir /www; echo yes > /www/ready; exec httpd -f -p 8080 -h /www";
    let main = container("main", script)
        .set(
            "startupProbe",
            json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 60 }),
        )
        .set(
            "readinessProbe",
            json!({ "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 1, "failureThreshold": 1 }),
        )
        .set(
            "livenessProbe",
            probe(
                exec(&["test", "!", "-e", "/tmp/dead"]),
                json!({ "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": 1 }),
            ),
        )
        .set("terminationMessagePolicy", "FallbackToLogsOnError");
    let pod = Detached::start(
        &Pod::named("probed")
            .restart_policy("Always")
            .grace_period_seconds(2)
            .container(main),
    );
    pod.wait_ready();
    host().succeed(["exec", "probed", "--", "rm", "/www/ready"]);
    pod.wait("condition=Ready=false");
    let whole = pod.get();
    let mut conditions = whole["status"]["conditions"].as_array().unwrap().iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready").unwrap();
    assert_eq!(ready["message"], "containers with unready status: [main]", "{whole}");
    host().succeed(["exec", "probed", "--", "/bin/sh", "-c", "echo yes > /www/ready"]);
    pod.wait_ready();
    assert_eq!(pod.container("main")["restartCount"], 0);
    host().succeed(["exec", "probed", "--", "touch", "/tmp/dead"]);
    pod.wait("jsonpath={.status.containerStatuses[0].restartCount}=1");
    pod.wait_ready();
    // PID 1 has no handler for SIGTERM, so it is killed at the end of the grace period. It wrote no termination
    // message, so the log is used.
    let ended = &pod.container("main")["lastState"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["message"]),
        (&137.into(), &"serving\n".into()),
        "{ended}"
    );
    let reasons = host().event_reasons("probed");
    for reason in ["Unhealthy", "Killing"] {
        assert!(reasons.iter().any(|one| one == reason), "{reason}: {reasons:?}");
    }
}

#[test]
fn a_pod_with_a_missing_image_backs_off_and_can_be_deleted() {
    let _alone = alone();
    let before = host().leftovers();
    let main = Container::new("main", &image("no-such-image")).shell("true");
    let pod = Detached::start(&Pod::named("pulling").container(main));
    pod.wait("jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff");
    assert_eq!(pod.get()["status"]["phase"], "Pending");
    pod.delete();
    host().assert_nothing_left_since(&before);
}

#[test]
fn several_documents_are_applied_and_deleted_together() {
    let _alone = alone();
    let forever = "while :; do sleep 1; done";
    let pods = ["one", "two"].map(|name| shell_pod(name, forever).label("app", "pair"));
    let file = host().file("pair.yaml", &documents(&pods));
    let file = file.to_str().unwrap();
    let _cleanup = (Detached("one".to_owned()), Detached("two".to_owned()));
    assert_eq!(
        host().succeed(["apply", "-f", file]),
        "pod/one created\npod/two created\n"
    );
    assert_eq!(
        host().succeed(["apply", "-f", file]),
        "pod/one unchanged\npod/two unchanged\n"
    );
    host().succeed([
        "wait",
        "--for=condition=Ready",
        "pod",
        "-l",
        "app=pair",
        "--timeout=120s",
    ]);
    let names = host().succeed(["get", "pods", "-l", "app=pair", "-o", "name"]);
    assert_eq!(names, "pod/one\npod/two\n");
    host().succeed(["delete", "-f", file, "--now"]);
    assert_eq!(
        host().output(["get", "pods", "-l", "app=pair", "-o", "name"]).stdout,
        ""
    );
}

#[test]
fn a_deadline_fails_the_pod() {
    let _alone = alone();
    let script = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let pod = Detached::start(&shell_pod("late", script).set("spec.activeDeadlineSeconds", 5));
    pod.wait_phase("Failed");
    assert_eq!(pod.get()["status"]["reason"], "DeadlineExceeded");
}

#[test]
fn wait_times_out() {
    let _alone = alone();
    let pod = Detached::start(&shell_pod("slow", "sleep 1000"));
    pod.wait_ready();
    let start = std::time::Instant::now();
    let waited = host().output(["wait", "--for=delete", "pod/slow", "--timeout=1s"]);
    assert_eq!(waited.code(), 1, "{waited:?}");
    assert!(
        waited.stderr.contains("timed out waiting for the condition"),
        "{waited:?}"
    );
    assert!(start.elapsed() >= Duration::from_secs(1));
}
