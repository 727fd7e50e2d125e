//! Fields of the status besides states, phase and conditions.

use super::*;

fn observed(world: &World) -> (Option<i64>, Vec<(String, Option<i64>)>) {
    let status = world.status();
    let conditions = status.conditions.into_iter().flatten();
    let of_conditions = conditions.map(|condition| (condition.type_, condition.observed_generation));
    (status.observed_generation, of_conditions.collect())
}

#[test]
fn the_status_has_the_observed_generation() {
    let mut pod = pod_of(json!({"containers": containers(&["a"])}));
    pod.metadata.generation = Some(1);
    let mut world = World::of(&pod);
    let (of_status, of_conditions) = observed(&world);
    assert_eq!(of_status, Some(1));
    assert_eq!(of_conditions.len(), 5);
    assert!(
        of_conditions.iter().all(|(_, generation)| *generation == Some(1)),
        "{of_conditions:?}"
    );

    world.step(Event::Begin);
    world.images();
    world.sandbox();
    world.started("a", 0);
    // The Pod's deletion increments its generation once.
    for grace in [10, 5] {
        world.terminate(Some(grace));
        let (of_status, of_conditions) = observed(&world);
        assert_eq!(of_status, Some(2));
        assert_eq!(of_conditions.len(), 5);
        for (kind, generation) in of_conditions {
            let expected = if kind == "PodScheduled" { 1 } else { 2 };
            assert_eq!(generation, Some(expected), "{kind}");
        }
    }
}

#[test]
fn only_a_deletion_increases_the_generation_and_an_old_pod_has_none() {
    let mut pod = pod_of(json!({"containers": containers(&["a"]), "activeDeadlineSeconds": 5}));
    pod.metadata.generation = Some(1);
    let mut world = World::of(&pod);
    world.step(Event::Begin);
    world.go_to(60);
    assert_eq!(world.phase(), "Failed");
    assert_eq!(observed(&world).0, Some(1));
    let world = World::new(json!({"containers": containers(&["a"])}));
    assert_eq!(observed(&world).0, None);
}

#[test]
fn a_created_container_shows_its_resources_and_mounts() {
    let mut world = World::new(json!({"containers": [{
        "name": "a", "image": "i",
        "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/etc/app", "readOnly": true, "subPath": "app"},
        ],
    }, {"name": "b", "image": "i"}]}));
    let shown = |world: &World, name: &str| serde_json::to_value(world.container(name)).unwrap();
    let mounts = json!([
        {"name": "data", "mountPath": "/data"},
        {"name": "config", "mountPath": "/etc/app", "readOnly": true, "recursiveReadOnly": "Disabled"},
    ]);
    let status = shown(&world, "a");
    assert_eq!((&status["resources"], &status["volumeMounts"]), (&Value::Null, &mounts));

    world.step(Event::Begin);
    world.images();
    world.sandbox();
    world.started("a", 0);
    let status = shown(&world, "a");
    let resources = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!((&status["resources"], &status["volumeMounts"]), (&resources, &mounts));
    assert_eq!(status["allocatedResources"], json!({"cpu": "100m"}));
    let status = shown(&world, "b");
    assert_eq!(status["resources"], json!({}));
    assert_eq!(
        (&status["allocatedResources"], &status["volumeMounts"]),
        (&Value::Null, &Value::Null)
    );
}
