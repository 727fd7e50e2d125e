//! Rules with the action `RestartAllContainers`.

use super::*;

fn rules() -> Value {
    json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}])
}

/// An init container, a sidecar, a container with the rule, and another one.
fn spec() -> Value {
    json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "init", "image": "i"},
            {"name": "mesh", "image": "i", "restartPolicy": "Always"},
        ],
        "containers": [
            {"name": "main", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rules()},
            {"name": "other", "image": "i", "lifecycle": {"preStop": {"exec": {"command": ["true"]}}}},
        ],
    })
}

fn running() -> World {
    let mut world = World::with_sandbox(spec());
    world.started("init", 0);
    world.exited("init", 0, exit(0));
    for name in ["mesh", "main", "other"] {
        world.started(name, 0);
    }
    assert_eq!(world.phase(), "Running");
    world
}

#[test]
fn the_others_are_killed_at_once_and_all_start_again_in_order() {
    let mut world = running();
    assert_eq!(world.condition("AllContainersRestarting"), "False");
    world.events();
    assert_eq!(world.exited("main", 0, exit(42)), ["kill mesh 0", "kill other 0"]);
    assert_eq!(
        world.events(),
        ["Killing: Stopping container mesh", "Killing: Stopping container other"]
    );
    assert_eq!(
        world.condition("AllContainersRestarting"),
        "True RestartAllContainersStarted: container exited with restart policy rule"
    );
    world.exited("mesh", 0, killed());
    assert_eq!(world.state("main"), "terminated Error 42");
    assert_eq!(world.exited("other", 0, killed()), [""; 0]);
    for name in ["init", "mesh", "main", "other"] {
        assert_eq!(world.state(name), "waiting RestartingAllContainers", "{name}");
        assert_eq!(
            world.last_state(name),
            "terminated RestartingAllContainers 137",
            "{name}"
        );
        assert_eq!(world.container(name).restart_count, 1, "{name}");
    }
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.condition("Initialized"), "True");
    assert_eq!(world.go_to(1), ["start init 1"]);
    assert_eq!(world.condition("AllContainersRestarting"), "False");
    world.started("init", 1);
    assert_eq!(world.phase(), "Pending");
    assert_eq!(world.exited("init", 1, exit(0)), ["start mesh 1"]);
    assert_eq!(world.started("mesh", 1), ["start main 1", "start other 1"]);
    world.started("main", 1);
    world.started("other", 1);
    assert_eq!(world.phase(), "Running");
    assert_eq!(world.container("main").restart_count, 1);
    assert_eq!(world.status().pod_ip.as_deref(), Some("10.88.0.2"), "the sandbox stays");
}

#[test]
fn containers_that_have_ended_for_good_start_again() {
    let mut world = running();
    world.exited("other", 0, exit(0));
    world.exited("main", 0, exit(42));
    world.exited("mesh", 0, killed());
    world.go_to(1);
    world.started("init", 1);
    world.exited("init", 1, exit(0));
    assert_eq!(world.started("mesh", 1), ["start main 1", "start other 1"]);
}

#[test]
fn a_rule_of_an_init_container_or_a_sidecar_restarts_all() {
    for (policy, before) in [("Never", "Pending"), ("Always", "Pending")] {
        let mut world = World::with_sandbox(json!({
            "restartPolicy": "Never",
            "initContainers": [
                {"name": "one", "image": "i"},
                {"name": "two", "image": "i", "restartPolicy": policy, "restartPolicyRules": rules()},
            ],
            "containers": containers(&["main"]),
        }));
        world.started("one", 0);
        assert_eq!(world.exited("one", 0, exit(0)), ["start two 0"]);
        assert_eq!(world.exited("two", 0, exit(42)), [""; 0]);
        assert_eq!(world.phase(), before);
        assert_eq!(world.state("main"), "waiting PodInitializing", "it never ran");
        assert_eq!(world.go_to(1), ["start one 1"]);
        assert_eq!(world.container("main").restart_count, 0);
    }
}

#[test]
fn the_first_matching_rule_counts() {
    let rule = |action: &str| json!({"action": action, "exitCodes": {"operator": "In", "values": [42]}});
    for (first, second, restarts_all) in [
        ("Restart", "RestartAllContainers", false),
        ("RestartAllContainers", "Restart", true),
    ] {
        let mut world = World::running(json!({"restartPolicy": "Never", "containers": [
            {"name": "main", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [rule(first), rule(second)]},
            {"name": "other", "image": "i"},
        ]}));
        let next = world.exited("main", 0, exit(42));
        assert_eq!(next == ["kill other 0"], restarts_all, "{next:?}");
    }
}

#[test]
fn the_exits_of_killed_containers_trigger_nothing() {
    let rules = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}]);
    let container =
        |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Never", "restartPolicyRules": rules});
    let mut world = World::running(json!({"containers": [container("a"), container("b")]}));
    world.exited("a", 0, exit(1));
    world.exited("b", 0, killed());
    assert_eq!(world.go_to(1), ["start a 1", "start b 1"]);
    world.started("a", 1);
    world.started("b", 1);
    assert_eq!(world.go_to(100), [""; 0]);
    assert_eq!(world.container("b").restart_count, 1);
}

#[test]
fn a_container_that_triggers_it_at_every_start_restarts_all_once_a_second() {
    let mut world = World::running(json!({"containers": [
        {"name": "main", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rules()},
    ]}));
    for attempt in 0..5 {
        assert_eq!(world.exited("main", attempt, exit(42)), [""; 0]);
        let next = world.now.as_secs() - EPOCH + 1;
        assert_eq!(world.go_to(next), [format!("start main {}", attempt + 1)]);
        world.started("main", attempt + 1);
    }
    assert_eq!(world.container("main").restart_count, 5);
}

#[test]
fn a_pod_that_ends_does_not_restart_its_containers() {
    let mut world = running();
    world.exited("main", 0, exit(42));
    world.terminate(None);
    world.exited("mesh", 0, killed());
    assert_eq!(world.exited("other", 0, killed()), ["stop sandbox"]);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(world.condition("AllContainersRestarting"), "False PodFailed");
}

#[test]
fn a_failed_init_container_after_the_restart_fails_the_pod() {
    let mut world = running();
    world.exited("main", 0, exit(42));
    world.exited("mesh", 0, killed());
    world.exited("other", 0, killed());
    world.go_to(1);
    world.started("init", 1);
    assert_eq!(world.exited("init", 1, exit(1)), ["stop sandbox"]);
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn the_next_supervisor_continues_the_restart() {
    let mut world = running();
    world.exited("main", 0, exit(42));
    world.reload();
    let found = ["mesh", "other"].map(|name| found_running(world.index(name)));
    let next = world.step(restarted_with(found.to_vec()));
    assert!(
        next.contains(&"kill mesh 0".to_owned()) && next.contains(&"kill other 0".to_owned()),
        "{next:?}"
    );
    world.exited("mesh", 0, killed());
    world.exited("other", 0, killed());
    assert_eq!(world.go_to(1), ["start init 1"]);
}

#[test]
fn a_restart_continues_in_a_new_sandbox() {
    let mut world = running();
    world.exited("main", 0, exit(42));
    assert!(world.lose_sandbox().contains(&"start sandbox".to_owned()));
    world.go_to(2);
    assert_eq!(world.sandbox(), ["start init 1"]);
}

#[test]
fn only_pods_with_such_a_rule_have_the_condition() {
    let world = World::running(json!({"containers": containers(&["web"])}));
    let conditions = world.status().conditions.unwrap_or_default();
    assert!(
        conditions
            .iter()
            .all(|condition| condition.type_ != "AllContainersRestarting")
    );
}
