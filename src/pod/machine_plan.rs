//! The plan with which a later supervisor starts containers in a running VM. The file exists while the VM does.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::container_spec::{PlanFailure, PlannedContainer};
use super::layer_disk::LayerDisk;
use crate::state::{POD_RECORDS_VERSION, Paths, RecordError, RecordFormat, read_record, replace_record};

/// The part of a boot plan that outlives the boot.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachinePlan {
    /// IP address of the Pod.
    pub pod_ip: String,
    /// IP address of the host in the Pod's network.
    pub host_ip: String,
    /// The version of the VMM's protocol with which the VM was started; 0 for builds that record none.
    #[serde(default)]
    pub vmm_version: u32,
    /// The layers on its disk. `None` for builds that record none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_disk: Option<LayerDisk>,
    /// The Pod's containers, or why one of them cannot be created.
    pub containers: Vec<Result<PlannedContainer, PlanFailure>>,
    /// Their images as the Pod named them. Empty for builds that record none, until a later build takes the VM over
    /// ([`Self::note_images`]); an empty name is not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// The ids that the Pod's status showed for these images. Empty for builds that record none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_ids: Vec<String>,
}

/// Containers and layers that were added to a running VM. The file exists after the first addition.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddedPlan {
    /// The layers on its disk.
    pub layer_disk: LayerDisk,
    /// The containers, by number: ephemeral ones, and those whose image was added.
    pub containers: BTreeMap<usize, PlannedContainer>,
    /// The images of the containers as the Pod named them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<usize, String>,
    /// The ids that the Pod's status showed for these images. Empty for builds that record none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_ids: BTreeMap<usize, String>,
}

impl RecordFormat for AddedPlan {
    const VERSION: u32 = POD_RECORDS_VERSION;
}

/// Path of [`AddedPlan`].
#[must_use]
pub fn added_path(paths: &Paths, uid: &str) -> PathBuf {
    paths.pod_state(uid).join("added.json")
}

impl AddedPlan {
    /// Writes it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, paths: &Paths, uid: &str) -> Result<(), RecordError> {
        replace_record(&added_path(paths, uid), self)
    }

    /// Reads what the previous supervisor added.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(paths: &Paths, uid: &str) -> Result<Option<Self>, RecordError> {
        read_record(&added_path(paths, uid))
    }
}

impl RecordFormat for MachinePlan {
    const VERSION: u32 = POD_RECORDS_VERSION;
}

/// Path of the plan.
#[must_use]
pub fn path(paths: &Paths, uid: &str) -> PathBuf {
    paths.pod_state(uid).join("plan.json")
}

impl MachinePlan {
    /// Completes a plan of a build that did not record the images, or not their ids. `ran` are name and id of the image
    /// with which a container has run. Call this before an image of the Pod changes: its containers can then start again
    /// as planned, even in a VM to which no image can be added. Returns whether the plan has changed.
    pub fn note_images<'l>(&mut self, ran: impl Fn(usize) -> Option<(&'l str, &'l str)>) -> bool {
        if self.containers.is_empty() || !self.image_ids.is_empty() {
            return false;
        }
        let recorded = std::mem::take(&mut self.images);
        for container in 0..self.containers.len() {
            let recorded = recorded.get(container);
            let ran = ran(container).filter(|(name, _)| recorded.is_none_or(|recorded| recorded == name));
            let (name, id) = match ran {
                Some((name, id)) => (name.to_owned(), id.to_owned()),
                None => (recorded.cloned().unwrap_or_default(), String::new()),
            };
            self.images.push(name);
            self.image_ids.push(id);
        }
        true
    }

    /// Writes the plan.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save(&self, paths: &Paths, uid: &str) -> Result<(), RecordError> {
        replace_record(&path(paths, uid), self)
    }

    /// Reads the plan that the previous supervisor left.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(paths: &Paths, uid: &str) -> Result<Option<Self>, RecordError> {
        read_record(&path(paths, uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plan for two containers, with these images.
    fn plan(images: &[&str]) -> MachinePlan {
        let failure = serde_json::json!({ "Err": { "reason": "CreateContainerError", "message": "no command" } });
        serde_json::from_value(serde_json::json!({
            "pod_ip": "10.88.0.2", "host_ip": "10.88.0.1", "containers": [failure, failure], "images": images,
        }))
        .unwrap()
    }

    #[test]
    fn a_plan_without_images_is_for_those_that_have_run() {
        let ran = [Some(("app:1", "app@sha256:1")), None];
        let mut old = plan(&[]);
        assert!(old.note_images(|container| ran[container]));
        assert_eq!(old.images, ["app:1", ""], "the second one is not known");
        assert_eq!(old.image_ids, ["app@sha256:1", ""]);
        let changed = [Some(("app:2", "app@sha256:2")), Some(("db:1", "db@sha256:1"))];
        assert!(!old.note_images(|container| changed[container]), "it is complete");
        assert_eq!(old.images, ["app:1", ""]);
    }

    #[test]
    fn a_plan_without_ids_keeps_its_images() {
        let ran = [Some(("app:1", "app@sha256:1")), Some(("db:2", "db@sha256:2"))];
        let mut old = plan(&["app:1", "db:1"]);
        assert!(old.note_images(|container| ran[container]));
        assert_eq!(old.images, ["app:1", "db:1"]);
        assert_eq!(old.image_ids, ["app@sha256:1", ""]);
    }
}
