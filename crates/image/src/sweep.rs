//! Removes content that no name refers to.

use std::collections::BTreeSet;

use super::error::StoreError;
use super::manifest::{self, CONFIG_MAX_BYTES};
use super::store::{ImageStore, allocated_bytes, remove_file};

/// The result of [`ImageStore::remove`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The removed names.
    pub references: Vec<String>,
    /// Freed space in bytes. Zero while a pull is running: the next removal or pull then frees the content.
    pub freed_bytes: u64,
    /// Whether unreferenced content was removed; `false` while images are being added.
    pub swept: bool,
}

impl Removed {
    /// Removes unreferenced content.
    pub(super) fn sweep(&mut self, store: &ImageStore) -> Result<(), StoreError> {
        let freed = store.sweep()?;
        self.swept = freed.is_some();
        self.freed_bytes += freed.unwrap_or(0);
        Ok(())
    }
}

impl ImageStore {
    /// Removes unreferenced content and leftovers of dead processes, unless images are being added. Returns the number
    /// of freed bytes, or `None` while images are being added.
    pub(super) fn sweep(&self) -> Result<Option<u64>, StoreError> {
        let Some(_lock) = self.try_lock_exclusive()? else {
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
