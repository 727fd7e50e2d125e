//! The order of a Pod's containers, which determines their numbers.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use microkube_manifest::ephemeral::as_container;

/// The Pod's containers as the lifecycle numbers them: init containers first. Ephemeral containers come after these, in
/// the order in which they were added.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

pub fn ephemeral_containers(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

/// The ephemeral container with this number, if there is one.
pub fn ephemeral_container(pod: &Pod, number: usize) -> Option<&EphemeralContainer> {
    let index = number.checked_sub(containers(pod).count())?;
    ephemeral_containers(pod).nth(index)
}

/// The container of any kind with this number.
pub fn container(pod: &Pod, number: usize) -> Option<Container> {
    match containers(pod).nth(number) {
        Some(container) => Some(container.clone()),
        None => ephemeral_container(pod, number).map(as_container),
    }
}

/// The names of all containers, by number.
pub fn names(pod: &Pod) -> impl Iterator<Item = &str> {
    let ephemeral = ephemeral_containers(pod).map(|container| container.name.as_str());
    containers(pod)
        .map(|container| container.name.as_str())
        .chain(ephemeral)
}
