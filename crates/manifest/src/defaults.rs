//! What the API server fills into a Pod that leaves it open (`pkg/apis/core/v1/defaults.go`).

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, HTTPGetAction, Pod, Probe, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Fills in the defaults. The Pod may still be invalid.
pub fn apply(pod: &mut Pod) {
    metadata(&mut pod.metadata);
    let Some(spec) = &mut pod.spec else { return };
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.scheduler_name, "default-scheduler");
    // The older name of the field still counts.
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
    spec.volumes.iter_mut().flatten().for_each(volume);
}

/// Namespace and generated name of any object.
pub fn metadata(metadata: &mut ObjectMeta) {
    if metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        metadata.namespace = Some("default".to_owned());
    }
    if metadata.name.as_deref().unwrap_or_default().is_empty()
        && let Some(prefix) = metadata.generate_name.as_deref().filter(|prefix| !prefix.is_empty())
    {
        metadata.name = Some(generate_name(prefix));
    }
}

fn container(container: &mut Container) {
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
    let latest = is_latest(container.image.as_deref().unwrap_or_default());
    fill(
        &mut container.image_pull_policy,
        if latest { "Always" } else { "IfNotPresent" },
    );
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

/// Go cannot tell an empty text from none, so one that is written gets the default too.
fn fill(value: &mut Option<String>, default: &str) {
    if value.as_deref().unwrap_or_default().is_empty() {
        *value = Some(default.to_owned());
    }
}

/// The same goes for zeros.
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

/// A volume that names no kind is an emptyDir.
fn volume(volume: &mut Volume) {
    let bare = Volume {
        name: volume.name.clone(),
        ..Volume::default()
    };
    if *volume == bare {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
}

/// Whether an image reference has the tag `latest`, or neither a tag nor a digest, which means the same.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// `SimpleNameGenerator` (`apiserver/pkg/storage/names/generate.go`): the prefix, cut to 58 bytes, and five random characters.
fn generate_name(prefix: &str) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const MAX_PREFIX_BYTES: usize = 58;
    let mut end = prefix.len().min(MAX_PREFIX_BYTES);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let random = uuid::Uuid::new_v4().into_bytes();
    let suffix = random
        .iter()
        .take(5)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]));
    prefix[..end].chars().chain(suffix).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn defaulted(value: serde_json::Value) -> Pod {
        let mut pod = serde_json::from_value(value).unwrap();
        apply(&mut pod);
        pod
    }

    #[test]
    fn fills_in_what_the_api_server_does() {
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
    fn what_is_written_stays() {
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
    fn the_tag_decides_when_images_are_pulled() {
        for image in ["nginx", "nginx:latest", "localhost:5000/nginx", "a.b/c/nginx:latest"] {
            assert!(is_latest(image), "{image}");
        }
        for image in [
            "nginx:1.27",
            "localhost:5000/nginx:1",
            "nginx@sha256:0000",
            "nginx:latest@sha256:0000",
        ] {
            assert!(!is_latest(image), "{image}");
        }
    }

    #[test]
    fn generated_names_are_random_and_short_enough() {
        let (a, b) = (generate_name("web-"), generate_name("web-"));
        assert!(a.starts_with("web-") && a.len() == 9 && a != b, "{a} {b}");
        assert_eq!(generate_name(&"é".repeat(40)).chars().count(), 29 + 5);
    }

    #[test]
    fn negative_grace_periods_become_one_second() {
        let pod = defaulted(
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {"terminationGracePeriodSeconds": -5, "containers": []}}),
        );
        assert_eq!(pod.spec.unwrap().termination_grace_period_seconds, Some(1));
    }
}
