//! Several processes that use the same images, and processes that die.

use std::process::Stdio;

use crate::server::{Options, Registry, layout, result};

#[test]
fn concurrent_pulls_by_several_processes_give_one_image() {
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
fn a_pull_removes_the_remains_of_a_killed_one() {
    let registry = Registry::start(&Options::default());
    registry.push(&layout("busybox"), "app", &[]);
    for wait in [0, 1, 2, 4, 8, 16, 32, 64] {
        let mut command = registry.microkube(["image", "pull", "-q", &registry.image("app")]);
        let mut pull = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // The process may be at any point by then: the assertions below hold in any case.
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
