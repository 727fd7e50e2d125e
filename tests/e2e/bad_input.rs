//! Bad input is refused with a clear message and exit code 1, as by kubectl, and starts nothing.

use std::collections::BTreeSet;
use std::fmt::Display;

use microkube_tests::manifest::{Container, Pod};
use serde_json::json;

use crate::host::{Running, alone, container, host, shell_pod};

/// Runs an invalid manifest and returns the message.
#[track_caller]
fn refused(manifest: impl Display) -> String {
    let before = host().leftovers();
    let finished = host().run(manifest);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert_eq!(finished.stdout, "");
    assert_eq!(host().leftovers(), before);
    finished.stderr
}

#[test]
fn invalid_manifests_are_refused_by_field() {
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
fn a_missing_manifest_is_reported_by_name() {
    let _alone = alone();
    let finished = host().output(["run", "/no/such/pod.yaml"]);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(
        finished.stderr.contains("/no/such/pod.yaml") && finished.stderr.contains("No such file"),
        "{finished:?}"
    );
}

#[test]
fn the_help_of_every_verb_has_an_example() {
    let _alone = alone();
    let mut lines = verbs("");
    for verb in ["config", "create", "create secret", "image", "machine"] {
        let verbs = verbs(verb);
        assert!(!verbs.is_empty(), "{verb}");
        lines.extend(verbs.into_iter().map(|second| format!("{verb} {second}")));
    }
    for line in lines {
        let text = host().succeed(line.split(' ').chain(["--help"]));
        assert!(text.contains("\nExample"), "{line}: {text}");
    }
}

/// The verbs listed in a verb's help; for an empty one, in the program's help.
fn verbs(of: &str) -> Vec<String> {
    let help = host().succeed(of.split_whitespace().chain(["--help"]));
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty())
        // Descriptions that are too long continue on the next line, further indented.
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|verb| !verb.is_empty() && *verb != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_verb_refuses_unsupported_input_with_a_reason() {
    let _alone = alone();
    let cases = [
        ("get pod none", 1, "pods \"none\" not found"),
        ("get", 1, "You must specify the type of resource"),
        (
            "get nodes",
            1,
            "microkube: the server doesn't have a resource type \"nodes\"",
        ),
        ("get pods -l a=b=c", 1, "--selector"),
        ("get pods -o nope", 1, "--output"),
        ("get pods -o jsonpath={.a", 1, "--output"),
        (
            "get pods -o jsonpath-file=/no/such",
            1,
            "error reading --template /no/such",
        ),
        ("get pods -o go-template", 1, "no template given"),
        ("get pods -o jsonpath --template={.a", 1, "unclosed action"),
        (
            "get pods --template={{.a}",
            1,
            "error parsing template {{.a}, template: output:1:",
        ),
        ("get pods -o go-template={{.a}", 1, "bad character U+007D '}'"),
        ("get pods -o go-template={{nope}}", 1, "function \"nope\" not defined"),
        (
            "get pods -o go-template-file=/no/such",
            1,
            "error reading --template /no/such",
        ),
        ("get pods -o go-template-file=/dev/zero", 1, "larger than 65536 bytes"),
        ("get pods -o custom-columns-file=/dev/null", 1, "missing header line"),
        ("get pods --sort-by={.a", 1, "--sort-by"),
        ("get pods --subresource=scale", 1, "--subresource"),
        ("get pods --subresource=status", 1, "bulk resources are specified"),
        ("get pods --output-watch-events", 1, "--watch"),
        ("get pods --chunk-size=many", 1, "--chunk-size"),
        ("get events --field-selector=message=a", 1, "field label not supported"),
        ("get events --show-labels", 1, "events have no labels"),
        ("get event/none", 1, "events \"none\" not found"),
        ("get event/none pod/none", 1, "events are shown alone"),
        (
            "get pods --allow-missing-template-keys=maybe",
            1,
            "--allow-missing-template-keys",
        ),
        ("get -f /no/such.yaml", 1, "/no/such.yaml"),
        ("get cm none", 1, "Error (NotFound): configmaps \"none\" not found"),
        ("get sc/none", 1, "storageclasses.storage.k8s.io \"none\" not found"),
        ("get cm,nodes", 1, "doesn't have a resource type \"nodes\""),
        ("get cm/", 1, "must have a single resource and name"),
        ("get cm a -A", 1, "cannot be retrieved by name across all namespaces"),
        (
            "get cm --field-selector=type=a",
            1,
            "\"type\" is not a known field selector",
        ),
        ("get cm --field-selector=type", 1, "can't understand 'type'"),
        (
            "get pods -f /no/such.yaml",
            1,
            "may not specify resource arguments as well",
        ),
        ("get pods -R", 1, "--filename"),
        ("describe pod none", 1, "pods \"none\" not found"),
        ("describe pods -l (", 1, "--selector"),
        ("describe secret none", 1, "secrets \"none\" not found"),
        ("logs none", 1, "pods \"none\" not found"),
        ("logs", 1, "POD or TYPE/NAME is a required argument"),
        ("logs none --since=yesterday", 1, "--since"),
        ("logs none --tail=-2", 1, "--tail must be greater"),
        ("logs none --limit-bytes=0", 1, "--limit-bytes must be greater"),
        ("logs none -c a --all-containers", 1, "--all-containers"),
        ("exec none -- true", 1, "pods \"none\" not found"),
        ("exec none", 1, "COMMAND"),
        ("exec job/none -- true", 1, "resource type \"job\""),
        ("attach none", 1, "pods \"none\" not found"),
        ("debug none --image=busybox", 1, "pods \"none\" not found"),
        ("debug none", 1, "you must specify --image when not using --copy-to"),
        (
            "debug none --image=busybox --replace",
            1,
            "--replace may only be used with --copy-to",
        ),
        ("debug node/none --image=busybox", 1, "cannot debug node"),
        ("cp none:/a /tmp/none", 1, "pods \"none\" not found"),
        ("cp a b", 1, "must be a local file specification"),
        ("cp /no/such none:/a", 1, "/no/such doesn't exist"),
        ("port-forward none 80", 1, "pods \"none\" not found"),
        ("port-forward job/none 80", 1, "resource type \"job\""),
        (
            "port-forward none",
            1,
            "TYPE/NAME and list of ports are required for port-forward",
        ),
        ("port-forward none 80 --address=here", 1, "here is not a valid IP"),
        (
            "port-forward none 80 --pod-running-timeout=0s",
            1,
            "--pod-running-timeout must be higher than zero",
        ),
        ("top pod none", 1, "pods \"none\" not found"),
        ("top pod --sort-by=age", 1, "--sort-by"),
        ("events --for pod/", 1, "--for"),
        ("events --types=Bad", 1, "Normal or Warning"),
        ("events -o wide", 1, "wide is not supported"),
        ("events -o go-template", 1, "no template given"),
        ("events -o jsonpath --template={.a", 1, "unclosed action"),
        (
            "wait pod/none --for=condition=Ready --timeout=0",
            1,
            "pods \"none\" not found",
        ),
        ("wait pod/none --for=nothing", 1, "unrecognized condition"),
        ("wait pod/none --for=delete --timeout=soon", 1, "invalid duration"),
        ("wait pods --for=delete", 1, "no name was specified"),
        ("wait pod/none --for=delete -o wide", 1, "wide is not supported"),
        ("wait pod/none --for=delete -o template", 1, "no template given"),
        ("delete pod none", 1, "pods \"none\" not found"),
        ("delete pods", 1, "no name was specified"),
        ("delete cm none", 1, "configmaps \"none\" not found"),
        (
            "delete cm none --all",
            1,
            "name cannot be provided when --all is specified",
        ),
        ("delete cm none --dry-run=maybe", 1, "--dry-run"),
        (
            "delete ns default",
            1,
            "namespaces \"default\" is forbidden: this namespace may not be deleted",
        ),
        (
            "delete pod none --grace-period=-2",
            1,
            "--grace-period must be -1 or greater",
        ),
        ("apply", 1, "--filename"),
        ("apply -f /no/such.yaml", 1, "/no/such.yaml"),
        ("apply -f /dev/null", 1, "/dev/null"),
        ("create -f /dev/zero", 1, "larger than 4 MiB"),
        (
            "apply -f /no/such.yaml --server-side",
            1,
            "--server-side is not supported",
        ),
        ("replace", 1, "--filename"),
        ("replace -f /no/such.yaml", 1, "/no/such.yaml"),
        (
            "replace -f /no/such.yaml --force --dry-run=server",
            1,
            "--dry-run can not be used when --force is set",
        ),
        ("patch configmap none -p {}", 1, "configmaps \"none\" not found"),
        ("patch configmap none", 1, "must specify --patch or --patch-file"),
        ("patch nodes none -p {}", 1, "doesn't have a resource type \"nodes\""),
        ("patch configmap none -p {}{", 1, "unable to parse the patch"),
        ("patch configmap none -p {} --type=apply", 1, "--type"),
        ("patch configmap none -p {} --subresource=scale", 1, "--subresource"),
        ("patch pod none -p {}", 1, "pods \"none\" not found"),
        ("label configmap none a=b", 1, "configmaps \"none\" not found"),
        ("label configmap none", 1, "at least one label update is required"),
        ("label a=b", 1, "one or more resources must be specified"),
        ("label configmap none a=b/c", 1, "invalid label value"),
        ("label configmap a=b", 1, "no name was specified"),
        (
            "label configmap a=b --field-selector=type=b",
            1,
            "not a known field selector",
        ),
        ("label configmap none --local a=b", 1, "can only use local files"),
        ("patch configmap none --local -p {}", 1, "--local and server resources"),
        ("annotate secret/none a=b", 1, "secrets \"none\" not found"),
        ("annotate secret/none a=b a-", 1, "can not both modify and remove"),
        ("annotate secret/none", 1, "at least one annotation update is required"),
        ("edit configmap none", 1, "configmaps \"none\" not found"),
        ("edit configmap none --validate=maybe", 1, "--validate"),
        ("replace -f /no/such.yaml --validate=maybe", 1, "--validate"),
        (
            "replace -f /no/such.yaml --grace-period=1",
            1,
            "must have --force specified",
        ),
        ("replace -f /no/such.yaml --force --timeout=soon", 1, "invalid duration"),
        ("edit", 1, "one or more resources must be specified"),
        ("edit configmap none -o wide", 1, "wide"),
        ("diff", 2, "--filename"),
        ("apply -f /no/such.yaml --overwrite=maybe", 1, "--overwrite"),
        ("apply -f /no/such.yaml --grace-period=soon", 1, "--grace-period"),
        ("apply view-last-applied cm/none", 1, "configmaps \"none\" not found"),
        ("apply view-last-applied cm", 1, "no name was specified"),
        ("apply set-last-applied", 1, "--filename"),
        ("apply edit-last-applied cm/none", 1, "configmaps \"none\" not found"),
        (
            "apply -f /no/such.yaml --all -l a=b",
            1,
            "cannot set --all and --selector",
        ),
        ("diff -f /no/such.yaml -l a=b=c", 2, "--selector"),
        ("diff -f /no/such.yaml", 2, "/no/such.yaml"),
        ("create", 1, "--filename"),
        ("create job a", 1, "job"),
        ("create cm", 1, "<NAME>"),
        (
            "create cm A",
            1,
            "failed to create configmap: ConfigMap \"A\" is invalid: metadata.name",
        ),
        (
            "create cm a --from-literal=b",
            1,
            "invalid literal source b, expected key=value",
        ),
        ("create cm a --from-file=/no/such", 1, "error reading /no/such"),
        (
            "create cm a --from-file=b=/dev/zero",
            1,
            "/dev/zero is larger than 1048576 bytes",
        ),
        ("create secret", 1, "docker-registry"),
        (
            "create secret generic a --from-literal=b/c=d",
            1,
            "\"b/c\" is not valid key name for a Secret",
        ),
        (
            "create secret docker-registry a",
            1,
            "the combination of --docker-username",
        ),
        (
            "create secret tls a --cert=/dev/null --key=/dev/null",
            1,
            "failed to find any PEM data",
        ),
        ("create ns default -o wide", 1, "--output"),
        ("create ns default -o go-template", 1, "no template given"),
        (
            "create ns none --dry-run=client --template={{.a}",
            1,
            "error parsing template {{.a}, template: output:1:",
        ),
        ("label cm none a=b -o jsonpath", 1, "no template given"),
        (
            "patch cm none -p {} --template={{nope}}",
            1,
            "function \"nope\" not defined",
        ),
        (
            "annotate cm none a=b --allow-missing-template-keys=maybe",
            1,
            "--allow-missing-template-keys",
        ),
        ("api-resources --namespaced=maybe", 1, "--namespaced"),
        ("run --detach --rm -", 1, "--rm"),
        ("run a b --image=nginx", 1, "--image creates one Pod"),
        ("explain nodes", 1, "doesn't have a resource type \"nodes\""),
        ("explain pod.spec.nothing", 1, "nothing"),
        ("explain cm.dat", 1, "did you mean \"data\"?"),
        (
            "explain cm -o markdown",
            1,
            "-o markdown works only for all fields of Pods",
        ),
        ("image inspect none", 1, "no image \"none\""),
        ("image rm none", 1, "no image \"none\""),
        ("image tag none other", 1, "no image \"none\""),
        ("image save none -o /tmp/none.tar", 1, "no image \"none\""),
        ("image load /no/such.tar", 1, "/no/such.tar"),
        ("image pull Not:A:Name", 1, "Not:A:Name"),
        ("image verify none", 1, "no image \"none\""),
        ("machine none", 1, "none"),
        ("completion tcsh", 1, "tcsh"),
        ("config none", 1, "none"),
        ("config view -o wide", 1, "wide"),
        ("version -o wide", 1, "wide"),
        ("recover all", 1, "all"),
        ("doctor please", 1, "please"),
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
fn doctor_passes_on_this_host() {
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

#[test]
fn a_faulty_configuration_file_is_refused_and_nothing_is_done() {
    let _alone = alone();
    let before = host().leftovers();
    let manifest = host().manifest(&shell_pod("bad-config", "true"));
    let config = host().file("bad-config.yaml", "network:\n  podCidr: 10.99.0.0/16\n");
    let mut command = host().microkube(["run", manifest.to_str().unwrap()]);
    command.env("MICROKUBE_CONFIG", &config);
    let finished = Running::start(command, None).finish();
    assert_eq!((finished.code(), &*finished.stdout), (1, ""), "{finished:?}");
    let config = config.display();
    assert_eq!(
        finished.stderr,
        format!("{config}:2:3: network: unknown key \"podCidr\"; did you mean \"podCIDR\"?\n")
    );
    assert_eq!(host().leftovers(), before);
}
