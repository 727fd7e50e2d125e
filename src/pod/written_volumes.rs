//! The files of a VM's volumes, as last written.

use std::collections::HashMap;
use std::hash::RandomState;

use super::agent::AgentError;
use super::projected_volumes::VolumeFiles;
use super::sandbox::AgentClientHandle;

/// Fingerprints of the VM's files, to send only changes. The files themselves are not kept.
#[derive(Debug, Default)]
pub struct WrittenVolumes {
    keys: RandomState,
    fingerprints: HashMap<String, u64>,
}

impl WrittenVolumes {
    /// Writes a volume, unless the VM already has these files.
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
