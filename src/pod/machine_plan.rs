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
    /// Their images as the Pod named them. Empty for builds that record none: the VM then gets the image of a container
    /// before it starts the container again.
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
