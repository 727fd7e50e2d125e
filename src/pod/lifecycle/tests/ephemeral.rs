//! Containers that are added to a running Pod.

use k8s_openapi::api::core::v1::EphemeralContainer;

use super::*;

impl World {
    /// Adds an ephemeral container; returns the actions in words.
    fn add(&mut self, name: &str) -> Vec<String> {
        let container: EphemeralContainer =
            serde_json::from_value(json!({"name": name, "image": "i"})).expect("it has a name and an image");
        self.names.push(name.to_owned());
        let actions = self.pod.add_ephemeral(self.now, &container, None);
        self.words(actions)
    }

    fn image_of(&mut self, name: &str) -> Vec<String> {
        let container = self.index(name);
        self.step(Event::ImageReady {
            of: ImageUse::Container(container),
            image_id: "sha256:d".to_owned(),
        })
    }

    fn ephemeral(&self, name: &str) -> ContainerStatus {
        let statuses = self.status().ephemeral_container_statuses.unwrap_or_default();
        let status = statuses.into_iter().find(|status| status.name == name);
        status.expect("every ephemeral container has a status")
    }

    fn ephemeral_state(&self, name: &str) -> String {
        state_words(&self.ephemeral(name).state.expect("every container has a state"))
    }
}

fn running() -> World {
    World::running(json!({"restartPolicy": "Never", "containers": containers(&["web"])}))
}

#[test]
fn an_added_container_starts_when_its_image_is_there() {
    let mut world = running();
    assert_eq!(world.status().ephemeral_container_statuses, None);
    assert_eq!(world.add("debug"), ["pull debug"]);
    assert_eq!(world.ephemeral_state("debug"), "waiting ContainerCreating");
    assert_eq!(world.image_of("debug"), ["start debug 0"]);
    assert_eq!(world.started("debug", 0), [""; 0]);
    let status = world.ephemeral("debug");
    assert_eq!(world.ephemeral_state("debug"), "running");
    assert_eq!((status.ready, status.started, status.resources), (false, None, None));
    assert_eq!(world.status().container_statuses.map(|all| all.len()), Some(1));
}

#[test]
fn it_is_never_restarted_and_does_not_change_the_phase() {
    let mut world = running();
    world.add("debug");
    world.image_of("debug");
    world.started("debug", 0);
    assert_eq!(world.exited("debug", 0, exit(3)), [""; 0]);
    assert_eq!(world.ephemeral_state("debug"), "terminated Error 3");
    assert_eq!(world.go_to(1000), [""; 0]);
    assert_eq!(
        (world.phase().as_str(), world.condition("Ready").as_str()),
        ("Running", "True")
    );
    assert_eq!(world.exited("web", 0, exit(0)), ["stop sandbox"]);
    assert_eq!((world.phase().as_str(), world.pod.exit_code()), ("Succeeded", 0));
}

#[test]
fn the_pod_ends_without_waiting_for_it_to_end_on_its_own() {
    let mut world = running();
    world.add("debug");
    world.image_of("debug");
    world.started("debug", 0);
    assert_eq!(world.exited("web", 0, exit(0)), ["stop debug 0"]);
    assert_eq!(world.exited("debug", 0, exit(143)), ["stop sandbox"]);
    assert_eq!(world.phase(), "Succeeded");
}

#[test]
fn it_starts_while_init_containers_run() {
    let mut world =
        World::with_sandbox(json!({"initContainers": containers(&["init"]), "containers": containers(&["web"])}));
    world.started("init", 0);
    world.add("debug");
    assert_eq!(world.image_of("debug"), ["start debug 0"]);
    world.started("debug", 0);
    assert_eq!(world.phase(), "Pending");
    assert_eq!(world.exited("init", 0, exit(0)), ["start web 0"]);
}

#[test]
fn the_sandbox_does_not_wait_for_its_image() {
    let mut world = World::new(json!({"containers": containers(&["web"])}));
    world.step(Event::Begin);
    world.add("debug");
    let ready = Event::ImageReady {
        of: ImageUse::Container(0),
        image_id: "sha256:1".to_owned(),
    };
    assert_eq!(world.step(ready), ["start sandbox"]);
    assert_eq!(world.sandbox(), ["start web 0"]);
    assert_eq!(world.image_of("debug"), ["start debug 0"]);
}

#[test]
fn it_ends_with_its_sandbox() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    world.add("debug");
    world.image_of("debug");
    world.started("debug", 0);
    world.add("late");
    assert!(world.lose_sandbox().contains(&"start sandbox".to_owned()));
    assert_eq!(world.ephemeral_state("debug"), "terminated ContainerStatusUnknown 137");
    assert_eq!(world.sandbox(), ["start web 1"]);
    assert_eq!(world.image_of("late"), ["start late 0"], "it never ran");
}

#[test]
fn a_container_that_cannot_be_created_is_tried_again() {
    let mut world = running();
    world.add("debug");
    world.image_of("debug");
    world.start_failed("debug", 0, "CreateContainerConfigError");
    assert_eq!(world.ephemeral_state("debug"), "waiting CreateContainerConfigError");
    assert_eq!(world.go_to(10), ["start debug 0"]);
    world.start_failed("debug", 0, "StartError");
    assert_eq!(world.go_to(1000), [""; 0]);
    assert_eq!(world.ephemeral_state("debug"), "terminated StartError 128");
}

#[test]
fn sidecars_do_not_wait_for_it() {
    let mut world = World::with_sandbox(json!({
        "initContainers": [{"name": "mesh", "image": "i", "restartPolicy": "Always"}], "containers": containers(&["web"]),
    }));
    world.started("mesh", 0);
    world.started("web", 0);
    world.add("debug");
    world.image_of("debug");
    world.started("debug", 0);
    assert_eq!(world.terminate(None), ["stop web 0", "stop debug 0"]);
    assert_eq!(world.exited("web", 0, exit(0)), ["stop mesh 0"]);
}

#[test]
fn a_restart_of_all_containers_leaves_it_running() {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut world = World::running(json!({"containers": [
        {"name": "web", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rules},
    ]}));
    world.add("debug");
    world.image_of("debug");
    world.started("debug", 0);
    world.exited("web", 0, exit(42));
    assert_eq!(world.go_to(1), ["start web 1"]);
    assert_eq!(world.ephemeral_state("debug"), "running");
}

#[test]
fn the_next_supervisor_finds_it() {
    let mut world = running();
    world.add("debug");
    world.image_of("debug");
    world.started("debug", 0);
    world.reload();
    assert_eq!(world.pod.ephemeral_count(), 1);
    let found = ["web", "debug"].map(|name| found_running(world.index(name)));
    assert_eq!(world.step(restarted_with(found.to_vec())), [""; 0]);
    assert_eq!(world.ephemeral_state("debug"), "running");
}
