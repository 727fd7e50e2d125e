//! The layout of a VM's layers disk: which layers it has, and where the next one goes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use microkube_image::Image;
use microkube_protocol::messages::Layer;
use serde::{Deserialize, Serialize};

use super::container_images::LAYERS_MAX;
use crate::privileged::LAYERS_DEVICE;

/// The content of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerDisk {
    /// The layers by file.
    layers: HashMap<PathBuf, PlacedLayer>,
    /// Where the next layer begins. `None` while the disk is being extended: a supervisor that dies meanwhile leaves a
    /// disk whose length its successor does not know.
    end_bytes: Option<u64>,
    /// The ids of layers that volumes show. They are in use as long as the VM runs.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    in_volumes: BTreeSet<String>,
}

/// A layer on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PlacedLayer {
    /// Its id in the sandbox.
    id: String,
    offset_bytes: u64,
    length_bytes: u64,
}

impl From<&PlacedLayer> for Layer {
    fn from(placed: &PlacedLayer) -> Self {
        Self {
            id: placed.id.clone(),
            device: LAYERS_DEVICE.to_owned(),
            offset_bytes: placed.offset_bytes,
            length_bytes: placed.length_bytes,
            ..Default::default()
        }
    }
}

/// Layers that are new on the disk: the agent's list of them, and their files for the VMM with their lengths.
#[derive(Debug, Default)]
pub struct NewLayers {
    pub layers: Vec<Layer>,
    pub files: Vec<(File, u64)>,
}

impl LayerDisk {
    /// An empty disk.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            end_bytes: Some(0),
            ..Self::default()
        }
    }

    /// Places the layers of an image on the disk, except those that are on it.
    ///
    /// # Errors
    /// If a layer cannot be opened, the disk becomes too large, or its length is unknown. The disk is then unchanged.
    pub fn place(&mut self, image: &Image) -> anyhow::Result<NewLayers> {
        let mut placed = self.clone();
        let mut new = NewLayers::default();
        for (layer, file) in image.layers.iter().zip(image.open_layers()?) {
            if placed.layers.contains_key(&layer.path) {
                continue;
            }
            let offset_bytes = placed.end_bytes.context(
                "an earlier supervisor died while it extended the disk of the Pod's VM, so no image can be added to it",
            )?;
            if placed.layers.len() >= LAYERS_MAX {
                bail!("the images of the Pod have more than {LAYERS_MAX} layers");
            }
            let on_disk = PlacedLayer {
                id: format!("l{}", placed.layers.len()),
                offset_bytes,
                length_bytes: layer.length_bytes,
            };
            new.layers.push(Layer::from(&on_disk));
            placed.layers.insert(layer.path.clone(), on_disk);
            new.files.push((file, layer.length_bytes));
            let end_bytes = offset_bytes.checked_add(layer.length_bytes);
            placed.end_bytes = Some(end_bytes.context("the images are too large")?);
        }
        *self = placed;
        Ok(new)
    }

    /// The same disk while it is being extended.
    #[must_use]
    pub fn with_unknown_end(&self) -> Self {
        Self {
            end_bytes: None,
            ..self.clone()
        }
    }

    /// The layers of an image that are on the disk.
    #[must_use]
    pub fn layers_of(&self, image: &Image) -> Vec<Layer> {
        let mut seen = HashSet::new();
        let layers = image.layers.iter().filter(|layer| seen.insert(&layer.path));
        layers
            .filter_map(|layer| self.layers.get(&layer.path).map(Layer::from))
            .collect()
    }

    /// How many layers on the disk are neither among these ids nor in volumes, and their bytes.
    #[must_use]
    pub fn unused(&self, used: &HashSet<String>) -> (usize, u64) {
        let is_used = |layer: &PlacedLayer| used.contains(&layer.id) || self.in_volumes.contains(&layer.id);
        let unused = self.layers.values().filter(|layer| !is_used(layer));
        unused.fold((0, 0), |(count, bytes), layer| {
            (count.saturating_add(1), bytes.saturating_add(layer.length_bytes))
        })
    }

    /// The layers of a volume; see [`Self::stack`]. They count as used from now on.
    pub fn stack_of_volume(&mut self, image: &Image) -> Vec<String> {
        let stack = self.stack(image);
        self.in_volumes.extend(stack.iter().cloned());
        stack
    }

    /// The layers of a container, lowest first. If an image contains a layer more than once (often an empty one), only
    /// the topmost is stacked: overlayfs rejects duplicate directories, and the topmost hides the others anyway.
    #[must_use]
    pub fn stack(&self, image: &Image) -> Vec<String> {
        let mut seen = HashSet::new();
        let topmost_first = image.layers.iter().rev().filter(|layer| seen.insert(&layer.path));
        let mut stack: Vec<_> = topmost_first
            .filter_map(|layer| self.layers.get(&layer.path).map(|placed| placed.id.clone()))
            .collect();
        stack.reverse();
        stack
    }
}

#[cfg(test)]
mod tests {
    use microkube_image::{ImageConfiguration, Layer};

    use super::*;

    fn image(layers: &[PathBuf]) -> Image {
        let layers = layers.iter().map(|path| Layer {
            diff_id: format!("sha256:{}", path.display()),
            path: path.clone(),
            length_bytes: 4096,
        });
        Image {
            reference: String::new(),
            id: String::new(),
            manifest_digest: String::new(),
            repo_digest: None,
            config: ImageConfiguration::default(),
            layers: layers.collect(),
            size_bytes: 0,
        }
    }

    #[test]
    fn a_duplicate_layer_is_stacked_once() {
        let image = image(&["empty", "a", "empty", "b", "empty"].map(PathBuf::from));
        let layers = ["empty", "a", "b"].map(|name| {
            let layer = PlacedLayer {
                id: format!("id of {name}"),
                offset_bytes: 0,
                length_bytes: 4096,
            };
            (PathBuf::from(name), layer)
        });
        let disk = LayerDisk {
            layers: HashMap::from(layers),
            ..LayerDisk::default()
        };
        assert_eq!(disk.stack(&image), ["id of a", "id of b", "id of empty"]);
        assert_eq!(disk.layers_of(&image).len(), 3);
    }

    #[test]
    fn layers_are_placed_one_after_another_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| {
            let path = dir.path().join(name);
            std::fs::write(&path, [0; 4096]).unwrap();
            path
        });
        let mut disk = LayerDisk::empty();
        let offsets = |new: &NewLayers| -> Vec<_> {
            let layers = new.layers.iter();
            layers.map(|layer| (layer.id.clone(), layer.offset_bytes)).collect()
        };
        let first = disk.place(&image(&[a.clone(), b.clone()])).unwrap();
        assert_eq!(offsets(&first), [("l0".to_owned(), 0), ("l1".to_owned(), 4096)]);
        let second = disk.place(&image(&[b.clone(), c.clone()])).unwrap();
        assert_eq!(offsets(&second), [("l2".to_owned(), 8192)]);
        assert_eq!(second.files.len(), 1);
        assert_eq!(disk.stack(&image(&[b.clone(), c])), ["l1", "l2"]);
        let used = ["l0", "l2"].map(str::to_owned);
        assert_eq!(disk.unused(&HashSet::from(used)), (1, 4096));
        assert_eq!(disk.unused(&HashSet::new()), (3, 3 * 4096));
        let mut with_volume = disk.clone();
        assert_eq!(with_volume.stack_of_volume(&image(std::slice::from_ref(&a))), ["l0"]);
        assert_eq!(with_volume.unused(&HashSet::new()), (2, 2 * 4096));
        assert_eq!(with_volume.with_unknown_end().unused(&HashSet::new()), (2, 2 * 4096));

        let missing = image(&[dir.path().join("missing")]);
        let before = disk.clone();
        assert!(disk.place(&missing).is_err());
        assert_eq!(disk, before);

        let mut unknown = disk.with_unknown_end();
        assert!(
            unknown.place(&image(&[a])).unwrap().layers.is_empty(),
            "it is on the disk"
        );
        let other = dir.path().join("other");
        std::fs::write(&other, [0; 4096]).unwrap();
        let error = unknown.place(&image(&[other])).unwrap_err().to_string();
        assert!(error.contains("died"), "{error}");
    }
}
