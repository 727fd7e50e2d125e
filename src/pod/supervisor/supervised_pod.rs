//! The Pod as every part of its supervisor sees it: what stays the same for the life of this process, and where to report to.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::mpsc;

use super::message::Message;
use crate::pod::container_order::containers;
use crate::pod::guest_streams::GuestStreams;
use crate::pod::lifecycle::{ContainerAttempt, Event};
use crate::pod::supervisor_protocol::SupervisorFrame;
use crate::privileged::PodPrivileges;
use crate::state::{Paths, PodRecord};

/// The Pod of this process.
#[derive(Debug)]
pub struct SupervisedPod {
    /// Where microkube keeps its files.
    pub paths: Paths,
    /// What is done for the Pod with root's privileges.
    pub privileges: PodPrivileges,
    /// As this process found it; the record keeper has its changes.
    pub record: PodRecord,
    /// The Pod's streams.
    pub guest_streams: Arc<GuestStreams>,
    /// The command line that stays attached.
    pub client: Option<mpsc::Sender<SupervisorFrame>>,
    /// Pass the guest's log on to the client.
    pub debug: bool,
    /// To the loop of the Pod's life.
    pub inbox: mpsc::UnboundedSender<Message>,
}

/// Id in the guest of the attempt with this number.
#[must_use]
pub fn container_id(name: &str, number: u32) -> String {
    format!("{name}-{number}")
}

impl SupervisedPod {
    /// Tells the loop of the Pod's life.
    pub fn send(&self, message: Message) {
        // Fails only when the Pod is over.
        let _ = self.inbox.send(message);
    }

    /// Tells the lifecycle.
    pub fn report(&self, event: Event) {
        self.send(Message::Event(event));
    }

    /// A container by its number.
    pub fn container(&self, container: usize) -> Option<&Container> {
        containers(&self.record.pod).nth(container)
    }

    /// Name of a container.
    pub fn container_name(&self, container: usize) -> &str {
        self.container(container)
            .map_or("", |container| container.name.as_str())
    }

    /// Id of an attempt in the guest.
    pub fn container_id(&self, attempt: ContainerAttempt) -> String {
        container_id(self.container_name(attempt.container), attempt.number)
    }

    /// The attempt that has this id in the guest.
    pub fn attempt_of(&self, id: &str) -> Option<ContainerAttempt> {
        let (name, number) = id.rsplit_once('-')?;
        let container = containers(&self.record.pod).position(|container| container.name == name)?;
        let number = number.parse().ok()?;
        (container_id(name, number) == id).then_some(ContainerAttempt::new(container, number))
    }

    /// Where a container is in the Pod, as events have it.
    pub fn field_path(&self, container: usize) -> String {
        let init = self.record.pod.spec.iter().flat_map(|spec| &spec.init_containers);
        let list = if container < init.map(Vec::len).sum() {
            "initContainers"
        } else {
            "containers"
        };
        format!("spec.{list}{{{}}}", self.container_name(container))
    }
}

#[cfg(test)]
pub use tests::{test_pod, test_pod_with};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::guest_log::GuestLog;
    use crate::privileged::Privileges;

    /// A Pod with the container `web`, and what is reported of it.
    pub fn test_pod(detached: bool) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
        test_pod_with(detached, None)
    }

    pub fn test_pod_with(
        detached: bool,
        client: Option<mpsc::Sender<SupervisorFrame>>,
    ) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
        let record = serde_json::from_value(serde_json::json!({
            "uid": "u", "namespace": "default", "name": "p", "detached": detached,
            "client": null, "supervisor": null, "vmm": null,
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": {},
                "spec": { "restartPolicy": "Never", "containers": [{ "name": "web", "image": "i" }] },
            },
        }))
        .unwrap();
        let dir = std::path::Path::new("/nonexistent");
        let (inbox, messages) = mpsc::unbounded_channel();
        let paths = Paths::new(dir.join("state"), dir.join("run"));
        let pod = SupervisedPod {
            privileges: Privileges::new(&paths).of_pod("u").unwrap(),
            paths,
            record,
            guest_streams: GuestStreams::new(client.clone(), GuestLog::begin(dir.join("log")), false),
            client,
            debug: false,
            inbox,
        };
        (Arc::new(pod), messages)
    }

    #[tokio::test]
    async fn an_id_in_the_guest_names_container_and_attempt() {
        let (pod, _messages) = test_pod(false);
        assert_eq!(pod.container_id(ContainerAttempt::new(0, 3)), "web-3");
        assert_eq!(pod.attempt_of("web-3"), Some(ContainerAttempt::new(0, 3)));
        for strange in ["web", "web-", "web-03", "web-+3", "other-3", "-3", ""] {
            assert_eq!(pod.attempt_of(strange), None, "{strange}");
        }
        assert_eq!(pod.field_path(0), "spec.containers{web}");
    }
}
