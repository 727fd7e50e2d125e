//! Removes content that no name leads to.

use std::collections::BTreeSet;

use nix::fcntl::FlockArg;

use super::error::StoreError;
use super::manifest::{self, CONFIG_MAX_BYTES};
use super::store::{ImageStore, allocated_bytes, remove_file};

/// What [`ImageStore::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub references: Vec<String>,
    /// Space that is free again, in bytes. Zero where a pull is running; its content goes with the next removal or pull.
    pub freed_bytes: u64,
    /// Whether content that no name leads to is gone; not so while images are being added.
    pub swept: bool,
}

impl Removed {
    /// Removes what no name leads to any more.
    pub(super) fn sweep(&mut self, store: &ImageStore) -> Result<(), StoreError> {
        let freed = store.sweep()?;
        self.swept = freed.is_some();
        self.freed_bytes += freed.unwrap_or(0);
        Ok(())
    }
}

impl ImageStore {
    /// Removes content that no name leads to and what dead processes left, unless images are being added at the moment.
    /// Returns how many bytes are free again, nothing where images are being added.
    pub(super) fn sweep(&self) -> Result<Option<u64>, StoreError> {
        let Some(_lock) = self.lock(FlockArg::LockExclusiveNonblock)? else {
            return Ok(None);
        };
        let mut keep = BTreeSet::new();
        for path in self.reference_files()? {
            let Some((record, manifest)) = self.read_record(&path)? else {
                continue;
            };
            let config = self.read_file(&self.blob_path("configs", &manifest.config.digest), CONFIG_MAX_BYTES)?;
            keep.insert(self.blob_path("manifests", &record));
            keep.insert(self.blob_path("configs", &manifest.config.digest));
            keep.extend(manifest.layers.iter().map(|layer| self.layer_blob_path(&layer.digest)));
            if let Some(Ok((_, layers))) = config.map(|config| manifest::join(&manifest, &config)) {
                keep.extend(layers.iter().map(|layer| self.layer_path(&layer.diff_id)));
                keep.extend(self.stacked(&layers)?.into_iter().flatten().map(|layer| layer.path));
                let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
                keep.extend(self.merged_paths(&diff_ids));
            }
        }
        let mut freed = 0;
        for part in [
            "layers/sha256",
            "blobs/sha256",
            "manifests/sha256",
            "configs/sha256",
            "tmp",
        ] {
            for path in self.files_of(part)? {
                if !keep.contains(&path) {
                    freed += allocated_bytes(&path);
                    remove_file(&path)?;
                }
            }
        }
        Ok(Some(freed))
    }
}
