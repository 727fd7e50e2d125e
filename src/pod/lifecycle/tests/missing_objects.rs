//! Containers whose ConfigMaps or Secrets are missing.

use super::*;

const MISSING: &str = "configmap \"x\" not found";

fn waiting() -> World {
    let mut world = World::with_sandbox(json!({"restartPolicy": "Always", "containers": containers(&["a", "b"])}));
    world.started("b", 0);
    world.events();
    assert_eq!(world.config_unavailable("a", 0, MISSING), Vec::<String>::new());
    world
}

#[test]
fn the_container_waits_and_shows_what_is_missing() {
    let mut world = waiting();
    let state = world.container("a").state.unwrap().waiting.unwrap();
    assert_eq!(state.reason.as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(state.message.as_deref(), Some(MISSING));
    assert_eq!(world.events(), ["!Failed: Error: configmap \"x\" not found"]);
    assert_eq!(world.state("b"), "running");
    assert_eq!(world.phase(), "Pending");
}

#[test]
fn it_is_tried_again_after_the_kubelets_pause() {
    let mut world = waiting();
    assert_eq!(world.go_to(9), Vec::<String>::new());
    assert_eq!(world.go_to(10), ["start a 0"]);
    world.config_unavailable("a", 0, MISSING);
    assert_eq!(world.go_to(20), ["start a 0"]);
}

#[test]
fn a_change_of_objects_starts_it_at_once_without_counting_a_restart() {
    let mut world = waiting();
    world.reload();
    assert_eq!(world.step(Event::ObjectsChanged), ["start a 0"]);
    world.started("a", 0);
    assert_eq!(world.state("a"), "running");
    assert_eq!(world.container("a").restart_count, 0);
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.step(Event::ObjectsChanged), Vec::<String>::new());
}

#[test]
fn a_restarted_container_that_misses_an_object_keeps_its_last_state() {
    let mut world = World::running(json!({"restartPolicy": "Always", "containers": containers(&["a"])}));
    world.exited("a", 0, exit(3));
    world.config_unavailable("a", 1, MISSING);
    assert_eq!(world.state("a"), "waiting CreateContainerConfigError");
    assert_eq!(world.last_state("a"), "terminated Error 3");
    assert_eq!(world.step(Event::ObjectsChanged), ["start a 1"]);
    world.started("a", 1);
    assert_eq!(world.container("a").restart_count, 1);
}

#[test]
fn other_failures_are_not_tried_earlier() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["a"])}));
    world.start_failed("a", 0, "CreateContainerError");
    assert_eq!(world.step(Event::ObjectsChanged), Vec::<String>::new());
}

#[test]
fn a_pod_that_ends_does_not_wait_for_objects() {
    let mut world = World::with_sandbox(json!({"containers": containers(&["a"])}));
    world.terminate(None);
    world.config_unavailable("a", 0, MISSING);
    assert_eq!(world.step(Event::ObjectsChanged), Vec::<String>::new());
    assert!(
        world.phase() == "Failed" || world.phase() == "Succeeded",
        "{}",
        world.phase()
    );
}
