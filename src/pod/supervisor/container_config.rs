//! The part of a container's configuration that comes from objects, for one attempt.

use std::net::Ipv4Addr;
use std::sync::Arc;

use microkube_manifest::process::ImageProcess;
use microkube_projection::SkippedKeys;

use super::supervised_pod::SupervisedPod;
use crate::pod::container_order;
use crate::pod::lifecycle::{ContainerAttempt, Event, PodEvent};
use crate::pod::node_objects::NodeObjects;
use crate::pod::pod_environment::{self, ProcessValues, depends_on_objects};
use crate::pod::pod_on_node::PodOnNode;
use crate::pod::sandbox::AgentClientHandle;

/// Why a container's command line and environment cannot be computed.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigFailure {
    /// The kubelet's message.
    message: String,
    /// Whether a change of objects can fix the problem.
    can_heal: bool,
}

impl ConfigFailure {
    /// The event for the lifecycle.
    pub fn into_event(self, attempt: ContainerAttempt) -> Event {
        let Self { message, can_heal } = self;
        match can_heal {
            true => Event::ContainerConfigUnavailable { attempt, message },
            false => Event::ContainerStartFailed {
                attempt,
                reason: "CreateContainerConfigError".to_owned(),
                message,
            },
        }
    }
}

/// Computes the command line and environment of a container. The addresses are the Pod's own and the host's.
pub async fn process_values(
    pod: &Arc<SupervisedPod>,
    container: usize,
    image: ImageProcess,
    agent: AgentClientHandle,
    (pod_ip, host_ip): (Option<Ipv4Addr>, Option<Ipv4Addr>),
) -> Result<ProcessValues, ConfigFailure> {
    let pod = Arc::clone(pod);
    let computed = tokio::task::spawn_blocking(move || {
        let current = pod.current();
        let on_node = PodOnNode::new(&pod.record.uid, &current, pod_ip, host_ip);
        let Some(container) = container_order::container(&current, container) else {
            return Err(ConfigFailure {
                message: "the Pod has no such container".to_owned(),
                can_heal: false,
            });
        };
        let objects = NodeObjects::with_guest(&pod.paths, agent);
        pod_environment::process_values(&on_node.bound(), &container, &image, &objects).map_err(|error| ConfigFailure {
            message: error.to_string(),
            can_heal: depends_on_objects(&container),
        })
    });
    computed.await.unwrap_or_else(|_| {
        Err(ConfigFailure {
            message: "the environment could not be computed".to_owned(),
            can_heal: false,
        })
    })
}

/// The kubelet's event about keys that are not valid names of variables.
pub fn skipped_keys(skipped: &SkippedKeys) -> PodEvent {
    PodEvent {
        warning: true,
        reason: "InvalidEnvironmentVariableNames",
        message: skipped.to_string(),
        container: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_object_is_waited_for() {
        let attempt = ContainerAttempt::new(0, 2);
        let failure = |can_heal| ConfigFailure {
            message: "configmap \"x\" not found".to_owned(),
            can_heal,
        };
        assert!(matches!(
            failure(true).into_event(attempt),
            Event::ContainerConfigUnavailable { message, .. } if message == "configmap \"x\" not found"
        ));
        assert!(matches!(
            failure(false).into_event(attempt),
            Event::ContainerStartFailed { reason, .. } if reason == "CreateContainerConfigError"
        ));
    }
}
