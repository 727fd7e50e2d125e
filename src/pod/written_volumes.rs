//! The files of volumes that a VM has.

use std::collections::HashMap;
use std::hash::RandomState;

use super::agent::AgentError;
use super::projected_volumes::VolumeFiles;
use super::sandbox::AgentClientHandle;

/// What the VM has, to send only changes. The files themselves are not kept.
#[derive(Debug, Default)]
pub struct WrittenVolumes {
    keys: RandomState,
    fingerprints: HashMap<String, u64>,
}

impl WrittenVolumes {
    /// Writes a volume, unless the VM has these files.
    ///
    /// # Errors
    /// If the agent cannot write them.
    pub async fn write(&mut self, agent: &AgentClientHandle, files: VolumeFiles) -> Result<(), AgentError> {
        let volume = files.volume.clone();
        let fingerprint = files.fingerprint(&self.keys);
        if self.fingerprints.get(&volume) == Some(&fingerprint) {
            return Ok(());
        }
        agent.write_file_volume(&volume, files.into_messages()).await?;
        self.fingerprints.insert(volume, fingerprint);
        Ok(())
    }
}
