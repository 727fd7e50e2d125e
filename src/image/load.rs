//! Adds images from files: OCI layouts (a directory, or an archive of one) and what `docker save` writes.

use std::io::{self, Read};
use std::path::Path;

use oci_spec::image::ImageIndex;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::archive::Files;
use super::error::{ImageError, PullError};
use super::layer;
use super::manifest::{self, Blob, CONFIG_MAX_BYTES, Document, LayerBlob, MANIFEST_MAX_BYTES};
use super::pull::accept;
use super::reference::{Digest, ImageReference};
use super::{Image, ImageStore, Progress};

impl ImageStore {
    /// Adds the images in `path`, an OCI layout directory, an archive of one, or an archive by `docker save`, compressed or not;
    /// `-` is standard input. `name` names an image that has no name of its own, or renames the only one.
    pub fn load(&self, path: &Path, name: Option<&str>, progress: &dyn Progress) -> Result<Vec<Image>, ImageError> {
        let name = name.map(ImageReference::parse).transpose()?;
        let failed = |source| ImageError::Load {
            path: path.to_path_buf(),
            source: Box::new(source),
        };
        let loaded = self.load_files(path, name, progress);
        // Removes what a failure left, and what a name meant before.
        let swept = self.sweep();
        let images = loaded.map_err(failed)?;
        swept?;
        Ok(images)
    }

    fn load_files(
        &self,
        path: &Path,
        name: Option<ImageReference>,
        progress: &dyn Progress,
    ) -> Result<Vec<Image>, PullError> {
        self.sweep()?;
        let _lock = self.lock_shared()?;
        let files = Files::open(path, &self.temporary_directory(), self.options().limits.bytes)?;
        let found = find_images(&files)?;
        let mut images = Vec::new();
        for (image, reference) in with_names(found, name)? {
            let config = match manifest::parse(&image.manifest)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(_) => return Err(PullError::invalid("index", "it leads to another index")),
            };
            let config_bytes = files.small(&image.config_path, CONFIG_MAX_BYTES)?;
            verify("the configuration", &config.config.digest, &Digest::of(&config_bytes))?;
            let (_, layers) = manifest::join(&config, &config_bytes)?;
            for (layer, path) in layers.iter().zip(&image.layer_paths) {
                self.load_layer(&files, path, layer, progress)?;
            }
            images.extend(self.add_image(&reference, &image.manifest, &config_bytes)?);
        }
        Ok(images)
    }

    fn load_layer(
        &self,
        files: &Files,
        path: &str,
        layer: &LayerBlob,
        progress: &dyn Progress,
    ) -> Result<(), PullError> {
        let digest = layer.blob.digest.as_str();
        if self.has_layer(layer) {
            progress.layer_done(digest, true);
            return Ok(());
        }
        let _lock = self.lock_layer(&layer.diff_id)?;
        if self.has_layer(layer) {
            progress.layer_done(digest, true);
            return Ok(());
        }
        let (file, length) = files.file(path)?;
        if length != layer.blob.size_bytes {
            let expected = layer.blob.size_bytes;
            return Err(PullError::invalid(
                "manifest",
                format!("it says that layer {digest} has {expected} bytes, but it has {length}"),
            ));
        }
        let report = |received| progress.layer_bytes(digest, received, length);
        let mut source = Hashing {
            file,
            hash: Sha256::new(),
            received: 0,
            report,
        };
        let converted = layer::convert(&mut source, &self.temporary_directory(), self.options(), None);
        let converted = accept(converted, layer, &self.temporary_directory())?;
        verify(
            &format!("layer {digest}"),
            &layer.blob.digest,
            &Digest::from_hash(source.hash),
        )?;
        self.add_layer(converted.file, &layer.diff_id)?;
        progress.layer_done(digest, false);
        Ok(())
    }
}

fn find_images(files: &Files) -> Result<Vec<Found>, PullError> {
    if files.exists("index.json") {
        layout_images(files)
    } else if files.exists("manifest.json") {
        docker_images(files)
    } else {
        let why = "it is neither an OCI layout nor an archive by `docker save`";
        Err(PullError::Archive(why.into()))
    }
}

/// Reads all that loading reads before it converts layers.
#[cfg(fuzzing)]
pub(super) fn read_all(files: &Files) {
    for image in find_images(files).into_iter().flatten() {
        let Ok(Document::Manifest(manifest)) = manifest::parse(&image.manifest) else {
            continue;
        };
        if let Ok(config) = files.small(&image.config_path, CONFIG_MAX_BYTES) {
            let _ = manifest::join(&manifest, &config);
        }
        for path in &image.layer_paths {
            if let Ok((file, length)) = files.file(path) {
                assert_eq!(
                    io::copy(&mut file.take(length), &mut io::sink()).unwrap_or(length),
                    length
                );
            }
        }
    }
}

/// An image found in an archive.
struct Found {
    manifest: Vec<u8>,
    config_path: String,
    layer_paths: Vec<String>,
    names: Vec<ImageReference>,
}

/// Decides what each image will be called.
fn with_names(found: Vec<Found>, name: Option<ImageReference>) -> Result<Vec<(Found, ImageReference)>, PullError> {
    if let Some(name) = name {
        let count = found.len();
        return match <[Found; 1]>::try_from(found) {
            Ok([image]) => Ok(vec![(image, name)]),
            Err(_) => Err(PullError::Archive(format!(
                "it has {count} images; one name cannot stand for them"
            ))),
        };
    }
    let mut named = Vec::new();
    for image in found {
        let Some((last, others)) = image.names.split_last() else {
            return Err(PullError::Archive(
                "an image in it has no name; give one with --name".into(),
            ));
        };
        let last = last.clone();
        for other in others {
            let copy = Found {
                manifest: image.manifest.clone(),
                config_path: image.config_path.clone(),
                layer_paths: image.layer_paths.clone(),
                names: Vec::new(),
            };
            named.push((copy, other.clone()));
        }
        named.push((image, last));
    }
    Ok(named)
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn layout_images(files: &Files) -> Result<Vec<Found>, PullError> {
    let index: ImageIndex = parse_json("index", &files.small("index.json", MANIFEST_MAX_BYTES)?)?;
    let mut found = Vec::new();
    for descriptor in index.manifests() {
        let annotation = |key: &str| descriptor.annotations().as_ref().and_then(|all| all.get(key)).cloned();
        // A bare tag, as umoci writes it, is no name.
        let name = annotation("io.containerd.image.name")
            .or_else(|| annotation("org.opencontainers.image.ref.name"))
            .filter(|name| name.contains(['/', ':']));
        let names = name.map(|name| parse_name(&name)).transpose()?.into_iter().collect();
        let digest = Digest::parse(descriptor.digest().as_ref()).map_err(|why| PullError::invalid("index", why))?;
        let mut bytes = blob_bytes(files, &digest)?;
        if let Document::Index(Blob { digest, .. }) = manifest::parse(&bytes)? {
            bytes = blob_bytes(files, &digest)?;
        }
        let Document::Manifest(manifest) = manifest::parse(&bytes)? else {
            return Err(PullError::invalid("index", "it leads to another index"));
        };
        found.push(Found {
            manifest: bytes,
            config_path: blob_path(&manifest.config.digest),
            layer_paths: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
            names,
        });
    }
    Ok(found)
}

fn blob_bytes(files: &Files, digest: &Digest) -> Result<Vec<u8>, PullError> {
    let bytes = files.small(&blob_path(digest), MANIFEST_MAX_BYTES)?;
    verify("the manifest", digest, &Digest::of(&bytes))?;
    Ok(bytes)
}

/// An entry of `manifest.json` in an archive by `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Such archives have no manifests: one is made, of the layers as they are in the archive, uncompressed.
fn docker_images(files: &Files) -> Result<Vec<Found>, PullError> {
    let images: Vec<DockerImage> = parse_json("manifest.json", &files.small("manifest.json", MANIFEST_MAX_BYTES)?)?;
    let mut found = Vec::new();
    for image in images {
        let config = files.small(&image.config, CONFIG_MAX_BYTES)?;
        let parsed: oci_spec::image::ImageConfiguration = parse_json("configuration", &config)?;
        let diff_ids = parsed.rootfs().diff_ids();
        let mut layers = Vec::new();
        for (path, diff_id) in image.layers.iter().zip(diff_ids) {
            layers.push(serde_json::json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                "size": files.file(path)?.1,
                "digest": diff_id,
            }));
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "size": config.len(),
                "digest": Digest::of(&config).as_str(),
            },
            "layers": layers,
        });
        let names = image.repo_tags.unwrap_or_default();
        found.push(Found {
            manifest: manifest.to_string().into_bytes(),
            config_path: image.config,
            layer_paths: image.layers,
            names: names.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?,
        });
    }
    Ok(found)
}

fn parse_name(name: &str) -> Result<ImageReference, PullError> {
    ImageReference::parse(name).map_err(|error| PullError::invalid("image name", error))
}

fn parse_json<'a, T: Deserialize<'a>>(what: &str, bytes: &'a [u8]) -> Result<T, PullError> {
    serde_json::from_slice(bytes).map_err(|error| PullError::invalid(what, error))
}

fn verify(what: &str, expected: &Digest, actual: &Digest) -> Result<(), PullError> {
    if expected == actual {
        return Ok(());
    }
    Err(PullError::Digest {
        what: what.to_owned(),
        expected: expected.to_string(),
        actual: actual.to_string(),
    })
}

/// Hashes and reports what is read.
struct Hashing<R, F> {
    file: R,
    hash: Sha256,
    received: u64,
    report: F,
}

impl<R: Read, F: Fn(u64)> Read for Hashing<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.received += count as u64;
        (self.report)(self.received);
        Ok(count)
    }
}
