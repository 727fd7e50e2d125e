//! The conditions of a Pod.

use super::*;

const KINDS: [&str; 5] = [
    "PodScheduled",
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
];

fn condition_letters(world: &World) -> String {
    let truth = |kind: &&str| {
        if world.condition(kind).starts_with("True") {
            'T'
        } else {
            'F'
        }
    };
    KINDS.iter().map(truth).collect()
}

#[test]
fn conditions_become_true_in_order_with_their_times() {
    let mut world = World::new(json!({
        "initContainers": [
            {"name": "init", "image": "i"},
            {"name": "mesh", "image": "i", "restartPolicy": "Always"},
        ],
        "containers": [{"name": "web", "image": "i", "readinessProbe": {"tcpSocket": {"port": 80}}}],
    }));
    assert_eq!(condition_letters(&world), "TFFFF");
    assert_eq!(
        world.condition("Initialized"),
        "False ContainersNotInitialized: containers with incomplete status: [init mesh]"
    );
    assert_eq!(
        world.condition("Ready"),
        "False ContainersNotReady: containers with unready status: [mesh web]"
    );
    world.step(Event::Begin);
    world.images();
    world.go_to(3);
    world.sandbox();
    assert_eq!(condition_letters(&world), "TTFFF");
    world.started("init", 0);
    world.exited("init", 0, exit(0));
    assert_eq!(
        world.condition("Initialized"),
        "False ContainersNotInitialized: containers with incomplete status: [mesh]"
    );
    world.go_to(5);
    world.started("mesh", 0);
    assert_eq!(condition_letters(&world), "TTTFF");
    world.started("web", 0);
    assert_eq!(
        world.condition("ContainersReady"),
        "False ContainersNotReady: containers with unready status: [web]"
    );
    world.go_to(8);
    world.probed("web", 0, ProbeKind::Readiness, true);
    assert_eq!(condition_letters(&world), "TTTTT");
    world.go_to(9);
    assert_eq!(KINDS.map(|kind| world.changed_at(kind)), [0, 3, 5, 8, 8]);
}

#[test]
fn without_init_containers_a_pod_is_initialized_at_once() {
    let world = World::new(json!({"containers": containers(&["web"])}));
    assert_eq!(world.condition("Initialized"), "True");
}

#[test]
fn a_pod_without_its_sandbox_is_not_ready_to_start_containers() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    assert_eq!(condition_letters(&world), "TTTTT");
    world.go_to(7);
    world.lose_sandbox();
    assert_eq!(world.condition("PodReadyToStartContainers"), "False");
    assert_eq!(world.changed_at("PodReadyToStartContainers"), 7);
    world.sandbox();
    assert_eq!(world.condition("PodReadyToStartContainers"), "True");
}

#[test]
fn a_pod_stays_initialized_while_a_sidecar_restarts() {
    let mut world = World::with_sandbox(json!({
        "initContainers": [{"name": "mesh", "image": "i", "restartPolicy": "Always"}], "containers": containers(&["web"]),
    }));
    world.started("mesh", 0);
    world.started("web", 0);
    world.exited("mesh", 0, exit(1));
    assert_eq!(world.condition("Initialized"), "True");
    assert_eq!(
        world.condition("Ready"),
        "False ContainersNotReady: containers with unready status: [mesh]"
    );
}

#[test]
fn ended_pods_have_the_reason_pod_completed_or_pod_failed() {
    for (code, reason, initialized) in [
        (0, "False PodCompleted", "True PodCompleted"),
        (1, "False PodFailed", "True"),
    ] {
        let mut world = World::running(json!({"restartPolicy": "Never", "containers": containers(&["web"])}));
        world.exited("web", 0, exit(code));
        assert_eq!(world.condition("Ready"), reason);
        assert_eq!(world.condition("ContainersReady"), reason);
        assert_eq!(world.condition("Initialized"), initialized);
    }
}

#[test]
fn unmet_readiness_gates_keep_a_pod_not_ready() {
    let mut spec = json!({"containers": containers(&["web"])});
    spec["readinessGates"] = json!([{"conditionType": "example.org/gate"}]);
    let world = World::running(spec);
    assert_eq!(world.condition("ContainersReady"), "True");
    assert_eq!(
        world.condition("Ready"),
        "False ReadinessGatesNotReady: corresponding condition of pod readiness gate \"example.org/gate\" does not exist."
    );
}

#[test]
fn the_status_has_the_pods_addresses_class_and_start() {
    let mut world = World::new(json!({"containers": containers(&["web"])}));
    assert_eq!((world.status().start_time, world.status().pod_ip), (None, None));
    world.go_to(2);
    world.step(Event::Begin);
    world.images();
    world.sandbox();
    let status = world.status();
    assert_eq!(status.start_time, interface::timestamp(at(2)));
    assert_eq!(
        (status.pod_ip.as_deref(), status.host_ip.as_deref()),
        (Some("10.88.0.2"), Some("10.88.0.1"))
    );
    assert_eq!(status.pod_ips.map(|ips| ips.len()), Some(1));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.init_container_statuses, None);
}
