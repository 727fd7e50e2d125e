//! Missing ConfigMaps, Secrets and keys: what the Pod reports, and that it starts once they exist.

use microkube_tests::manifest::Pod;
use serde_json::{Value, json};

use crate::detached_pod::{Detached, status_of};
use crate::host::{alone, container, host, wait_until};
use crate::objects::{Stored, config_map, secret};

fn events(pod: &Detached) -> String {
    host().succeed(["events", "--for", &format!("pod/{}", pod.0)])
}

#[track_caller]
fn wait_for_event(pod: &Detached, reason: &str, message: &str) {
    wait_until(&format!("the event {reason} {message:?}"), || {
        let events = events(pod);
        events
            .lines()
            .any(|line| line.contains(reason) && line.contains(message))
    });
}

#[track_caller]
fn wait_until_waiting(pod: &Detached, container: &str, reason: &str, message: &str) {
    let expected = json!({ "reason": reason, "message": message });
    let mut last = Value::Null;
    wait_until(&format!("{container} waits: {expected}"), || {
        last = status_of(&pod.get(), container).unwrap_or_default();
        last["state"]["waiting"] == expected
    });
}

#[test]
fn missing_objects_hold_up_volumes_and_containers_until_they_appear() {
    let _alone = alone();
    let forever = |name: &str, script: &str| container(name, &format!("{script}; sleep 10000"));
    let manifest = Pod::named("incomplete")
        .grace_period_seconds(1)
        .container(
            forever("complete", "cat /config/app.conf /tls/tls.crt")
                .mount("config", "/config")
                .mount("tls", "/tls"),
        )
        .container(forever("no-config-map", "echo $PORT").env_of_config_map("PORT", "missing-settings", "port"))
        .container(forever("no-key", "echo $PORT").env_of_config_map("PORT", "missing-config", "port"))
        .container(forever("no-secret", "echo $TOKEN").env_of_secret("TOKEN", "missing-secret", "token"))
        .container(forever("no-secret-key", "echo $TOKEN").env_of_secret("TOKEN", "missing-other", "token"))
        .container(forever("no-import", "echo $A").env_from(json!({ "secretRef": { "name": "missing-import" } })))
        .volume(json!({ "name": "tls", "secret": { "secretName": "missing-tls" } }))
        .volume(json!({ "name": "config", "configMap": {
            "name": "missing-config", "items": [{ "key": "app.conf", "path": "app.conf" }],
        } }));
    let present = [
        config_map("missing-config", &json!({ "other": "x" })),
        secret("missing-other", &json!({ "other": "x" })),
    ];
    let later = [
        config_map("missing-settings", &json!({ "port": "8080" })),
        secret("missing-secret", &json!({ "token": "t" })),
        secret("missing-import", &json!({ "A": "imported" })),
    ];
    let tls = [secret("missing-tls", &json!({ "tls.crt": "certificate\n" }))];
    let _present = Stored::apply("missing-present.yaml", &present);
    let later = Stored::later("missing-later.yaml", &later);
    let tls = Stored::later("missing-tls.yaml", &tls);
    let pod = Detached::start(&manifest);

    // Nothing starts while a volume is incomplete.
    wait_for_event(
        &pod,
        "FailedMount",
        "MountVolume.SetUp failed for volume \"tls\" : secret \"missing-tls\" not found",
    );
    wait_for_event(
        &pod,
        "FailedMount",
        "MountVolume.SetUp failed for volume \"config\" : configmap references non-existent config key: app.conf",
    );
    let whole = pod.get();
    assert_eq!(whole["status"]["phase"], "Pending");
    let waiting = status_of(&whole, "complete").unwrap()["state"]["waiting"].clone();
    assert_eq!(waiting["reason"], "ContainerCreating", "{whole}");
    let table = host().succeed(["get", "pod", "incomplete"]);
    assert!(table.contains(" 0/6     ContainerCreating "), "{table}");

    // The volumes are complete: containers start, except those whose environment is not.
    host().succeed(["apply", "-f", tls.path()]);
    host().succeed([
        "patch",
        "configmap",
        "missing-config",
        "--type=merge",
        "-p",
        r#"{"data":{"app.conf":"ready\n"}}"#,
    ]);
    pod.wait_for_log("complete", "certificate");
    assert_eq!(pod.logs("complete"), "ready\ncertificate\n");
    let refusals = [
        ("no-config-map", "configmap \"missing-settings\" not found"),
        ("no-key", "couldn't find key port in ConfigMap default/missing-config"),
        ("no-secret", "secret \"missing-secret\" not found"),
        (
            "no-secret-key",
            "couldn't find key token in Secret default/missing-other",
        ),
        ("no-import", "secret \"missing-import\" not found"),
    ];
    for (name, message) in refusals {
        wait_until_waiting(&pod, name, "CreateContainerConfigError", message);
        wait_for_event(&pod, "Failed", &format!("Error: {message}"));
    }
    let table = host().succeed(["get", "pod", "incomplete"]);
    assert!(table.contains(" 1/6     CreateContainerConfigError   0 "), "{table}");
    assert_eq!(pod.get()["status"]["phase"], "Pending");

    // Create the missing objects and keys.
    host().succeed(["apply", "-f", later.path()]);
    host().succeed([
        "patch",
        "configmap",
        "missing-config",
        "--type=merge",
        "-p",
        r#"{"data":{"port":"9090"}}"#,
    ]);
    host().succeed([
        "patch",
        "secret",
        "missing-other",
        "-p",
        r#"{"stringData":{"token":"u"}}"#,
    ]);
    pod.wait_ready();
    for (name, written) in [
        ("no-config-map", "8080\n"),
        ("no-key", "9090\n"),
        ("no-secret", "t\n"),
        ("no-secret-key", "u\n"),
        ("no-import", "imported\n"),
    ] {
        pod.wait_for_log(name, written);
        assert_eq!(pod.container(name)["restartCount"], 0, "{name}");
    }
}
