//! Merges layers for Pods with more layers than fit. An image's lowest layers become one file, which is stored like a
//! layer and created once for each set of merged layers.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use microkube_erofs::{ErofsError, LowerLayers};

use super::error::{ImageError, StoreError};
use super::layer::{self, open_volume};
use super::reference::Digest;
use super::stack::chain_of;
use super::store::ImageStore;
use super::{Image, Layer};

/// The possible numbers of files per image. The first one with which the Pod's images fit is used. The steps are few,
/// so that an image has few merged files, whatever Pods use it.
const STEPS: [usize; 8] = [128, 64, 32, 16, 8, 4, 2, 1];

impl ImageStore {
    /// The images with enough of their lowest layers merged that they have at most `max` files together. How an image
    /// is merged at a given step depends on the image alone.
    pub fn fit(&self, images: Vec<Image>, max: usize) -> Result<Vec<Image>, ImageError> {
        let Some(step) = self.step_for(&images, max) else {
            let count = self.count(&images, 1);
            return Err(ImageError::TooMany { count, max });
        };
        images.into_iter().map(|image| self.reduce(image, step)).collect()
    }

    /// The number of files to which every image is reduced: `usize::MAX` if no reduction is necessary, `None` if even
    /// one file per image is too many.
    fn step_for(&self, images: &[Image], max: usize) -> Option<usize> {
        let mut steps = std::iter::once(usize::MAX).chain(STEPS);
        steps.find(|step| self.count(images, *step) <= max)
    }

    /// Number of different files of the images when their layers are reduced to `step`.
    fn count(&self, images: &[Image], step: usize) -> usize {
        let paths = images.iter().flat_map(|image| self.paths_in(image, step));
        paths.collect::<BTreeSet<_>>().len()
    }

    /// The files of an image when its layers are reduced to `step`.
    fn paths_in(&self, image: &Image, step: usize) -> Vec<PathBuf> {
        let (merged, rest) = split(&image.layers, step);
        let merged = (!merged.is_empty()).then(|| self.merged_path(merged));
        merged
            .into_iter()
            .chain(rest.iter().map(|layer| layer.path.clone()))
            .collect()
    }

    fn reduce(&self, mut image: Image, step: usize) -> Result<Image, ImageError> {
        let (merged, rest) = split(&image.layers, step);
        if !merged.is_empty() {
            let first = self.merged(&image.reference, merged)?;
            let layers = std::iter::once(first).chain(rest.iter().cloned()).collect();
            image.layers = layers;
        }
        Ok(image)
    }

    /// The file for `layers`, created if it does not exist.
    fn merged(&self, reference: &str, layers: &[Layer]) -> Result<Layer, ImageError> {
        let _held = self.lock_shared()?;
        let chain = chain(layers);
        let path = self.merged_path(layers);
        let found = |path: &Path| {
            let volume = open_volume(path)?;
            Ok::<_, StoreError>(volume.map(|volume| Layer {
                diff_id: chain.to_string(),
                path: path.to_path_buf(),
                length_bytes: volume.length_bytes(),
            }))
        };
        if let Some(layer) = found(&path)? {
            return Ok(layer);
        }
        let _lock = self.lock_layer(&chain)?;
        if let Some(layer) = found(&path)? {
            return Ok(layer);
        }
        self.merge_to(reference, layers, &path)?;
        let missing = || ImageError::Removed {
            reference: reference.to_owned(),
        };
        found(&path)?.ok_or_else(missing)
    }

    fn merge_to(&self, reference: &str, layers: &[Layer], path: &Path) -> Result<(), ImageError> {
        let directory = self.temporary_directory();
        let files = Image::open_all(layers, reference)?;
        let merge = |files: Vec<File>| {
            let lower = LowerLayers::open(files)?;
            layer::merge(&lower, &directory, self.options())
        };
        let merged = merge(files).map_err(|error| match error {
            ErofsError::Output(error) => StoreError::of("merge layers in", &directory)(error.0).into(),
            source => ImageError::Merge {
                reference: reference.to_owned(),
                count: layers.len(),
                source: source.into(),
            },
        })?;
        Ok(self.add_file(merged, path)?)
    }

    fn merged_path(&self, layers: &[Layer]) -> PathBuf {
        self.merged_path_of(&chain(layers))
    }

    fn merged_path_of(&self, chain: &Digest) -> PathBuf {
        let path = self.layer_path(chain);
        path.with_file_name(format!("{}-merged.erofs", chain.hex()))
    }

    /// The merged files that may exist for an image with these layers.
    pub(super) fn merged_paths<'a>(&'a self, diff_ids: &'a [&str]) -> impl Iterator<Item = PathBuf> + 'a {
        STEPS.iter().filter_map(|step| {
            let (merged, _) = split(diff_ids, *step);
            (!merged.is_empty()).then(|| self.merged_path_of(&chain_of(merged.iter().copied())))
        })
    }

    /// The existing merged files of an image, with the layers they replace.
    pub(super) fn merged_files<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = (&'a [Layer], PathBuf)> {
        STEPS.iter().filter_map(|step| {
            let (merged, _) = split(&image.layers, *step);
            let path = (!merged.is_empty()).then(|| self.merged_path(merged))?;
            path.exists().then_some((merged, path))
        })
    }

    /// Creates a merged file again; `false` if its layers are damaged too.
    pub(super) fn merge_again(&self, image: &Image, layers: &[Layer], path: &Path) -> Result<bool, ImageError> {
        match self.merge_to(&image.reference, layers, path) {
            Ok(()) => Ok(true),
            Err(ImageError::Merge { .. } | ImageError::Removed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Splits layers into those to merge (none, or at least two) and those to keep, for `step` files in total.
fn split<T>(layers: &[T], step: usize) -> (&[T], &[T]) {
    match layers.len().checked_sub(step) {
        None | Some(0) => (&[], layers),
        Some(surplus) => layers.split_at(surplus + 1),
    }
}

fn chain(layers: &[Layer]) -> Digest {
    chain_of(layers.iter().map(|layer| layer.diff_id.as_str()))
}

#[cfg(test)]
mod tests;
