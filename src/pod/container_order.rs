//! The order of a Pod's containers, from which each has its number.

use k8s_openapi::api::core::v1::{Container, Pod};

/// The Pod's containers as the lifecycle numbers them: init containers first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}
