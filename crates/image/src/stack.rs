//! Layers that depend on the layers below them (directories without entries, hard links to files of lower layers). Such
//! a layer is converted once more for every stack of layers that contains it.

use std::fs::File;
use std::path::PathBuf;

use microkube_erofs::{ErofsError, LowerLayers, Volume, VolumeError};
use sha2::{Digest as _, Sha256};

use super::error::{PullError, StoreError};
use super::layer::{self, accept, open_volume};
use super::manifest::LayerBlob;
use super::reference::Digest;
use super::store::ImageStore;

/// A layer of an image in the store.
pub(super) struct Stacked {
    pub path: PathBuf,
    pub length_bytes: u64,
}

impl ImageStore {
    /// The files of an image's layers, lowest first; `None` if one is missing or visibly damaged.
    pub(super) fn stacked(&self, layers: &[LayerBlob]) -> Result<Option<Vec<Stacked>>, StoreError> {
        let mut stacked = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let below = layers.get(..index).unwrap_or_default();
            let mut path = self.layer_path(&layer.diff_id);
            let Some(mut volume) = open_volume(&path)? else {
                return Ok(None);
            };
            let own = depends(&volume, index);
            if own {
                path = self.stacked_path(&layer.diff_id, below);
                match open_volume(&path)? {
                    Some(own) => volume = own,
                    None => return Ok(None),
                }
            }
            stacked.push(Stacked {
                length_bytes: volume.length_bytes(),
                path,
            });
        }
        Ok(Some(stacked))
    }

    /// Converts the layers that depend on lower ones again. Each of them is already in the store by itself.
    pub(super) fn stack(&self, layers: &[LayerBlob]) -> Result<(), PullError> {
        for (index, layer) in layers.iter().enumerate() {
            let path = self.layer_path(&layer.diff_id);
            let depends = open_volume(&path)?.is_some_and(|volume| depends(&volume, index));
            let below = layers.get(..index).unwrap_or_default();
            let own_path = self.stacked_path(&layer.diff_id, below);
            if !depends || open_volume(&own_path)?.is_some() {
                continue;
            }
            let Some(lower) = self.stacked(below)? else {
                return Err(PullError::invalid(
                    "image",
                    "a layer was removed while the image was being added",
                ));
            };
            let blob = self.open_blob(layer).inspect_err(|_| {
                // Removed, so that the next pull fetches it again.
                let _ = std::fs::remove_file(&path);
            })?;
            let converted = self.convert_from(blob, &lower);
            let converted = accept(converted, layer, &self.temporary_directory())?;
            self.add_file(converted.file.erofs, &own_path)?;
        }
        Ok(())
    }

    fn convert_from(&self, blob: File, lower: &[Stacked]) -> Result<layer::Converted, ErofsError> {
        let open = |layer: &Stacked| File::open(&layer.path).map_err(VolumeError::Io);
        let lower = LowerLayers::open(lower.iter().map(open).collect::<Result<_, _>>()?)?;
        layer::convert_blob(blob, &self.temporary_directory(), self.options(), Some(&lower))
    }

    /// Rebuilds a layer's file from the layer as transferred; `false` if that is missing or damaged.
    pub(super) fn rebuild(&self, layers: &[LayerBlob], index: usize) -> Result<bool, StoreError> {
        let Some(layer) = layers.get(index) else {
            return Ok(false);
        };
        let Ok(blob) = self.open_blob(layer) else {
            return Ok(false);
        };
        let directory = self.temporary_directory();
        let converted = layer::convert_blob(blob, &directory, self.options(), None);
        match accept(converted, layer, &directory) {
            Ok(converted) => self.add_layer(converted.file, &layer.diff_id)?,
            Err(PullError::Store(error)) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, "cannot rebuild a layer from local content");
                return Ok(false);
            }
        }
        match self.stack(layers.get(..=index).unwrap_or_default()) {
            Ok(()) => Ok(true),
            Err(PullError::Store(error)) => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// A layer as it was transferred, with its digest checked.
    fn open_blob(&self, layer: &LayerBlob) -> Result<File, PullError> {
        use std::io::Seek;
        let path = self.layer_blob_path(&layer.blob.digest);
        let mut file = File::open(&path).map_err(StoreError::of("open", &path))?;
        let actual = Digest::of_stream(&mut file).map_err(StoreError::of("read", &path))?;
        if actual != layer.blob.digest {
            return Err(PullError::Digest {
                what: format!("{}", path.display()),
                expected: layer.blob.digest.to_string(),
                actual: actual.to_string(),
            });
        }
        file.rewind().map_err(StoreError::of("read", &path))?;
        Ok(file)
    }

    /// Path of a layer that was converted for its place above `below`.
    fn stacked_path(&self, diff_id: &Digest, below: &[LayerBlob]) -> PathBuf {
        let below = chain_of(below.iter().map(|layer| layer.diff_id.as_str()));
        self.layer_path(diff_id)
            .with_file_name(format!("{}-on-{}.erofs", diff_id.hex(), below.hex()))
    }
}

/// The digest that represents layers in this order.
pub(super) fn chain_of<'a>(diff_ids: impl Iterator<Item = &'a str>) -> Digest {
    let mut hash = Sha256::new();
    for diff_id in diff_ids {
        hash.update(diff_id);
        hash.update(b"\n");
    }
    Digest::from_hash(hash)
}

/// Whether a layer has to be converted for its place in the stack.
fn depends(volume: &Volume, index: usize) -> bool {
    let needs = volume.needs();
    needs.links || needs.directories && index > 0
}
