//! How Pods end.

use super::*;

fn hooked(name: &str) -> Value {
    json!({"name": name, "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}})
}

fn sidecar(name: &str) -> Value {
    json!({"name": name, "image": "i", "restartPolicy": "Always"})
}

/// Two sidecars and a container, all running.
fn with_sidecars() -> World {
    let mut world = World::with_sandbox(json!({
        "initContainers": [sidecar("log"), sidecar("mesh")], "containers": containers(&["web"]),
    }));
    for name in ["log", "mesh", "web"] {
        world.started(name, 0);
    }
    world
}

#[test]
fn the_grace_period_is_the_requests_else_the_pods_else_30_seconds() {
    for (own, requested, expected) in [
        (None, None, 30),
        (Some(5), None, 5),
        (Some(5), Some(60), 60),
        (None, Some(7), 7),
    ] {
        let mut world =
            World::running(json!({"containers": containers(&["web"]), "terminationGracePeriodSeconds": own}));
        assert_eq!(world.terminate(requested), ["stop web 0"]);
        assert_eq!(world.deadline(), Some(expected));
    }
}

#[test]
fn the_grace_period_can_only_decrease_and_no_container_is_signalled_twice() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    world.terminate(Some(20));
    world.go_to(1);
    assert_eq!(world.terminate(Some(100)), [""; 0]);
    assert_eq!(world.deadline(), Some(20));
    assert_eq!(world.terminate(Some(5)), [""; 0]);
    assert_eq!(world.deadline(), Some(6));
    assert_eq!(world.pod.deletion(), Some((at(6), secs(5))));
    assert_eq!(world.terminate(None), [""; 0]);
    assert_eq!(world.deadline(), Some(6));
    assert_eq!(world.go_to(5), [""; 0]);
    assert_eq!(world.go_to(6), ["kill web 0"]);
}

#[test]
fn a_shorter_grace_cuts_a_hook_short() {
    let mut world = World::running(json!({"containers": [hooked("web")]}));
    assert_eq!(world.terminate(Some(20)), ["run PreStop web 0 for 20s"]);
    world.go_to(2);
    assert_eq!(world.terminate(Some(3)), [""; 0]);
    assert_eq!(world.go_to(4), [""; 0]);
    assert_eq!(world.go_to(5), ["cancel PreStop web 0", "stop web 0"]);
    assert_eq!(world.go_to(6), [""; 0]);
    assert_eq!(world.go_to(7), ["kill web 0"]);
}

#[test]
fn all_containers_get_their_stop_signal_at_once_and_sigkill_at_the_end() {
    let mut world =
        World::running(json!({"containers": containers(&["web", "db", "job"]), "restartPolicy": "OnFailure"}));
    world.exited("job", 0, exit(0));
    world.events();
    world.go_to(10);
    assert_eq!(world.terminate(None), ["stop web 0", "stop db 0"]);
    assert_eq!(
        world.events(),
        ["Killing: Stopping container web", "Killing: Stopping container db"]
    );
    world.exited("web", 0, exit(0));
    assert_eq!(world.go_to(39), [""; 0]);
    assert_eq!(world.go_to(40), ["kill db 0"]);
    assert_eq!(
        world.events(),
        ["!ExceededGracePeriod: Container runtime did not terminate the pod within specified grace period."]
    );
    assert_eq!(world.exited("db", 0, killed()), ["stop sandbox"]);
    assert!(!world.pod.has_ended());
    world.lose_sandbox();
    assert!(world.pod.has_ended());
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Failed", 137));
}

#[test]
fn the_pre_stop_hook_runs_first_within_the_grace_period() {
    let mut world = World::running(json!({"containers": [hooked("web"), {"name": "db", "image": "i"}]}));
    assert_eq!(world.terminate(None), ["run PreStop web 0 for 30s", "stop db 0"]);
    world.exited("db", 0, exit(0));
    world.go_to(12);
    assert_eq!(world.hook("web", 0, Hook::PreStop, Ok(())), ["stop web 0"]);
    assert_eq!(world.deadline(), Some(30));
}

#[test]
fn a_hook_that_uses_up_the_grace_period_is_cancelled_and_two_seconds_are_added() {
    let mut world = World::running(json!({"containers": [hooked("web")]}));
    world.terminate(Some(10));
    assert_eq!(world.go_to(9), [""; 0]);
    assert_eq!(world.go_to(10), ["cancel PreStop web 0", "stop web 0"]);
    assert_eq!(world.deadline(), Some(12));
    assert_eq!(world.go_to(12), ["kill web 0"]);
}

#[test]
fn with_zero_grace_no_hook_runs_and_two_seconds_are_allowed() {
    let mut world = World::running(json!({"containers": [hooked("web")]}));
    assert_eq!(world.terminate(Some(0)), ["stop web 0"]);
    assert_eq!(world.deadline(), Some(2));
}

#[test]
fn a_hook_ends_with_its_container() {
    let mut world = World::running(json!({"containers": [hooked("web")]}));
    world.terminate(None);
    assert_eq!(
        world.exited("web", 0, exit(0)),
        ["cancel PreStop web 0", "stop sandbox"]
    );
}

#[test]
fn a_failed_probe_uses_its_own_grace_period_else_the_pods() {
    for (own, expected) in [(json!(3), 3), (Value::Null, 30)] {
        let probe = json!({"tcpSocket": {"port": 80}, "failureThreshold": 1, "terminationGracePeriodSeconds": own});
        let mut world = World::running(json!({"containers": [{"name": "web", "image": "i", "livenessProbe": probe}]}));
        assert_eq!(world.probed("web", 0, ProbeKind::Liveness, false), ["stop web 0"]);
        assert_eq!(world.go_to(expected - 1), [""; 0]);
        assert_eq!(world.go_to(expected), ["kill web 0"]);
        // The container ended, not the Pod.
        assert!(!world.events().iter().any(|event| event.contains("ExceededGracePeriod")));
        assert!(!world.pod.is_terminating());
    }
}

#[test]
fn sidecars_end_after_all_containers_in_reverse_order() {
    let mut world = with_sidecars();
    assert_eq!(world.terminate(None), ["stop web 0"]);
    world.go_to(4);
    assert_eq!(world.exited("web", 0, exit(0)), ["stop mesh 0"]);
    world.go_to(6);
    assert_eq!(world.exited("mesh", 0, Exit::of_process(0, 15, false)), ["stop log 0"]);
    assert_eq!(world.deadline(), Some(30), "they share one grace period");
    assert_eq!(world.exited("log", 0, Exit::of_process(0, 15, false)), ["stop sandbox"]);
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Succeeded", 0));
}

#[test]
fn when_the_grace_period_expires_all_containers_get_two_more_seconds() {
    let mut world = with_sidecars();
    world.terminate(Some(10));
    assert_eq!(world.go_to(9), [""; 0]);
    assert_eq!(world.go_to(10), ["stop log 0", "stop mesh 0", "kill web 0"]);
    assert_eq!(world.go_to(11), [""; 0]);
    assert_eq!(world.go_to(12), ["kill log 0", "kill mesh 0"]);
}

#[test]
fn a_sidecar_does_not_wait_for_containers_that_are_not_running() {
    let mut world = World::with_sandbox(json!({
        "initContainers": [sidecar("log"), sidecar("mesh")], "containers": containers(&["web"]),
    }));
    world.started("log", 0);
    // mesh was requested, web was not.
    assert_eq!(world.terminate(None), [""; 0]);
    assert_eq!(world.start_failed("mesh", 0, "RunContainerError"), ["stop log 0"]);
}

#[test]
fn sidecars_end_when_all_containers_have_finished() {
    let mut world = World::with_sandbox(json!({
        "restartPolicy": "Never", "initContainers": [sidecar("log")], "containers": containers(&["web"]),
    }));
    world.started("log", 0);
    world.started("web", 0);
    assert_eq!(world.exited("web", 0, exit(0)), ["stop log 0"]);
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.exited("log", 0, exit(2)), ["stop sandbox"]);
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Succeeded", 0));
    assert_eq!(world.pod.deletion(), None);
}

#[test]
fn only_readiness_probes_continue_during_termination() {
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 5, "failureThreshold": 1});
    let mut world = World::running(json!({"containers": [
        {"name": "web", "image": "i", "livenessProbe": probe, "readinessProbe": probe},
    ]}));
    world.probed("web", 0, ProbeKind::Liveness, true);
    world.probed("web", 0, ProbeKind::Readiness, true);
    assert!(world.container("web").ready);
    world.terminate(None);
    assert_eq!(world.go_to(5), ["probe Readiness web 0"]);
    world.probed("web", 0, ProbeKind::Readiness, false);
    assert!(!world.container("web").ready);
    assert_eq!(world.probed("web", 0, ProbeKind::Liveness, false), [""; 0]);
}

#[test]
fn a_kill_request_kills_all_containers_immediately() {
    let mut world = World::running(json!({"containers": [hooked("web"), {"name": "db", "image": "i"}]}));
    world.terminate(None);
    assert_eq!(
        world.step(Event::KillRequested),
        ["cancel PreStop web 0", "kill web 0", "kill db 0"]
    );
    assert_eq!(world.step(Event::KillRequested), [""; 0]);
    world.exited("web", 0, killed());
    assert_eq!(world.exited("db", 0, killed()), ["stop sandbox"]);
}

#[test]
fn a_killed_pod_does_not_wait_for_a_container_that_could_not_be_created() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["web", "db"])}));
    world.started("db", 0);
    assert_eq!(world.step(Event::KillRequested), ["kill web 0", "kill db 0"]);
    assert_eq!(world.start_failed("web", 0, "CreateContainerConfigError"), [""; 0]);
    assert_eq!(world.exited("db", 0, killed()), ["stop sandbox"]);
}

#[test]
fn a_restarted_supervisor_restarts_the_termination_with_its_full_grace_period() {
    let mut world = World::running(json!({"containers": [hooked("web"), {"name": "db", "image": "i"}]}));
    world.terminate(Some(20));
    world.go_to(15);
    world.hook("web", 0, Hook::PreStop, Ok(()));
    world.reload();
    world.events();
    let found = vec![found_running(0), found_running(1)];
    assert_eq!(
        world.step(restarted_with(found)),
        ["run PreStop web 0 for 20s", "stop db 0"]
    );
    assert_eq!(
        world.events(),
        ["Killing: Stopping container web", "Killing: Stopping container db"]
    );
    assert_eq!(world.go_to(34), [""; 0]);
    assert_eq!(world.go_to(35), ["cancel PreStop web 0", "stop web 0", "kill db 0"]);
}

#[test]
fn a_deleted_pod_reaches_a_terminal_phase_before_it_has_ended() {
    for (code, phase) in [(0, "Succeeded"), (1, "Failed")] {
        let mut world = World::running(json!({"containers": containers(&["web"])}));
        world.terminate(None);
        assert_eq!(world.phase(), "Running");
        assert_eq!(world.exited("web", 0, exit(code)), ["stop sandbox"]);
        assert_eq!((world.phase().as_str(), world.pod.has_ended()), (phase, false));
        world.lose_sandbox();
        assert_eq!((world.phase().as_str(), world.pod.has_ended()), (phase, true));
    }
}

#[test]
fn a_pod_deleted_before_it_runs_has_failed() {
    let mut world = World::new(json!({"containers": containers(&["web"])}));
    world.step(Event::Begin);
    assert_eq!(world.terminate(None), [""; 0]);
    assert!(world.pod.has_ended());
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Failed", 1));
    assert_eq!(world.deadline(), None);

    let mut world = World::new(json!({"containers": containers(&["web"])}));
    world.step(Event::Begin);
    world.images();
    assert_eq!(world.terminate(None), ["stop sandbox"], "it was already starting");
    assert_eq!(world.sandbox(), [""; 0]);
    world.step(Event::SandboxFailed {
        message: "stopped".to_owned(),
    });
    assert!(world.pod.has_ended());
}

#[test]
fn a_failed_pre_stop_hook_is_reported_and_does_not_prevent_the_stop() {
    let mut world = World::running(json!({"containers": [hooked("web")]}));
    world.terminate(None);
    world.events();
    assert_eq!(world.hook("web", 0, Hook::PreStop, Err("exit 1")), ["stop web 0"]);
    assert_eq!(world.events(), ["!FailedPreStopHook: PreStopHook failed"]);
}

#[test]
fn a_failed_post_start_hook_kills_the_container_which_restarts_by_its_policy() {
    for (policy, restarted) in [("Always", true), ("Never", false)] {
        let mut world = World::with_sandbox(json!({"restartPolicy": policy, "containers": [
            {"name": "web", "image": "i", "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}},
        ]}));
        assert_eq!(world.started("web", 0), ["run PostStart web 0 for ever"]);
        assert_eq!(
            world.state("web"),
            "waiting ContainerCreating",
            "it counts as waiting until the hook has returned"
        );
        world.events();
        assert_eq!(world.hook("web", 0, Hook::PostStart, Err("exit 1")), ["stop web 0"]);
        assert_eq!(
            world.events(),
            [
                "!FailedPostStartHook: PostStartHook failed",
                "Killing: FailedPostStartHook"
            ]
        );
        assert_eq!(world.state("web"), "waiting PostStartHookError");
        let next = world.exited("web", 0, Exit::of_process(0, 15, false));
        assert_eq!(next, [if restarted { "start web 1" } else { "stop sandbox" }]);
    }
}

#[test]
fn a_container_that_starts_during_termination_is_stopped_like_the_others() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    assert_eq!(world.terminate(Some(10)), [""; 0]);
    world.go_to(4);
    assert_eq!(world.started("web", 0), ["stop web 0"]);
    assert_eq!(world.go_to(9), [""; 0]);
    assert_eq!(world.go_to(10), ["kill web 0"]);
}

#[test]
fn an_unresponsive_container_is_killed_and_then_counts_as_lost() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    world.terminate(Some(10));
    assert_eq!(world.go_to(11), [""; 0]);
    assert_eq!(world.go_to(12), ["kill web 0"]);
    assert_eq!(world.go_to(21), [""; 0]);
    assert_eq!(world.go_to(22), ["stop sandbox"]);
    assert_eq!(world.state("web"), "terminated ContainerStatusUnknown 137");
    world.go_to(60);
    assert!(world.pod.has_ended(), "a sandbox that does not answer counts as gone");
}

#[test]
fn termination_cancels_a_pending_post_start_hook() {
    let mut world = World::with_sandbox(json!({"containers": [
        {"name": "web", "image": "i", "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}},
    ]}));
    world.started("web", 0);
    assert_eq!(world.terminate(None), ["cancel PostStart web 0", "stop web 0"]);
    assert_eq!(world.state("web"), "running");
}
