//! The normal course of a Pod: the order of starts.

use super::*;

#[test]
fn nothing_happens_before_the_first_event() {
    let mut world = World::new(json!({"containers": containers(&["web"])}));
    assert_eq!(world.deadline(), None);
    assert_eq!(world.step(Event::DeadlineReached), [""; 0]);
    assert_eq!(world.phase(), "Pending");
}

#[test]
fn all_images_are_present_before_the_sandbox_starts_and_containers_start_together() {
    let mut world = World::new(json!({"containers": containers(&["web", "db"])}));
    assert_eq!(world.step(Event::Begin), ["pull web", "pull db"]);
    let ready = |container| Event::ImageReady {
        of: ImageUse::Container(container),
        image_id: "sha256:1".to_owned(),
    };
    assert_eq!(world.step(ready(1)), [""; 0]);
    assert_eq!(world.step(ready(0)), ["start sandbox"]);
    assert_eq!(world.sandbox(), ["start web 0", "start db 0"]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut world =
        World::new(json!({"initContainers": containers(&["one", "two"]), "containers": containers(&["web", "db"])}));
    world.step(Event::Begin);
    world.images();
    assert_eq!(world.sandbox(), ["start one 0"]);
    assert_eq!(world.started("one", 0), [""; 0]);
    assert_eq!(world.exited("one", 0, exit(0)), ["start two 0"]);
    world.started("two", 0);
    assert_eq!(world.exited("two", 0, exit(1)), ["start two 1"]);
    world.started("two", 1);
    assert_eq!(world.exited("two", 1, exit(0)), ["start web 0", "start db 0"]);
    assert!(world.container("one").ready);
}

#[test]
fn a_succeeded_init_container_is_not_restarted_under_any_policy() {
    let mut world = World::with_sandbox(json!({
        "restartPolicy": "Always", "initContainers": containers(&["one"]), "containers": containers(&["web"]),
    }));
    world.started("one", 0);
    assert_eq!(world.exited("one", 0, exit(0)), ["start web 0"]);
    assert_eq!(world.state("one"), "terminated Completed 0");
    assert_eq!(world.go_to(100), [""; 0]);
}

#[test]
fn the_container_after_a_sidecar_starts_once_the_sidecar_has_started() {
    let sidecar = json!({
        "name": "mesh", "image": "i", "restartPolicy": "Always",
        "startupProbe": {"tcpSocket": {"port": 80}},
        "lifecycle": {"postStart": {"exec": {"command": ["true"]}}},
    });
    let mut world = World::with_sandbox(json!({"initContainers": [sidecar], "containers": containers(&["web"])}));
    assert_eq!(world.started("mesh", 0), ["run PostStart mesh 0 for ever"]);
    assert_eq!(world.hook("mesh", 0, Hook::PostStart, Ok(())), ["probe Startup mesh 0"]);
    assert_eq!(world.probed("mesh", 0, ProbeKind::Startup, true), ["start web 0"]);
}

#[test]
fn a_sidecar_without_probe_and_hook_counts_as_started_when_running() {
    let mut world = World::with_sandbox(json!({
        "initContainers": [{"name": "mesh", "image": "i", "restartPolicy": "Always"}, {"name": "init", "image": "i"}],
        "containers": containers(&["web"]),
    }));
    assert_eq!(world.started("mesh", 0), ["start init 0"]);
    // The sidecar is restarted while the Pod is still initializing, and no longer delays other containers.
    assert_eq!(world.exited("mesh", 0, exit(1)), ["start mesh 1"]);
    world.started("init", 0);
    assert_eq!(world.exited("init", 0, exit(0)), ["start web 0"]);
}

#[test]
fn an_unanswered_start_is_killed_and_retried() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    assert_eq!(world.go_to(119), [""; 0]);
    assert_eq!(world.go_to(120), ["kill web 0"]);
    assert_eq!(world.go_to(129), [""; 0]);
    assert_eq!(world.go_to(130), ["start web 1"]);
    assert_eq!(world.started("web", 0), ["kill web 0"], "it comes too late");
}

#[test]
fn a_killed_container_without_a_reported_exit_is_lost_and_restarted() {
    let probe = json!({"tcpSocket": {"port": 80}, "failureThreshold": 1, "terminationGracePeriodSeconds": 5});
    let mut world = World::running(json!({"containers": [{"name": "web", "image": "i", "livenessProbe": probe}]}));
    world.probed("web", 0, ProbeKind::Liveness, false);
    assert_eq!(world.go_to(4), [""; 0]);
    assert_eq!(world.go_to(5), ["kill web 0"]);
    assert_eq!(world.go_to(14), [""; 0]);
    assert_eq!(world.go_to(15), ["start web 1"]);
    assert_eq!(world.last_state("web"), "terminated ContainerStatusUnknown 137");
}

#[test]
fn an_exit_before_the_answer_to_the_start_counts() {
    let mut world = World::with_sandbox(json!({"restartPolicy": "Never", "containers": containers(&["web"])}));
    assert_eq!(world.exited("web", 0, exit(0)), ["stop sandbox"]);
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn unexpected_events_are_ignored() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    let before = world.pod.clone();
    for event in [
        Event::SandboxReady {
            pod_ip: String::new(),
            host_ip: String::new(),
        },
        Event::SandboxFailed { message: String::new() },
        Event::ImageReady {
            of: ImageUse::Container(7),
            image_id: String::new(),
        },
        Event::ContainerExited {
            attempt: ContainerAttempt::new(0, 5),
            exit: exit(1),
        },
        Event::ContainerExited {
            attempt: ContainerAttempt::new(9, 0),
            exit: exit(1),
        },
        Event::HookEnded {
            attempt: ContainerAttempt::new(0, 0),
            hook: Hook::PreStop,
            outcome: HookOutcome::Success,
        },
        Event::DeadlineReached,
    ] {
        assert_eq!(world.step(event), [""; 0]);
    }
    assert_eq!(world.pod, before);
}
