//! Bad input is refused with a clear message and exit code 2, and starts nothing.

use std::collections::BTreeSet;
use std::fmt::Display;

use microkube_tests::manifest::{Container, Pod};
use serde_json::json;

use crate::host::{alone, container, host, shell_pod};

/// Runs a manifest that is wrong and returns the message.
#[track_caller]
fn refused(manifest: impl Display) -> String {
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
    let pod = || shell_pod("bad", "true");
    let pod_of = |container: Container| Pod::named("bad").container(container);
    let main = || container("main", "true");
    for (field, manifest) in [
        ("kind: v1, kind Service", pod().set("kind", "Service")),
        ("metadate", pod().set("metadate", json!({ "name": "bad" }))),
        ("spec.restartPolicy", pod().restart_policy("Sometimes")),
        ("spec.initContainers", pod().init_container(Container::new("main", "b"))),
        (
            "spec.containers[0].imagePullPolice",
            pod_of(main().set("imagePullPolice", "IfNotPresent")),
        ),
        (
            "spec.containers[0].livenessProbe",
            pod_of(main().set("livenessProbe.exec", json!({}))),
        ),
        ("spec.containers[0].name", pod_of(container("Main", "true"))),
    ] {
        let message = refused(&manifest);
        assert!(message.contains(field), "{field}: {message}");
    }
    let message = refused("just text");
    assert!(message.contains("not a Kubernetes object"), "{message}");
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
    let mut lines = verbs("");
    for verb in ["image", "machine"] {
        let verbs = verbs(verb);
        assert!(!verbs.is_empty(), "{verb}");
        lines.extend(verbs.into_iter().map(|second| format!("{verb} {second}")));
    }
    for line in lines {
        let text = host().succeed(line.split(' ').chain(["--help"]));
        assert!(text.contains("\nExample"), "{line}: {text}");
    }
}

/// The verbs that the help of a verb lists, or that of the program for an empty one.
fn verbs(of: &str) -> Vec<String> {
    let help = host().succeed(of.split_whitespace().chain(["--help"]));
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty())
        // Descriptions that are too long for a line go on in the next, further to the right.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty() && *verb != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_verb_refuses_what_it_cannot_do_and_says_why() {
    let _alone = alone();
    let cases = [
        ("get pod none", 1, "pods \"none\" not found"),
        ("get", 2, "You must specify the type of resource"),
        ("get nodes", 2, "doesn't have a resource type \"nodes\""),
        ("get pods -l a=b=c", 2, "--selector"),
        ("get pods -o nope", 2, "--output"),
        ("get pods -o jsonpath={.a", 2, "--output"),
        ("get pods --sort-by={.a", 2, "--sort-by"),
        ("get -f /no/such.yaml", 2, "/no/such.yaml"),
        (
            "get pods -f /no/such.yaml",
            2,
            "may not specify resource arguments as well",
        ),
        ("get pods -R", 2, "--filename"),
        ("describe pod none", 1, "pods \"none\" not found"),
        ("describe pods -l (", 2, "--selector"),
        ("logs none", 1, "pods \"none\" not found"),
        ("logs", 2, "POD or TYPE/NAME is a required argument"),
        ("logs none --since=yesterday", 2, "--since"),
        ("logs none --tail=-2", 2, "--tail must be greater"),
        ("logs none --limit-bytes=0", 2, "--limit-bytes must be greater"),
        ("logs none -c a --all-containers", 2, "--all-containers"),
        ("exec none -- true", 1, "pods \"none\" not found"),
        ("exec none", 2, "COMMAND"),
        ("exec job/none -- true", 1, "resource type \"job\""),
        ("attach none", 1, "pods \"none\" not found"),
        ("cp none:/a /tmp/none", 1, "pods \"none\" not found"),
        ("cp a b", 2, "must be a local file specification"),
        ("cp /no/such none:/a", 1, "/no/such doesn't exist"),
        ("top pod none", 1, "pods \"none\" not found"),
        ("top pod --sort-by=age", 2, "--sort-by"),
        ("events --for pod/", 2, "--for"),
        ("events --types=Bad", 2, "Normal or Warning"),
        ("events -o wide", 2, "no more columns"),
        (
            "wait pod/none --for=condition=Ready --timeout=0",
            1,
            "pods \"none\" not found",
        ),
        ("wait pod/none --for=nothing", 2, "unrecognized condition"),
        ("wait pod/none --for=delete --timeout=soon", 2, "invalid duration"),
        ("wait pods --for=delete", 2, "no name was specified"),
        ("delete pod none", 1, "pods \"none\" not found"),
        ("delete pods", 2, "no name was specified"),
        (
            "delete pod none --grace-period=-2",
            2,
            "--grace-period must be -1 or greater",
        ),
        ("apply", 2, "--filename"),
        ("apply -f /no/such.yaml", 2, "/no/such.yaml"),
        ("apply -f /dev/null", 2, "/dev/null"),
        ("create -f /dev/zero", 2, "larger than 4 MiB"),
        ("run --detach --rm -", 2, "--rm"),
        ("run a b --image=nginx", 2, "--image makes one Pod"),
        ("explain nodes", 2, "cannot be explained"),
        ("explain pod.spec.nothing", 2, "nothing"),
        ("image inspect none", 1, "no image \"none\""),
        ("image rm none", 1, "no image \"none\""),
        ("image tag none other", 1, "no image \"none\""),
        ("image save none -o /tmp/none.tar", 1, "no image \"none\""),
        ("image load /no/such.tar", 1, "/no/such.tar"),
        ("image pull Not:A:Name", 1, "Not:A:Name"),
        ("image verify none", 1, "no image \"none\""),
        ("machine none", 2, "none"),
        ("completion tcsh", 2, "tcsh"),
        ("recover all", 2, "all"),
        ("doctor please", 2, "please"),
    ];
    let tested: BTreeSet<_> = cases
        .iter()
        .filter_map(|(line, ..)| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(tested, BTreeSet::from_iter(verbs("")));
    for (line, code, part) in cases {
        let finished = host().output(line.split(' '));
        assert_eq!(finished.code(), code, "{line}: {finished:?}");
        assert!(
            finished.stderr.contains(part),
            "{line}: {part:?} is not in {finished:?}"
        );
        assert!(!finished.stderr.contains("panicked"), "{line}: {finished:?}");
        assert_eq!(finished.stdout, "", "{line}");
    }
}

#[test]
fn a_second_pod_of_the_same_name_is_refused() {
    let _alone = alone();
    let mut first = host().start(shell_pod(
        "same",
        "echo ready; trap 'exit 0' TERM; while :; do sleep 0.1; done",
    ));
    first.wait_for("ready");
    let second = host().run(shell_pod("same", "true"));
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
