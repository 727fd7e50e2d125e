//! The phase of a Pod.

use super::*;

fn pod(policy: &str, names: &[&str]) -> Value {
    json!({"restartPolicy": policy, "containers": containers(names)})
}

fn with_init(policy: &str, init: Value) -> World {
    World::with_sandbox(json!({"restartPolicy": policy, "initContainers": [init], "containers": containers(&["web"])}))
}

#[test]
fn a_failed_init_container_that_is_not_restarted_fails_the_pod() {
    let mut world = with_init("Never", json!({"name": "init", "image": "i"}));
    world.started("init", 0);
    assert_eq!(world.exited("init", 0, exit(3)), ["stop sandbox"]);
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Failed", 3));
    assert_eq!(world.state("web"), "waiting PodInitializing");
}

#[test]
fn a_failed_init_container_whose_own_policy_forbids_a_restart_fails_the_pod() {
    let mut world = with_init(
        "Always",
        json!({"name": "init", "image": "i", "restartPolicy": "Never"}),
    );
    world.started("init", 0);
    world.exited("init", 0, exit(3));
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn a_pod_is_pending_while_init_containers_run_or_are_restarted() {
    let mut world = with_init("Always", json!({"name": "init", "image": "i"}));
    assert_eq!(world.phase(), "Pending");
    world.started("init", 0);
    assert_eq!(world.phase(), "Pending");
    assert_eq!(world.exited("init", 0, exit(1)), ["start init 1"]);
    assert_eq!(world.phase(), "Pending");
    world.started("init", 1);
    assert_eq!(world.exited("init", 1, exit(0)), ["start web 0"]);
    assert_eq!(world.phase(), "Pending");
    world.started("web", 0);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_pod_is_pending_until_its_sidecars_have_started_for_the_first_time() {
    let mut world = with_init(
        "Always",
        json!({"name": "mesh", "image": "i", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 80}}}),
    );
    world.started("mesh", 0);
    assert_eq!(
        (world.state("mesh").as_str(), world.phase().as_str()),
        ("running", "Pending")
    );
    world.probed("mesh", 0, ProbeKind::Startup, true);
    world.started("web", 0);
    assert_eq!(world.phase(), "Running");
    world.exited("mesh", 0, exit(1));
    world.started("mesh", 1);
    assert_eq!(
        world.phase(),
        "Running",
        "it does not matter any more that mesh has not started"
    );
}

#[test]
fn a_waiting_container_that_never_ran_makes_the_pod_pending() {
    let mut world = World::with_sandbox(pod("Always", &["web", "db"]));
    world.started("web", 0);
    world.start_failed("db", 0, "CreateContainerError");
    assert_eq!(
        (world.phase().as_str(), world.state("db").as_str()),
        ("Pending", "waiting CreateContainerError")
    );
}

#[test]
fn a_container_in_crash_loop_back_off_leaves_the_pod_running() {
    let mut world = World::running(pod("Always", &["web"]));
    world.exited("web", 0, exit(1));
    world.started("web", 1);
    world.exited("web", 1, exit(1));
    world.go_to(1);
    assert_eq!(
        (world.phase().as_str(), world.state("web").as_str()),
        ("Running", "waiting CrashLoopBackOff")
    );
}

#[test]
fn a_pod_succeeds_when_all_containers_succeed() {
    for policy in ["Never", "OnFailure"] {
        let mut world = World::running(pod(policy, &["web", "db"]));
        world.exited("web", 0, exit(0));
        assert_eq!(world.phase(), "Running");
        assert_eq!(world.exited("db", 0, exit(0)), ["stop sandbox"]);
        assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Succeeded", 0));
    }
}

#[test]
fn one_permanent_failure_fails_the_pod_and_the_first_sets_the_exit_code() {
    let mut world = World::running(pod("Never", &["web", "db", "job"]));
    world.exited("job", 0, exit(4));
    world.exited("web", 0, exit(3));
    assert_eq!(world.phase(), "Running");
    world.exited("db", 0, exit(0));
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Failed", 4));
}

#[test]
fn a_container_that_succeeds_after_a_failure_has_succeeded() {
    let mut world = World::running(pod("OnFailure", &["web"]));
    assert_eq!(world.exited("web", 0, exit(3)), ["start web 1"]);
    world.started("web", 1);
    world.exited("web", 1, exit(0));
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Succeeded", 0));
}

#[test]
fn terminated_sidecars_are_ignored() {
    let mut world = with_init(
        "Never",
        json!({"name": "mesh", "image": "i", "restartPolicy": "Always"}),
    );
    world.started("mesh", 0);
    world.started("web", 0);
    world.exited("web", 0, exit(0));
    world.exited("mesh", 0, exit(9));
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn a_terminal_phase_is_never_left() {
    let mut world = World::running(pod("Never", &["web"]));
    world.exited("web", 0, exit(0));
    world.terminate(None);
    world.exited("web", 0, exit(1));
    world.lose_sandbox();
    assert_eq!(world.step(Event::Begin), [""; 0]);
    assert_eq!(world.phase(), "Succeeded");
    assert_eq!(
        world.pod.deletion(),
        Some((at(0), secs(0))),
        "an ended Pod needs no grace period"
    );
}

#[test]
fn a_lost_container_has_exit_code_137_and_counts_as_restarted() {
    let mut world = World::running(pod("Never", &["web"]));
    assert_eq!(world.lose_sandbox(), [""; 0]);
    assert!(world.pod.has_ended());
    assert_eq!(world.state("web"), "terminated ContainerStatusUnknown 137");
    let status = world.container("web");
    let terminated = status.state.and_then(|state| state.terminated);
    assert_eq!(
        terminated.and_then(|terminated| terminated.message).as_deref(),
        Some("The container could not be located when the pod was terminated")
    );
    assert_eq!(
        (status.restart_count, world.phase().as_str(), world.pod.exit_code()),
        (1, "Failed", 137)
    );
}

#[test]
fn a_pod_past_its_active_deadline_fails_at_once_and_is_terminated() {
    let mut world = World::new(json!({"containers": containers(&["web"]), "activeDeadlineSeconds": 60}));
    world.go_to(5);
    world.step(Event::Begin);
    world.images();
    world.sandbox();
    world.started("web", 0);
    assert_eq!(world.deadline(), Some(65), "it counts from startTime");
    assert_eq!(world.go_to(65), ["stop web 0"]);
    let status = world.status();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("DeadlineExceeded"))
    );
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(status.message.as_deref(), Some(message));
    assert!(world.events().contains(&format!("DeadlineExceeded: {message}")));
    assert_eq!(world.exited("web", 0, exit(0)), ["stop sandbox"]);
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Failed", 1));
}

#[test]
fn an_evicted_pod_fails_at_once_whatever_its_restart_policy_and_ends_within_a_second() {
    let message = "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ".to_owned();
    let evicted = |message: &str| Event::Evicted {
        message: message.to_owned(),
    };
    let mut world = World::running(pod("Always", &["web", "log"]));
    world.go_to(5);
    assert_eq!(world.step(evicted(&message)), ["stop web 0", "stop log 0"]);
    let status = world.status();
    assert_eq!(
        (
            status.phase.as_deref(),
            status.reason.as_deref(),
            status.message.as_deref()
        ),
        (Some("Failed"), Some("Evicted"), Some(message.as_str()))
    );
    assert!(world.events().contains(&format!("!Evicted: {message}")));
    let conditions = status.conditions.unwrap_or_default();
    assert!(conditions.iter().all(|condition| condition.type_ != "DisruptionTarget"));
    assert_eq!(world.step(evicted("again")), [""; 0]);
    assert_eq!(world.events(), [""; 0]);
    // The minimum between stop signal and SIGKILL is longer than the grace period.
    world.reload();
    assert_eq!(world.exited("web", 0, killed()), [""; 0]);
    assert_eq!(world.go_to(7), ["kill log 0"]);
    assert_eq!(world.exited("log", 0, killed()), ["stop sandbox"]);
    world.lose_sandbox();
    assert!(world.pod.has_ended());
    assert_eq!(world.status().message, Some(message));
}

#[test]
fn a_pod_that_has_ended_or_not_begun_is_not_evicted() {
    let evicted = || Event::Evicted {
        message: "x".to_owned(),
    };
    let mut world = World::running(pod("Never", &["web"]));
    world.exited("web", 0, exit(0));
    world.step(evicted());
    assert_eq!((world.phase().as_str(), world.status().reason), ("Succeeded", None));
    let mut world = World::new(pod("Never", &["web"]));
    world.step(evicted());
    assert_eq!((world.phase().as_str(), world.status().reason), ("Pending", None));
}

#[test]
fn an_evicted_pod_does_not_exceed_its_deadline_as_well() {
    let mut world = World::running(json!({"containers": containers(&["web"]), "activeDeadlineSeconds": 60}));
    world.now = at(60);
    world.step(Event::Evicted {
        message: "x".to_owned(),
    });
    assert_eq!(world.status().reason.as_deref(), Some("Evicted"));
    assert!(
        world
            .events()
            .iter()
            .all(|event| !event.starts_with("DeadlineExceeded"))
    );
}

#[test]
fn a_pod_past_its_deadline_is_not_evicted_as_well() {
    let mut world = World::running(json!({"containers": containers(&["web"]), "activeDeadlineSeconds": 60}));
    assert_eq!(world.go_to(60), ["stop web 0"]);
    world.reload();
    world.events();
    let message = "x".to_owned();
    assert_eq!(world.step(Event::Evicted { message }), [""; 0]);
    assert_eq!(world.status().reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(world.events(), [""; 0]);
}
