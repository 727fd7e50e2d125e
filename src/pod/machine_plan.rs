//! What a later supervisor must know of a machine that runs, to start containers again in it: kept in a file as long as there is that machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::container_spec::{PlanFailure, PlannedContainer};
use crate::state::{POD_RECORDS_VERSION, Paths, RecordError, RecordFormat, read_record, replace_record};

/// The machine's part of a Pod's plan.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachinePlan {
    /// Address of the Pod.
    pub pod_ip: String,
    /// Address of the host in the Pod's network.
    pub host_ip: String,
    /// The version of the VMM's protocol in which the machine was started; 0 is that of builds that note none.
    #[serde(default)]
    pub vmm_version: u32,
    /// The Pod's containers, or why one of them cannot be created.
    pub containers: Vec<Result<PlannedContainer, PlanFailure>>,
}

impl RecordFormat for MachinePlan {
    const VERSION: u32 = POD_RECORDS_VERSION;
}

/// Where the plan of a Pod's machine lies.
#[must_use]
pub fn path(paths: &Paths, uid: &str) -> PathBuf {
    paths.pod_state(uid).join("plan.json")
}

impl MachinePlan {
    /// Writes it down.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, paths: &Paths, uid: &str) -> Result<(), RecordError> {
        replace_record(&path(paths, uid), self)
    }

    /// As the supervisor before this one left it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(paths: &Paths, uid: &str) -> Result<Option<Self>, RecordError> {
        read_record(&path(paths, uid))
    }
}
