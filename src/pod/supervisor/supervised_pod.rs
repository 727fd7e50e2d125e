//! The Pod as every part of its supervisor sees it: what stays the same as long as this process lives, and where to report to.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::mpsc;

use super::message::Message;
use crate::pod::attach::Frame;
use crate::pod::lifecycle::Event;
use crate::pod::output::Output;
use crate::pod::prepare;
use crate::state::{Paths, PodRecord};

/// The Pod of this process.
#[derive(Debug)]
pub struct SupervisedPod {
    /// Where microkube keeps its files.
    pub paths: Paths,
    /// As this process found it; what changes in it is the record keeper's.
    pub record: PodRecord,
    /// The Pod's streams.
    pub output: Arc<Output>,
    /// The command line that stays attached.
    pub client: Option<mpsc::Sender<Frame>>,
    /// Pass the guest's log on to the client.
    pub debug: bool,
    /// To the loop of the Pod's life.
    pub inbox: mpsc::UnboundedSender<Message>,
}

/// Id of an attempt in the guest.
#[must_use]
pub fn container_id(name: &str, attempt: u32) -> String {
    format!("{name}-{attempt}")
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
        prepare::containers(&self.record.pod).nth(container)
    }

    /// Name of a container.
    pub fn container_name(&self, container: usize) -> &str {
        self.container(container)
            .map_or("", |container| container.name.as_str())
    }

    /// Id of an attempt in the guest.
    pub fn container_id(&self, container: usize, attempt: u32) -> String {
        container_id(self.container_name(container), attempt)
    }

    /// The container and the attempt of an id in the guest.
    pub fn attempt_of(&self, id: &str) -> Option<(usize, u32)> {
        let (name, attempt) = id.rsplit_once('-')?;
        let container = prepare::containers(&self.record.pod).position(|container| container.name == name)?;
        let attempt: u32 = attempt.parse().ok()?;
        (container_id(name, attempt) == id).then_some((container, attempt))
    }

    /// The ids of the attempts of all containers that have one.
    pub fn ids_of(&self, attempt: impl Fn(usize) -> Option<u32>) -> HashSet<String> {
        let names = prepare::containers(&self.record.pod).map(|container| container.name.as_str());
        names
            .enumerate()
            .filter_map(|(container, name)| Some(container_id(name, attempt(container)?)))
            .collect()
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
