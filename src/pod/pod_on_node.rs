//! A Pod together with its node's values, to which its variables and files can refer.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::downward::PodStatusFields;
use microkube_projection::{Allocatable, BoundPod};

use super::resolved_pod::{node_name, vm_size};
use super::service_account_token::service_account;

/// The size of a scratch disk (`src/volume`).
const SCRATCH_DISK_BYTES: i64 = 16 << 30;

/// The Pod and the node's values.
#[derive(Debug, Clone)]
pub struct PodOnNode {
    pod: Pod,
    status: PodStatusFields,
    allocatable: Allocatable,
}

impl PodOnNode {
    /// The Pod with this UID, and with its addresses once it has a VM.
    #[must_use]
    pub fn new(uid: &str, pod: &Pod, pod_ip: Option<Ipv4Addr>, host_ip: Option<Ipv4Addr>) -> Self {
        let mut pod = pod.clone();
        // Kubernetes' admission sets it in the Pod.
        let account = service_account(&pod).to_owned();
        pod.spec.get_or_insert_default().service_account_name = Some(account);
        Self {
            status: PodStatusFields {
                uid: uid.to_owned(),
                pod_ip,
                host_ip,
                node_name: node_name(),
            },
            allocatable: allocatable(&pod),
            pod,
        }
    }

    #[must_use]
    pub fn bound(&self) -> BoundPod<'_> {
        BoundPod {
            pod: &self.pod,
            status: &self.status,
            allocatable: self.allocatable,
        }
    }
}

/// The resources of a container without limits: those of its VM, not of the host. Otherwise a program that sizes its
/// heap by `limits.memory` would run out of memory.
fn allocatable(pod: &Pod) -> Allocatable {
    let size = vm_size(pod);
    Allocatable {
        cpu_millis: i64::from(size.vcpu_count) * 1000,
        memory_bytes: i64::from(size.mem_size_mib) << 20,
        ephemeral_storage_bytes: SCRATCH_DISK_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::test_pods::record_of;

    #[test]
    fn a_container_without_limits_can_use_the_whole_vm() {
        let record = record_of(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": { "containers": [
                { "name": "a", "image": "i", "resources": { "limits": { "memory": "1Gi", "cpu": "1" } } },
                { "name": "b", "image": "i" },
            ] },
        }));
        let on_node = PodOnNode::new("u-1", &record.pod, None, None);
        let Allocatable {
            cpu_millis,
            memory_bytes,
            ephemeral_storage_bytes,
        } = on_node.bound().allocatable;
        assert_eq!(cpu_millis, 1000);
        assert_eq!(
            ephemeral_storage_bytes.cast_unsigned(),
            crate::volume::SCRATCH_DISK_BYTES
        );
        assert_eq!(memory_bytes, (1024 + 256 + 64) << 20);
        let account = on_node.pod.spec.as_ref().unwrap().service_account_name.as_deref();
        assert_eq!(account, Some("default"));
    }
}
