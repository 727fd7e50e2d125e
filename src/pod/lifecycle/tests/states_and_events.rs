//! Container states with their reasons, and the Pod's events.

use super::*;

fn image_failed(world: &mut World, reason: &str) -> Vec<String> {
    world.step(Event::ImageFailed {
        of: ImageUse::Container(0),
        reason: reason.to_owned(),
        message: "not found".to_owned(),
    })
}

fn waiting_message(world: &World, name: &str) -> String {
    let waiting = world.container(name).state.and_then(|state| state.waiting);
    waiting.and_then(|waiting| waiting.message).unwrap_or_default()
}

#[test]
fn containers_wait_as_container_creating_or_pod_initializing() {
    let world = World::new(json!({"containers": containers(&["web"])}));
    assert_eq!(world.state("web"), "waiting ContainerCreating");
    let world = World::new(json!({"initContainers": containers(&["init"]), "containers": containers(&["web"])}));
    assert_eq!(
        (world.state("init"), world.state("web")),
        ("waiting PodInitializing".into(), "waiting PodInitializing".into())
    );
}

#[test]
fn a_normal_start_has_the_kubelets_events() {
    let mut world =
        World::new(json!({"containers": [{"name": "web", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent"}]}));
    assert_eq!(world.step(Event::Begin), ["pull web"]);
    assert_eq!(world.events(), [""; 0]);
    world.step(Event::ImagePullStarted {
        of: ImageUse::Container(0),
    });
    world.now += Duration::from_millis(1250);
    let image_id = "sha256:1".to_owned();
    assert_eq!(
        world.step(Event::ImageReady {
            of: ImageUse::Container(0),
            image_id
        }),
        ["start sandbox"]
    );
    assert_eq!(world.sandbox(), ["start web 0"]);
    world.started("web", 0);
    assert_eq!(
        world.events(),
        [
            "Pulling: Pulling image \"nginx:1.27\"",
            "Pulled: Successfully pulled image \"nginx:1.27\" in 1.25s (1.25s including waiting)",
            "Created: Container created",
            "Started: Container started",
        ]
    );
    let status = world.container("web");
    assert_eq!(status.image_id, "sha256:1");
    assert_eq!(status.container_id.as_deref(), Some("microkube://web-0"));
    assert_eq!(
        (status.started, status.ready, status.restart_count),
        (Some(true), true, 0)
    );
}

#[test]
fn a_present_image_is_pulled_only_if_the_policy_is_always() {
    let mut world = World::new(json!({"containers": [
        {"name": "web", "image": "a", "imagePullPolicy": "IfNotPresent"}, {"name": "db", "image": "b", "imagePullPolicy": "Always"},
    ]}));
    world.step(Event::Begin);
    world.images();
    assert_eq!(
        world.events(),
        [
            "Pulling: Pulling image \"b\"",
            "Pulled: Container image \"a\" already present on machine",
            "Pulled: Successfully pulled image \"b\" in 0s (0s including waiting)",
        ]
    );
}

#[test]
fn a_failed_pull_shows_err_image_pull_and_then_image_pull_back_off() {
    let mut world = World::new(json!({"containers": [{"name": "web", "image": "nope", "imagePullPolicy": "Always"}]}));
    world.step(Event::Begin);
    world.events();
    image_failed(&mut world, "ErrImagePull");
    assert_eq!(
        world.events(),
        [
            "!Failed: Failed to pull image \"nope\": not found",
            "!Failed: Error: ErrImagePull"
        ]
    );
    assert_eq!(
        (world.state("web").as_str(), waiting_message(&world, "web").as_str()),
        ("waiting ErrImagePull", "not found")
    );
    world.go_to(1);
    assert_eq!(
        world.events(),
        [
            "BackOff: Back-off pulling image \"nope\"",
            "!Failed: Error: ImagePullBackOff"
        ]
    );
    assert_eq!(world.state("web"), "waiting ImagePullBackOff");
    assert_eq!(
        waiting_message(&world, "web"),
        "Back-off pulling image \"nope\": ErrImagePull: not found"
    );
    assert_eq!(world.phase(), "Pending");
}

#[test]
fn other_image_reasons_are_shown_unchanged() {
    for (reason, event) in [
        (
            "ErrImageNeverPull",
            "!ErrImageNeverPull: Container image \"i\" is not present with pull policy of Never",
        ),
        (
            "InvalidImageName",
            "!InspectFailed: Failed to apply default image tag \"i\": not found",
        ),
        (
            "ImageInspectError",
            "!InspectFailed: Failed to inspect image \"i\": not found",
        ),
        ("RegistryUnavailable", "!Failed: Failed to pull image \"i\": not found"),
    ] {
        let mut world = World::new(json!({"containers": containers(&["web"])}));
        world.step(Event::Begin);
        image_failed(&mut world, reason);
        assert_eq!(world.state("web"), format!("waiting {reason}"));
        assert_eq!(world.events(), [event.to_owned(), format!("!Failed: Error: {reason}")]);
        assert_eq!(world.go_to(10), ["pull web"]);
    }
}

#[test]
fn a_container_that_cannot_be_created_is_retried_with_the_same_attempt() {
    for reason in ["CreateContainerConfigError", "CreateContainerError"] {
        let mut world = World::with_sandbox(json!({"restartPolicy": "Never", "containers": containers(&["web"])}));
        world.events();
        assert_eq!(world.start_failed("web", 0, reason), [""; 0]);
        assert_eq!(world.state("web"), format!("waiting {reason}"));
        assert_eq!(waiting_message(&world, "web"), "it does not work");
        assert_eq!(world.events(), ["!Failed: Error: it does not work"]);
        assert_eq!(
            (world.container("web").restart_count, world.phase().as_str()),
            (0, "Pending")
        );
        assert_eq!(world.go_to(10), ["start web 0"]);
    }
}

#[test]
fn the_status_shows_the_user_of_the_current_or_last_container() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    assert_eq!(world.container("web").user, None);
    world.step(Event::ContainerStarted {
        attempt: ContainerAttempt::new(0, 0),
        container_id: "microkube://web-0".to_owned(),
        user: Some(ProcessUser {
            uid: 1234,
            gid: 3000,
            supplemental_gids: vec![3000, 777],
        }),
    });
    let user = json!({"linux": {"uid": 1234, "gid": 3000, "supplementalGroups": [3000, 777]}});
    let shown = |world: &World| serde_json::to_value(world.container("web").user).unwrap();
    assert_eq!(shown(&world), user);
    world.reload();
    assert_eq!(shown(&world), user);
    world.exited("web", 0, exit(1));
    assert_eq!(shown(&world), user);
    // The next attempt's own user is shown as soon as it runs.
    world.go_to(10);
    assert_eq!(shown(&world), user);
    world.started("web", 1);
    assert_eq!(world.container("web").user, None);
}

#[test]
fn a_container_that_cannot_run_ends_with_start_error_128() {
    let mut world = World::with_sandbox(json!({"restartPolicy": "Never", "containers": containers(&["web"])}));
    assert_eq!(world.start_failed("web", 0, "RunContainerError"), ["stop sandbox"]);
    assert_eq!(world.state("web"), "terminated StartError 128");

    let mut world = World::with_sandbox(json!({"containers": containers(&["web"])}));
    world.start_failed("web", 0, "RunContainerError");
    assert_eq!(world.state("web"), "waiting RunContainerError");
    assert_eq!(world.last_state("web"), "terminated StartError 128");
    assert_eq!(world.go_to(10), ["start web 1"]);
    world.start_failed("web", 1, "RunContainerError");
    world.go_to(11);
    assert_eq!(world.state("web"), "waiting CrashLoopBackOff");
}

#[test]
fn termination_reasons_are_completed_error_or_oom_killed() {
    for (exit, shown) in [
        (exit(0), "terminated Completed 0"),
        (exit(7), "terminated Error 7"),
        (Exit::of_process(0, 9, false), "terminated Error 137"),
        (Exit::of_process(0, 9, true), "terminated OOMKilled 137"),
    ] {
        let mut world = World::running(json!({"restartPolicy": "Never", "containers": containers(&["web", "db"])}));
        world.go_to(3);
        world.exited("web", 0, exit.with_message("last words".to_owned()));
        assert_eq!(world.state("web"), shown);
        let terminated = world.container("web").state.and_then(|state| state.terminated).unwrap();
        assert_eq!(terminated.message.as_deref(), Some("last words"));
        assert_eq!(terminated.container_id.as_deref(), Some("microkube://web-0"));
        assert_eq!(
            (terminated.started_at, terminated.finished_at),
            (interface::timestamp(at(0)), interface::timestamp(at(3)))
        );
    }
}

#[test]
fn a_termination_message_is_limited_as_by_kubernetes() {
    let mut world = World::running(json!({"restartPolicy": "Never", "containers": containers(&["web"])}));
    world.exited("web", 0, exit(1).with_message("é".repeat(5000)));
    let terminated = world.container("web").state.and_then(|state| state.terminated).unwrap();
    assert_eq!(terminated.message.map(|message| message.len()), Some(4096));
}

#[test]
fn the_last_state_is_that_of_the_previous_attempt() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    world.exited("web", 0, exit(3));
    world.started("web", 1);
    assert_eq!(
        (world.state("web").as_str(), world.last_state("web").as_str()),
        ("running", "terminated Error 3")
    );
    assert_eq!(world.container("web").restart_count, 1);
    world.exited("web", 1, exit(4));
    assert_eq!(
        (world.state("web").as_str(), world.last_state("web").as_str()),
        ("terminated Error 4", "terminated Error 3")
    );
    world.go_to(1);
    assert_eq!(world.last_state("web"), "terminated Error 4");
}

#[test]
fn a_failed_sandbox_is_reported_and_retried() {
    let mut world = World::new(json!({"containers": containers(&["web"])}));
    world.step(Event::Begin);
    world.images();
    world.events();
    world.step(Event::SandboxFailed {
        message: "no memory".to_owned(),
    });
    assert_eq!(
        world.events(),
        ["!FailedCreatePodSandBox: Failed to create pod sandbox: no memory"]
    );
    assert_eq!(world.go_to(10), ["start sandbox"]);
    world.step(Event::SandboxFailed {
        message: "no memory".to_owned(),
    });
    assert_eq!(world.go_to(29), [""; 0]);
    assert_eq!(world.go_to(30), ["start sandbox"]);
}

#[test]
fn events_refer_to_their_container() {
    let mut world = World::running(json!({"containers": containers(&["web", "db"])}));
    world.events.clear();
    world.exited("db", 0, exit(1));
    world.started("db", 1);
    let about = |event: &PodEvent| (event.reason, event.container);
    assert_eq!(
        world.events.iter().map(about).collect::<Vec<_>>(),
        [("Created", Some(1)), ("Started", Some(1)),]
    );
}
