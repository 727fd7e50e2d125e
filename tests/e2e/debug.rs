//! Ephemeral containers, copies of Pods for debugging, and restarts of all containers in place.

use microkube_tests::manifest::Pod;
use serde_json::json;

use crate::detached_pod::Detached;
use crate::host::{alone, container, host, image, shell_pod, wait_until};

/// Ends on SIGTERM.
const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn debug(pod: &str, args: &[&str]) -> crate::host::Finished {
    host().output([&["debug", pod, "--quiet", "--attach"][..], args].concat())
}

#[test]
fn a_container_with_another_image_joins_a_running_pod() {
    let _alone = alone();
    let pod = Detached::start(&shell_pod("ephemeral", WAIT));
    pod.wait_ready();
    let id = pod.container("main")["containerID"].clone();

    // The VM does not have the layers of this image yet.
    let nginx = image("nginx");
    let script = "ls /etc/nginx/nginx.conf; cat /etc/hostname; exit 3";
    let finished = debug(
        "ephemeral",
        &["--image", &nginx, "-c", "tools", "--", "sh", "-c", script],
    );
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(finished.stdout, "/etc/nginx/nginx.conf\nephemeral\n", "{finished:?}");
    assert_eq!(pod.logs("tools"), finished.stdout);

    // With these layers, and in the process namespace of the other container.
    let script = "tr '\\0' ' ' < /proc/1/cmdline";
    let finished = debug(
        "ephemeral",
        &[
            "--image", &nginx, "-c", "target", "--target", "main", "--", "sh", "-c", script,
        ],
    );
    assert!(finished.stdout.contains("trap"), "{finished:?}");

    // The original keeps running, and its containers can be reached.
    let busybox = image("busybox");
    host().succeed([
        "debug",
        "ephemeral",
        "--image",
        &busybox,
        "-c",
        "stays",
        "--",
        "sh",
        "-c",
        WAIT,
    ]);
    wait_until("the added container runs", || {
        host().output(["exec", "ephemeral", "-c", "stays", "--", "true"]).code() == 0
    });
    let shown = pod.get();
    let statuses = shown["status"]["ephemeralContainerStatuses"].as_array().unwrap();
    assert_eq!(statuses.len(), 3, "{shown}");
    assert_eq!(statuses[0]["state"]["terminated"]["exitCode"], 3, "{shown}");
    assert_eq!(shown["status"]["phase"], "Running");
    assert_eq!(pod.container("main")["containerID"], id);
    assert_eq!(pod.container("main")["restartCount"], 0);
    let page = host().succeed(["describe", "pod", "ephemeral"]);
    assert!(page.contains("Ephemeral Containers:\n  tools:"), "{page}");

    let again = debug("ephemeral", &["--image", &busybox, "-c", "main", "--", "true"]);
    assert_eq!(again.code(), 1);
    assert!(
        again
            .stderr
            .contains("spec.ephemeralContainers[3].name: Duplicate value: \"main\""),
        "{again:?}"
    );
    pod.delete();
}

#[test]
fn a_copy_of_a_pod_runs_another_command() {
    let _alone = alone();
    let pod = Detached::start(&shell_pod("original", "exit 1").restart_policy("Never"));
    pod.wait_phase("Failed");
    let copy = Detached("original-debug".to_owned());
    let finished = debug(
        "original",
        &[
            "--copy-to",
            &copy.0,
            "-c",
            "main",
            "--share-processes=false",
            "--",
            "sh",
            "-c",
            "echo copied",
        ],
    );
    assert_eq!(
        (finished.code(), finished.stdout.as_str()),
        (0, "copied\n"),
        "{finished:?}"
    );
    copy.wait_phase("Succeeded");
}

#[test]
fn an_exit_code_restarts_all_containers_in_place() {
    let _alone = alone();
    let rules = json!([{ "action": "RestartAllContainers", "exitCodes": { "operator": "In", "values": [42] } }]);
    // The first run ends with the rule's exit code.
    let main = container(
        "main",
        "until [ -e /data/other ]; do sleep 0.1; done; [ $(wc -l < /data/init) = 2 ] || exit 42; trap 'exit 0' TERM; while :; do sleep 0.1; done",
    )
    .mount("data", "/data")
    .set("restartPolicy", "Never")
    .set("restartPolicyRules", rules);
    let pod = Detached::start(
        &Pod::named("restarted")
            .restart_policy("Never")
            .empty_dir("data")
            .init_container(container("init", "echo >> /data/init").mount("data", "/data"))
            .container(main)
            .container(container("other", "touch /data/other; while :; do sleep 0.1; done").mount("data", "/data")),
    );
    wait_until("all containers have restarted", || {
        let pod = pod.get();
        let statuses = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        statuses.len() == 2
            && statuses
                .iter()
                .all(|status| status["restartCount"] == 1 && status["ready"] == true)
    });
    assert_eq!(pod.container("init")["restartCount"], 1);
    let last = &pod.container("other")["lastState"]["terminated"];
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&json!("RestartingAllContainers"), &json!(137))
    );
    let conditions = host().succeed([
        "get",
        "pod",
        "restarted",
        "-o",
        "jsonpath={.status.conditions[?(@.type==\"AllContainersRestarting\")].status}",
    ]);
    assert_eq!(conditions, "False");
    pod.delete();
}
