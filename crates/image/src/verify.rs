//! Checks the store's content against its digests and repairs it.

use std::fs::File;
use std::io;
use std::path::Path;

use microkube_erofs::{Volume, VolumeError};

use super::Image;
use super::error::{ImageError, StoreError};
use super::manifest::{self, CONFIG_MAX_BYTES, LayerBlob};
use super::reference::{Digest, ImageReference};
use super::store::{ImageStore, remove_file};

/// How thoroughly to verify, and whether to repair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verification {
    /// Also check layers as they were transferred, not only what Pods use.
    pub blobs: bool,
    /// Remove damaged content, so that it is fetched again, and rebuild what can be rebuilt from local content.
    pub repair: bool,
}

/// The result of verifying an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub reference: String,
    /// The problems found; empty if the image is intact.
    pub problems: Vec<Problem>,
}

/// A fault in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The affected part of the image.
    pub what: String,
    /// The problem.
    pub why: String,
    /// Whether it has been repaired.
    pub repaired: bool,
}

impl Verified {
    pub fn is_intact(&self) -> bool {
        self.problems.is_empty()
    }
}

impl ImageStore {
    /// The image that `reference` names, if it is present with all its layers. If the settings say so, the layers are
    /// read and damaged ones rebuilt or removed.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let reference = ImageReference::parse(reference)?;
        let path = self.reference_path(&reference);
        let image = self.read_image(&path)?;
        match image {
            Some(image) if self.options().verify => {
                let how = Verification {
                    blobs: false,
                    repair: true,
                };
                for problem in self.verify_image(&image, how)?.problems {
                    tracing::warn!("image {reference}: {}: {}", problem.what, problem.why);
                }
                Ok(self.read_image(&path)?)
            }
            image => Ok(image),
        }
    }

    /// Verifies the images that `name` refers to, or all images.
    pub fn verify_named(&self, name: Option<&str>, how: Verification) -> Result<Vec<Verified>, ImageError> {
        let images = match name {
            Some(name) => self.find(name)?,
            None => self.list()?,
        };
        let mut verified = match name {
            Some(_) => Vec::new(),
            None => self.broken_names(how)?,
        };
        for image in &images {
            verified.push(self.verify_image(image, how)?);
        }
        Ok(verified)
    }

    /// Names without a usable image: a record, manifest, configuration or layer is missing or visibly damaged.
    fn broken_names(&self, how: Verification) -> Result<Vec<Verified>, ImageError> {
        let _lock = self.lock_shared()?;
        let mut broken = Vec::new();
        for path in self.reference_files()? {
            if self.read_image(&path)?.is_some() {
                continue;
            }
            let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let record = self.read_reference(&path)?;
            let repaired = how.repair && self.rebuild_missing_layers(&path)?;
            if how.repair && !repaired {
                remove_file(&path)?;
            }
            broken.push(Verified {
                reference: record.map_or_else(|| file_name.replace("%2F", "/"), |record| record.reference),
                problems: vec![Problem {
                    what: "the image".to_owned(),
                    why: "its record, manifest, configuration or a layer is missing or damaged; pull it again"
                        .to_owned(),
                    repaired,
                }],
            });
        }
        Ok(broken)
    }

    /// Rebuilds missing and damaged layers of a record's image; returns whether all are present afterwards.
    fn rebuild_missing_layers(&self, path: &Path) -> Result<bool, StoreError> {
        let Some(layers) = self.layers_of(path)? else {
            return Ok(false);
        };
        for index in 0..layers.len() {
            if self.stacked(layers.get(..=index).unwrap_or_default())?.is_none() && !self.rebuild(&layers, index)? {
                return Ok(false);
            }
        }
        Ok(self.read_image(path)?.is_some())
    }

    fn layers_of(&self, path: &Path) -> Result<Option<Vec<LayerBlob>>, StoreError> {
        let Some((_, manifest)) = self.read_record(path)? else {
            return Ok(None);
        };
        let config = self.read_file(&self.blob_path("configs", &manifest.config.digest), CONFIG_MAX_BYTES)?;
        let config = config.filter(|config| Digest::of(config) == manifest.config.digest);
        let joined = config.and_then(|config| manifest::join(&manifest, &config).ok());
        Ok(joined.map(|(_, layers)| layers))
    }

    /// Reads an image's files and compares them with their digests.
    pub(super) fn verify_image(&self, image: &Image, how: Verification) -> Result<Verified, ImageError> {
        let _lock = self.lock_shared()?;
        let mut verified = Verified {
            reference: image.reference.clone(),
            problems: Vec::new(),
        };
        let path = self.reference_path_of(&image.reference)?;
        // The lookup has already checked manifest and configuration against their digests.
        let Some(layers) = self.layers_of(&path)? else {
            return Ok(verified);
        };
        let Some(stacked) = self.stacked(&layers)? else {
            return Ok(verified);
        };
        for (index, (layer, file)) in layers.iter().zip(&stacked).enumerate() {
            if how.blobs
                && let Some(why) = self.blob_damage(layer)?
            {
                if how.repair {
                    remove_file(&self.layer_blob_path(&layer.blob.digest))?;
                }
                verified.problems.push(Problem {
                    what: format!("layer {} as transferred", layer.blob.digest),
                    why,
                    repaired: false,
                });
            }
            if let Some(why) = volume_damage(&file.path)? {
                let mut repaired = false;
                if how.repair {
                    remove_file(&file.path)?;
                    repaired = self.rebuild(&layers, index)?;
                }
                verified.problems.push(Problem {
                    what: format!("layer {}", layer.diff_id),
                    why,
                    repaired,
                });
            }
        }
        // Check this after the layers, because they may have been repaired.
        for (merged, path) in self.merged_files(image) {
            if let Some(why) = volume_damage(&path)? {
                let mut repaired = false;
                if how.repair {
                    remove_file(&path)?;
                    repaired = self.merge_again(image, merged, &path)?;
                }
                verified.problems.push(Problem {
                    what: format!("the lowest {} layers, merged", merged.len()),
                    why,
                    repaired,
                });
            }
        }
        Ok(verified)
    }

    fn blob_damage(&self, layer: &LayerBlob) -> Result<Option<String>, StoreError> {
        let path = self.layer_blob_path(&layer.blob.digest);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            // This file is optional.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::of("open", &path)(error)),
        };
        let actual = Digest::of_stream(&mut file).map_err(StoreError::of("read", &path))?;
        Ok((actual != layer.blob.digest).then(|| format!("it has digest {actual}")))
    }
}

fn volume_damage(path: &Path) -> Result<Option<String>, StoreError> {
    let verified = File::open(path)
        .map_err(VolumeError::Io)
        .and_then(Volume::open)
        .and_then(|volume| volume.verify());
    match verified {
        Ok(()) => Ok(None),
        // Bad sectors cause this error.
        Err(VolumeError::Io(error)) if error.raw_os_error() == Some(nix::libc::EIO) => {
            Ok(Some("it cannot be read".to_owned()))
        }
        Err(VolumeError::Io(error)) => Err(StoreError::of("read", path)(error)),
        Err(error) => Ok(Some(error.to_string())),
    }
}
