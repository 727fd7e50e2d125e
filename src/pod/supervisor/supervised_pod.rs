//! The data that all parts of a supervisor share: the values that stay the same for the life of this process, and the
//! channels for reports.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use microkube_manifest::image_volumes;
use tokio::sync::{mpsc, watch};

use super::message::Message;
use crate::pod::container_images::WantedImage;
use crate::pod::container_order::{self, containers};
use crate::pod::guest_streams::GuestStreams;
use crate::pod::lifecycle::{ContainerAttempt, Event, ImageUse};
use crate::pod::object_watch::ObjectChanges;
use crate::pod::service_account_token::PodTokens;
use crate::pod::supervisor_protocol::{PodNotice, SupervisorFrame};
use crate::privileged::PodPrivileges;
use crate::state::{Paths, PodRecord};

#[derive(Debug)]
pub struct SupervisedPod {
    /// The directories of microkube's files.
    pub paths: Paths,
    /// Operations for the Pod that need root.
    pub privileges: PodPrivileges,
    /// The record as this process found it. The record keeper has later changes, and only [`Self::current`] has the
    /// Pod's current labels, annotations and images.
    pub record: PodRecord,
    /// The Pod after its last change. The names of containers never change, and only ephemeral containers are added.
    pub current: watch::Sender<Arc<Pod>>,
    pub guest_streams: Arc<GuestStreams>,
    /// Changes of the objects that the Pod refers to.
    pub changes: ObjectChanges,
    /// The tokens of its service account.
    pub tokens: Arc<PodTokens>,
    /// The attached command line.
    pub client: Option<mpsc::Sender<SupervisorFrame>>,
    /// Whether to send the guest's log to the client.
    pub debug: bool,
    /// Messages to the main loop.
    pub inbox: mpsc::UnboundedSender<Message>,
}

/// The Pod in a record, for [`SupervisedPod::current`].
pub fn current_of(record: &PodRecord) -> watch::Sender<Arc<Pod>> {
    watch::Sender::new(Arc::new(record.pod.clone()))
}

/// The guest's id for an attempt.
#[must_use]
pub fn container_id(name: &str, number: u32) -> String {
    format!("{name}-{number}")
}

impl SupervisedPod {
    /// Sends a message to the main loop.
    pub fn send(&self, message: Message) {
        // Sending fails only after the end of the Pod.
        let _ = self.inbox.send(message);
    }

    /// Sends an event to the lifecycle.
    pub fn report(&self, event: Event) {
        self.send(Message::Event(event));
    }

    /// Sends a warning to the attached command line; the Pod continues.
    pub async fn warn(&self, text: String) {
        if let Some(client) = &self.client {
            let _ = client.send(PodNotice::Warning(text).into()).await;
        }
    }

    /// The Pod after its last change.
    pub fn current(&self) -> Arc<Pod> {
        Arc::clone(&self.current.borrow())
    }

    /// The record with the Pod after its last change.
    pub fn current_record(&self) -> PodRecord {
        PodRecord {
            pod: Pod::clone(&self.current()),
            ..self.record.clone()
        }
    }

    /// A container by its number.
    pub fn container(&self, container: usize) -> Option<Container> {
        container_order::container(&self.current(), container)
    }

    pub fn container_name(&self, container: usize) -> String {
        let current = self.current();
        let name = container_order::names(&current).nth(container);
        name.unwrap_or_default().to_owned()
    }

    /// The name of an image volume by its number.
    pub fn image_volume_name(&self, number: usize) -> String {
        let name = image_volumes(&self.record.pod).map(|(name, _)| name).nth(number);
        name.unwrap_or_default().to_owned()
    }

    /// An image of the Pod after its last change. The images of volumes never change.
    pub fn wanted_image(&self, of: ImageUse) -> Option<WantedImage> {
        match of {
            ImageUse::Container(container) => Some(WantedImage::of_container(&self.container(container)?)),
            ImageUse::Volume(number) => {
                let (_, source) = image_volumes(&self.record.pod).nth(number)?;
                Some(WantedImage::of_volume(source))
            }
        }
    }

    /// Whether this is the number of an ephemeral container.
    pub fn is_ephemeral(&self, container: usize) -> bool {
        container >= containers(&self.record.pod).count()
    }

    /// The guest's id for an attempt.
    pub fn container_id(&self, attempt: ContainerAttempt) -> String {
        container_id(&self.container_name(attempt.container), attempt.number)
    }

    /// The attempt with this id in the guest.
    pub fn attempt_of(&self, id: &str) -> Option<ContainerAttempt> {
        let (name, number) = id.rsplit_once('-')?;
        let container = container_order::names(&self.current()).position(|known| known == name)?;
        let number = number.parse().ok()?;
        (container_id(name, number) == id).then_some(ContainerAttempt::new(container, number))
    }

    /// Path of a container within the Pod, as used in events.
    pub fn field_path(&self, container: usize) -> String {
        let init = self.record.pod.spec.iter().flat_map(|spec| &spec.init_containers);
        let list = if self.is_ephemeral(container) {
            "ephemeralContainers"
        } else if container < init.map(Vec::len).sum() {
            "initContainers"
        } else {
            "containers"
        };
        format!("spec.{list}{{{}}}", self.container_name(container))
    }
}

#[cfg(test)]
pub use tests::{test_pod, test_pod_in, test_pod_of, test_pod_with};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::guest_log::GuestLog;
    use crate::privileged::Privileges;

    /// A Pod with the container `web`, and the messages about it.
    pub fn test_pod(detached: bool) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
        test_pod_with(detached, None)
    }

    pub fn test_pod_with(
        detached: bool,
        client: Option<mpsc::Sender<SupervisorFrame>>,
    ) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
        let spec = serde_json::json!({ "restartPolicy": "Never", "containers": [{ "name": "web", "image": "i" }] });
        let record = record(detached, &spec);
        test_pod_in(std::path::Path::new("/nonexistent"), record, client)
    }

    /// A foreground Pod with this spec.
    pub fn test_pod_of(spec: serde_json::Value) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
        test_pod_in(std::path::Path::new("/nonexistent"), record(false, &spec), None)
    }

    fn record(detached: bool, spec: &serde_json::Value) -> PodRecord {
        let record = serde_json::json!({
            "uid": "u", "namespace": "default", "name": "p", "detached": detached,
            "client": null, "supervisor": null, "vmm": null,
            "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec },
        });
        serde_json::from_value(record).unwrap()
    }

    /// A Pod with this record and microkube's directories in `dir`.
    pub fn test_pod_in(
        dir: &std::path::Path,
        record: PodRecord,
        client: Option<mpsc::Sender<SupervisorFrame>>,
    ) -> (Arc<SupervisedPod>, mpsc::UnboundedReceiver<Message>) {
        let (inbox, messages) = mpsc::unbounded_channel();
        let paths = Paths::new(dir.join("state"), dir.join("run"));
        let pod = SupervisedPod {
            privileges: Privileges::new(&paths).of_pod("u").unwrap(),
            changes: ObjectChanges::of_pod(&paths, &record.pod),
            tokens: Arc::default(),
            paths,
            current: current_of(&record),
            record,
            guest_streams: GuestStreams::new(client.clone(), GuestLog::begin(dir.join("log")), false),
            client,
            debug: false,
            inbox,
        };
        (Arc::new(pod), messages)
    }

    #[tokio::test]
    async fn ephemeral_containers_follow_the_others() {
        let (pod, _messages) = test_pod(true);
        assert_eq!(pod.container(1), None);
        let mut changed = Pod::clone(&pod.current());
        let added = serde_json::json!([{ "name": "debug", "image": "b", "targetContainerName": "web" }]);
        changed.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
        pod.current.send_replace(Arc::new(changed));
        assert!(pod.is_ephemeral(1) && !pod.is_ephemeral(0));
        assert_eq!(pod.container(1).unwrap().image.as_deref(), Some("b"));
        assert_eq!(pod.attempt_of("debug-0"), Some(ContainerAttempt::new(1, 0)));
        assert_eq!(pod.field_path(1), "spec.ephemeralContainers{debug}");
    }

    #[tokio::test]
    async fn images_are_those_of_containers_and_volumes() {
        let (pod, _messages) = test_pod_of(serde_json::json!({
            "containers": [{ "name": "web", "image": "i" }],
            "volumes": [
                { "name": "data", "emptyDir": {} },
                { "name": "model", "image": { "reference": "m", "pullPolicy": "Never" } },
            ],
        }));
        let name = |of| pod.wanted_image(of).map(|wanted| wanted.name);
        assert_eq!(name(ImageUse::Container(0)).as_deref(), Some("i"));
        assert_eq!(name(ImageUse::Volume(0)).as_deref(), Some("m"));
        assert_eq!(name(ImageUse::Container(1)), None);
        assert_eq!(name(ImageUse::Volume(1)), None);
        assert_eq!(pod.image_volume_name(0), "model");
    }

    #[tokio::test]
    async fn a_guest_id_contains_container_and_attempt() {
        let (pod, _messages) = test_pod(false);
        assert_eq!(pod.container_id(ContainerAttempt::new(0, 3)), "web-3");
        assert_eq!(pod.attempt_of("web-3"), Some(ContainerAttempt::new(0, 3)));
        for strange in ["web", "web-", "web-03", "web-+3", "other-3", "-3", ""] {
            assert_eq!(pod.attempt_of(strange), None, "{strange}");
        }
        assert_eq!(pod.field_path(0), "spec.containers{web}");
    }
}
