//! Adding and removing names of images, and removing unneeded images.

use std::collections::BTreeSet;

use super::Image;
use super::error::ImageError;
use super::reference::ImageReference;
use super::reference::error::NameError;
use super::store::{ImageStore, remove_file};
use super::sweep::Removed;

/// The full form of an image name, by which the store and its users compare names.
pub fn normalized(name: &str) -> Result<String, ImageError> {
    Ok(ImageReference::parse(name)?.to_string())
}

impl ImageStore {
    /// Gives the image named `source` the additional name `target`.
    pub fn tag(&self, source: &str, target: &str) -> Result<(), ImageError> {
        let name = ImageReference::parse(target)?;
        if target.contains('@') {
            return Err(ImageError::InvalidName {
                name: target.to_owned(),
                why: NameError::GivenDigest,
            });
        }
        let _lock = self.lock_shared()?;
        let found = self.find(source)?;
        let Some(image) = found.first() else {
            return Err(ImageError::NotFound {
                name: source.to_owned(),
            });
        };
        Ok(self.write_reference(&name, &image.manifest_digest, image.repo_digest.clone())?)
    }

    /// Removes a name, or all names of the image whose ID starts with `reference_or_id`, and content that no image
    /// needs any more.
    pub fn remove(&self, reference_or_id: &str) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        for image in self.find(reference_or_id)? {
            let path = self.reference_path(&ImageReference::parse(&image.reference)?);
            remove_file(&path)?;
            removed.references.push(image.reference);
        }
        removed.sweep(self)?;
        Ok(removed)
    }

    /// Removes content that no name refers to. With `all`, first removes the names of images for which `unused` returns
    /// `true`.
    pub fn prune(&self, all: bool, unused: impl Fn(&Image) -> bool) -> Result<Removed, ImageError> {
        let mut removed = Removed::default();
        if all {
            let images = self.list()?;
            // An image keeps either all its names or none.
            let kept: BTreeSet<_> = images
                .iter()
                .filter(|image| !unused(image))
                .map(|image| image.manifest_digest.clone())
                .collect();
            for image in images {
                if !kept.contains(&image.manifest_digest) {
                    remove_file(&self.reference_path_of(&image.reference)?)?;
                    removed.references.push(image.reference);
                }
            }
        }
        removed.sweep(self)?;
        Ok(removed)
    }
}
