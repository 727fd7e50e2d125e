//! Bad input is refused with a clear message and exit code 2, and starts nothing.

use crate::host::{alone, host, shell_pod};

/// Runs a manifest that is wrong and returns the message.
#[track_caller]
fn refused(manifest: &str) -> String {
    let before = host().leftovers();
    let finished = host().run(manifest);
    assert_eq!(finished.code(), 2, "{finished:?}");
    assert_eq!(finished.stdout, "");
    assert_eq!(host().leftovers(), before);
    finished.stderr
}

#[test]
fn manifests_that_are_wrong_are_refused_by_field() {
    let _alone = alone();
    let good = shell_pod("good", "true");
    let cases = [
        ("just text", "just text".to_owned()),
        ("kind", good.replace("kind: Pod", "kind: Service")),
        (
            "spec.containers[0].imagePullPolice",
            good.replace("imagePullPolicy", "imagePullPolice"),
        ),
        ("metadate", good.replace("metadata:", "metadate:")),
        (
            "restartPolicy",
            good.replace("restartPolicy: Never", "restartPolicy: Sometimes"),
        ),
        (
            "spec.containers[0].livenessProbe",
            good.replace("    command:", "    livenessProbe: {exec: {}}\n    command:"),
        ),
        (
            "spec.initContainers",
            good.replace(
                "  containers:",
                "  initContainers: [{name: main, image: b}]\n  containers:",
            ),
        ),
        ("spec.containers[0].name", good.replace("name: main", "name: Main")),
    ];
    for (field, manifest) in cases {
        let message = refused(&manifest);
        assert!(field == "just text" || message.contains(field), "{field}: {message}");
    }
}

#[test]
fn a_manifest_that_does_not_exist_is_named() {
    let _alone = alone();
    let finished = host().output(["run", "/no/such/pod.yaml"]);
    assert_eq!(finished.code(), 2, "{finished:?}");
    assert!(
        finished.stderr.contains("/no/such/pod.yaml") && finished.stderr.contains("No such file"),
        "{finished:?}"
    );
}

#[test]
fn every_verb_explains_itself_with_an_example() {
    let _alone = alone();
    for verb in [
        &["run"][..],
        &["explain"],
        &["image"],
        &["image", "pull"],
        &["image", "load"],
        &["image", "ls"],
        &["image", "rm"],
        &["doctor"],
        &["machine"],
        &["machine", "exec"],
    ] {
        let text = host().succeed([verb, &["--help"]].concat());
        assert!(text.contains("Example"), "{verb:?}: {text}");
    }
}

#[test]
fn a_second_pod_of_the_same_name_is_refused() {
    let _alone = alone();
    let mut first = host().start(&shell_pod(
        "same",
        "echo ready; trap 'exit 0' TERM; while :; do sleep 0.1; done",
    ));
    first.wait_for("ready");
    let second = host().run(&shell_pod("same", "true"));
    assert_eq!(second.code(), 1, "{second:?}");
    assert!(second.stderr.contains("already exists"), "{second:?}");
    first.signal(libc::SIGTERM);
    first.finish().success();
}

#[test]
fn the_doctor_finds_this_host_in_order() {
    let _alone = alone();
    let text = host().succeed(["doctor"]);
    for requirement in [
        "root",
        "kvm",
        "network",
        "scratch disk",
        "guest kernel",
        "vmm",
        "image store",
    ] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(requirement) && line.contains("yes")),
            "{requirement}: {text}"
        );
    }
}
