//! Several processes at the same images, and processes that die.

use std::process::Stdio;

use crate::server::{Options, Registry, layout, result};

#[test]
fn pulls_of_several_processes_give_one_image() {
    let registry = Registry::start(&Options::default());
    registry.push(&layout("configured"), "app", &[]);
    let pulls: Vec<_> = (0..6)
        .map(|_| {
            let mut command = registry.microkube(["image", "pull", "-q", &registry.image("app")]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let ids: Vec<_> = pulls
        .into_iter()
        .map(|pull| result(pull.wait_with_output().unwrap()).unwrap())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(
        std::fs::read_dir(registry.path("state/images/tmp"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn a_pull_that_is_killed_leaves_what_the_next_one_clears_away() {
    let registry = Registry::start(&Options::default());
    registry.push(&layout("busybox"), "app", &[]);
    for wait in [0, 1, 2, 4, 8, 16, 32, 64] {
        let mut command = registry.microkube(["image", "pull", "-q", &registry.image("app")]);
        let mut pull = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Wherever it is by then: what follows holds in any case.
        std::thread::sleep(std::time::Duration::from_millis(wait));
        pull.kill().unwrap();
        pull.wait().unwrap();
    }
    registry.pull("app").unwrap();
    assert!(
        std::fs::read_dir(registry.path("state/images/tmp"))
            .unwrap()
            .next()
            .is_none()
    );
}
