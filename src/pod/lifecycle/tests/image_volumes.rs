//! Volumes that show images.

use super::*;

const MODEL: ImageUse = ImageUse::Volume(0);

/// A Pod with one image volume, which only `web` mounts, and with images for its containers.
fn world() -> World {
    let mut world = World::new(json!({
        "containers": [
            {"name": "web", "image": "i", "volumeMounts": [{"name": "model", "mountPath": "/model"}]},
            {"name": "other", "image": "i"},
        ],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "model", "image": {"reference": "model:v1", "pullPolicy": "IfNotPresent"}},
        ],
    }));
    assert_eq!(
        world.step(Event::Begin),
        ["pull volume 0", "pull web", "pull other"],
        "volumes come first"
    );
    world.images();
    world.events();
    world
}

fn failed(of: ImageUse, reason: &str) -> Event {
    Event::ImageFailed {
        of,
        reason: reason.to_owned(),
        message: "not found".to_owned(),
    }
}

fn ready(of: ImageUse) -> Event {
    Event::ImageReady {
        of,
        image_id: "sha256:m".to_owned(),
    }
}

fn waiting(world: &World, name: &str) -> (String, String) {
    let waiting = world.container(name).state.and_then(|state| state.waiting).unwrap();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

#[test]
fn the_sandbox_waits_for_the_image_and_the_events_concern_the_pod() {
    let mut world = world();
    assert_eq!(world.step(Event::ImagePullStarted { of: MODEL }), [""; 0]);
    world.now += Duration::from_millis(500);
    assert_eq!(world.step(ready(MODEL)), ["start sandbox"]);
    assert!(world.events.iter().all(|event| event.container.is_none()));
    assert_eq!(
        world.events(),
        [
            "Pulling: Pulling image \"model:v1\"",
            "Pulled: Successfully pulled image \"model:v1\" in 500ms (500ms including waiting)",
        ]
    );
    assert_eq!(world.sandbox(), ["start web 0", "start other 0"]);
}

#[test]
fn containers_that_mount_the_volume_wait_with_the_kubelets_reasons() {
    let mut world = world();
    world.step(failed(MODEL, "ErrImagePull"));
    assert_eq!(
        waiting(&world, "web"),
        ("ErrImagePull".to_owned(), "not found".to_owned())
    );
    assert_eq!(waiting(&world, "other").0, "ContainerCreating");
    assert_eq!(
        world.events.iter().map(|event| event.container).collect::<Vec<_>>(),
        [None, Some(0)]
    );
    assert_eq!(
        world.events(),
        [
            "!Failed: Failed to pull image \"model:v1\": not found",
            "!Failed: Error: ErrImagePull",
        ]
    );
    assert_eq!(world.go_to(1), [""; 0]);
    let back_off = "Back-off pulling image \"model:v1\": ErrImagePull: not found";
    assert_eq!(
        waiting(&world, "web"),
        ("ImagePullBackOff".to_owned(), back_off.to_owned())
    );
    assert_eq!(
        world.events(),
        [
            "BackOff: Back-off pulling image \"model:v1\"",
            "!Failed: Error: ImagePullBackOff",
        ]
    );
    assert_eq!(world.go_to(9), [""; 0]);
    assert_eq!(world.go_to(10), ["pull volume 0"]);
    assert_eq!(world.step(ready(MODEL)), ["start sandbox"]);
}

#[test]
fn an_image_that_must_not_be_pulled_is_looked_for_every_ten_seconds() {
    let mut world = world();
    world.step(failed(MODEL, "ErrImageNeverPull"));
    assert_eq!(
        world.events(),
        [
            "!ErrImageNeverPull: Container image \"model:v1\" is not present with pull policy of Never",
            "!Failed: Error: ErrImageNeverPull",
        ]
    );
    for seconds in [10, 20, 30] {
        assert_eq!(waiting(&world, "web").0, "ErrImageNeverPull");
        assert_eq!(world.go_to(seconds), ["pull volume 0"]);
        world.step(failed(MODEL, "ErrImageNeverPull"));
    }
}

#[test]
fn all_containers_wait_for_a_volume_that_none_mounts() {
    let mut world = World::new(json!({
        "containers": containers(&["web", "other"]), "volumes": [{"name": "model", "image": {"reference": "model"}}],
    }));
    world.step(Event::Begin);
    world.images();
    world.step(failed(MODEL, "ErrImagePull"));
    for name in ["web", "other"] {
        assert_eq!(world.state(name), "waiting ErrImagePull");
    }
}

#[test]
fn the_image_of_a_volume_is_shown_before_the_containers_own() {
    let mut world = World::new(json!({
        "containers": [{"name": "web", "image": "i", "volumeMounts": [{"name": "model", "mountPath": "/model"}]}],
        "volumes": [{"name": "model", "image": {"reference": "model"}}],
    }));
    world.step(Event::Begin);
    world.step(failed(ImageUse::Container(0), "InvalidImageName"));
    assert_eq!(world.state("web"), "waiting InvalidImageName");
    world.step(failed(MODEL, "ErrImagePull"));
    assert_eq!(world.state("web"), "waiting ErrImagePull");
}

#[test]
fn another_supervisor_repeats_the_pull_and_keeps_the_image() {
    let mut world = world();
    world.reload();
    let alone = || Event::SupervisorRestartedAlone {
        message: "no VM".to_owned(),
    };
    assert_eq!(world.step(alone()), ["pull volume 0"]);
    world.step(ready(MODEL));
    world.sandbox();
    for name in ["web", "other"] {
        world.started(name, 0);
    }
    world.reload();
    let found = vec![found_running(0), found_running(1)];
    assert_eq!(world.step(restarted_with(found)), [""; 0]);
    let words = world.lose_sandbox();
    assert!(!words.iter().any(|word| word.starts_with("pull")), "{words:?}");
}
