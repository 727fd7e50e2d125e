//! Readiness gates: conditions that clients set decide whether a Pod is ready.

use serde_json::{Value, json};

use crate::detached_pod::Detached;
use crate::host::{alone, host, shell_pod};

const GATE: &str = "example.com/in-service";

fn condition(pod: &Value, own_type: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == own_type);
    found.unwrap_or_default()
}

#[track_caller]
fn set_gate(status: &str) {
    let patch = json!({ "status": { "conditions": [{ "type": GATE, "status": status, "reason": "Checked" }] } });
    let line = [
        "patch",
        "pod",
        "serving",
        "--subresource=status",
        "-p",
        &patch.to_string(),
    ];
    assert_eq!(host().succeed(line), "pod/serving patched\n");
}

#[test]
fn a_pod_is_ready_while_the_conditions_of_its_readiness_gates_are_true() {
    let _alone = alone();
    let pod = shell_pod("serving", "trap 'exit 0' TERM; sleep 1000 & wait")
        .set("spec.readinessGates", json!([{ "conditionType": GATE }]));
    let pod = Detached::start(&pod);
    pod.wait("condition=ContainersReady");
    let waiting = pod.get();
    let ready = condition(&waiting, "Ready");
    assert_eq!(
        (&ready["status"], &ready["reason"], &ready["message"]),
        (
            &json!("False"),
            &json!("ReadinessGatesNotReady"),
            &json!(format!(
                "corresponding condition of pod readiness gate \"{GATE}\" does not exist."
            ))
        ),
        "{waiting}"
    );
    assert!(
        host()
            .succeed(["describe", "pod", "serving"])
            .contains("example.com/in-service   <none>"),
        "{}",
        host().succeed(["describe", "pod", "serving"])
    );

    set_gate("True");
    pod.wait_ready();
    let set = condition(&pod.get(), GATE);
    assert_eq!(
        (&set["status"], &set["reason"]),
        (&json!("True"), &json!("Checked")),
        "{set}"
    );

    set_gate("False");
    pod.wait("condition=Ready=False");
    let ready = condition(&pod.get(), "Ready");
    assert_eq!(
        ready["message"],
        format!("the status of pod readiness gate \"{GATE}\" is not \"True\", but False")
    );
    // A patch of the status without the subresource changes nothing, as in Kubernetes.
    let ignored = json!({ "status": { "conditions": [{ "type": GATE, "status": "True" }] } }).to_string();
    let said = host().succeed(["patch", "pod", "serving", "-p", &ignored]);
    assert_eq!(said, "pod/serving patched (no change)\n");
    assert_eq!(condition(&pod.get(), GATE)["status"], "False");
}
