//! Pods that the node does not run.

use super::*;

fn spec() -> Value {
    json!({ "containers": [{ "name": "a", "image": "i" }] })
}

fn invalid(world: &mut World) -> Vec<String> {
    world.step(Event::Invalid {
        message: "Error validating pod".to_owned(),
    })
}

#[test]
fn a_rejected_pod_fails_without_starting_anything() {
    let mut world = World::new(spec());
    let actions = world.step(Event::Rejected {
        reason: "SysctlForbidden",
        message: "forbidden sysctl: \"kernel.sem\" not allowlisted".to_owned(),
    });
    assert_eq!(actions, [""; 0]);
    assert!(world.pod.has_ended());
    assert_eq!(world.pod.deadline(), None);
    assert_eq!(world.pod.exit_code(), 1);
    let [event] = &world.events[..] else {
        panic!("{:?}", world.events)
    };
    assert!(event.warning);
    assert_eq!(event.reason, "SysctlForbidden");
    assert_eq!(event.message, "forbidden sysctl: \"kernel.sem\" not allowlisted");
    let status = world.pod.status(world.now);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("SysctlForbidden"));
    assert_eq!(
        status.message.as_deref(),
        Some("Pod was rejected: forbidden sysctl: \"kernel.sem\" not allowlisted")
    );
    assert_eq!(status.container_statuses, None);
    let conditions: Vec<String> = status.conditions.unwrap().into_iter().map(|one| one.type_).collect();
    assert_eq!(conditions, ["PodScheduled"]);
}

#[test]
fn an_invalid_pod_stays_pending_until_it_is_deleted() {
    let mut world = World::new(spec());
    assert_eq!(invalid(&mut world), [""; 0]);
    assert_eq!(world.events[0].reason, "FailedValidation");
    assert_eq!(world.pod.deadline(), None);
    assert!(!world.pod.has_begun());
    let status = world.pod.status(world.now);
    let scheduled = status.conditions.as_deref().unwrap_or_default();
    assert!(
        matches!(scheduled, [only] if only.type_ == "PodScheduled" && only.status == "True"),
        "{scheduled:?}"
    );
    let expected = PodStatus {
        phase: Some("Pending".to_owned()),
        qos_class: Some("BestEffort".to_owned()),
        conditions: status.conditions.clone(),
        ..PodStatus::default()
    };
    assert_eq!(status, expected, "what the API server and the scheduler write");
    let lost = Event::SupervisorRestartedAlone {
        message: "x".to_owned(),
    };
    assert_eq!(world.step(lost), [""; 0], "the supervisor has not checked it again");
    world.step(Event::TerminateRequested {
        grace: None,
        deletion: true,
    });
    assert!(world.pod.has_ended());
}

#[test]
fn an_invalid_pod_starts_once_the_node_accepts_it() {
    let mut world = World::new(spec());
    invalid(&mut world);
    assert_eq!(world.step(Event::Begin), ["pull a"]);
    let status = world.pod.status(world.now);
    assert_eq!(status.container_statuses.map(|all| all.len()), Some(1));
    assert_eq!(status.conditions.map(|all| all.len()), Some(5));
    assert_eq!(invalid(&mut world), [""; 0]);
    assert_eq!(world.events.len(), 1, "it runs already");
}

#[test]
fn a_pod_is_checked_when_its_last_scheduling_gate_is_removed() {
    let mut gated = spec();
    gated["schedulingGates"] = json!([{ "name": "a" }]);
    let removed = || Event::PodChanged {
        change: PodChange::of(&pod_of(spec())),
    };
    let mut world = World::new(gated.clone());
    world.step(Event::Begin);
    invalid(&mut world);
    assert_eq!(world.step(removed()), [""; 0]);
    assert!(!world.pod.has_begun());
    let mut world = World::new(gated);
    world.step(Event::Begin);
    world.step(Event::Rejected {
        reason: "AppArmor",
        message: "x".to_owned(),
    });
    assert_eq!(world.step(removed()), [""; 0]);
    assert!(world.pod.has_ended());
}

fn unplaced(message: &str) -> Event {
    Event::Unplaced {
        why: Some(NotPlaced {
            is_error: false,
            message: message.to_owned(),
        }),
    }
}

#[test]
fn a_pod_without_volumes_is_not_scheduled_until_it_has_them() {
    let mut world = World::new(spec());
    assert_eq!(world.step(Event::Unplaced { why: None }), [""; 0]);
    assert_eq!(
        world.pod.status(world.now).conditions,
        Some(Vec::new()),
        "the scheduler has not tried"
    );
    for message in ["no claim", "no volume"] {
        assert_eq!(world.step(unplaced(message)), [""; 0]);
        assert_eq!(
            world.condition("PodScheduled"),
            format!("False Unschedulable: {message}")
        );
    }
    // Another supervisor looks for volumes again.
    world.step(Event::Unplaced { why: None });
    let lost = Event::SupervisorRestartedAlone {
        message: "x".to_owned(),
    };
    assert_eq!(world.step(lost), [""; 0]);
    let status = world.pod.status(world.now);
    assert_eq!((status.phase.as_deref(), status.start_time), (Some("Pending"), None));
    assert_eq!(status.container_statuses, None);
    assert_eq!(status.conditions.map(|all| all.len()), Some(1));

    world.go_to(5);
    assert_eq!(world.step(Event::Begin), ["pull a"]);
    assert_eq!(world.condition("PodScheduled"), "True");
    assert_eq!(world.changed_at("PodScheduled"), 5);
    assert_eq!(world.step(unplaced("late")), [""; 0]);
    assert_eq!(world.condition("PodScheduled"), "True");
}

#[test]
fn an_attempt_to_place_a_pod_may_fail_itself() {
    let mut world = World::new(spec());
    let why = NotPlaced {
        is_error: true,
        message: "binding volumes".to_owned(),
    };
    world.step(Event::Unplaced { why: Some(why) });
    assert_eq!(world.condition("PodScheduled"), "False SchedulerError: binding volumes");
    invalid(&mut world);
    assert_eq!(
        world.condition("PodScheduled"),
        "True",
        "it was placed before it was checked"
    );
}

#[test]
fn the_last_gate_of_a_pod_without_volumes_does_not_start_it() {
    let mut gated = spec();
    gated["schedulingGates"] = json!([{ "name": "a" }]);
    let mut world = World::new(gated);
    world.step(Event::Unplaced { why: None });
    assert!(world.condition("PodScheduled").starts_with("False SchedulingGated"));
    let removed = Event::PodChanged {
        change: PodChange::of(&pod_of(spec())),
    };
    assert_eq!(world.step(removed), [""; 0]);
    assert!(!world.pod.has_begun());
    assert_eq!(world.step(Event::Begin), ["pull a"]);
}

#[test]
fn a_pod_without_volumes_can_be_deleted() {
    let mut world = World::new(spec());
    world.step(unplaced("no claim"));
    world.step(Event::TerminateRequested {
        grace: None,
        deletion: true,
    });
    assert!(world.pod.has_ended());
}
