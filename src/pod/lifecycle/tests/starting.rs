//! The order in which containers start.

use super::*;

/// Containers with these names; a `+` stands for a postStart hook.
fn spec(names: &[&str]) -> Value {
    let container = |name: &&str| {
        let mut container = json!({"name": name.trim_end_matches('+'), "image": "i"});
        if name.ends_with('+') {
            container["lifecycle"] = json!({"postStart": {"exec": {"command": ["wait"]}}});
        }
        container
    };
    json!({"restartPolicy": "Always", "containers": names.iter().map(container).collect::<Value>()})
}

fn starting(spec: Value) -> (World, Vec<String>) {
    let mut world = World::new(spec);
    world.step(Event::Begin);
    world.images();
    let words = world.sandbox();
    (world, words)
}

#[test]
fn a_post_start_hook_delays_the_containers_after_it() {
    let (mut world, words) = starting(spec(&["a", "proxy+", "b", "c+", "d"]));
    assert_eq!(words, ["start a 0", "start proxy 0"]);
    assert_eq!(world.started("a", 0), Vec::<String>::new());
    assert_eq!(world.started("proxy", 0), ["run PostStart proxy 0 for ever"]);
    assert_eq!(world.state("b"), "waiting ContainerCreating");
    assert_eq!(
        world.go_to(500),
        Vec::<String>::new(),
        "containers wait for a hook of any length"
    );
    assert_eq!(
        world.hook("proxy", 0, Hook::PostStart, Ok(())),
        ["start b 0", "start c 0"]
    );
    world.started("b", 0);
    world.started("c", 0);
    assert_eq!(world.phase(), "Pending");
    assert_eq!(world.hook("c", 0, Hook::PostStart, Ok(())), ["start d 0"]);
    world.started("d", 0);
    assert_eq!(world.phase(), "Running");
}

#[test]
fn containers_without_hooks_are_started_together_in_spec_order() {
    let (_, words) = starting(spec(&["c", "a", "b"]));
    assert_eq!(words, ["start c 0", "start a 0", "start b 0"]);
}

#[test]
fn a_failed_or_backed_off_container_delays_no_other() {
    let (mut world, _) = starting(spec(&["a+", "b"]));
    assert_eq!(world.start_failed("a", 0, "CreateContainerConfigError"), ["start b 0"]);
    let (mut world, _) = starting(spec(&["a+", "b"]));
    assert_eq!(world.start_failed("a", 0, "StartError"), ["start b 0"]);
    let (mut world, _) = starting(spec(&["a+", "b"]));
    world.started("a", 0);
    assert_eq!(
        world.hook("a", 0, Hook::PostStart, Err("no")),
        ["stop a 0", "start b 0"]
    );
    let (mut world, _) = starting(spec(&["a+", "b"]));
    world.started("a", 0);
    assert_eq!(
        world.exited("a", 0, exit(1)),
        ["cancel PostStart a 0", "start a 1"],
        "immediately the first time"
    );
    assert_eq!(world.exited("a", 1, exit(1)), ["start b 0"], "it backs off");
    // A start that is not answered is abandoned.
    let (mut world, _) = starting(spec(&["a+", "b"]));
    assert_eq!(world.go_to(120), ["kill a 0", "start b 0"]);
}

#[test]
fn a_hanging_start_does_not_fail_the_starts_after_it() {
    let (mut world, words) = starting(spec(&["a", "b", "c"]));
    assert_eq!(words, ["start a 0", "start b 0", "start c 0"]);
    assert_eq!(world.go_to(120), ["kill a 0"]);
    // The guest continues with the next container.
    assert_eq!(world.go_to(125), [""; 0]);
    world.started("b", 0);
    assert_eq!(world.state("b"), "running");
    // The timeout of each start begins when the previous start is over.
    assert_eq!(world.go_to(244), ["start a 1"], "it was lost at 130");
    assert_eq!(world.go_to(245), ["kill c 0"]);
    // The second start of a was requested at 130, but its timeout begins when the start of c is over.
    assert_eq!(world.go_to(364), ["start c 1"]);
    assert_eq!(world.go_to(365), ["kill a 1"]);
}

#[test]
fn restarted_containers_wait_for_hooks_too() {
    let (mut world, _) = starting(spec(&["a", "b+", "c"]));
    world.started("a", 0);
    world.started("b", 0);
    assert_eq!(world.exited("a", 0, exit(1)), Vec::<String>::new());
    assert_eq!(world.hook("b", 0, Hook::PostStart, Ok(())), ["start a 1", "start c 0"]);
    world.started("a", 1);
    world.started("c", 0);
    // The hook of the next attempt does not delay running containers, but delays the restart of those that end
    // meanwhile.
    assert_eq!(world.exited("b", 0, exit(0)), ["start b 1"]);
    assert_eq!(world.exited("c", 0, exit(0)), Vec::<String>::new());
    world.started("b", 1);
    assert_eq!(world.hook("b", 1, Hook::PostStart, Ok(())), ["start c 1"]);
}

#[test]
fn a_restarted_supervisor_keeps_the_order_of_pending_starts() {
    let (mut world, words) = starting(spec(&["a", "b+", "c"]));
    assert_eq!(words, ["start a 0", "start b 0"]);
    world.reload();
    let restarted = restarted_with(Vec::new());
    assert_eq!(world.step(restarted), ["start a 0", "start b 0"]);
    world.started("a", 0);
    world.started("b", 0);
    world.reload();
    let found = vec![found_running(0), found_running(1)];
    let restarted = restarted_with(found);
    assert_eq!(world.step(restarted), ["run PostStart b 0 for ever"]);
    assert_eq!(world.hook("b", 0, Hook::PostStart, Ok(())), ["start c 0"]);
}
