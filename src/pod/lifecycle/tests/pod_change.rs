//! Changes of a running Pod.

use k8s_openapi::api::core::v1::PodCondition;

use super::*;

/// A Pod with these containers: name and image.
fn spec(policy: &str, containers: &[(&str, &str)]) -> Value {
    let containers: Vec<_> = containers
        .iter()
        .map(|(name, image)| json!({"name": name, "image": image}))
        .collect();
    json!({"restartPolicy": policy, "containers": containers})
}

fn changed(spec: Value) -> Event {
    Event::PodChanged {
        change: PodChange::of(&pod_of(spec)),
    }
}

fn image_ready(container: usize) -> Event {
    Event::ImageReady {
        of: ImageUse::Container(container),
        image_id: "sha256:new".to_owned(),
    }
}

fn stopped(world: &mut World) -> Vec<String> {
    world.step(Event::SandboxLost {
        message: "the Pod's VM was turned off".to_owned(),
    })
}

/// The supervisor cannot add the image of the container to the sandbox.
fn not_added(world: &mut World, name: &str, number: u32) -> Vec<String> {
    let attempt = world.attempt(name, number);
    world.step(Event::ImageNotAdded {
        attempt,
        message: "its disk is full".to_owned(),
    })
}

#[test]
fn a_container_with_another_image_is_restarted_whatever_its_policy_and_no_other_is() {
    for policy in ["Always", "OnFailure", "Never"] {
        let of = |image| spec(policy, &[("main", image), ("other", "i:1")]);
        let mut world = World::running(of("i:1"));
        world.events();
        assert_eq!(world.step(changed(of("i:2"))), ["stop main 0", "pull main"], "{policy}");
        assert_eq!(
            world.events(),
            ["Killing: Container main definition changed, will be restarted"]
        );
        assert_eq!(world.container("main").image, "i:1");
        assert_eq!(
            world.pod.image_id(0),
            None,
            "it is not the one that the container has run"
        );
        assert_eq!(world.pod.ran_image(0).map(|(name, _)| name), Some("i:1"));
        assert_eq!(world.exited("main", 0, killed()), [""; 0], "{policy}");
        assert_eq!(world.phase(), "Running");
        world.reload();
        assert_eq!(world.step(image_ready(0)), ["start main 1"], "{policy}");
        assert_eq!(world.pod.image_id(0), Some("sha256:new"));
        assert_eq!(world.pod.ran_image(0), Some(("i:2", "sha256:new")));
        world.started("main", 1);
        let main = world.container("main");
        assert_eq!((main.restart_count, main.image.as_str()), (1, "i:2"));
        assert_eq!(main.image_id, "sha256:new");
        assert_eq!(world.container("other").restart_count, 0);
        assert_eq!(world.state("other"), "running");
        assert_eq!(
            world.events(),
            [
                "Pulled: Container image \"i:2\" already present on machine",
                "Created: Container created",
                "Started: Container started",
            ]
        );
    }
}

#[test]
fn an_image_that_cannot_be_added_restarts_the_others_in_another_sandbox() {
    let of = |image| spec("Never", &[("a", "i:1"), ("b", image)]);
    let mut world = World::running(of("i:1"));
    world.step(changed(of("i:2")));
    world.exited("b", 0, exit(0));
    assert_eq!(world.step(image_ready(1)), ["start b 1"]);
    world.events();
    assert_eq!(not_added(&mut world, "b", 1), ["stop a 0"]);
    assert_eq!(
        world.events(),
        [
            "!Failed: Error: cannot add the image to the running VM: its disk is full",
            "SandboxChanged: Pod sandbox changed, it will be killed and re-created.",
            "Killing: Stopping container a",
        ]
    );
    assert_eq!(world.state("b"), "waiting ContainerCreating");
    assert_eq!(world.last_state("b"), "terminated Completed 0");
    assert_eq!(world.exited("a", 0, exit(143)), ["stop sandbox"]);
    world.reload();
    assert_eq!(stopped(&mut world), ["start sandbox"]);
    assert_eq!(world.sandbox(), ["start a 1", "start b 1"]);
    world.started("b", 1);
    assert_eq!(world.container("b").restart_count, 1);
    assert_eq!(world.phase(), "Running");
    // The next image may fit again.
    assert_eq!(world.step(changed(of("i:3"))), ["stop b 1", "pull b"]);
    world.exited("b", 1, exit(0));
    assert_eq!(world.step(image_ready(1)), ["start b 2"]);
}

#[test]
fn an_image_that_changes_again_is_tried_before_the_sandbox_is_replaced() {
    let of = |image| spec("Always", &[("main", image)]);
    let mut world = World::running(of("i:1"));
    world.step(changed(of("i:2")));
    world.exited("main", 0, exit(0));
    assert_eq!(world.step(image_ready(0)), ["start main 1"]);
    // The container is not known to run yet, so it is stopped once it runs.
    assert_eq!(world.step(changed(of("i:3"))), ["pull main"]);
    assert_eq!(not_added(&mut world, "main", 1), [""; 0]);
    assert_eq!(world.step(image_ready(0)), ["start main 1"]);
    assert_eq!(not_added(&mut world, "main", 1), ["stop sandbox"]);
    // A late answer changes nothing.
    assert_eq!(not_added(&mut world, "main", 1), [""; 0]);
    assert_eq!(stopped(&mut world), ["start sandbox"]);
    assert_eq!(world.sandbox(), ["start main 1"]);
    world.started("main", 1);
    assert_eq!(not_added(&mut world, "main", 1), [""; 0], "it runs");
}

#[test]
fn an_image_that_cannot_be_pulled_shows_and_is_retried_or_changed_back() {
    let of = |image| spec("Always", &[("main", image)]);
    let mut world = World::running(of("i:1"));
    world.step(changed(of("i:2")));
    world.exited("main", 0, exit(0));
    world.step(Event::ImageFailed {
        of: ImageUse::Container(0),
        reason: "ErrImagePull".to_owned(),
        message: "not found".to_owned(),
    });
    assert_eq!(world.state("main"), "waiting ErrImagePull");
    assert_eq!(world.last_state("main"), "terminated Completed 0");
    assert_eq!(world.go_to(1), [""; 0]);
    assert_eq!(world.state("main"), "waiting ImagePullBackOff");
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.go_to(10), ["pull main"]);
    assert_eq!(world.step(changed(of("i:1"))), ["pull main"]);
    assert_eq!(world.step(image_ready(0)), ["start main 1"]);
}

#[test]
fn a_change_ends_a_back_off_and_does_not_start_what_has_ended_for_good() {
    let of = |image| spec("Always", &[("main", image)]);
    let mut world = World::running(of("i:1"));
    world.exited("main", 0, exit(1));
    world.started("main", 1);
    world.exited("main", 1, exit(1));
    assert_eq!(world.go_to(2), [""; 0]);
    assert_eq!(world.state("main"), "waiting CrashLoopBackOff");
    assert_eq!(world.step(changed(of("i:2"))), ["pull main"]);
    assert_eq!(world.step(image_ready(0)), ["start main 2"]);

    let of = |image| spec("Never", &[("a", image), ("b", "i:1")]);
    let mut world = World::running(of("i:1"));
    world.exited("a", 0, exit(0));
    assert_eq!(world.step(changed(of("i:2"))), [""; 0]);
    assert_eq!(world.state("a"), "terminated Completed 0");
    assert_eq!(world.container("a").image, "i:1");
    // Another sandbox needs all images.
    world.lose_sandbox();
    world.exited("b", 0, exit(0));
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn an_init_containers_image_restarts_nothing_and_a_sidecars_only_the_sidecar() {
    let of = |init: &str, side: &str| {
        json!({
            "restartPolicy": "Always",
            "initContainers": [
                {"name": "init", "image": init},
                {"name": "side", "image": side, "restartPolicy": "Always"},
            ],
            "containers": [{"name": "main", "image": "i:1"}],
        })
    };
    let mut world = World::with_sandbox(of("i:1", "i:1"));
    world.started("init", 0);
    world.exited("init", 0, exit(0));
    world.started("side", 0);
    world.started("main", 0);
    world.events();
    assert_eq!(world.step(changed(of("i:2", "i:1"))), [""; 0]);
    assert_eq!(world.events(), [""; 0]);
    assert_eq!(world.step(changed(of("i:2", "i:2"))), ["stop side 0", "pull side"]);
    assert_eq!(world.events(), ["Killing: Init container side definition changed"]);
    world.exited("side", 0, exit(143));
    assert_eq!(world.step(image_ready(1)), ["start side 1"]);
    // Init containers run again only in another sandbox.
    assert_eq!(not_added(&mut world, "side", 1), ["stop main 0"]);
    assert_eq!(world.exited("main", 0, exit(143)), ["stop sandbox"]);
    assert_eq!(stopped(&mut world), ["pull init"]);
    assert_eq!(world.step(image_ready(0)), ["start sandbox"]);
    assert_eq!(world.sandbox(), ["start init 1"]);
}

#[test]
fn a_lower_deadline_counts_from_the_start_of_the_pod() {
    let of = |deadline: Option<u64>| {
        let mut spec = spec("Always", &[("main", "i:1")]);
        if let Some(deadline) = deadline {
            spec["activeDeadlineSeconds"] = deadline.into();
        }
        spec
    };
    let mut world = World::running(of(None));
    world.go_to(20);
    world.step(changed(of(Some(60))));
    assert_eq!(world.deadline(), Some(60));
    assert_eq!(world.step(changed(of(Some(10)))), ["stop main 0"]);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.status().reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a_change_of_a_terminating_pod_starts_nothing() {
    let of = |image| spec("Always", &[("main", image)]);
    let mut world = World::running(of("i:1"));
    world.terminate(None);
    assert_eq!(world.step(changed(of("i:2"))), [""; 0]);
    assert_eq!(world.exited("main", 0, exit(0)), ["stop sandbox"]);
    stopped(&mut world);
    assert!(world.pod.has_ended());
}

#[test]
fn a_termination_during_the_replacement_ends_the_pod() {
    let of = |image| spec("Always", &[("main", image)]);
    let mut world = World::running(of("i:1"));
    world.step(changed(of("i:2")));
    world.step(image_ready(0));
    assert_eq!(world.exited("main", 0, exit(0)), ["start main 1"]);
    assert_eq!(not_added(&mut world, "main", 1), ["stop sandbox"]);
    world.terminate(None);
    stopped(&mut world);
    assert!(world.pod.has_ended());
}

#[test]
fn a_supervisor_that_takes_over_continues_the_restart() {
    let of = |image| spec("Never", &[("main", image)]);
    let mut world = World::running(of("i:1"));
    world.step(changed(of("i:2")));
    world.reload();
    assert_eq!(
        world.step(restarted_with(vec![found_running(0)])),
        ["pull main", "stop main 0"]
    );
    assert_eq!(world.step(changed(of("i:2"))), [""; 0]);
    world.step(image_ready(0));
    assert_eq!(world.exited("main", 0, exit(0)), ["start main 1"]);
    // The container was not started, because its image was still being added.
    world.reload();
    assert_eq!(world.step(restarted_with(Vec::new())), ["start main 1"]);
    assert_eq!(not_added(&mut world, "main", 1), ["stop sandbox"]);
    world.reload();
    let alone = Event::SupervisorRestartedAlone {
        message: "lost".to_owned(),
    };
    assert_eq!(world.step(alone), ["start sandbox"]);
    assert_eq!(world.sandbox(), ["start main 1"]);
}

#[test]
fn a_gated_pod_waits_on_no_node_until_all_gates_are_removed() {
    let of = |gates: &[&str]| {
        let mut spec = spec("Always", &[("main", "i:1")]);
        spec["schedulingGates"] = gates.iter().map(|name| json!({"name": name})).collect();
        spec
    };
    let mut world = World::new(of(&["a", "b"]));
    assert_eq!(world.step(Event::Begin), [""; 0]);
    assert_eq!(world.step(changed(of(&["b"]))), [""; 0]);
    assert_eq!(world.deadline(), None);
    let status = world.status();
    assert_eq!((world.phase().as_str(), &status.start_time), ("Pending", &None));
    assert!(status.container_statuses.is_none());
    let conditions: Vec<_> = status
        .conditions
        .into_iter()
        .flatten()
        .map(|condition| condition.type_)
        .collect();
    assert_eq!(conditions, ["PodScheduled"]);
    assert_eq!(
        world.condition("PodScheduled"),
        "False SchedulingGated: Scheduling is blocked due to non-empty scheduling gates"
    );
    world.go_to(5);
    assert_eq!(world.step(changed(of(&[]))), ["pull main"]);
    assert_eq!(world.condition("PodScheduled"), "True");
    assert_eq!(world.changed_at("PodScheduled"), 5);
    assert!(world.status().start_time.is_some());
}

#[test]
fn a_gated_pod_can_be_deleted_and_survives_a_restart_of_its_supervisor() {
    let mut gated = spec("Always", &[("main", "i:1")]);
    gated["schedulingGates"] = json!([{"name": "a"}]);
    let mut world = World::new(gated);
    world.step(Event::Begin);
    let alone = Event::SupervisorRestartedAlone {
        message: "lost".to_owned(),
    };
    assert_eq!(world.step(alone), [""; 0]);
    assert_eq!(world.phase(), "Pending");
    world.terminate(None);
    assert!(world.pod.has_ended());
}

#[test]
fn readiness_gates_wait_for_the_conditions_of_clients() {
    let mut gated = spec("Always", &[("main", "i:1")]);
    gated["readinessGates"] = json!([{"conditionType": "example.com/a"}, {"conditionType": "example.com/b"}]);
    let mut world = World::running(gated);
    let set = |kinds: &[(&str, &str)]| Event::ConditionsSet {
        conditions: kinds
            .iter()
            .map(|(kind, status)| PodCondition {
                type_: (*kind).to_owned(),
                status: (*status).to_owned(),
                ..PodCondition::default()
            })
            .collect(),
    };
    world.step(set(&[("example.com/a", "False")]));
    assert_eq!(
        world.condition("Ready"),
        "False ReadinessGatesNotReady: the status of pod readiness gate \"example.com/a\" is not \"True\", but False, \
         corresponding condition of pod readiness gate \"example.com/b\" does not exist."
    );
    assert_eq!(world.condition("ContainersReady"), "True");
    world.step(set(&[("example.com/a", "True"), ("example.com/b", "True")]));
    assert_eq!(world.condition("Ready"), "True");
    assert_eq!(world.condition("example.com/b"), "True");
    world.reload();
}
