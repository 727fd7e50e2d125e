//! Restarts and their back-off.

use super::*;

/// Makes a container crash after running for `after` seconds; returns how many seconds later it is started again.
fn crash(world: &mut World, attempt: u32, after: u64) -> u64 {
    let end = world.now.as_secs() - EPOCH + after;
    world.go_to(end);
    let at_once = world.exited("web", attempt, exit(1));
    let next = format!("start web {}", attempt + 1);
    if at_once == [next.as_str()] {
        world.started("web", attempt + 1);
        return 0;
    }
    for wait in 1..=400 {
        if world.go_to(end + wait).contains(&next) {
            world.started("web", attempt + 1);
            return wait;
        }
    }
    panic!("it is not restarted");
}

#[test]
fn the_first_restart_is_immediate_then_10_seconds_are_doubled_up_to_300() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    let waits: Vec<u64> = (0..9).map(|attempt| crash(&mut world, attempt, 1)).collect();
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(world.container("web").restart_count, 9);
}

#[test]
fn ten_minutes_of_clean_run_reset_the_back_off() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    assert_eq!([0, 1, 2].map(|attempt| crash(&mut world, attempt, 1)), [0, 10, 20]);
    assert_eq!(crash(&mut world, 3, 600), 40, "ten minutes include the last second");
    assert_eq!(crash(&mut world, 4, 601), 0);
    assert_eq!(crash(&mut world, 5, 1), 10);
}

#[test]
fn crash_loop_back_off_has_the_kubelets_message_and_event() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    for attempt in 0..4 {
        crash(&mut world, attempt, 0);
    }
    world.events();
    world.exited("web", 4, exit(1));
    assert_eq!(
        world.state("web"),
        "terminated Error 1",
        "the status first shows how it ended"
    );
    world.go_to(world.now.as_secs() - EPOCH + 1);
    let waiting = world.container("web").state.and_then(|state| state.waiting).unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 1m20s restarting failed container=web pod=web_default(u-1)")
    );
    assert_eq!(
        world.events(),
        ["!BackOff: Back-off restarting failed container web in pod web_default(u-1)"]
    );
}

#[test]
fn image_pulls_back_off_from_10_to_300_seconds() {
    let mut world = World::new(json!({"containers": containers(&["web"])}));
    world.step(Event::Begin);
    let mut waits = Vec::new();
    let mut now = 0;
    for _ in 0..7 {
        world.step(Event::ImageFailed {
            of: ImageUse::Container(0),
            reason: "ErrImagePull".to_owned(),
            message: "x".to_owned(),
        });
        let wait = (1..=400).find(|wait| world.go_to(now + wait) == ["pull web"]).unwrap();
        waits.push(wait);
        now += wait;
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn restart_policies_depend_on_the_exit_code() {
    for (policy, code, restarted) in [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ] {
        let mut world = World::running(json!({"restartPolicy": policy, "containers": containers(&["web"])}));
        let next = world.exited("web", 0, exit(code));
        assert_eq!(next == ["start web 1"], restarted, "{policy} {code}");
    }
}

#[test]
fn the_default_policy_is_always() {
    let mut world = World::running(json!({"containers": containers(&["web"])}));
    assert_eq!(world.exited("web", 0, exit(0)), ["start web 1"]);
}

#[test]
fn a_containers_policy_and_rules_override_the_pods() {
    let rules =
        |operator: &str| json!([{"action": "Restart", "exitCodes": {"operator": operator, "values": [42, 43]}}]);
    for (own, rules, code, restarted) in [
        ("Always", Value::Null, 0, true),
        ("OnFailure", Value::Null, 1, true),
        ("Never", rules("In"), 42, true),
        ("Never", rules("In"), 44, false),
        ("Never", rules("NotIn"), 42, false),
        ("Never", rules("NotIn"), 44, true),
    ] {
        let mut world = World::running(json!({"restartPolicy": "Never", "containers": [
            {"name": "web", "image": "i", "restartPolicy": own, "restartPolicyRules": rules},
        ]}));
        let next = world.exited("web", 0, exit(code));
        assert_eq!(next == ["start web 1"], restarted, "{own} {rules} {code}");
    }
}
