//! Limits of the agent's answers.

use microkube_protocol::messages::{
    AddLayersResponse, ConnectPortResponse, CreateSandboxResponse, ListContainersResponse, RemoveContainerResponse,
    ResizeTerminalResponse, ShutdownResponse, SignalContainerResponse, SignalProcessResponse, StartContainerResponse,
    StartProcessResponse, StatsResponse, WaitContainerResponse, WaitProcessResponse, WatchStorageResponse,
    WriteFileVolumeResponse,
};

use crate::pod::guest_text::MAX_TEXT_BYTES;

/// Maximum number of containers in an agent's list, including those that have ended (`MAX_CONTAINERS` in
/// `agent/src/service.rs`). Any beyond that are ignored.
pub const MAX_LISTED: usize = 512;

/// Maximum number of supplementary groups of a process. The kernel allows more (`NGROUPS_MAX`), but no image uses as
/// many.
pub const MAX_GROUPS: usize = 1024;

/// Maximum number of volumes and containers whose usage an agent reports: more than a Pod has. Any beyond that are ignored.
pub const MAX_STORAGE_ENTRIES: usize = 4096;

/// Longest id of a container or process, in bytes (`agent.proto`).
pub const MAX_ID_BYTES: usize = 128;

/// Cuts an answer from the guest to the limits above.
pub trait Answer {
    /// The default is for answers that contain only numbers, or nothing.
    fn bound(&mut self) {}
}

impl Answer for CreateSandboxResponse {}
impl Answer for WriteFileVolumeResponse {}
impl Answer for AddLayersResponse {}
impl Answer for SignalContainerResponse {}
impl Answer for RemoveContainerResponse {}
impl Answer for StartProcessResponse {}
impl Answer for WaitProcessResponse {}
impl Answer for SignalProcessResponse {}
impl Answer for ResizeTerminalResponse {}
impl Answer for ConnectPortResponse {}
impl Answer for ShutdownResponse {}

impl Answer for StartContainerResponse {
    fn bound(&mut self) {
        if let Some(user) = self.user.as_mut() {
            user.supplemental_gids.truncate(MAX_GROUPS);
        }
    }
}

impl Answer for WaitContainerResponse {
    fn bound(&mut self) {
        self.termination_message.truncate(MAX_TEXT_BYTES);
    }
}

impl Answer for ListContainersResponse {
    fn bound(&mut self) {
        // Drop an id that is too long: if it were cut, it might equal another container's.
        self.containers.retain(|container| container.id.len() <= MAX_ID_BYTES);
        self.containers.truncate(MAX_LISTED);
    }
}

impl Answer for StatsResponse {
    fn bound(&mut self) {
        self.containers.retain(|container| container.id.len() <= MAX_ID_BYTES);
        self.containers.truncate(MAX_LISTED);
    }
}

impl Answer for WatchStorageResponse {
    fn bound(&mut self) {
        self.used
            .retain(|entry| entry.volume.len() <= MAX_ID_BYTES && entry.container_id.len() <= MAX_ID_BYTES);
        self.used.truncate(MAX_STORAGE_ENTRIES);
    }
}
