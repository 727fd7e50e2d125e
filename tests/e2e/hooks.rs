//! postStart and preStop hooks of every kind, and the effects of their failures. See `termination` for hooks using up
//! the grace period.

use microkube_tests::manifest::{Container, Pod, exec_shell};
use serde_json::{Value, json};

use crate::detached_pod::Detached;
use crate::host::{alone, container, host};
use crate::timeline::{Follower, SAY};

fn waiting(name: &str) -> Container {
    let script = format!("{SAY}trap 'say term; exit 5' TERM; say main; while :; do sleep 1000 & wait $!; done");
    container(name, &script)
}

fn second(time: &Value) -> i64 {
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    time.as_second()
}

#[test]
fn all_kinds_of_hooks_run_and_a_failed_post_start_hook_restarts_the_container() {
    let _alone = alone();
    // Records its requests. It listens before the other containers start, because their hooks send requests only once.
    let script = format!(
        "mkdir -p /www/cgi-bin; cd /www/cgi-bin; cat > note <<'END'\n#!/bin/sh\n{SAY}say $QUERY_STRING > /proc/1/fd/1; printf 'Content-Type: text/plain\\r\\n\\r\\n'\nEND\nchmod 755 note; httpd -p 8080 -h /www; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"
    );
    let server = container("server", &script).restart_policy("Always").set(
        "startupProbe",
        json!({ "tcpSocket": { "port": 8080 }, "periodSeconds": 1, "failureThreshold": 60 }),
    );
    let note = |hook: &str| json!({ "httpGet": { "port": 8080, "path": format!("/cgi-bin/note?{hook}") } });
    let sleep = |seconds: u32| json!({ "sleep": { "seconds": seconds } });
    let asks = waiting("asks")
        .set("lifecycle.postStart", note("postStart"))
        .set("lifecycle.preStop", note("preStop"));
    let rests = waiting("rests")
        .set("lifecycle.postStart", sleep(2))
        .set("lifecycle.preStop", sleep(1));
    let fails_once = "test -e /state/tried || { touch /state/tried; exit 1; }";
    let fails = waiting("fails")
        .mount("state", "/state")
        .set("lifecycle.postStart", exec_shell(fails_once))
        // TCP hooks are a relic: Kubernetes accepts them, but they fail.
        .set("lifecycle.preStop.tcpSocket.port", 8080);
    let pod = Detached::start(
        &Pod::named("hooked")
            .restart_policy("Always")
            .empty_dir("state")
            .init_container(server)
            .container(asks)
            .container(rests)
            .container(fails),
    );
    pod.wait_ready();

    let status = pod.container("fails");
    assert_eq!(status["restartCount"], 1, "{status}");
    // The stop signal alone ended it.
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 5, "{status}");
    let reasons = host().event_reasons("hooked");
    for reason in ["FailedPostStartHook", "FailedPreStopHook"] {
        let count = reasons.iter().filter(|one| *one == reason).count();
        assert_eq!(count, 1, "{reason}: {reasons:?}");
    }
    assert_eq!(pod.container("asks")["restartCount"], 0);
    let whole = pod.get();
    let conditions = whole["status"]["conditions"].as_array().unwrap();
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .unwrap();
    let started = &pod.container("rests")["state"]["running"]["startedAt"];
    assert!(second(&ready["lastTransitionTime"]) - second(started) >= 2, "{whole}");

    let mut follower = Follower::start(&pod);
    for container in ["server", "asks", "rests", "fails"] {
        follower.wait_for(&format!("pod/hooked/{container}] "));
    }
    let asked = jiff::Timestamp::now();
    host().succeed(["delete", "pod", "hooked"]);
    let timeline = follower.finish();
    timeline.assert_order(&[("asks", "main"), ("server", "postStart")]);
    timeline.assert_order(&[("server", "postStart"), ("server", "preStop"), ("asks", "term")]);
    let rested = timeline.once("rests", "term").arrived;
    assert!(
        rested >= asked + jiff::SignedDuration::from_secs(1),
        "{asked} {timeline:#?}"
    );
    // The signal also follows a failed hook.
    assert_eq!(timeline.count("fails", "term"), 1, "{timeline:#?}");
}
