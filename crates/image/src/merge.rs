//! Images of many layers in Pods that have room for a limited number of them: the lowest layers of an image become one file, in the
//! store like a layer, made once for the layers that it stands for.

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

/// To how many files the layers of an image are reduced: the first number with which the Pod's images fit. Few steps, so that few
/// files are made of an image, whatever Pods it is in.
const STEPS: [usize; 8] = [128, 64, 32, 16, 8, 4, 2, 1];

impl ImageStore {
    /// The images with so many of their lowest layers merged that they have at most `max` files together. What is made of them
    /// depends on the images alone.
    pub fn fit(&self, images: Vec<Image>, max: usize) -> Result<Vec<Image>, ImageError> {
        let Some(step) = self.step_for(&images, max) else {
            let count = self.count(&images, 1);
            return Err(ImageError::TooMany { count, max });
        };
        images.into_iter().map(|image| self.reduce(image, step)).collect()
    }

    /// To how many files every image is reduced, `usize::MAX` if none has to be; `None` where even one each is too many.
    fn step_for(&self, images: &[Image], max: usize) -> Option<usize> {
        let mut steps = std::iter::once(usize::MAX).chain(STEPS);
        steps.find(|step| self.count(images, *step) <= max)
    }

    /// How many different files images have when their layers are reduced to `step`.
    fn count(&self, images: &[Image], step: usize) -> usize {
        let paths = images.iter().flat_map(|image| self.paths_in(image, step));
        paths.collect::<BTreeSet<_>>().len()
    }

    /// The files that an image has when its layers are reduced to `step`.
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

    /// The file that stands for `layers`, made if it is not there.
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

    /// What may have been made of an image with these layers.
    pub(super) fn merged_paths<'a>(&'a self, diff_ids: &'a [&str]) -> impl Iterator<Item = PathBuf> + 'a {
        STEPS.iter().filter_map(|step| {
            let (merged, _) = split(diff_ids, *step);
            (!merged.is_empty()).then(|| self.merged_path_of(&chain_of(merged.iter().copied())))
        })
    }

    /// What was made of an image: which layers, and the file.
    pub(super) fn merged_files<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = (&'a [Layer], PathBuf)> {
        STEPS.iter().filter_map(|step| {
            let (merged, _) = split(&image.layers, *step);
            let path = (!merged.is_empty()).then(|| self.merged_path(merged))?;
            path.exists().then_some((merged, path))
        })
    }

    /// Makes a merged file again; `false` where its layers are not intact either.
    pub(super) fn merge_again(&self, image: &Image, layers: &[Layer], path: &Path) -> Result<bool, ImageError> {
        match self.merge_to(&image.reference, layers, path) {
            Ok(()) => Ok(true),
            Err(ImageError::Merge { .. } | ImageError::Removed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What of an image's layers is merged, none or at least two, and what stays, if there are to be `step` files.
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
