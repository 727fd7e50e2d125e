//! Translates a Pod's resources to the cgroup settings of its containers, its QoS class, and the size of its virtual
//! machine.
//!
//! The VM's memory is the sum of the memory limits of containers that run at the same time, plus [`VM_OVERHEAD_MIB`]
//! for the guest kernel, agent and page tables. A container without a limit counts as [`UNLIMITED_CONTAINER_MIB`] if
//! others have limits. If none has, the VM gets [`DEFAULT_VM_MIB`] in all. The number of virtual CPUs is the sum of the
//! cpu limits at the same time, rounded up; one without limits, and never more than the host has.
//!
//! The containers that run at the same time are either all regular containers and sidecars, or one init container and
//! the sidecars before it; the larger sum counts (`PodRequests` and `PodLimits` in
//! `k8s.io/component-helpers/resource/helpers.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::quantity::Quantity;
use super::sidecar::is_sidecar;

/// Memory of a VM whose containers have no limits, in MiB.
pub const DEFAULT_VM_MIB: u32 = 512;
/// Memory for everything except the containers, in MiB.
pub const VM_OVERHEAD_MIB: u32 = 64;
/// Memory counted for a container without a limit if others have one, in MiB.
pub const UNLIMITED_CONTAINER_MIB: u32 = 256;
/// Minimum memory with which the guest starts, in MiB.
pub const MIN_VM_MIB: u32 = 128;

/// The period of `cpu.max` in microseconds (`quotaPeriod` in `pkg/kubelet/cm/helpers_linux.go`).
pub const CPU_PERIOD_US: u64 = 100_000;
/// `minQuotaPeriod` in the same file.
const MIN_CPU_QUOTA_US: u64 = 1000;

/// `guaranteedOOMScoreAdj` in `pkg/kubelet/qos/policy.go`.
const GUARANTEED_OOM_SCORE_ADJ: i32 = -997;
/// `besteffortOOMScoreAdj` in the same file.
const BEST_EFFORT_OOM_SCORE_ADJ: i32 = 1000;

/// cgroup v2 settings of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CgroupSettings {
    /// Quota of `cpu.max` per [`CPU_PERIOD_US`], in microseconds; 0 means no limit.
    pub cpu_quota_us: u64,
    /// Period of `cpu.max` in microseconds.
    pub cpu_period_us: u64,
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: u64,
    /// `memory.max`; 0 means no limit.
    pub memory_limit_bytes: u64,
}

/// Kubernetes' quality of service classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has equal requests and limits of cpu and memory.
    Guaranteed,
    /// At least one container has a request or limit.
    Burstable,
    /// No container has a request or limit.
    BestEffort,
}

impl QosClass {
    /// The value for `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The size of a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmSize {
    /// Number of virtual CPUs.
    pub vcpu_count: u8,
    /// Memory in MiB.
    pub mem_size_mib: u32,
}

/// cgroup settings of a container of a validated and defaulted Pod.
pub fn cgroup_settings(container: &Container) -> CgroupSettings {
    let cpu_limit = limit(container, "cpu").map_or(0, millis);
    let cpu_quota_us = match cpu_limit {
        0 => 0,
        millis => (millis.saturating_mul(CPU_PERIOD_US) / 1000).max(MIN_CPU_QUOTA_US),
    };
    CgroupSettings {
        cpu_quota_us,
        cpu_period_us: CPU_PERIOD_US,
        cpu_weight: cpu_weight(request(container, "cpu").map_or(0, millis)),
        memory_limit_bytes: memory_limit_bytes(container).unwrap_or(0),
    }
}

/// `MilliCPUToShares` and runc's conversion of shares to a weight.
fn cpu_weight(request_millis: u64) -> u64 {
    const MIN_SHARES: u64 = 2;
    const MAX_SHARES: u64 = 262_144;
    let shares = (request_millis.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES);
    1 + ((shares - MIN_SHARES) * 9999) / (MAX_SHARES - MIN_SHARES)
}

/// The class of a validated and defaulted Pod (`ComputePodQOS` in `pkg/apis/core/v1/helper/qos/qos.go`).
pub fn qos_class(pod: &Pod) -> QosClass {
    let mut any = false;
    let mut all_equal = all_containers(pod).next().is_some();
    for container in all_containers(pod) {
        for name in ["cpu", "memory"] {
            let positive = |amount: Option<Quantity>| amount.filter(|amount| *amount > Quantity::default());
            let (request, limit) = (positive(request(container, name)), positive(limit(container, name)));
            any |= request.is_some() || limit.is_some();
            all_equal &= limit.is_some() && request == limit;
        }
    }
    match (any, all_equal) {
        (_, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
        (false, false) => QosClass::BestEffort,
    }
}

/// Linux's `oom_score_adj` of a container of a validated and defaulted Pod, on a host with this much memory: the kernel
/// kills processes with higher values first when memory runs out (`GetContainerOOMScoreAdjust` in
/// `pkg/kubelet/qos/policy.go`; "Node out of memory behavior" in Kubernetes' documentation).
pub fn oom_score_adj(pod: &Pod, container: &Container, host_memory_bytes: u64) -> i32 {
    match qos_class(pod) {
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE_ADJ,
        QosClass::BestEffort => BEST_EFFORT_OOM_SCORE_ADJ,
        QosClass::Burstable => {
            let mut request_bytes = memory_request_bytes(container);
            let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
            if init.clone().any(|init| init.name == container.name && is_sidecar(init)) {
                // The Pod needs its sidecars: they are not killed before any regular container.
                let regular = pod.spec.iter().flat_map(|spec| &spec.containers);
                request_bytes = request_bytes.max(regular.map(memory_request_bytes).min().unwrap_or(0));
            }
            let share = u128::from(request_bytes) * 1000 / u128::from(host_memory_bytes.max(1));
            let share = i32::try_from(share).unwrap_or(i32::MAX);
            1000_i32.saturating_sub(share).clamp(2, BEST_EFFORT_OOM_SCORE_ADJ - 1)
        }
    }
}

/// The VM size for a validated and defaulted Pod on a host with this many CPUs; see the module's documentation.
pub fn vm_size(pod: &Pod, host_cpu_count: u8) -> VmSize {
    const MIB: u64 = 1 << 20;
    let mem_size_mib = if all_containers(pod).all(|container| memory_limit_bytes(container).is_none()) {
        DEFAULT_VM_MIB
    } else {
        let unlimited = u64::from(UNLIMITED_CONTAINER_MIB) * MIB;
        let bytes = at_the_same_time(pod, |container| memory_limit_bytes(container).unwrap_or(unlimited));
        let mib = u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX);
        mib.saturating_add(VM_OVERHEAD_MIB).max(MIN_VM_MIB)
    };
    let cpu_millis = at_the_same_time(pod, |container| limit(container, "cpu").map_or(0, millis));
    let vcpu_count = u8::try_from(cpu_millis.div_ceil(1000))
        .unwrap_or(u8::MAX)
        .clamp(1, host_cpu_count.max(1));
    VmSize {
        vcpu_count,
        mem_size_mib,
    }
}

/// All containers in start order, init containers first.
fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// The largest sum of `amount` over containers that run at the same time.
fn at_the_same_time(pod: &Pod, amount: impl Fn(&Container) -> u64) -> u64 {
    let Some(spec) = &pod.spec else { return 0 };
    let (mut sidecars, mut largest_init) = (0_u64, 0_u64);
    for container in spec.init_containers.iter().flatten() {
        let with_sidecars = sidecars.saturating_add(amount(container));
        if is_sidecar(container) {
            sidecars = with_sidecars;
        } else {
            largest_init = largest_init.max(with_sidecars);
        }
    }
    let regular = spec.containers.iter().map(amount).fold(sidecars, u64::saturating_add);
    regular.max(largest_init)
}

fn memory_request_bytes(container: &Container) -> u64 {
    let request = request(container, "memory").map(|request| u64::try_from(request.units()).unwrap_or(0));
    request.unwrap_or(0)
}

/// A memory limit of zero means no limit.
fn memory_limit_bytes(container: &Container) -> Option<u64> {
    let bytes = limit(container, "memory")?.units();
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

fn limit(container: &Container, name: &str) -> Option<Quantity> {
    amount(container.resources.as_ref()?.limits.as_ref()?, name)
}

fn request(container: &Container, name: &str) -> Option<Quantity> {
    amount(container.resources.as_ref()?.requests.as_ref()?, name)
}

fn amount(list: &BTreeMap<String, resource::Quantity>, name: &str) -> Option<Quantity> {
    list.get(name)?.0.parse().ok()
}

fn millis(amount: Quantity) -> u64 {
    u64::try_from(amount.millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(resources: &[Value]) -> Pod {
        let containers: Vec<Value> = resources
            .iter()
            .map(|resources| json!({"name": "c", "resources": resources}))
            .collect();
        let mut pod =
            serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers}}))
                .unwrap();
        super::super::defaults::apply(&mut pod);
        pod
    }

    fn settings(resources: &Value) -> CgroupSettings {
        cgroup_settings(&pod(std::slice::from_ref(resources)).spec.unwrap().containers[0])
    }

    #[test]
    fn cgroup_settings_match_the_kubelets() {
        let found = settings(&json!({"limits": {"cpu": "500m", "memory": "128Mi"}, "requests": {"cpu": "250m"}}));
        assert_eq!(
            found,
            CgroupSettings {
                cpu_quota_us: 50_000,
                cpu_period_us: 100_000,
                cpu_weight: 10,
                memory_limit_bytes: 134_217_728
            }
        );
        assert_eq!(settings(&json!({"limits": {"cpu": "1m"}})).cpu_quota_us, 1000);
        assert_eq!(settings(&json!({"limits": {"cpu": "2"}})).cpu_weight, 79);
        assert_eq!(
            settings(&json!({})),
            CgroupSettings {
                cpu_weight: 1,
                cpu_period_us: 100_000,
                ..Default::default()
            }
        );
        assert_eq!(settings(&json!({"requests": {"cpu": "1E"}})).cpu_weight, 10_000);
        assert_eq!(
            settings(&json!({"limits": {"cpu": "9E", "memory": "9E"}})).memory_limit_bytes,
            9_000_000_000_000_000_000
        );
    }

    #[test]
    fn machines_are_sized_from_the_limits() {
        let size = |resources: &[Value]| {
            let size = vm_size(&pod(resources), 4);
            (size.vcpu_count, size.mem_size_mib)
        };
        assert_eq!(size(&[json!({}), json!({"requests": {"memory": "2Gi"}})]), (1, 512));
        assert_eq!(
            size(&[
                json!({"limits": {"memory": "100Mi"}}),
                json!({"limits": {"memory": "1Gi"}})
            ]),
            (1, 1188)
        );
        assert_eq!(size(&[json!({"limits": {"memory": "100Mi"}}), json!({})]), (1, 420));
        assert_eq!(size(&[json!({"limits": {"memory": "1Mi"}})]), (1, 128));
        assert_eq!(
            size(&[json!({"limits": {"cpu": "1500m"}}), json!({"limits": {"cpu": "600m"}})]),
            (3, 512)
        );
        assert_eq!(
            size(&[
                json!({"limits": {"cpu": "9E", "memory": "9E"}}),
                json!({"limits": {"cpu": "9E", "memory": "9E"}})
            ]),
            (4, u32::MAX)
        );
    }

    #[test]
    fn init_containers_and_sidecars_count_while_they_run() {
        let container = |name: &str, mib: u32, cpu: &str, policy: Option<&str>| {
            let mut value = json!({"name": name, "resources": {"limits": {"memory": format!("{mib}Mi"), "cpu": cpu}}});
            if let Some(policy) = policy {
                value["restartPolicy"] = json!(policy);
            }
            value
        };
        let size = |init: Value, regular: Value| {
            let pod =
                json!({"apiVersion": "v1", "kind": "Pod", "spec": {"initContainers": init, "containers": regular}});
            let pod = serde_json::from_value(pod).unwrap();
            let size = vm_size(&pod, 16);
            (size.vcpu_count, size.mem_size_mib - VM_OVERHEAD_MIB)
        };
        let app = || container("app", 300, "2", None);
        // Smaller init containers fit into the regular containers' memory.
        let small = json!([container("a", 200, "1", None), container("b", 300, "2", None)]);
        assert_eq!(size(small, json!([app()])), (2, 300));
        assert_eq!(size(json!([container("a", 900, "4", None)]), json!([app()])), (4, 900));
        // A sidecar keeps running, so a sidecar counts with the init containers after it.
        let sidecar = || container("proxy", 100, "1", Some("Always"));
        assert_eq!(size(json!([sidecar()]), json!([app(), app()])), (5, 700));
        let (before, after) = (
            json!([sidecar(), container("a", 500, "3", None)]),
            json!([container("a", 500, "3", None), sidecar()]),
        );
        assert_eq!(size(before, json!([app()])), (4, 600));
        assert_eq!(size(after, json!([app()])), (3, 500));
        // An init container that is restarted on failure is not a sidecar.
        let retried = container("a", 500, "3", Some("OnFailure"));
        assert_eq!(size(json!([retried]), json!([app()])), (3, 500));
        let unlimited = json!([{"name": "a"}]);
        assert_eq!(size(unlimited, json!([container("app", 100, "1", None)])), (1, 256));
    }

    #[test]
    fn init_containers_count_for_the_qos_class() {
        let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}});
        let class = |init: &Value| {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "spec": {"initContainers": [{"name": "i", "resources": init}], "containers": [{"name": "c", "resources": limits}]}
            });
            qos_class(&serde_json::from_value(pod).unwrap())
        };
        assert_eq!(class(&limits), QosClass::Guaranteed);
        assert_eq!(class(&json!({})), QosClass::Burstable);
    }

    #[test]
    fn qos_classes_follow_requests_and_limits() {
        let both = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(qos_class(&pod(&[both.clone(), both.clone()])), QosClass::Guaranteed);
        assert_eq!(qos_class(&pod(&[both, json!({})])), QosClass::Burstable);
        assert_eq!(
            qos_class(&pod(&[json!({"requests": {"cpu": "1"}})])),
            QosClass::Burstable
        );
        assert_eq!(
            qos_class(&pod(&[json!({}), json!({"limits": {"ephemeral-storage": "1Gi"}})])),
            QosClass::BestEffort
        );
        let uneven = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "999m"}});
        assert_eq!(qos_class(&pod(&[uneven])), QosClass::Burstable);
        let same = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(qos_class(&pod(&[same])), QosClass::Guaranteed);
    }

    #[test]
    fn the_kernel_kills_best_effort_first_and_guaranteed_last() {
        const GIB: u64 = 1 << 30;
        let of = |pod: &Pod| {
            let spec = pod.spec.as_ref().unwrap();
            let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
            let scores: Vec<i32> = containers
                .map(|container| oom_score_adj(pod, container, 8 * GIB))
                .collect();
            scores
        };
        let both = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(of(&pod(std::slice::from_ref(&both))), [-997]);
        assert_eq!(of(&pod(&[json!({}), json!({})])), [1000, 1000]);
        let requests = |memory: &str| json!({"requests": {"memory": memory}});
        let burstable = [
            requests("2Gi"),
            requests("1Mi"),
            json!({}),
            requests("8Gi"),
            requests("1Ti"),
        ];
        assert_eq!(of(&pod(&burstable)), [750, 999, 999, 2, 2]);
        // A limit without a request counts as the request.
        assert_eq!(of(&pod(&[json!({"limits": {"memory": "4Gi"}})])), [500]);
    }

    #[test]
    fn a_sidecar_is_killed_no_earlier_than_the_containers_it_serves() {
        let memory = |name: &str, amount: &str| json!({"name": name, "resources": {"requests": {"memory": amount}}});
        let sidecar = |name: &str, amount: &str| {
            let mut sidecar = memory(name, amount);
            sidecar["restartPolicy"] = json!("Always");
            sidecar
        };
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "spec": {
                "initContainers": [memory("init", "1Gi"), sidecar("small", "1Gi"), sidecar("large", "6Gi")],
                "containers": [memory("a", "2Gi"), memory("b", "4Gi")],
            },
        }))
        .unwrap();
        let spec = pod.spec.as_ref().unwrap();
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let scores: Vec<i32> = containers
            .map(|container| oom_score_adj(&pod, container, 10 << 30))
            .collect();
        assert_eq!(scores, [900, 800, 400, 800, 600]);
    }
}
