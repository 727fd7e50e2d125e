//! Adds images from files: OCI layouts (a directory, or an archive of one) and `docker save` archives.

use std::io::{self, Read};
use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::archive::Files;
use super::decompress::Packing;
use super::error::{ImageError, PullError};
use super::index::{self, Search};
use super::layer::{self, accept};
use super::manifest::{self, Blob, CONFIG_MAX_BYTES, Document, LayerBlob, MANIFEST_MAX_BYTES};
use super::reference::{Digest, ImageReference};
use super::{Image, ImageStore, Progress};

/// Maximum number of manifests and indexes of a layout that are examined, over all its images.
const LOOKS_MAX: usize = 2000;

impl ImageStore {
    /// Adds the images in `path`: an OCI layout directory, an archive of one, or a `docker save` archive, compressed or
    /// not; `-` is standard input. `name` names an unnamed image, or renames the only one.
    pub fn load(&self, path: &Path, name: Option<&str>, progress: &dyn Progress) -> Result<Vec<Image>, ImageError> {
        let name = name.map(ImageReference::parse).transpose()?;
        let failed = |source| ImageError::Load {
            path: path.to_path_buf(),
            source: Box::new(source),
        };
        let loaded = self.load_files(path, name, progress);
        // Removes leftovers of a failure, and the content that a name previously referred to.
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
        for image in with_names(found, name)? {
            for (layer, path) in image.layers.iter().zip(&image.layer_paths) {
                self.load_layer(&files, path, layer, progress)?;
            }
            let config = files.small(&image.config_path, CONFIG_MAX_BYTES)?;
            for name in &image.names {
                images.extend(self.add_image(name, &image.manifest, &config, image.root.as_ref())?);
            }
            for (tag, name) in image.tags.iter().zip(&image.names) {
                progress.named_after_tag(tag, &name.to_string());
            }
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
                format!("it gives layer {digest} a size of {expected} bytes, but the layer has {length}"),
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
        let why = "it is neither an OCI layout nor a `docker save` archive";
        Err(PullError::Archive(why.into()))
    }
}

/// Reads everything that loading reads before it converts layers.
#[cfg(any(test, fuzzing))]
pub(super) fn read_all(files: &Files) {
    for image in find_images(files).into_iter().flatten() {
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
    /// The document that its names refer to; `None` if the archive has no manifests.
    root: Option<Digest>,
    config_path: String,
    layers: Vec<LayerBlob>,
    layer_paths: Vec<String>,
    names: Vec<ImageReference>,
    /// Bare tags, such as `v1`. After [`with_names`], those that `names` were derived from.
    tags: Vec<String>,
}

/// Decides the names of each image.
fn with_names(mut found: Vec<Found>, name: Option<ImageReference>) -> Result<Vec<Found>, PullError> {
    match (name, found.as_mut_slice()) {
        (Some(name), [image]) => {
            image.names = vec![name];
            image.tags.clear();
        }
        (Some(_), images) => {
            return Err(PullError::Archive(format!(
                "it has {} images, so --name cannot be used; load it without --name, or load an archive of one image",
                images.len()
            )));
        }
        (None, images) => {
            let count = images.len();
            for image in images {
                if image.names.is_empty() {
                    name_after_tags(image, count)?;
                } else {
                    image.tags.clear();
                }
            }
        }
    }
    Ok(found)
}

/// Names an image after those of its tags that can be names, and removes the other tags. The archive has `count` images.
fn name_after_tags(image: &mut Found, count: usize) -> Result<(), PullError> {
    let named = image
        .tags
        .iter()
        .filter_map(|tag| Some((tag.clone(), name_after(tag)?)));
    let (tags, names): (Vec<_>, Vec<_>) = named.unzip();
    if names.is_empty() {
        let what = match image.tags.first() {
            None => "it contains an image without a name".to_owned(),
            Some(tag) => format!("an image in it has only the tag {tag:?}, which cannot be a name"),
        };
        let remedy = match count {
            1 => "give one with --name",
            _ => "save that image to an archive without the others, and load that with --name",
        };
        return Err(PullError::Archive(format!("{what}; {remedy}")));
    }
    (image.tags, image.names) = (tags, names);
    Ok(())
}

/// The name of an image that has only a tag. It is podman's: `v1` becomes `localhost/v1:latest`.
fn name_after(tag: &str) -> Option<ImageReference> {
    ImageReference::parse(&format!("localhost/{tag}")).ok()
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The images of a layout. Entries with the same name or bare tag are one image for several platforms. So are entries with
/// neither, if they are for other platforms or for variants of this one.
fn layout_images(files: &Files) -> Result<Vec<Found>, PullError> {
    let index: ImageIndex = parse_json("index", &files.small("index.json", MANIFEST_MAX_BYTES)?)?;
    let mut named: Vec<(ImageReference, Vec<&Descriptor>)> = Vec::new();
    let mut tagged: Vec<(&str, Vec<&Descriptor>)> = Vec::new();
    let mut nameless = Vec::new();
    for descriptor in index.manifests() {
        match (name_of(descriptor)?, tag_of(descriptor)) {
            (Some(name), _) => add_to_group(&mut named, name, descriptor),
            (None, Some(tag)) => add_to_group(&mut tagged, tag, descriptor),
            (None, None) => nameless.push(descriptor),
        }
    }
    let mut found = Vec::new();
    let mut looks = 0;
    for (name, descriptors) in named {
        let image = find_image(files, Search::among(descriptors)?, &mut looks)?;
        add_found(&mut found, image, Some(name), None);
    }
    let tagged = tagged.into_iter().map(|(tag, entries)| (Some(tag), entries));
    let nameless = index::without_worse_variants(&nameless);
    let nameless = nameless.into_iter().map(|entry| (None, vec![entry]));
    let (mut platforms, mut found_unnamed) = (Vec::new(), false);
    for (tag, entries) in tagged.chain(nameless) {
        match find_image(files, Search::among(entries)?, &mut looks) {
            Ok(image) => {
                add_found(&mut found, image, None, tag);
                found_unnamed = true;
            }
            Err(PullError::Platform { available }) => platforms.push(available),
            Err(error) => return Err(error),
        }
    }
    if !platforms.is_empty() && !found_unnamed {
        let available = platforms.join(", ");
        return Err(PullError::Platform { available });
    }
    Ok(found)
}

fn add_to_group<'d, K: PartialEq>(groups: &mut Vec<(K, Vec<&'d Descriptor>)>, key: K, entry: &'d Descriptor) {
    match groups.iter_mut().find(|(other, _)| *other == key) {
        Some((_, entries)) => entries.push(entry),
        None => groups.push((key, vec![entry])),
    }
}

/// Adds an image, or another name or tag of one that is already in the list.
fn add_found(found: &mut Vec<Found>, image: Found, name: Option<ImageReference>, tag: Option<&str>) {
    let tag = tag.map(str::to_owned);
    let known = found
        .iter()
        .position(|other| other.root == image.root && other.manifest == image.manifest);
    match known.and_then(|place| found.get_mut(place)) {
        Some(known) => {
            known.names.extend(name);
            known.tags.extend(tag);
        }
        None => found.push(Found {
            names: name.into_iter().collect(),
            tags: tag.into_iter().collect(),
            ..image
        }),
    }
}

fn name_of(descriptor: &Descriptor) -> Result<Option<ImageReference>, PullError> {
    let name = annotated_name(descriptor).filter(|name| !is_bare_tag(name));
    name.map(parse_name).transpose()
}

/// A bare tag, as umoci and skopeo write it, is not a name.
fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    annotated_name(descriptor).filter(|name| !name.is_empty() && is_bare_tag(name))
}

fn is_bare_tag(name: &str) -> bool {
    !name.contains(['/', ':'])
}

fn annotated_name(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations
        .get("io.containerd.image.name")
        .or_else(|| annotations.get("org.opencontainers.image.ref.name"))
        .map(String::as_str)
}

/// The document that an index entry refers to.
enum ImageOrIndex {
    Image(Found),
    Index(Box<ImageIndex>),
}

fn find_image(files: &Files, mut search: Search, looks: &mut usize) -> Result<Found, PullError> {
    loop {
        let candidate = search.next()?;
        *looks += 1;
        if *looks > LOOKS_MAX {
            let why = format!("finding its images takes more than {LOOKS_MAX} manifests and indexes");
            return Err(PullError::invalid("index", why));
        }
        match look(files, &candidate.blob) {
            Ok(ImageOrIndex::Image(found)) => {
                return Ok(Found {
                    root: Some(candidate.root),
                    ..found
                });
            }
            Ok(ImageOrIndex::Index(index)) => search.enter(&candidate, index.manifests())?,
            Err(error) => search.refuse(&candidate, error)?,
        }
    }
}

fn look(files: &Files, blob: &Blob) -> Result<ImageOrIndex, PullError> {
    let bytes = blob_bytes(files, &blob.digest)?;
    let manifest = match manifest::parse(&bytes)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => return Ok(ImageOrIndex::Index(index)),
    };
    let config_path = blob_path(&manifest.config.digest);
    let config = files.small(&config_path, CONFIG_MAX_BYTES)?;
    verify("the configuration", &manifest.config.digest, &Digest::of(&config))?;
    let (_, layers) = manifest::join(&manifest, &config)?;
    Ok(ImageOrIndex::Image(Found {
        manifest: bytes,
        root: None,
        config_path,
        layer_paths: layers.iter().map(|layer| blob_path(&layer.blob.digest)).collect(),
        layers,
        names: Vec::new(),
        tags: Vec::new(),
    }))
}

fn blob_bytes(files: &Files, digest: &Digest) -> Result<Vec<u8>, PullError> {
    let bytes = files.small(&blob_path(digest), MANIFEST_MAX_BYTES)?;
    verify("the manifest", digest, &Digest::of(&bytes))?;
    Ok(bytes)
}

/// An entry of `manifest.json` in a `docker save` archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// The images of a `docker save` archive. Such archives have no manifests, so one is created from the layers as they
/// are in the archive. `docker save` writes layers uncompressed; other tools do not, and the file names do not show the
/// compression.
fn docker_images(files: &Files) -> Result<Vec<Found>, PullError> {
    let images: Vec<DockerImage> = parse_json("manifest.json", &files.small("manifest.json", MANIFEST_MAX_BYTES)?)?;
    let mut found = Vec::new();
    for image in images {
        let config = files.small(&image.config, CONFIG_MAX_BYTES)?;
        let parsed: oci_spec::image::ImageConfiguration = parse_json("configuration", &config)?;
        let diff_ids = parsed.rootfs().diff_ids();
        if diff_ids.len() != image.layers.len() {
            let (have, listed) = (image.layers.len(), diff_ids.len());
            let why = format!("it lists {listed} layers, but the archive has {have}");
            return Err(PullError::invalid("configuration", why));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in image.layers.iter().zip(diff_ids) {
            layers.push(docker_layer(files, path, diff_id)?);
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
        let manifest = manifest.to_string().into_bytes();
        let Document::Manifest(parsed) = manifest::parse(&manifest)? else {
            return Err(PullError::invalid("manifest.json", "it does not describe an image"));
        };
        let (_, layers) = manifest::join(&parsed, &config)?;
        let names = image.repo_tags.unwrap_or_default();
        found.push(Found {
            manifest,
            root: None,
            config_path: image.config,
            layers,
            layer_paths: image.layers,
            names: names.iter().map(|name| parse_name(name)).collect::<Result<_, _>>()?,
            tags: Vec::new(),
        });
    }
    Ok(found)
}

/// The descriptor of a layer in a `docker save` archive.
fn docker_layer(files: &Files, path: &str, diff_id: &str) -> Result<serde_json::Value, PullError> {
    let (mut file, size) = files.file(path)?;
    let mut head = Vec::new();
    file.by_ref()
        .take(Packing::HEAD_BYTES)
        .read_to_end(&mut head)
        .map_err(PullError::Read)?;
    let packing = Packing::of(&head);
    let suffix = match packing {
        // The conversion reports unsupported compressions.
        Packing::None | Packing::Unsupported(_) => "",
        Packing::Gzip => ".gzip",
        Packing::Zstd => ".zstd",
    };
    let digest = if packing == Packing::None {
        diff_id.to_owned()
    } else {
        let mut whole = head.chain(file);
        Digest::of_stream(&mut whole).map_err(PullError::Read)?.to_string()
    };
    Ok(serde_json::json!({
        "mediaType": format!("application/vnd.docker.image.rootfs.diff.tar{suffix}"),
        "size": size,
        "digest": digest,
    }))
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

/// Hashes data as it is read, and reports progress.
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

#[cfg(test)]
mod tests;
