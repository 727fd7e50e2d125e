//! Prepares a container that was added to a running VM: puts the layers of its image on the VM's disk, and plans it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use microkube_image::{Image, StoreLock};
use microkube_manifest::ephemeral::as_container;
use microkube_vmm::vsock_control::GROW_DISK_VERSION;

use super::images::find;
use super::running_machine::Additions;
use super::supervised_pod::SupervisedPod;
use crate::pod::container_order;
use crate::pod::container_spec::{self, PlanFailure, PlannedContainer};
use crate::pod::layer_disk::NewLayers;
use crate::pod::machine_plan::AddedPlan;
use crate::pod::resolved_pod::ResolvedPod;

impl Additions {
    /// Prepares the container with this number. `hold` protects its image until the layers are on the disk.
    ///
    /// # Errors
    /// If the container cannot be created, with the kubelet's reason.
    pub async fn prepare(
        &self,
        pod: &Arc<SupervisedPod>,
        number: usize,
        image: Option<Image>,
        hold: Option<StoreLock>,
    ) -> Result<PlannedContainer, PlanFailure> {
        let create_error = |error: anyhow::Error| PlanFailure {
            reason: "CreateContainerError".to_owned(),
            message: format!("{error:#}"),
        };
        let record = pod.current_record();
        let container = container_order::ephemeral_container(&record.pod, number);
        let container = container
            .context("the Pod has no such container")
            .map_err(create_error)?;
        let image = match image.filter(|image| image.open_layers().is_ok()) {
            Some(image) => image,
            // The previous supervisor has found the image, or it was removed meanwhile.
            None => find(pod, &as_container(container)).await.map_err(create_error)?,
        };
        let mut added = self.added.lock().await;
        let layer_ids = self.add_layers(pod, &mut added, &image).await.map_err(create_error)?;
        drop(hold);
        let address = |text: &str| text.parse::<Ipv4Addr>().context("the Pod's VM has no valid address");
        let resolved = address(&self.pod_ip)
            .and_then(|pod_ip| Ok((pod_ip, address(&self.host_ip)?)))
            .and_then(|(pod_ip, host_ip)| ResolvedPod::of_addresses(&record, pod_ip, host_ip))
            .map_err(create_error)?;
        let mut planned = container_spec::plan(&resolved, &as_container(container), &image, layer_ids)?;
        // Ephemeral containers have no resources of their own: the Pod's VM bounds them.
        planned.request.resources = None.into();
        if let Some(added) = added.as_mut() {
            added.containers.insert(number, planned.clone());
            self.save(pod, added);
        }
        Ok(planned)
    }

    /// Puts the layers of the image on the disk, and has the guest mount them. Returns their ids, lowest first.
    async fn add_layers(
        &self,
        pod: &SupervisedPod,
        added: &mut Option<AddedPlan>,
        image: &Image,
    ) -> anyhow::Result<Vec<String>> {
        let Some(added) = added else {
            bail!("an older microkube started the Pod's VM, so no image can be added to it");
        };
        let mut layer_disk = added.layer_disk.clone();
        let NewLayers { layers, files } = layer_disk.place(image)?;
        if !files.is_empty() {
            if self.vmm_version < GROW_DISK_VERSION {
                bail!("the VMM of an older microkube runs the Pod, so no image can be added to it");
            }
            // A supervisor that dies before the end must not leave a wrong length behind.
            added.layer_disk = layer_disk.with_unknown_end();
            self.save(pod, added);
            for (file, length_bytes) in &files {
                let grown = self.sandbox.vsock.grow_disk(file, *length_bytes).await;
                grown.context("cannot extend the disk of the Pod's VM")?;
            }
            added.layer_disk = layer_disk.clone();
            self.save(pod, added);
        }
        // An earlier attempt may have failed at this point, so request all layers.
        let wanted = if layers.is_empty() {
            layer_disk.layers_of(image)
        } else {
            layers
        };
        let mounted = self.sandbox.agent.add_layers(wanted).await;
        mounted.context("the guest cannot mount the image")?;
        Ok(layer_disk.stack(image))
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
