//! Values of `resourceFieldRef` (`ExtractContainerResourceValue` in `pkg/api/v1/resource/helpers.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource;
use microkube_manifest::quantity::Quantity;

use crate::bound_pod::{Allocatable, BoundPod};
use crate::error::ProjectionError;

/// The value for a variable of this container. The selector can name another container of the Pod; the kubelet applies
/// the node's limits only to regular containers.
pub(crate) fn for_variable(
    selector: &ResourceFieldSelector,
    pod: &BoundPod<'_>,
    container: &Container,
) -> Result<String, ProjectionError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return value(selector, container, Some(&pod.allocatable));
    }
    if let Some(other) = named(pod.containers(), name) {
        return value(selector, other, Some(&pod.allocatable));
    }
    let other = named(pod.init_containers(), name).ok_or_else(|| ProjectionError::ContainerNotFound(name.into()))?;
    value(selector, other, None)
}

/// The value for a file of a volume. The selector names a container.
pub(crate) fn for_volume(selector: &ResourceFieldSelector, pod: &BoundPod<'_>) -> Result<String, ProjectionError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = named(pod.containers(), name)
        .or_else(|| named(pod.init_containers(), name))
        .ok_or_else(|| ProjectionError::ContainerNotFound(name.into()))?;
    value(selector, container, Some(&pod.allocatable))
}

/// What the selected container itself requests or may use, in units of the divisor; `0` if it does not say. `container` is
/// the one that the selector refers to unless it names another.
///
/// # Errors
/// If the Pod has no such container, or the selector is invalid.
pub fn own_amount(
    selector: &ResourceFieldSelector,
    pod: &Pod,
    container: &Container,
) -> Result<String, ProjectionError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return value(selector, container, None);
    }
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init_containers = spec
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default();
    let other = named(containers, name).or_else(|| named(init_containers, name));
    let other = other.ok_or_else(|| ProjectionError::ContainerNotFound(name.into()))?;
    value(selector, other, None)
}

fn named<'c>(containers: &'c [Container], name: &str) -> Option<&'c Container> {
    containers.iter().find(|container| container.name == name)
}

/// The amount in units of the divisor, rounded up. `limits` stands in for missing limits.
fn value(
    selector: &ResourceFieldSelector,
    container: &Container,
    limits: Option<&Allocatable>,
) -> Result<String, ProjectionError> {
    let unsupported = || ProjectionError::Resource(selector.resource.clone());
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let is_known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let resources = container.resources.as_ref();
    let (amounts, limits) = match list {
        "limits" if is_known => (resources.and_then(|own| own.limits.as_ref()), limits),
        "requests" if is_known => (resources.and_then(|own| own.requests.as_ref()), None),
        _ => return Err(unsupported()),
    };
    // Kubernetes computes cpu in thousandths, and everything else in whole units.
    let scale = if name == "cpu" {
        Quantity::millis
    } else {
        Quantity::units
    };
    let own = amount(amounts, &selector.resource, name)?;
    let amount = match limits.and_then(|limits| limit(limits, name)) {
        Some(limit) if own == Quantity::default() => limit,
        _ => scale(own),
    };
    let divisor = scale(divisor(selector)?);
    if divisor <= 0 {
        return Err(invalid_divisor(selector));
    }
    Ok(divided(amount, divisor).to_string())
}

/// Like Kubernetes in floating point, which is exact for amounts below 2^53.
fn divided(amount: i64, divisor: i64) -> i64 {
    (amount as f64 / divisor as f64).ceil() as i64
}

fn limit(limits: &Allocatable, name: &str) -> Option<i64> {
    match name {
        "cpu" => Some(limits.cpu_millis),
        "memory" => Some(limits.memory_bytes),
        "ephemeral-storage" => Some(limits.ephemeral_storage_bytes),
        // Huge pages are never overcommitted: a container that uses them has a limit.
        _ => None,
    }
}

/// Zero if the list does not contain it.
fn amount(
    amounts: Option<&BTreeMap<String, resource::Quantity>>,
    field: &str,
    name: &str,
) -> Result<Quantity, ProjectionError> {
    let Some(text) = amounts.and_then(|amounts| amounts.get(name)) else {
        return Ok(Quantity::default());
    };
    text.0.parse().map_err(|_| ProjectionError::Quantity {
        field: field.to_owned(),
        text: text.0.clone(),
    })
}

/// One if it is missing or zero.
fn divisor(selector: &ResourceFieldSelector) -> Result<Quantity, ProjectionError> {
    let invalid = |_| invalid_divisor(selector);
    let text = selector.divisor.as_ref().map_or("", |divisor| divisor.0.as_str());
    let divisor = if text.is_empty() {
        Quantity::default()
    } else {
        text.parse().map_err(invalid)?
    };
    if divisor == Quantity::default() {
        return "1".parse().map_err(invalid);
    }
    Ok(divisor)
}

fn invalid_divisor(selector: &ResourceFieldSelector) -> ProjectionError {
    ProjectionError::Quantity {
        field: "divisor".into(),
        text: selector.divisor.clone().unwrap_or_default().0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, pod_from};

    fn selector(fields: &Value) -> ResourceFieldSelector {
        serde_json::from_value(fields.clone()).unwrap()
    }

    /// A container with every limit and request, one with none, and the same as init containers.
    fn pod() -> Pod {
        let resources = json!({
            "limits": {"cpu": "1500m", "memory": "100Mi", "ephemeral-storage": "1G", "hugepages-2Mi": "4Mi"},
            "requests": {"cpu": "250m", "memory": "64Mi", "ephemeral-storage": "1", "hugepages-2Mi": "2Mi"},
        });
        pod_from(json!({"spec": {
            "containers": [{"name": "full", "resources": resources}, {"name": "empty"}],
            "initContainers": [{"name": "init-full", "resources": resources}, {"name": "init-empty"}],
        }}))
    }

    fn volume_value(fields: &Value) -> Result<String, String> {
        let (node, pod) = (node(), pod());
        for_volume(&selector(fields), &node.bind(&pod)).map_err(|error| error.to_string())
    }

    #[test]
    fn amounts_are_divided_and_rounded_up() {
        for (resource, divisor, expected) in [
            ("limits.cpu", "", "2"),
            ("limits.cpu", "0", "2"),
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "1", "1"),
            ("requests.cpu", "1m", "250"),
            ("limits.memory", "", "104857600"),
            ("limits.memory", "1", "104857600"),
            ("limits.memory", "1Ki", "102400"),
            ("limits.memory", "1Mi", "100"),
            ("limits.memory", "1M", "105"),
            ("limits.memory", "1Gi", "1"),
            ("requests.memory", "1Mi", "64"),
            ("limits.ephemeral-storage", "1M", "1000"),
            ("limits.ephemeral-storage", "1Mi", "954"),
            ("requests.ephemeral-storage", "1Gi", "1"),
            ("limits.hugepages-2Mi", "1Mi", "4"),
            ("requests.hugepages-2Mi", "", "2097152"),
            ("limits.hugepages-1Gi", "", "0"),
        ] {
            let mut fields = json!({"resource": resource, "containerName": "full"});
            if !divisor.is_empty() {
                fields["divisor"] = json!(divisor);
            }
            assert_eq!(volume_value(&fields).as_deref(), Ok(expected), "{resource} / {divisor}");
        }
    }

    #[test]
    fn a_missing_limit_is_what_the_node_offers_and_a_missing_request_is_zero() {
        for (resource, divisor, expected) in [
            ("limits.cpu", "1", "4"),
            ("limits.cpu", "1m", "3500"),
            ("limits.memory", "1Mi", "2048"),
            ("limits.ephemeral-storage", "1Gi", "10"),
            ("limits.hugepages-2Mi", "1", "0"),
            ("requests.cpu", "1m", "0"),
            ("requests.memory", "1", "0"),
            ("requests.ephemeral-storage", "1", "0"),
        ] {
            for container in ["empty", "init-empty"] {
                let fields = json!({"resource": resource, "containerName": container, "divisor": divisor});
                assert_eq!(volume_value(&fields).as_deref(), Ok(expected), "{resource} / {divisor}");
            }
        }
    }

    #[test]
    fn a_variable_can_refer_to_its_own_or_another_container() {
        let (node, pod) = (node(), pod());
        let bound = node.bind(&pod);
        let own = named(bound.containers(), "empty").unwrap();
        let value = |container: &str| {
            let fields = json!({"resource": "limits.memory", "divisor": "1Mi", "containerName": container});
            for_variable(&selector(&fields), &bound, own).unwrap()
        };
        assert_eq!(value(""), "2048");
        assert_eq!(value("empty"), "2048");
        assert_eq!(value("full"), "100");
        assert_eq!(value("init-full"), "100");
        // The kubelet does not give the node's limits to init containers here.
        assert_eq!(value("init-empty"), "0");
        let fields = json!({"resource": "limits.cpu"});
        let own = named(bound.init_containers(), "init-empty").unwrap();
        assert_eq!(for_variable(&selector(&fields), &bound, own).as_deref(), Ok("4"));
    }

    #[test]
    fn own_amounts_are_without_the_nodes_limits() {
        let pod = pod();
        let own = &pod.spec.as_ref().unwrap().containers[0];
        let amount = |fields: &Value| own_amount(&selector(fields), &pod, own).map_err(|error| error.to_string());
        for (fields, expected) in [
            (json!({"resource": "limits.cpu"}), "2"),
            (json!({"resource": "limits.memory", "divisor": "1Mi"}), "100"),
            (json!({"resource": "limits.memory", "containerName": "empty"}), "0"),
            (
                json!({"resource": "requests.cpu", "containerName": "init-full", "divisor": "1m"}),
                "250",
            ),
        ] {
            assert_eq!(amount(&fields).as_deref(), Ok(expected), "{fields}");
        }
        let none = json!({"resource": "limits.cpu", "containerName": "none"});
        assert_eq!(amount(&none), Err("container none not found".to_owned()));
    }

    #[test]
    fn a_zero_limit_counts_as_missing() {
        let node = node();
        let pod = pod_from(json!({"spec": {
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "0", "memory": "0Mi"}}}],
        }}));
        let value = |resource: &str| {
            let fields = json!({"resource": resource, "containerName": "c"});
            for_volume(&selector(&fields), &node.bind(&pod)).unwrap()
        };
        assert_eq!(value("limits.cpu"), "4");
        assert_eq!(value("limits.memory"), "2147483648");
    }

    #[test]
    fn other_resources_containers_and_divisors_are_refused() {
        for (fields, expected) in [
            (
                json!({"resource": "limits.gpu", "containerName": "full"}),
                "unsupported container resource : limits.gpu",
            ),
            (
                json!({"resource": "cpu", "containerName": "full"}),
                "unsupported container resource : cpu",
            ),
            (
                json!({"resource": "other.cpu", "containerName": "full"}),
                "unsupported container resource : other.cpu",
            ),
            (
                json!({"resource": "limits.cpu", "containerName": "none"}),
                "container none not found",
            ),
            (json!({"resource": "limits.cpu"}), "container  not found"),
            (
                json!({"resource": "limits.cpu", "containerName": "full", "divisor": "x"}),
                "divisor is not a valid quantity: \"x\"",
            ),
            (
                json!({"resource": "limits.cpu", "containerName": "full", "divisor": "-1"}),
                "divisor is not a valid quantity: \"-1\"",
            ),
        ] {
            assert_eq!(volume_value(&fields).unwrap_err(), expected);
        }
    }
}
