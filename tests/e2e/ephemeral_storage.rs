//! Limits of local storage: a Pod beyond one is evicted, with the kubelet's messages.

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::detached_pod::Detached;
use crate::host::{alone, container, host, shell_pod};

/// Runs `script`, and then until it is killed.
fn endless(script: &str) -> String {
    format!("{script}; echo done; sleep 1000 & wait")
}

/// Asserts that the Pod is evicted for this reason, although its containers would be restarted.
#[track_caller]
fn assert_evicted(pod: &Detached, message: &str) {
    pod.wait_phase("Failed");
    let status = pod.get()["status"].clone();
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("Evicted"), &json!(message)),
        "{status}"
    );
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    assert!(
        conditions
            .iter()
            .all(|condition| condition["type"] != "DisruptionTarget"),
        "{status}"
    );
    assert!(host().event_reasons(&pod.0).contains(&"Evicted".to_owned()));
    let described = host().succeed(["describe", "pod", &pod.0]);
    assert!(
        described.contains("Reason:") && described.contains("Evicted") && described.contains(message.trim_end()),
        "{described}"
    );
}

fn with_data(name: &str, volume: Value, script: &str) -> Pod {
    let main = container("main", &endless(script)).mount("data", "/data");
    let memory = json!({ "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } });
    Pod::named(name)
        .restart_policy("Always")
        .volume(json!({ "name": "data", "emptyDir": volume }))
        .volume(memory)
        .container(main.mount("memory", "/memory"))
}

#[test]
fn a_volume_beyond_its_size_limit_evicts_the_pod_and_one_below_it_does_not() {
    let _alone = alone();
    let fill = "dd if=/dev/zero of=/data/file bs=1M count=8 2> /dev/null";
    // A volume in memory is full at its limit, and evicts no Pod.
    let below = format!("{fill}; dd if=/dev/zero of=/memory/file bs=1M count=2 2>&1 | grep -o 'No space left'");
    let below = Detached::start(&with_data("below", json!({ "sizeLimit": "9Mi" }), &below));
    below.wait_for_log("main", "done");
    let beyond = Detached::start(&with_data("beyond", json!({ "sizeLimit": "7168Ki" }), fill));
    assert_evicted(&beyond, "Usage of EmptyDir volume \"data\" exceeds the limit \"7Mi\". ");
    assert_eq!(beyond.container("main")["restartCount"], 0);
    assert_eq!(below.get()["status"]["phase"], "Running");
    assert_eq!(below.logs("main"), "No space left\ndone\n");
    // What is deleted does not count any more.
    let grow = "rm /data/file; dd if=/dev/zero of=/data/other bs=1M count=8 2> /dev/null; sync; sleep 3; echo fits";
    assert_eq!(host().succeed(["exec", "below", "--", "sh", "-c", grow]), "fits\n");
    assert_eq!(below.get()["status"]["phase"], "Running");
    host().output(["exec", "below", "--", "sh", "-c", "cat /data/other >> /data/more"]);
    assert_evicted(&below, "Usage of EmptyDir volume \"data\" exceeds the limit \"9Mi\". ");
}

/// A Pod whose total limit is far away from what its container `main` can use.
fn beside_a_generous_container(name: &str, main: Container) -> Pod {
    Pod::named(name)
        .restart_policy("Always")
        .container(main.limit("ephemeral-storage", "4Mi"))
        .container(container("other", &endless("true")).limit("ephemeral-storage", "1Gi"))
}

#[test]
fn a_writable_layer_beyond_the_limit_of_its_container_evicts_the_pod() {
    let _alone = alone();
    let fill = endless("mkdir -p /var/some; dd if=/dev/zero of=/var/some/file bs=1M count=8 2> /dev/null");
    let pod = Detached::start(&beside_a_generous_container("layer", container("main", &fill)));
    assert_evicted(
        &pod,
        "Container main exceeded its local ephemeral storage limit \"4Mi\". ",
    );
}

#[test]
fn a_log_beyond_the_limit_of_its_container_evicts_the_pod() {
    let _alone = alone();
    let talk = endless("head -c 6000000 /dev/zero | tr '\\0' x | fold -w 1000");
    let pod = Detached::start(&beside_a_generous_container("talker", container("main", &talk)));
    assert_evicted(
        &pod,
        "Container main exceeded its local ephemeral storage limit \"4Mi\". ",
    );
}

#[test]
fn everything_counts_for_the_pod_and_run_says_why_it_ended() {
    let _alone = alone();
    let fill =
        endless("dd if=/dev/zero of=/data/file bs=1M count=3 2> /dev/null; dd if=/data/file of=/file 2> /dev/null");
    let main = container("main", &fill)
        .mount("data", "/data")
        .limit("ephemeral-storage", "5Mi");
    let ended = host().run(Pod::named("whole").empty_dir("data").container(main));
    let message = "the Pod is evicted: Pod ephemeral local storage usage exceeds the total limit of containers 5Mi.";
    assert!(ended.stderr.contains(message), "{ended:?}");
    assert_ne!(ended.code(), 0);
}

#[test]
fn a_user_namespace_does_not_change_what_is_counted() {
    let _alone = alone();
    let fill = endless("dd if=/dev/zero of=/file bs=1M count=8 2> /dev/null");
    let mut pod = shell_pod("mapped", &fill).set("spec.hostUsers", false);
    pod = pod.container(container("other", &endless("true")).limit("ephemeral-storage", "4Mi"));
    let pod = Detached::start(&pod);
    assert_evicted(
        &pod,
        "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ",
    );
}
