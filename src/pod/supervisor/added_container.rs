//! Prepares a container whose image the running VM may lack, because the container was added or its image changed: adds
//! the image's layers to the VM's disk, and plans the container.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use microkube_image::{ImageError, StoreLock};
use microkube_vmm::vsock_control::GROW_DISK_VERSION;
use ttrpc::Code;

use super::container_plans::AddedContainer;
use super::images::{FoundImage, find};
use super::running_machine::Additions;
use super::supervised_pod::SupervisedPod;
use crate::pod::container_order;
use crate::pod::container_spec::{self, PlanFailure};
use crate::pod::layer_disk::{LayerDisk, NewLayers};
use crate::pod::lifecycle::{ContainerAttempt, Event, ImageUse};
use crate::pod::machine_plan::AddedPlan;
use crate::pod::resolved_pod::ResolvedPod;

/// Limits, in number and in bytes, of the layers on a VM's disk that no container uses any more. Above either limit, no
/// image is added to the VM: layers cannot be removed from the disk, and the VMM keeps their files open.
const UNUSED_LAYERS_MAX: usize = 64;
const UNUSED_BYTES_MAX: u64 = 4 << 30;

/// Why a container cannot be started in the running VM.
#[derive(Debug)]
pub enum NotPrepared {
    /// The container cannot be created, neither in this VM nor in another one.
    NotCreated(PlanFailure),
    /// The container's image cannot be added to this VM.
    ImageNotAdded(anyhow::Error),
}

impl NotPrepared {
    fn create_error(error: &anyhow::Error) -> Self {
        Self::NotCreated(PlanFailure {
            reason: "CreateContainerError".to_owned(),
            message: format!("{error:#}"),
        })
    }

    /// The layers of an image were not placed on the disk. If they cannot be opened, another VM would not help.
    fn not_placed(error: anyhow::Error) -> Self {
        match error.is::<ImageError>() {
            true => Self::create_error(&error),
            false => Self::ImageNotAdded(error),
        }
    }

    /// The event for the lifecycle.
    pub fn into_event(self, attempt: ContainerAttempt) -> Event {
        match self {
            Self::NotCreated(PlanFailure { reason, message }) => Event::ContainerStartFailed {
                attempt,
                reason,
                message,
            },
            Self::ImageNotAdded(error) => Event::ImageNotAdded {
                attempt,
                message: format!("{error:#}"),
            },
        }
    }
}

impl Additions {
    /// Prepares the container with this number, whose image has this id. `used` are the layers that containers use. `hold`
    /// protects the image until its layers are on the disk.
    ///
    /// # Errors
    /// [`NotPrepared`].
    pub async fn prepare(
        &self,
        pod: &Arc<SupervisedPod>,
        number: usize,
        image_id: String,
        found: Option<FoundImage>,
        used: HashSet<String>,
        hold: Option<StoreLock>,
    ) -> Result<AddedContainer, NotPrepared> {
        let create_error = |error: anyhow::Error| NotPrepared::create_error(&error);
        let record = pod.current_record();
        let container = container_order::container(&record.pod, number);
        let container = container
            .context("the Pod has no such container")
            .map_err(create_error)?;
        let is_removed = |found: &FoundImage| matches!(found.image.open_layers(), Err(ImageError::Removed { .. }));
        let FoundImage { name, image } = match found.filter(|found| !is_removed(found)) {
            Some(found) => found,
            // The previous supervisor found the image, or the image was removed meanwhile.
            None => find(pod, ImageUse::Container(number)).await.map_err(create_error)?,
        };
        let mut added = self.added.lock().await;
        let Some(added) = added.as_mut() else {
            let error = anyhow!("an older microkube started the Pod's VM, so no image can be added to it");
            return Err(NotPrepared::ImageNotAdded(error));
        };
        let mut layer_disk = added.layer_disk.clone();
        let new = layer_disk.place(&image).map_err(NotPrepared::not_placed)?;
        let is_ephemeral = pod.is_ephemeral(number);
        if !new.files.is_empty() && !is_ephemeral {
            check_unused(added, used).map_err(NotPrepared::ImageNotAdded)?;
        }
        self.extend_disk(pod, added, &layer_disk, new)
            .await
            .map_err(NotPrepared::ImageNotAdded)?;
        // An earlier attempt may have failed after it extended the disk, so all layers of the image are requested.
        let mounted = self.sandbox.agent.add_layers(layer_disk.layers_of(&image)).await;
        mounted.map_err(|error| {
            let is_lost = error.code() == Code::UNKNOWN;
            let error = anyhow::Error::from(error).context("the guest cannot mount the image");
            match is_lost {
                // The loss of the VM is reported elsewhere.
                true => create_error(error),
                false => NotPrepared::ImageNotAdded(error),
            }
        })?;
        drop(hold);
        let address = |text: &str| text.parse::<Ipv4Addr>().context("the Pod's VM has no valid address");
        let resolved = address(&self.pod_ip)
            .and_then(|pod_ip| Ok((pod_ip, address(&self.host_ip)?)))
            .and_then(|(pod_ip, host_ip)| ResolvedPod::of_addresses(&record, pod_ip, host_ip))
            .map_err(create_error)?;
        let mut planned = container_spec::plan(&resolved, &container, &image, layer_disk.stack(&image))
            .map_err(NotPrepared::NotCreated)?;
        if is_ephemeral {
            // Ephemeral containers have no resources of their own: the Pod's VM bounds them.
            planned.request.resources = None.into();
        }
        added.containers.insert(number, planned.clone());
        added.images.insert(number, name.clone());
        added.image_ids.insert(number, image_id.clone());
        self.save(pod, added);
        Ok(AddedContainer {
            image: name,
            image_id,
            planned,
        })
    }

    /// Appends new layers to the disk, which then has the content of `grown`.
    async fn extend_disk(
        &self,
        pod: &SupervisedPod,
        added: &mut AddedPlan,
        grown: &LayerDisk,
        new: NewLayers,
    ) -> anyhow::Result<()> {
        if new.files.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(
            self.vmm_version >= GROW_DISK_VERSION,
            "the VMM of an older microkube runs the Pod, so no image can be added to it"
        );
        // A supervisor that dies during the extension must not leave a wrong length behind.
        added.layer_disk = grown.with_unknown_end();
        self.save(pod, added);
        for (file, length_bytes) in &new.files {
            let extended = self.sandbox.vsock.grow_disk(file, *length_bytes).await;
            extended.context("cannot extend the disk of the Pod's VM")?;
        }
        added.layer_disk = grown.clone();
        self.save(pod, added);
        Ok(())
    }

    fn save(&self, pod: &SupervisedPod, added: &AddedPlan) {
        if !pod.record.detached {
            return;
        }
        if let Err(error) = added.save(&pod.paths, &pod.record.uid) {
            // Without this record, the next supervisor would start the Pod in another VM.
            tracing::error!("cannot write the state for a later supervisor: {error}");
        }
    }
}

/// Checks that the disk does not have too many layers that no container uses any more.
fn check_unused(added: &AddedPlan, mut used: HashSet<String>) -> anyhow::Result<()> {
    let planned = added.containers.values();
    used.extend(planned.flat_map(|planned| planned.request.layer_ids.iter().cloned()));
    let (layers, bytes) = added.layer_disk.unused(&used);
    anyhow::ensure!(
        layers <= UNUSED_LAYERS_MAX && bytes <= UNUSED_BYTES_MAX,
        "its disk has {layers} layers with {bytes} bytes of images that are no longer used; it may have \
         {UNUSED_LAYERS_MAX} layers and {UNUSED_BYTES_MAX} bytes"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
