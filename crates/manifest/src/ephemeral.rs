//! Ephemeral containers: their conversion to ordinary containers, their defaults, and the rules for adding one to a
//! Pod.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use super::defaults;
use super::error::Problem;
use super::validation;

/// The ephemeral container as an ordinary container, without its target.
#[must_use]
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    // List every field, so that the compiler reports a new one here.
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = ephemeral.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        restart_policy_rules,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// Sets the defaults of the API server.
pub fn set_defaults(ephemeral: &mut EphemeralContainer) {
    let mut container = as_container(ephemeral);
    defaults::container(&mut container);
    ephemeral.env = container.env;
    ephemeral.image_pull_policy = container.image_pull_policy;
    ephemeral.termination_message_path = container.termination_message_path;
    ephemeral.termination_message_policy = container.termination_message_policy;
}

/// All problems of a Pod to which this ephemeral container, with its defaults, is added.
#[must_use]
pub fn validate_added(pod: &Pod, added: &EphemeralContainer) -> Vec<Problem> {
    validation::ephemeral::validate_added(pod, added, &as_container(added))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
            "spec": {
                "initContainers": [{"name": "init", "image": "i"}],
                "containers": [{"name": "main", "image": "i"}],
                "ephemeralContainers": [{"name": "debugger-1", "image": "i"}],
                "volumes": [{"name": "data", "emptyDir": {}}],
            },
        }))
        .unwrap()
    }

    fn problems(added: Value) -> Vec<String> {
        let mut added: EphemeralContainer = serde_json::from_value(added).unwrap();
        set_defaults(&mut added);
        let problems = validate_added(&pod(), &added);
        problems.into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn an_added_container_has_the_defaults_of_every_container() {
        let mut added: EphemeralContainer = serde_json::from_value(json!({"name": "d", "image": "busybox"})).unwrap();
        set_defaults(&mut added);
        let container = as_container(&added);
        assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(container.termination_message_policy.as_deref(), Some("File"));
        assert_eq!(
            container.termination_message_path.as_deref(),
            Some("/dev/termination-log")
        );
    }

    #[test]
    fn a_valid_container_may_be_added() {
        for added in [
            json!({"name": "d", "image": "busybox", "stdin": true, "tty": true, "command": ["sh"]}),
            json!({"name": "d", "image": "busybox", "targetContainerName": "main"}),
            json!({"name": "d", "image": "busybox", "targetContainerName": "init", "env": [{"name": "A", "value": "b"}]}),
            json!({"name": "d", "image": "busybox", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}),
            json!({"name": "d", "image": "busybox", "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}),
        ] {
            assert_eq!(problems(added), [""; 0]);
        }
    }

    #[test]
    fn problems_have_the_words_of_kubernetes() {
        let with = |field: &str, value: Value| {
            let mut added = json!({"name": "d", "image": "busybox"});
            added[field] = value;
            added
        };
        for (added, expected) in [
            (with("name", json!("main")), "name: Duplicate value: \"main\""),
            (with("name", json!("init")), "name: Duplicate value: \"init\""),
            (
                with("name", json!("debugger-1")),
                "name: Duplicate value: \"debugger-1\"",
            ),
            (with("name", json!("")), "name: Required value"),
            (with("image", json!("")), "image: Required value"),
            (
                with("targetContainerName", json!("debugger-1")),
                "targetContainerName: Not found: \"debugger-1\"",
            ),
            (
                with("ports", json!([{"containerPort": 80, "protocol": "TCP"}])),
                "ports: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                with("resources", json!({"limits": {"cpu": "1"}})),
                "resources: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                with("lifecycle", json!({"preStop": {"sleep": {"seconds": 1}}})),
                "lifecycle: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                with("livenessProbe", json!({"tcpSocket": {"port": 1}})),
                "livenessProbe: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                with("restartPolicy", json!("Always")),
                "restartPolicy: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                with(
                    "volumeMounts",
                    json!([{"name": "data", "mountPath": "/d", "subPath": "a"}]),
                ),
                "volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
            ),
            (
                with("volumeMounts", json!([{"name": "other", "mountPath": "/d"}])),
                "volumeMounts[0].name: Not found: \"other\"",
            ),
        ] {
            assert_eq!(problems(added), [format!("spec.ephemeralContainers[1].{expected}")]);
        }
    }
}
