//! Decides whether this node runs the Pod, as the kubelet does before it creates anything for the Pod.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::admission::{Rejection, forbidden_privileges, rejection};

use crate::pod::lifecycle::Event;
use crate::pod::security_policy::SecurityPolicy;
use crate::state::PodRecord;
use crate::volume::AllowedHostPaths;

/// The event with which the life of the Pod starts: [`Event::Begin`] if the node runs it.
pub fn first_event(record: &PodRecord, policy: &SecurityPolicy) -> Event {
    if let Some(problems) = forbidden(&record.pod, policy) {
        // The kubelet's message about a Pod that the API server has accepted.
        let message = format!(
            "Error validating pod \"{}\".\"{}\" from api, ignoring: {problems}",
            record.name, record.namespace
        );
        return Event::Invalid { message };
    }
    match rejection(&record.pod, &policy.unsafe_sysctls) {
        Some(Rejection { reason, message }) => Event::Rejected { reason, message },
        None => Event::Begin,
    }
}

/// The parts of a Pod that this node forbids.
pub fn forbidden(pod: &Pod, policy: &SecurityPolicy) -> Option<String> {
    let mut problems = match policy.allow_privileged {
        true => Vec::new(),
        false => forbidden_privileges(pod),
    };
    problems.extend(forbidden_host_paths(pod, &policy.allowed_host_paths));
    aggregated(problems)
}

/// The paths that the Pod may not share, in the words of Kubernetes' PodSecurityPolicy.
fn forbidden_host_paths(pod: &Pod, allowed: &AllowedHostPaths) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let host_paths = volumes
        .enumerate()
        .filter_map(|(index, volume)| Some((index, &volume.host_path.as_ref()?.path)));
    host_paths
        .filter(|(_, path)| !allowed.allow(Path::new(path)))
        .map(|(index, path)| {
            format!("spec.volumes[{index}].hostPath.pathPrefix: Invalid value: {path:?}: is not allowed to be used")
        })
        .collect()
}

/// Several problems as Kubernetes shows them (`NewAggregate`).
fn aggregated(problems: Vec<String>) -> Option<String> {
    match &problems[..] {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::sysctl::UnsafeSysctls;
    use serde_json::{Value, json};

    use super::*;

    fn decided(spec: Value, allow_privileged: bool) -> Event {
        let record = serde_json::from_value(json!({
            "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
            "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec },
        }));
        let policy = SecurityPolicy {
            allow_privileged,
            unsafe_sysctls: UnsafeSysctls::default(),
            seccomp_profiles: "/nowhere".into(),
            allowed_host_paths: AllowedHostPaths::parse("/srv").unwrap(),
        };
        first_event(&record.unwrap(), &policy)
    }

    #[test]
    fn a_privileged_pod_is_invalid_if_the_node_does_not_allow_it() {
        let privileged = |name| json!({ "name": name, "securityContext": { "privileged": true } });
        let one = json!({ "containers": [privileged("a")] });
        assert_eq!(decided(one.clone(), true), Event::Begin);
        let message = |problems: &str| Event::Invalid {
            message: format!("Error validating pod \"web\".\"shop\" from api, ignoring: {problems}"),
        };
        let problem = |index| {
            format!("spec.containers[{index}].securityContext.privileged: Forbidden: disallowed by cluster policy")
        };
        assert_eq!(decided(one, false), message(&problem(0)));
        let two = json!({ "containers": [privileged("a"), privileged("b")] });
        assert_eq!(
            decided(two, false),
            message(&format!("[{}, {}]", problem(0), problem(1)))
        );
    }

    #[test]
    fn a_pod_that_shares_a_path_outside_of_the_allowed_ones_is_invalid() {
        let volumes = |path: &str| {
            json!({
                "containers": [{ "name": "a" }],
                "volumes": [{ "name": "a", "emptyDir": {} }, { "name": "b", "hostPath": { "path": path } }],
            })
        };
        assert_eq!(decided(volumes("/srv/data"), true), Event::Begin);
        let Event::Invalid { message } = decided(volumes("/etc"), true) else {
            panic!("accepted")
        };
        assert_eq!(
            message,
            "Error validating pod \"web\".\"shop\" from api, ignoring: spec.volumes[1].hostPath.pathPrefix: Invalid value: \"/etc\": is not allowed to be used"
        );
    }

    #[test]
    fn a_pod_with_an_unsafe_sysctl_is_rejected() {
        let spec = json!({
            "containers": [{ "name": "a" }],
            "securityContext": { "sysctls": [{ "name": "kernel.sem", "value": "1" }] },
        });
        assert_eq!(
            decided(spec, false),
            Event::Rejected {
                reason: "SysctlForbidden",
                message: "forbidden sysctl: \"kernel.sem\" not allowlisted".to_owned(),
            }
        );
    }
}
