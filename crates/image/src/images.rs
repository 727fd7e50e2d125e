//! Images in the store: adding, reading, listing, and finding by name or ID.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::error::{ImageError, PullError, StoreError};
use super::manifest::{self, CONFIG_MAX_BYTES, Document};
use super::reference::{Digest, ImageReference};
use super::store::ImageStore;
use super::{Image, Layer};

impl ImageStore {
    /// All images with their names, sorted by name. An image with several names appears once for each.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for path in self.reference_files()? {
            images.extend(self.read_image(&path)?);
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Finds the images for a name, an ID, or the unique start of an ID: one name, or all names of one image.
    pub fn find(&self, reference_or_id: &str) -> Result<Vec<Image>, ImageError> {
        let reference = ImageReference::parse(reference_or_id);
        if let Ok(reference) = &reference
            && let Some(image) = self.read_image(&self.reference_path(reference))?
        {
            return Ok(vec![image]);
        }
        if let Ok(reference) = &reference
            && reference.digest().is_some()
        {
            // Compare only the digest: the image may have been pulled with a tag as well, or with another tag.
            let mut images = self.list()?;
            images.retain(|image| {
                ImageReference::parse(&image.reference).is_ok_and(|other| {
                    (other.registry(), other.repository(), other.digest())
                        == (reference.registry(), reference.repository(), reference.digest())
                })
            });
            if !images.is_empty() {
                return Ok(images);
            }
        }
        let hex = reference_or_id.strip_prefix("sha256:").unwrap_or(reference_or_id);
        let is_id = hex.len() >= 4 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let (Err(error), false) = (reference, is_id) {
            return Err(error);
        }
        let mut images = self.list()?;
        images.retain(|image| is_id && image.id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(hex)));
        let ids: BTreeSet<_> = images.iter().map(|image| &image.id).collect();
        match ids.len() {
            0 => Err(ImageError::NotFound {
                name: reference_or_id.to_owned(),
            }),
            1 => Ok(images),
            _ => Err(ImageError::Ambiguous {
                name: reference_or_id.to_owned(),
            }),
        }
    }

    /// Adds an image whose layers are all present, and returns it. `root` is the digest of the document that the name
    /// refers to, if the name also exists outside this store.
    pub(super) fn add_image(
        &self,
        reference: &ImageReference,
        manifest: &[u8],
        config: &[u8],
        root: Option<&Digest>,
    ) -> Result<Option<Image>, StoreError> {
        let digest = Digest::of(manifest);
        if let Ok(Document::Manifest(manifest)) = manifest::parse(manifest)
            && let Ok((_, layers)) = manifest::join(&manifest, config)
        {
            self.stack(&layers).map_err(|error| match error {
                PullError::Store(error) => error,
                other => StoreError::of("merge layers in", self.root())(io::Error::other(other)),
            })?;
        }
        self.write(&self.blob_path("configs", &Digest::of(config)), config)?;
        self.write(&self.blob_path("manifests", &digest), manifest)?;
        let repo_digest = root.map(|root| format!("{}/{}@{root}", reference.registry(), reference.repository()));
        self.write_reference(reference, digest.as_str(), repo_digest)?;
        self.read_image(&self.reference_path(reference))
    }

    /// The image of a reference file; `None` if any part is missing or visibly damaged.
    pub(super) fn read_image(&self, path: &Path) -> Result<Option<Image>, StoreError> {
        let Some((digest, manifest)) = self.read_record(path)? else {
            return Ok(None);
        };
        let Some(record) = self.read_reference(path)? else {
            return Ok(None);
        };
        let Some(bytes) = self.read_file(&self.blob_path("configs", &manifest.config.digest), CONFIG_MAX_BYTES)? else {
            return Ok(None);
        };
        if Digest::of(&bytes) != manifest.config.digest {
            return Ok(None);
        }
        let Ok((config, blobs)) = manifest::join(&manifest, &bytes) else {
            return Ok(None);
        };
        let Some(stacked) = self.stacked(&blobs)? else {
            return Ok(None);
        };
        let layers: Vec<_> = std::iter::zip(&blobs, stacked)
            .map(|(blob, file)| Layer {
                diff_id: blob.diff_id.to_string(),
                path: file.path,
                length_bytes: file.length_bytes,
            })
            .collect();
        let distinct: BTreeMap<_, _> = layers.iter().map(|layer| (&layer.path, layer.length_bytes)).collect();
        let size_bytes = distinct.values().sum();
        Ok(Some(Image {
            reference: record.reference,
            repo_digest: record.repo_digest,
            id: manifest.config.digest.to_string(),
            manifest_digest: digest.to_string(),
            size_bytes,
            config,
            layers,
        }))
    }
}
