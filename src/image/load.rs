//! Adds images from files: OCI layouts (a directory, or an archive of one) and what `docker save` writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use oci_spec::image::ImageIndex;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::error::{ImageError, PullError};
use super::layer;
use super::manifest::{self, Blob, CONFIG_MAX_BYTES, Document, LayerBlob, MANIFEST_MAX_BYTES};
use super::pull::accept;
use super::reference::{Digest, ImageReference};
use super::tar::{Kind, TarReader};
use super::{Image, ImageStore, Progress};

/// Most files an archive of images may have.
const ARCHIVE_ENTRIES_MAX: usize = 100_000;

impl ImageStore {
    /// Adds the images in `path`, an OCI layout directory, an archive of one, or an archive by `docker save`. `name` names
    /// an image that has no name of its own, or renames the only one.
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
        let files = Files::open(path)?;
        let found = if files.exists("index.json") {
            layout_images(&files)?
        } else if files.exists("manifest.json") {
            docker_images(&files)?
        } else {
            return Err(PullError::Archive(
                "it is neither an OCI layout nor an archive by `docker save`".into(),
            ));
        };
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
        if self.has_layer(&layer.diff_id) {
            progress.layer_done(digest, true);
            return Ok(());
        }
        let _lock = self.lock_layer(&layer.diff_id)?;
        if self.has_layer(&layer.diff_id) {
            progress.layer_done(digest, true);
            return Ok(());
        }
        let (file, length) = files.file(path)?;
        let report = |received| progress.layer_bytes(digest, received, length);
        let mut source = Hashing {
            file,
            hash: Sha256::new(),
            received: 0,
            report,
        };
        let converted = layer::convert(&mut source, &self.temporary_directory());
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

/// The files of a directory or an archive, by their path inside.
enum Files {
    Directory(PathBuf),
    Archive {
        path: PathBuf,
        members: BTreeMap<String, Member>,
    },
}

enum Member {
    File { offset: u64, length: u64 },
    Symlink(String),
}

impl Files {
    fn open(path: &Path) -> Result<Self, PullError> {
        if std::fs::metadata(path).map_err(PullError::Read)?.is_dir() {
            return Ok(Self::Directory(path.to_path_buf()));
        }
        let file = File::open(path).map_err(PullError::Read)?;
        let mut members = BTreeMap::new();
        let mut reader = TarReader::new(BufReader::with_capacity(1 << 20, file));
        let not_tar =
            |error: super::tar::TarError| PullError::Archive(format!("it is no readable tar archive: {error}"));
        while let Some(entry) = reader.next_entry().map_err(not_tar)? {
            let Some(name) = member_name(&entry.path) else { continue };
            let member = match entry.kind {
                Kind::File if entry.sparse.is_none() => Member::File {
                    offset: reader.offset(),
                    length: entry.stored_bytes,
                },
                Kind::Symlink | Kind::HardLink => {
                    let Ok(target) = String::from_utf8(entry.link) else {
                        continue;
                    };
                    let base = if entry.kind == Kind::Symlink {
                        name.rsplit_once('/').map_or("", |(base, _)| base)
                    } else {
                        ""
                    };
                    Member::Symlink(join_path(base, &target))
                }
                _ => continue,
            };
            if members.len() >= ARCHIVE_ENTRIES_MAX {
                return Err(PullError::Archive(format!(
                    "it has more than {ARCHIVE_ENTRIES_MAX} files"
                )));
            }
            members.insert(name, member);
        }
        Ok(Self::Archive {
            path: path.to_path_buf(),
            members,
        })
    }

    fn exists(&self, name: &str) -> bool {
        match self {
            Self::Directory(root) => root.join(name).is_file(),
            Self::Archive { members, .. } => members.contains_key(name),
        }
    }

    /// A file's content and length.
    fn file(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), PullError> {
        let missing = || PullError::Archive(format!("the file {name:?} is missing in it"));
        match self {
            Self::Directory(root) => {
                // Names come from the archive's own documents and stay below it.
                let name = member_name(name.as_bytes()).ok_or_else(missing)?;
                let file = File::open(root.join(name)).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => missing(),
                    _ => PullError::Read(error),
                })?;
                let length = file.metadata().map_err(PullError::Read)?.len();
                Ok((Box::new(file), length))
            }
            Self::Archive { path, members } => {
                let mut member = members.get(name).ok_or_else(missing)?;
                // Older `docker save` links layers that several images share.
                if let Member::Symlink(target) = member {
                    member = members.get(target).ok_or_else(missing)?;
                }
                let Member::File { offset, length } = member else {
                    return Err(missing());
                };
                let mut file = File::open(path).map_err(PullError::Read)?;
                file.seek(SeekFrom::Start(*offset)).map_err(PullError::Read)?;
                Ok((Box::new(file.take(*length)), *length))
            }
        }
    }

    fn small(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, PullError> {
        let (file, length) = self.file(name)?;
        if length > max_bytes {
            return Err(PullError::Archive(format!(
                "the file {name:?} in it is too large ({length} bytes)"
            )));
        }
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes).map_err(PullError::Read)?;
        Ok(bytes)
    }
}

/// A member's path without `./`; `None` where it leads out of the archive.
fn member_name(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

fn join_path(base: &str, target: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
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
