//! Loss and recovery of the sandbox and the supervisor.

use super::*;

fn restarted(world: &mut World, containers: &[(&str, u32, bool)]) -> Vec<String> {
    world.reload();
    let found = containers.iter().map(|(name, number, has_ended)| FoundAttempt {
        attempt: world.attempt(name, *number),
        has_ended: *has_ended,
    });
    let found = found.collect();
    world.step(restarted_with(found))
}

fn restarted_alone(world: &mut World) -> Vec<String> {
    world.reload();
    world.step(Event::SupervisorRestartedAlone {
        message: "the power was cut".to_owned(),
    })
}

#[test]
fn a_sandbox_lost_with_its_supervisor_is_recreated_once() {
    let mut world = World::running(json!({"containers": containers(&["web", "db"])}));
    assert_eq!(restarted_alone(&mut world), ["start sandbox"]);
    assert_eq!(world.sandbox(), ["start web 1", "start db 1"]);
    world.started("web", 1);
    assert_eq!(world.last_state("web"), "terminated ContainerStatusUnknown 137");

    let mut world = World::new(json!({"containers": containers(&["web"])}));
    assert_eq!(restarted_alone(&mut world), ["pull web"], "it had not begun");
}

#[test]
fn a_termination_ends_if_its_sandbox_was_lost_with_the_supervisor() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    world.terminate(None);
    assert_eq!(restarted_alone(&mut world), [""; 0]);
    assert!(world.pod.has_ended());
}

#[test]
fn a_lost_sandbox_is_recreated_and_its_containers_restarted() {
    let mut world = World::running(json!({"containers": containers(&["web", "db"])}));
    world.events();
    assert_eq!(world.lose_sandbox(), ["start sandbox"]);
    assert_eq!(
        world.events(),
        [
            "!FailedSync: Pod sandbox is gone: it crashed",
            "SandboxChanged: Pod sandbox changed, it will be killed and re-created.",
        ]
    );
    assert_eq!(
        (world.state("web").as_str(), world.phase().as_str()),
        ("terminated ContainerStatusUnknown 137", "Running")
    );
    assert_eq!(world.sandbox(), ["start web 1", "start db 1"]);
    world.started("web", 1);
    assert_eq!(world.container("web").restart_count, 1);
}

#[test]
fn a_repeatedly_lost_sandbox_backs_off() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    let mut now = 0;
    let mut waits = Vec::new();
    for attempt in 1..5 {
        let mut words = world.lose_sandbox();
        let mut wait = 0;
        while !words.contains(&"start sandbox".to_owned()) {
            wait += 1;
            words = world.go_to(now + wait);
        }
        waits.push(wait);
        now += wait;
        world.sandbox();
        now += 400;
        world.go_to(now);
        world.started("web", attempt);
    }
    assert_eq!(waits, [0, 10, 20, 40]);
}

#[test]
fn init_containers_run_again_in_a_new_sandbox() {
    let mut world = World::with_sandbox(json!({
        "initContainers": [{"name": "init", "image": "i"}, {"name": "mesh", "image": "i", "restartPolicy": "Always"}],
        "containers": containers(&["web"]),
    }));
    world.started("init", 0);
    world.exited("init", 0, exit(0));
    world.started("mesh", 0);
    world.started("web", 0);
    world.lose_sandbox();
    assert_eq!(world.sandbox(), ["start init 1"]);
    world.started("init", 1);
    assert_eq!(world.exited("init", 1, exit(0)), ["start mesh 1"]);
    assert_eq!(world.started("mesh", 1), ["start web 1"]);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn a_never_restarted_pod_ends_with_its_sandbox_unless_nothing_had_run() {
    let mut world = World::running(json!({"restartPolicy": "Never", "containers": containers(&["web", "db"])}));
    world.exited("web", 0, exit(0));
    assert_eq!(world.lose_sandbox(), [""; 0]);
    assert!(world.pod.has_ended());
    assert_eq!(world.phase(), "Failed");

    let mut world = World::with_sandbox(json!({"restartPolicy": "Never", "containers": containers(&["web"])}));
    assert_eq!(world.start_failed("web", 0, "CreateContainerError"), [""; 0]);
    assert_eq!(world.lose_sandbox(), ["start sandbox"]);
    assert!(!world.pod.has_ended());
    assert_eq!(world.phase(), "Pending");
}

#[test]
fn a_sandbox_lost_during_termination_ends_the_pod() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    world.terminate(None);
    assert_eq!(world.lose_sandbox(), [""; 0]);
    assert!(world.pod.has_ended());
}

#[test]
fn a_new_supervisor_restarts_no_running_container() {
    let mut world = World::running(json!({"containers": containers(&["web", "db"])}));
    world.events();
    assert_eq!(restarted(&mut world, &[("web", 0, false), ("db", 0, false)]), [""; 0]);
    assert_eq!(
        (world.state("web"), world.state("db")),
        ("running".into(), "running".into())
    );
    assert_eq!(world.events(), [""; 0]);
    assert_eq!(world.container("web").restart_count, 0);
}

#[test]
fn a_container_that_is_not_found_counts_as_lost() {
    let mut world = World::running(json!({"containers": containers(&["web", "db"])}));
    assert_eq!(restarted(&mut world, &[("db", 0, false)]), ["start web 1"]);
    world.started("web", 1);
    assert_eq!(world.last_state("web"), "terminated ContainerStatusUnknown 137");
    assert_eq!(world.container("web").restart_count, 1);
}

#[test]
fn the_exit_of_a_container_that_ended_meanwhile_is_collected() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    assert_eq!(restarted(&mut world, &[("web", 0, true)]), [""; 0]);
    assert_eq!(world.exited("web", 0, exit(3)), ["start web 1"]);
    world.started("web", 1);
    assert_eq!(world.last_state("web"), "terminated Error 3");

    // The container is lost if the report of its end does not arrive.
    assert_eq!(restarted(&mut world, &[("web", 1, true)]), [""; 0]);
    world.go_to(10);
    assert_eq!(world.state("web"), "terminated ContainerStatusUnknown 137");
}

#[test]
fn pending_requests_are_repeated_after_a_restart() {
    let hooked = json!({"name": "web", "image": "i", "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}});
    let mut world = World::with_sandbox(json!({"containers": [hooked, {"name": "db", "image": "i"}]}));
    world.started("web", 0);
    let found = [("web", 0, false)];
    assert_eq!(restarted(&mut world, &found), ["run PostStart web 0 for ever"]);
    assert_eq!(world.hook("web", 0, Hook::PostStart, Ok(())), ["start db 0"]);
    assert_eq!(restarted(&mut world, &found), ["start db 0"]);
}

#[test]
fn a_start_whose_answer_was_lost_counts_as_started() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    assert_eq!(restarted(&mut world, &[("web", 0, false)]), [""; 0]);
    assert_eq!(world.state("web"), "running");
    world.started("web", 0);
    assert_eq!(
        world.container("web").container_id.as_deref(),
        Some("microkube://web-0")
    );
}

#[test]
fn an_unrecorded_start_is_adopted_and_unknown_attempts_are_killed() {
    let mut world = World::running(json!({"containers": containers(&["web", "db"])}));
    world.exited("web", 0, exit(1));
    world.started("web", 1);
    world.exited("web", 1, exit(1));
    let found = [("web", 2, false), ("db", 0, false), ("db", 3, false)];
    assert_eq!(restarted(&mut world, &found), ["kill db 3"]);
    assert_eq!(
        (world.state("web").as_str(), world.container("web").restart_count),
        ("running", 2)
    );
}

#[test]
fn probes_continue_after_a_restart() {
    let probe = json!({"tcpSocket": {"port": 80}});
    let mut world = World::running(json!({"containers": [{"name": "web", "image": "i", "livenessProbe": probe}]}));
    assert_eq!(restarted(&mut world, &[("web", 0, false)]), ["probe Liveness web 0"]);
}

#[test]
fn without_a_sandbox_pulls_are_repeated() {
    let mut world = World::new(json!({"containers": containers(&["web", "db"])}));
    world.step(Event::Begin);
    world.step(Event::ImageReady {
        of: ImageUse::Container(0),
        image_id: "sha256:1".to_owned(),
    });
    assert_eq!(restarted_alone(&mut world), ["pull db"]);
}

#[test]
fn a_sandbox_that_was_starting_is_started_again_after_its_back_off() {
    let mut world = World::new(json!({"containers": containers(&["web"])}));
    world.step(Event::Begin);
    world.images();
    assert!(!world.pod.has_sandbox());
    assert_eq!(restarted_alone(&mut world), [""; 0]);
    assert_eq!(world.go_to(10), ["start sandbox"]);
    world.sandbox();
    assert!(world.pod.has_sandbox());
}

#[test]
fn a_pending_kill_is_repeated_after_a_restart() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    world.step(Event::KillRequested);
    assert_eq!(restarted(&mut world, &[("web", 0, false)]), ["kill web 0"]);
}

#[test]
fn a_sandbox_that_was_being_stopped_is_stopped_again() {
    let mut world = World::running(json!({"restartPolicy": "Never", "containers": containers(&["web"])}));
    world.exited("web", 0, exit(0));
    assert_eq!(restarted(&mut world, &[]), ["stop sandbox"]);
}

#[test]
fn a_back_off_does_not_grow_when_the_clock_was_set_back() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    world.exited("web", 0, exit(1));
    world.started("web", 1);
    world.exited("web", 1, exit(1));
    world.now = at(0) - secs(100_000);
    restarted(&mut world, &[]);
    let deadline = world.pod.deadline().expect("it is restarted eventually");
    assert!(deadline <= world.now + secs(300));
}

#[test]
fn a_deadline_that_passed_without_a_supervisor_ends_the_pod_once() {
    let mut world = World::running(json!({"containers": containers(&["web", "db"]), "activeDeadlineSeconds": 60}));
    world.now = at(100);
    assert_eq!(restarted(&mut world, &[("web", 0, false)]), ["stop web 0"]);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.deadline(), Some(130));
}

/// Restarts the supervisor while the sandbox is starting these containers for the previous one.
fn restarted_while(world: &mut World, starting: &[(&str, u32)]) -> Vec<String> {
    world.reload();
    let starting = starting.iter().map(|(name, number)| world.attempt(name, *number));
    let (found, starting) = (Vec::new(), starting.collect());
    world.step(Event::SupervisorRestarted { found, starting })
}

#[test]
fn a_pending_start_is_awaited_and_not_repeated() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["web", "db"])}));
    world.go_to(100);
    assert_eq!(restarted_while(&mut world, &[("web", 0)]), ["start db 0"]);
    // The timeout of the start begins again.
    assert_eq!(world.go_to(150), [""; 0]);
    world.started("web", 0);
    world.started("db", 0);
    assert_eq!(world.state("web"), "running");
    assert_eq!(world.container("web").restart_count, 0);

    // A start that was not recorded is handled in the same way.
    let mut world = World::running(json!({"restartPolicy": "Always", "containers": containers(&["web"])}));
    world.exited("web", 0, exit(1));
    world.started("web", 1);
    world.exited("web", 1, exit(1));
    assert_eq!(restarted_while(&mut world, &[("web", 2)]), [""; 0]);
    world.started("web", 2);
    assert_eq!(world.container("web").restart_count, 2);
}

#[test]
fn a_pending_start_that_is_no_longer_wanted_is_killed() {
    // The attempt was abandoned.
    let mut world = World::running(json!({"restartPolicy": "Always", "containers": containers(&["web"])}));
    world.exited("web", 0, exit(1));
    world.started("web", 1);
    assert_eq!(restarted_while(&mut world, &[("web", 0)]), ["kill web 0"]);
    // The Pod is ending.
    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    world.terminate(Some(20));
    world.go_to(5);
    assert_eq!(restarted_while(&mut world, &[("web", 0)]), [""; 0]);
    assert_eq!(world.started("web", 0), ["stop web 0"], "as soon as it runs");
    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    world.step(Event::KillRequested);
    assert_eq!(restarted_while(&mut world, &[("web", 0)]), ["kill web 0"]);
}
