//! Probes: when they run, and how their results are handled.

use super::*;

fn web(probes: Value) -> Value {
    let mut container = json!({"name": "web", "image": "i"});
    for (field, probe) in probes.as_object().expect("an object with probes as fields") {
        container[field] = probe.clone();
        container[field]["tcpSocket"] = json!({"port": 80});
    }
    container
}

fn running(probes: Value) -> World {
    World::running(json!({"containers": [web(probes)]}))
}

#[test]
fn a_probe_without_numbers_runs_at_once_and_every_10_seconds_and_fails_at_the_third_failure() {
    let mut world = World::with_sandbox(json!({"containers": [web(json!({"livenessProbe": {}}))]}));
    assert_eq!(world.started("web", 0), ["probe Liveness web 0"]);
    world.probed("web", 0, ProbeKind::Liveness, false);
    assert_eq!(world.go_to(9), [""; 0]);
    assert_eq!(world.go_to(10), ["probe Liveness web 0"]);
    world.probed("web", 0, ProbeKind::Liveness, false);
    world.go_to(20);
    world.events();
    assert_eq!(world.probed("web", 0, ProbeKind::Liveness, false), ["stop web 0"]);
    assert_eq!(
        world.events(),
        [
            "!Unhealthy: Liveness probe failed: 503",
            "Killing: Container web failed liveness probe, will be restarted",
        ]
    );
    assert_eq!(world.exited("web", 0, exit(0)), ["start web 1"]);
}

#[test]
fn initial_delay_and_period_are_honoured() {
    let mut world = running(json!({"readinessProbe": {"initialDelaySeconds": 7, "periodSeconds": 4}}));
    assert_eq!(world.go_to(6), [""; 0]);
    assert_eq!(world.go_to(7), ["probe Readiness web 0"]);
    // The next execution waits for a slow one.
    assert_eq!(world.go_to(12), [""; 0]);
    assert_eq!(
        world.probed("web", 0, ProbeKind::Readiness, true),
        ["probe Readiness web 0"]
    );
    world.probed("web", 0, ProbeKind::Readiness, true);
    assert_eq!(world.go_to(15), [""; 0]);
    assert_eq!(world.go_to(16), ["probe Readiness web 0"]);
}

#[test]
fn readiness_is_false_until_the_first_success_and_follows_its_thresholds() {
    let mut world =
        running(json!({"readinessProbe": {"periodSeconds": 1, "successThreshold": 2, "failureThreshold": 2}}));
    let mut ready = Vec::new();
    for (second, success) in [true, true, false, true, false, false, true].into_iter().enumerate() {
        world.go_to(second as u64);
        world.probed("web", 0, ProbeKind::Readiness, success);
        ready.push(world.container("web").ready);
    }
    assert_eq!(ready, [false, true, true, true, true, false, false]);
    assert_eq!(
        world.state("web"),
        "running",
        "a failed readiness probe kills no container"
    );
}

#[test]
fn without_a_readiness_probe_a_started_container_is_ready() {
    let mut world = running(json!({"startupProbe": {}}));
    assert_eq!(
        (world.container("web").started, world.container("web").ready),
        (Some(false), false)
    );
    world.probed("web", 0, ProbeKind::Startup, true);
    assert_eq!(
        (world.container("web").started, world.container("web").ready),
        (Some(true), true)
    );
}

#[test]
fn a_startup_probe_gates_the_others_until_it_succeeds() {
    let mut world = World::with_sandbox(json!({"containers": [web(json!({
        "startupProbe": {"periodSeconds": 2}, "livenessProbe": {"initialDelaySeconds": 5}, "readinessProbe": {},
    }))]}));
    assert_eq!(world.started("web", 0), ["probe Startup web 0"]);
    world.probed("web", 0, ProbeKind::Startup, false);
    assert_eq!(world.go_to(2), ["probe Startup web 0"]);
    assert_eq!(
        world.probed("web", 0, ProbeKind::Startup, true),
        ["probe Readiness web 0"]
    );
    world.probed("web", 0, ProbeKind::Readiness, true);
    assert_eq!(
        world.go_to(11),
        ["probe Liveness web 0"],
        "5 seconds after the start, startup is over"
    );
}

#[test]
fn a_failed_startup_probe_kills_the_container() {
    let mut world = running(json!({"startupProbe": {"failureThreshold": 1}}));
    world.events();
    assert_eq!(world.probed("web", 0, ProbeKind::Startup, false), ["stop web 0"]);
    assert_eq!(
        world.events(),
        [
            "!Unhealthy: Startup probe failed: 503",
            "Killing: Container web failed startup probe, will be restarted",
        ]
    );
    assert_eq!(world.go_to(29), [""; 0], "it is not probed any more");
}

#[test]
fn a_failed_liveness_probe_kills_even_a_never_restarted_container() {
    let probe = web(json!({"livenessProbe": {"failureThreshold": 1}}));
    let mut world = World::running(json!({"restartPolicy": "Never", "containers": [probe]}));
    world.probed("web", 0, ProbeKind::Liveness, false);
    assert!(
        world
            .events()
            .contains(&"Killing: Container web failed liveness probe".to_owned())
    );
    assert_eq!(world.exited("web", 0, exit(0)), ["stop sandbox"]);
}

#[test]
fn a_container_killed_by_a_probe_restarts_on_failure_for_any_exit_code() {
    let probe = web(json!({"livenessProbe": {"failureThreshold": 1}}));
    let mut world = World::running(json!({"restartPolicy": "OnFailure", "containers": [probe]}));
    world.probed("web", 0, ProbeKind::Liveness, false);
    assert_eq!(world.exited("web", 0, exit(0)), ["start web 1"]);
}

#[test]
fn the_pre_stop_hook_runs_before_a_probe_kills() {
    let mut container = web(json!({"livenessProbe": {"failureThreshold": 1, "terminationGracePeriodSeconds": 8}}));
    container["lifecycle"] = json!({"preStop": {"exec": {"command": ["true"]}}});
    let mut world = World::running(json!({"containers": [container]}));
    assert_eq!(
        world.probed("web", 0, ProbeKind::Liveness, false),
        ["run PreStop web 0 for 8s"]
    );
    assert_eq!(world.hook("web", 0, Hook::PreStop, Ok(())), ["stop web 0"]);
}

#[test]
fn a_sidecar_that_fails_its_probe_is_restarted_even_if_the_pod_never_is() {
    let mut sidecar = web(json!({"livenessProbe": {"failureThreshold": 1}}));
    sidecar["name"] = json!("mesh");
    sidecar["restartPolicy"] = json!("Always");
    let mut world = World::with_sandbox(json!({
        "restartPolicy": "Never", "initContainers": [sidecar], "containers": containers(&["web"]),
    }));
    world.started("mesh", 0);
    world.started("web", 0);
    world.probed("mesh", 0, ProbeKind::Liveness, false);
    assert!(
        world
            .events()
            .contains(&"Killing: Init container mesh failed liveness probe".to_owned())
    );
    assert_eq!(world.exited("mesh", 0, exit(0)), ["start mesh 1"]);
}

#[test]
fn a_probe_error_does_not_change_the_containers_health() {
    let mut world = running(json!({"livenessProbe": {"failureThreshold": 1}}));
    world.events();
    let outcome = ProbeOutcome::Unknown("no such port".to_owned());
    let event = Event::ProbeEnded {
        attempt: world.attempt("web", 0),
        probe: ProbeKind::Liveness,
        outcome,
    };
    assert_eq!(world.step(event), [""; 0]);
    assert_eq!(
        world.events(),
        ["!Unhealthy: Liveness probe errored and resulted in unknown state: no such port"]
    );
    assert_eq!(world.state("web"), "running");
}

#[test]
fn a_probe_warning_counts_as_success() {
    let mut world = running(json!({"readinessProbe": {}}));
    world.events();
    world.step(Event::ProbeEnded {
        attempt: ContainerAttempt::new(0, 0),
        probe: ProbeKind::Readiness,
        outcome: ProbeOutcome::Warning("redirected".to_owned()),
    });
    assert!(world.container("web").ready);
    assert_eq!(world.events(), ["!ProbeWarning: Readiness probe warning: redirected"]);
}

#[test]
fn results_of_an_earlier_attempt_do_not_count() {
    let mut world = running(json!({"livenessProbe": {"failureThreshold": 1}}));
    world.exited("web", 0, exit(1));
    world.started("web", 1);
    assert_eq!(world.probed("web", 0, ProbeKind::Liveness, false), [""; 0]);
    assert_eq!(world.state("web"), "running");
}

#[test]
fn an_unanswered_probe_is_repeated() {
    let mut world = World::with_sandbox(json!({"containers": [web(json!({"livenessProbe": {"timeoutSeconds": 5}}))]}));
    world.started("web", 0);
    assert_eq!(world.go_to(34), [""; 0]);
    assert_eq!(world.go_to(35), ["probe Liveness web 0"]);
}

#[test]
fn probes_wait_for_the_post_start_hook() {
    let mut container = web(json!({"livenessProbe": {}}));
    container["lifecycle"] = json!({"postStart": {"exec": {"command": ["true"]}}});
    let mut world = World::with_sandbox(json!({"containers": [container]}));
    assert_eq!(world.started("web", 0), ["run PostStart web 0 for ever"]);
    world.go_to(20);
    assert_eq!(world.hook("web", 0, Hook::PostStart, Ok(())), ["probe Liveness web 0"]);
}
