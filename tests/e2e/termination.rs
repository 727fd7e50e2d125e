//! The end of a Pod as Kubernetes describes it, with the times at which its containers noticed it: hooks first, the
//! stop signal to the main processes of all containers at once, sidecars last and in reverse order, SIGKILL for the
//! remaining processes.

use jiff::{SignedDuration, Timestamp};
use microkube_tests::manifest::{Container, Pod, exec_shell};
use serde_json::Value;

use crate::detached_pod::Detached;
use crate::host::{alone, container, host};
use crate::timeline::{Follower, SAY};

/// A container that waits for its stop signal: it runs `first` before and `end` after the signal.
fn waiting(name: &str, first: &str, end: &str) -> Container {
    let script =
        format!("{SAY}{first}\ntrap 'say term; {end}' TERM; say ready; while :; do sleep 1000 & wait $!; done");
    container(name, &script).mount("log", "/log")
}

fn hook(script: &str) -> Value {
    exec_shell(&format!("exec > /proc/1/fd/1; {SAY}{script}"))
}

/// The waits here have no limit except the grace period: a script that waits in vain is killed when the grace period
/// ends, and its output is missing.
#[test]
fn termination_runs_hooks_then_stops_containers_and_then_sidecars_in_reverse() {
    let _alone = alone();
    let sidecar = |name: &str| waiting(name, "", "sleep 0.5; say over; exit 0").restart_policy("Always");
    let pre_stop = hook("say hook; until [ -e /log/plain ]; do sleep 0.1; done; sleep 1; say hook-over");
    let hooked = waiting("hooked", "", "touch /log/hooked; exit 0").set("lifecycle.preStop", pre_stop);
    let descendant = "(trap 'say descendant-term' TERM; while :; do sleep 0.2; done) &";
    let both_signalled = "touch /log/plain; until [ -e /log/hooked ]; do sleep 0.1; done; say over; exit 0";
    let pod = Detached::start(
        &Pod::named("ending")
            .grace_period_seconds(60)
            .empty_dir("log")
            .init_container(sidecar("first"))
            .init_container(sidecar("second"))
            .container(hooked)
            .container(waiting("plain", descendant, both_signalled)),
    );
    pod.wait_ready();
    let mut follower = Follower::start(&pod);
    for container in ["first", "second", "hooked", "plain"] {
        follower.wait_for(&format!("pod/ending/{container}] "));
    }
    let mut exec = host().begin([
        "exec",
        "ending",
        "-c",
        "plain",
        "--",
        "sh",
        "-c",
        "echo runs; exec sleep 1000",
    ]);
    exec.wait_for("runs");
    let asked = Timestamp::now();
    host().succeed(["delete", "pod", "ending"]);
    assert!(!exec.finish().status.success(), "its container is gone");
    let timeline = follower.finish();

    // The hook ran after the other container got its signal, and before its own container did.
    timeline.assert_order(&[
        ("plain", "term"),
        ("hooked", "hook-over"),
        ("hooked", "term"),
        ("plain", "over"),
        ("second", "term"),
        ("second", "over"),
        ("first", "term"),
        ("first", "over"),
    ]);
    timeline.assert_order(&[("hooked", "hook"), ("hooked", "hook-over")]);
    let (hook, term) = (timeline.once("hooked", "hook"), timeline.once("hooked", "term"));
    assert!(term.at_s - hook.at_s >= 0.99, "the hook takes a second: {timeline:#?}");
    assert!(hook.arrived >= asked, "{timeline:#?}");
    assert_eq!(
        timeline.count("plain", "descendant-term"),
        0,
        "signals go to PID 1 alone"
    );
}

#[test]
fn after_the_grace_period_hooks_are_cancelled_and_two_seconds_later_all_are_killed() {
    let _alone = alone();
    let before = host().leftovers();
    // Does not end on the signal.
    let stubborn = "say goes-on";
    let pre_stop = hook("say hook; sleep 1000; say hook-over");
    let pod = Detached::start(
        &Pod::named("overdue")
            .grace_period_seconds(4)
            .empty_dir("log")
            .init_container(waiting("sidecar", "", stubborn).restart_policy("Always"))
            .container(waiting("late", "", stubborn).set("lifecycle.preStop", pre_stop))
            .container(waiting("rested", "", "exit 0").set("lifecycle.preStop.sleep.seconds", 2)),
    );
    pod.wait_ready();
    let mut follower = Follower::start(&pod);
    for container in ["sidecar", "late", "rested"] {
        follower.wait_for(&format!("pod/overdue/{container}] "));
    }
    let asked = Timestamp::now();
    host().succeed(["delete", "pod", "overdue"]);
    let gone = Timestamp::now();
    let timeline = follower.finish();

    let after = |seconds: i64| asked + SignedDuration::from_secs(seconds);
    assert!(
        timeline.once("rested", "term").arrived >= after(2),
        "{asked} {timeline:#?}"
    );
    assert_eq!(timeline.count("late", "hook-over"), 0);
    for container in ["late", "sidecar"] {
        assert!(
            timeline.once(container, "term").arrived >= after(4),
            "{asked} {timeline:#?}"
        );
        timeline.once(container, "goes-on");
    }
    timeline.assert_order(&[("late", "hook"), ("late", "term")]);
    assert!(gone >= after(6), "asked for at {asked}, gone at {gone}");
    host().assert_nothing_left_since(&before);
}
