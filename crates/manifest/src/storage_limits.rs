//! The limits of a Pod's local storage, and whether its usage exceeds one of them: the kubelet's rules and messages
//! (`localStorageEviction` in `pkg/kubelet/eviction/eviction_manager.go`).
//!
//! A Pod beyond a limit is evicted. The limits are `sizeLimit` of each emptyDir volume on disk, the sum of the
//! containers' `limits.ephemeral-storage`, and that limit of each regular container. How usage is measured is not
//! decided here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, Pod};

use super::quantity::Quantity;
use super::quantity_text::Amount;
use super::sidecar::is_sidecar;

const RESOURCE: &str = "ephemeral-storage";

/// The limits of a validated Pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StorageLimits {
    /// By the names of volumes, in the Pod's order.
    volumes: Vec<(String, Amount)>,
    /// Of everything that the Pod uses.
    pod: Option<Amount>,
    /// By the names of regular containers.
    containers: Vec<(String, Amount)>,
}

/// The local storage that a Pod uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UsedStorage {
    /// Bytes in each emptyDir volume on disk, by name.
    pub volumes: BTreeMap<String, u64>,
    /// The storage of each running container, by name.
    pub containers: BTreeMap<String, ContainerStorage>,
}

/// The local storage that a container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContainerStorage {
    /// Bytes in the writable layer.
    pub layer_bytes: u64,
    /// Bytes of all its logs.
    pub log_bytes: u64,
}

impl ContainerStorage {
    fn total(self) -> Quantity {
        Quantity::of_units(self.layer_bytes).plus(Quantity::of_units(self.log_bytes))
    }
}

impl StorageLimits {
    /// The limits of a validated Pod; `None` if it has none.
    pub fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let volumes = empty_dirs_on_disk(pod).filter_map(|(name, empty_dir)| {
            let limit = Amount::read(&empty_dir.size_limit.as_ref()?.0).ok()?;
            // The kubelet ignores a limit of zero.
            (limit.quantity > Quantity::default()).then(|| (name.to_owned(), limit))
        });
        let containers = spec.containers.iter().filter_map(|container| {
            let limit = limit(container)?;
            (limit.quantity > Quantity::default()).then(|| (container.name.clone(), limit))
        });
        let limits = Self {
            volumes: volumes.collect(),
            pod: pod_limit(pod),
            containers: containers.collect(),
        };
        (limits != Self::default()).then_some(limits)
    }

    /// Whether the sizes of logs matter.
    pub fn count_logs(&self) -> bool {
        self.pod.is_some() || !self.containers.is_empty()
    }

    /// The kubelet's message about the first limit that is exceeded.
    pub fn exceeded(&self, usage: &UsedStorage) -> Option<String> {
        for (name, limit) in &self.volumes {
            let used = usage.volumes.get(name).copied().unwrap_or(0);
            if Quantity::of_units(used) > limit.quantity {
                let limit = limit.text();
                return Some(format!(
                    "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{limit}\". "
                ));
            }
        }
        if let Some(limit) = self.pod.filter(|limit| total(usage) > limit.quantity) {
            let limit = limit.text();
            return Some(format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
            ));
        }
        for (name, limit) in &self.containers {
            let used = usage.containers.get(name).copied().unwrap_or_default();
            if used.total() > limit.quantity {
                let limit = limit.text();
                return Some(format!(
                    "Container {name} exceeded its local ephemeral storage limit \"{limit}\". "
                ));
            }
        }
        None
    }
}

/// The names of the Pod's volumes whose usage counts.
pub fn counted_volumes(pod: &Pod) -> impl Iterator<Item = &str> {
    empty_dirs_on_disk(pod).map(|(name, _)| name)
}

/// The emptyDir volumes on disk. For those in memory, the size of the file system is the limit.
fn empty_dirs_on_disk(pod: &Pod) -> impl Iterator<Item = (&str, &EmptyDirVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let empty_dirs = volumes.filter_map(|volume| Some((volume.name.as_str(), volume.empty_dir.as_ref()?)));
    empty_dirs.filter(|(_, empty_dir)| empty_dir.medium.as_deref().unwrap_or_default().is_empty())
}

/// Everything that the Pod uses.
fn total(usage: &UsedStorage) -> Quantity {
    let volumes = usage.volumes.values().copied().map(Quantity::of_units);
    let containers = usage.containers.values().copied().map(ContainerStorage::total);
    volumes.chain(containers).fold(Quantity::default(), Quantity::plus)
}

/// The limit of the whole Pod (`PodLimits` in `k8s.io/component-helpers/resource/helpers.go`): the sum over containers
/// that run at the same time. Containers without a limit add nothing, and the Pod has a limit if any container has one.
fn pod_limit(pod: &Pod) -> Option<Amount> {
    let spec = pod.spec.as_ref()?;
    let mut regular = None;
    for container in &spec.containers {
        regular = sum(regular, limit(container));
    }
    let (mut sidecars, mut largest_init) = (None, None);
    for container in spec.init_containers.iter().flatten() {
        let own = limit(container);
        let at_once = match is_sidecar(container) {
            true => {
                regular = sum(regular, own);
                sidecars = sum(sidecars, own);
                sidecars
            }
            false => sum(own, sidecars),
        };
        largest_init = larger(largest_init, at_once);
    }
    larger(regular, largest_init)
}

fn sum(one: Option<Amount>, other: Option<Amount>) -> Option<Amount> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.plus(other)),
        (one, other) => one.or(other),
    }
}

/// The larger limit; the first of two equal ones.
fn larger(one: Option<Amount>, other: Option<Amount>) -> Option<Amount> {
    match (one, other) {
        (Some(one), Some(other)) if other.quantity > one.quantity => Some(other),
        (one, other) => one.or(other),
    }
}

fn limit(container: &Container) -> Option<Amount> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    Amount::read(&limits.get(RESOURCE)?.0).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn limits_of(spec: Value) -> Option<StorageLimits> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
        StorageLimits::of(&serde_json::from_value(pod).unwrap())
    }

    fn container(name: &str, limit: &str) -> Value {
        match limit {
            "" => json!({"name": name}),
            limit => json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}}),
        }
    }

    fn sidecar(name: &str, limit: &str) -> Value {
        let mut sidecar = container(name, limit);
        sidecar["restartPolicy"] = json!("Always");
        sidecar
    }

    fn usage(volumes: &[(&str, u64)], containers: &[(&str, u64, u64)]) -> UsedStorage {
        UsedStorage {
            volumes: volumes
                .iter()
                .map(|(name, bytes)| ((*name).to_owned(), *bytes))
                .collect(),
            containers: containers
                .iter()
                .map(|&(name, layer_bytes, log_bytes)| (name.to_owned(), ContainerStorage { layer_bytes, log_bytes }))
                .collect(),
        }
    }

    #[test]
    fn a_pod_without_limits_is_not_watched() {
        let volumes = json!([
            {"name": "a", "emptyDir": {}},
            {"name": "b", "emptyDir": {"sizeLimit": "0"}},
            {"name": "c", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "d", "configMap": {"name": "d"}},
        ]);
        assert_eq!(
            limits_of(json!({"containers": [container("web", "")], "volumes": volumes})),
            None
        );
    }

    #[test]
    fn only_empty_dirs_on_disk_count() {
        let volumes = json!([
            {"name": "a", "emptyDir": {}},
            {"name": "b", "emptyDir": {"medium": "Memory"}},
            {"name": "c", "hostPath": {"path": "/c"}},
            {"name": "d", "emptyDir": {"medium": "", "sizeLimit": "1Mi"}},
        ]);
        let pod = json!({"metadata": {}, "spec": {"containers": [], "volumes": volumes}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(counted_volumes(&pod).collect::<Vec<_>>(), ["a", "d"]);
    }

    #[test]
    fn a_volume_may_use_its_limit_and_no_more() {
        let volumes = json!([
            {"name": "free", "emptyDir": {}},
            {"name": "data", "emptyDir": {"sizeLimit": "1024Ki"}},
        ]);
        let limits = limits_of(json!({"containers": [container("web", "")], "volumes": volumes})).unwrap();
        assert!(!limits.count_logs());
        let of_data = |bytes| limits.exceeded(&usage(&[("free", u64::MAX), ("data", bytes)], &[("web", MIB, MIB)]));
        assert_eq!(of_data(MIB), None);
        assert_eq!(
            of_data(MIB + 1).as_deref(),
            Some("Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ")
        );
        assert_eq!(limits.exceeded(&UsedStorage::default()), None);
    }

    #[test]
    fn logs_and_writable_layers_count_for_a_container() {
        let containers = json!([container("web", "10Mi"), container("log", "10Mi")]);
        let limits = limits_of(json!({"containers": containers})).unwrap();
        assert!(limits.count_logs());
        let exceeded = |layer, logs| limits.exceeded(&usage(&[], &[("log", layer, logs)]));
        assert_eq!(exceeded(4 * MIB, 6 * MIB), None);
        assert_eq!(
            exceeded(4 * MIB, 6 * MIB + 1).as_deref(),
            Some("Container log exceeded its local ephemeral storage limit \"10Mi\". ")
        );
    }

    #[test]
    fn the_limit_of_the_pod_counts_everything_and_comes_before_those_of_containers() {
        // One container without a limit does not make the Pod unlimited.
        let containers = json!([
            container("web", "512Mi"),
            container("log", "512Mi"),
            container("free", "")
        ]);
        let limits = limits_of(json!({"containers": containers})).unwrap();
        let message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ";
        let parts = [
            ("web", 100 * MIB, 0),
            ("log", 0, 100 * MIB),
            ("free", 300 * MIB, 300 * MIB),
        ];
        assert_eq!(limits.exceeded(&usage(&[("data", 224 * MIB)], &parts)), None);
        let exceeded = limits.exceeded(&usage(&[("data", 224 * MIB + 1)], &parts));
        assert_eq!(exceeded.as_deref(), Some(message));
        let exceeded = limits.exceeded(&usage(&[], &[("web", 2048 * MIB, 0)]));
        assert_eq!(exceeded.as_deref(), Some(message));
    }

    #[test]
    fn init_containers_and_sidecars_count_while_they_run() {
        let pod_limit = |init: &[Value], regular: &[Value]| {
            let limits = limits_of(json!({"initContainers": init, "containers": regular}));
            limits.and_then(|limits| limits.pod).map(Amount::text)
        };
        let app = || container("app", "300Mi");
        assert_eq!(pod_limit(&[], &[container("app", "")]), None);
        assert_eq!(
            pod_limit(&[container("a", "200Mi")], &[app()]).as_deref(),
            Some("300Mi")
        );
        assert_eq!(pod_limit(&[container("a", "1Gi")], &[app()]).as_deref(), Some("1Gi"));
        assert_eq!(pod_limit(&[sidecar("s", "100Mi")], &[app()]).as_deref(), Some("400Mi"));
        let both = [sidecar("s", "100Mi"), container("a", "500Mi")];
        assert_eq!(pod_limit(&both, &[app()]).as_deref(), Some("600Mi"));
        let both = [container("a", "500Mi"), sidecar("s", "100Mi")];
        assert_eq!(pod_limit(&both, &[app()]).as_deref(), Some("500Mi"));
        assert_eq!(
            pod_limit(&[sidecar("s", "100Mi")], &[container("app", "")]).as_deref(),
            Some("100Mi")
        );
    }

    #[test]
    fn only_regular_containers_have_a_limit_of_their_own_as_in_the_kubelet() {
        let spec = json!({
            "initContainers": [sidecar("proxy", "1Mi")],
            "containers": [container("web", "10Mi"), container("none", "0")],
        });
        let limits = limits_of(spec).unwrap();
        assert_eq!(
            limits.exceeded(&usage(&[], &[("proxy", 5 * MIB, 0), ("none", MIB, 0)])),
            None
        );
    }

    proptest! {
        #[test]
        fn whatever_a_guest_reports_is_compared(bytes in any::<[u64; 4]>()) {
            let spec = json!({
                "containers": [container("web", "16Ei"), container("log", "1")],
                "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}],
            });
            let limits = limits_of(spec).unwrap();
            let used = usage(&[("data", bytes[0])], &[("web", bytes[1], bytes[2]), ("log", bytes[3], bytes[3])]);
            let is_beyond = bytes[0] > MIB || bytes[3] > 0 || total(&used) > limits.pod.unwrap().quantity;
            prop_assert_eq!(limits.exceeded(&used).is_some(), is_beyond || used.containers["web"].total()
                > limits.containers[0].1.quantity);
        }
    }
}
