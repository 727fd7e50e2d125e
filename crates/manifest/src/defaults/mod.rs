//! The defaults that the API server sets in objects (`pkg/apis/core/v1/defaults.go`). This file has those of Pods;
//! submodules have those of volumes and of other objects.

mod fill;
mod image;
pub(super) mod metadata;
pub(super) mod object;
mod volume;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};

use fill::fill;

/// Sets the defaults. The Pod may still be invalid.
pub fn apply(pod: &mut Pod) {
    metadata::namespaced(&mut pod.metadata);
    let Some(spec) = &mut pod.spec else { return };
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.scheduler_name, "default-scheduler");
    // The field's older name is still valid.
    let older = spec.service_account.clone().unwrap_or_default();
    fill(
        &mut spec.service_account_name,
        if older.is_empty() { "default" } else { &older },
    );
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    let grace = spec.termination_grace_period_seconds.get_or_insert(30);
    if *grace < 0 {
        // The registry's strategy (`pkg/registry/core/pod/strategy.go`) turns every negative period into one second.
        *grace = 1;
    }
    spec.containers.iter_mut().for_each(container);
    spec.init_containers.iter_mut().flatten().for_each(container);
    spec.volumes.iter_mut().flatten().for_each(volume::volume);
}

pub(super) fn container(container: &mut Container) {
    for own in [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ] {
        own.iter_mut().for_each(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop] {
            hook.iter_mut()
                .filter_map(|hook| hook.http_get.as_mut())
                .for_each(http_get);
        }
    }
    let image = container.image.as_deref().unwrap_or_default();
    fill(&mut container.image_pull_policy, image::pull_policy(image));
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
    }
    for variable in container.env.iter_mut().flatten() {
        if let Some(field) = variable
            .value_from
            .as_mut()
            .and_then(|source| source.field_ref.as_mut())
        {
            fill(&mut field.api_version, "v1");
        }
    }
    if let Some(resources) = &mut container.resources
        && let Some(limits) = &resources.limits
    {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name.clone()).or_insert_with(|| limit.clone());
        }
    }
}

/// Like empty strings, zeros get the defaults.
fn probe(probe: &mut Probe) {
    for (value, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if value.unwrap_or_default() == 0 {
            *value = Some(default);
        }
    }
    probe.http_get.iter_mut().for_each(http_get);
}

fn http_get(action: &mut HTTPGetAction) {
    fill(&mut action.path, "/");
    fill(&mut action.scheme, "HTTP");
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
    use serde_json::json;

    use super::*;

    fn defaulted(value: serde_json::Value) -> Pod {
        let mut pod = serde_json::from_value(value).unwrap();
        apply(&mut pod);
        pod
    }

    #[test]
    fn defaults_are_those_of_the_api_server() {
        let pod = defaulted(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {
                "containers": [{
                    "name": "c", "image": "nginx", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "100m"}}
                }],
                "volumes": [{"name": "v"}]
            }
        }));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
        assert_eq!(
            spec.volumes.unwrap()[0].empty_dir,
            Some(EmptyDirVolumeSource::default())
        );
        let container = &spec.containers[0];
        assert_eq!(container.image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(container.ports.as_ref().unwrap()[0].protocol.as_deref(), Some("TCP"));
        let requests = container.resources.as_ref().unwrap().requests.as_ref().unwrap();
        assert_eq!(
            (requests["cpu"].0.as_str(), requests["memory"].0.as_str()),
            ("100m", "1Gi")
        );
    }

    #[test]
    fn explicit_values_are_kept() {
        let pod = defaulted(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "Never"}]}
        }));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("n"));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.termination_grace_period_seconds, Some(0));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Never"));
    }

    #[test]
    fn images_of_volumes_are_pulled_like_those_of_containers() {
        let pod = defaulted(json!({
            "apiVersion": "v1", "kind": "Pod", "spec": {"containers": [], "volumes": [
                {"name": "a", "image": {"reference": "model"}}, {"name": "b", "image": {"reference": "model:v1"}},
                {"name": "c", "image": {"reference": "model:v1", "pullPolicy": "Always"}},
            ]}
        }));
        let volumes = pod.spec.unwrap().volumes.unwrap();
        let policies: Vec<_> = volumes
            .iter()
            .map(|volume| volume.image.as_ref().unwrap().pull_policy.as_deref().unwrap())
            .collect();
        assert_eq!(policies, ["Always", "IfNotPresent", "Always"]);
    }

    #[test]
    fn negative_grace_periods_become_one_second() {
        let pod = defaulted(
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"terminationGracePeriodSeconds": -5, "containers": []}}),
        );
        assert_eq!(pod.spec.unwrap().termination_grace_period_seconds, Some(1));
    }
}
