//! The store on disk: content-addressed, shared by all Pods and processes, consistent even if any of them dies at any
//! moment.
//!
//! ```text
//! lock                          flock: shared while images are added, exclusive while unreferenced content is removed
//! tmp/                          files being written, one lock per layer; stale for the holder of the exclusive lock
//! layers/sha256/<diff ID>.erofs
//! layers/sha256/<diff ID>-on-<digest>.erofs    a layer that depends on those below it, for one such stack
//! layers/sha256/<digest>-merged.erofs          the lowest layers of an image merged, for Pods with too many
//! blobs/sha256/<digest>         layers as they were transferred
//! manifests/sha256/<digest>.json
//! configs/sha256/<digest>.json
//! references/<name>             which manifest a name refers to
//! ```
//! Files appear under their names complete, by renaming. Layers in use are safe from removal because their users hold
//! them open ([`super::Image::open_layers`]).
//!
//! This module handles only files and locks. The modules that stack layers, and list, verify, repair and remove images,
//! build on it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use microkube_base::file_lock::{self, LockedFile, Sharing};
use microkube_base::replaced_file::sync_directory;
use microkube_erofs::Volume;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::error::{ImageError, StoreError};
use super::layer::{LayerFiles, open_volume};
use super::manifest::{self, Document, LayerBlob, MANIFEST_MAX_BYTES, Manifest};
use super::options::Options;
use super::reference::{Digest, ImageReference};

/// References with longer file names (in bytes) are stored under their digest.
const FILE_NAME_MAX: usize = 240;

/// The images on this host.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    options: Options,
}

/// A lock on the store or a layer, released when dropped.
#[derive(Debug)]
pub struct StoreLock {
    _file: LockedFile,
}

/// The version of [`Record`]'s format that is written. Older ones are read as well; records without a version are
/// version 0.
const RECORD_VERSION: u32 = 1;

/// The content of a file in `references/`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub reference: String,
    manifest: String,
    /// See [`super::Image::repo_digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo_digest: Option<String>,
    #[serde(default)]
    version: u32,
}

impl ImageStore {
    /// Opens the store in `root`, which is created if it does not exist.
    pub fn open(root: PathBuf) -> Result<Self, ImageError> {
        Self::open_with(root, Options::from_env()?)
    }

    /// Opens the store in `root` with the given settings instead of the environment's.
    pub fn open_with(root: PathBuf, options: Options) -> Result<Self, ImageError> {
        for part in [
            "tmp",
            "references",
            "layers/sha256",
            "blobs/sha256",
            "manifests/sha256",
            "configs/sha256",
        ] {
            let path = root.join(part);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(StoreError::of("create", &path))?;
        }
        Ok(Self { root, options })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Prevents the removal of content while the result lives: from the lookup of an image until its layers are open.
    pub fn hold(&self) -> Result<StoreLock, ImageError> {
        Ok(self.lock_shared()?)
    }

    /// Prevents the removal of content while an image is added. Waits for a running removal.
    pub(super) fn lock_shared(&self) -> Result<StoreLock, StoreError> {
        lock_file(&self.root.join("lock"), Sharing::Shared)
    }

    /// The lock for removing content; `None` if another process or task holds the lock.
    pub(super) fn try_lock_exclusive(&self) -> Result<Option<StoreLock>, StoreError> {
        try_lock_file(&self.root.join("lock"))
    }

    /// Waits until no other process or task converts this layer. Requires the shared lock.
    pub(super) fn lock_layer(&self, diff_id: &Digest) -> Result<StoreLock, StoreError> {
        lock_file(&self.layer_lock_path(diff_id), Sharing::Exclusive)
    }

    /// Like [`Self::lock_layer`], but without waiting.
    pub(super) fn try_lock_layer(&self, diff_id: &Digest) -> Result<Option<StoreLock>, StoreError> {
        try_lock_file(&self.layer_lock_path(diff_id))
    }

    fn layer_lock_path(&self, diff_id: &Digest) -> PathBuf {
        self.temporary_directory().join(format!("{}.lock", diff_id.hex()))
    }

    pub(super) fn temporary_directory(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Whether a layer is present and need not be fetched.
    pub(super) fn has_layer(&self, layer: &LayerBlob) -> bool {
        let converted = matches!(open_volume(&self.layer_path(&layer.diff_id)), Ok(Some(_)));
        converted && (!self.options.keep_blobs || self.has_blob(layer))
    }

    /// Whether a layer is present as it was transferred.
    pub(super) fn has_blob(&self, layer: &LayerBlob) -> bool {
        fs::metadata(self.layer_blob_path(&layer.blob.digest))
            .is_ok_and(|metadata| metadata.len() == layer.blob.size_bytes)
    }

    /// Moves the files of a converted layer to their final names.
    pub(super) fn add_layer(&self, files: LayerFiles, diff_id: &Digest) -> Result<(), StoreError> {
        if let Some((blob, digest)) = files.blob {
            let depends = Volume::open(
                files
                    .erofs
                    .reopen()
                    .map_err(StoreError::of("open", files.erofs.path()))?,
            )
            .is_ok_and(|volume| volume.needs().any());
            if self.options.keep_blobs || depends {
                let path = self.layer_blob_path(&digest);
                // The file is not synced to disk, because its digest is checked at each use.
                let persisted = blob.persist(&path);
                persisted.map_err(|error| StoreError::of("create", &path)(error.error))?;
            }
        }
        persist(files.erofs, &self.layer_path(diff_id))
    }

    pub(super) fn add_file(&self, file: NamedTempFile, path: &Path) -> Result<(), StoreError> {
        persist(file, path)
    }

    pub(super) fn layer_blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Makes a name refer to a manifest.
    pub(super) fn write_reference(
        &self,
        reference: &ImageReference,
        manifest: &str,
        repo_digest: Option<String>,
    ) -> Result<(), StoreError> {
        let path = self.reference_path(reference);
        let record = Record {
            reference: reference.to_string(),
            manifest: manifest.to_owned(),
            repo_digest,
            version: RECORD_VERSION,
        };
        let json = serde_json::to_vec(&record).map_err(|error| StoreError::of("write", &path)(error.into()))?;
        self.write(&path, &json)
    }

    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let file = NamedTempFile::new_in(self.temporary_directory());
        let mut file = file.map_err(StoreError::of("create a file in", &self.temporary_directory()))?;
        file.write_all(bytes).map_err(StoreError::of("write", path))?;
        persist(file, path)
    }

    pub(super) fn read_reference(&self, path: &Path) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = self.read_file(path, MANIFEST_MAX_BYTES)? else {
            return Ok(None);
        };
        /// The part of a record that exists in every version.
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            version: u64,
        }
        match serde_json::from_slice(&bytes) {
            // Do not treat it as broken, because then the image's content would be removed.
            Ok(Head { version }) if version > RECORD_VERSION.into() => {
                let why = format!(
                    "it was written by a newer microkube, in format version {version}; this one reads versions up to \
                     {RECORD_VERSION}; use the newer microkube"
                );
                Err(StoreError::of("read", path)(io::Error::other(why)))
            }
            _ => Ok(serde_json::from_slice(&bytes).ok()),
        }
    }

    /// A reference's manifest with its digest; `None` if anything is missing or broken: the image is then pulled again.
    pub(super) fn read_record(&self, path: &Path) -> Result<Option<(Digest, Manifest)>, StoreError> {
        let record = self.read_reference(path)?;
        let Some(digest) = record.and_then(|record| Digest::parse(&record.manifest).ok()) else {
            return Ok(None);
        };
        let Some(bytes) = self.read_file(&self.blob_path("manifests", &digest), MANIFEST_MAX_BYTES)? else {
            return Ok(None);
        };
        match manifest::parse(&bytes) {
            Ok(Document::Manifest(manifest)) if Digest::of(&bytes) == digest => Ok(Some((digest, manifest))),
            _ => Ok(None),
        }
    }

    pub(super) fn read_file(&self, path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::of("read", path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(max_bytes)
            .read_to_end(&mut bytes)
            .map_err(StoreError::of("read", path))?;
        Ok(Some(bytes))
    }

    /// The files in one of the store's directories.
    pub(super) fn files_of(&self, part: &str) -> Result<Vec<PathBuf>, StoreError> {
        files(&self.root.join(part))
    }

    pub(super) fn reference_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        self.files_of("references")
    }

    pub(super) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers/sha256").join(format!("{}.erofs", diff_id.hex()))
    }

    pub(super) fn blob_path(&self, kind: &str, digest: &Digest) -> PathBuf {
        self.root
            .join(kind)
            .join("sha256")
            .join(format!("{}.json", digest.hex()))
    }

    pub(super) fn reference_path(&self, reference: &ImageReference) -> PathBuf {
        // Of the characters in a reference, only the slash cannot be in a file name, so nothing else needs escaping.
        let text = reference.to_string();
        let name = text.replace('/', "%2F");
        let name = if name.len() > FILE_NAME_MAX {
            Digest::of(text.as_bytes()).hex().to_owned()
        } else {
            name
        };
        self.root.join("references").join(name)
    }

    /// The same for a name that has not been parsed.
    pub(super) fn reference_path_of(&self, reference: &str) -> Result<PathBuf, StoreError> {
        let parsed = ImageReference::parse(reference)
            .map_err(|error| StoreError::of("search", Path::new(reference))(io::Error::other(error)))?;
        Ok(self.reference_path(&parsed))
    }
}

fn lock_file(path: &Path, sharing: Sharing) -> Result<StoreLock, StoreError> {
    let file = file_lock::lock(path, sharing).map_err(StoreError::of("lock", path))?;
    Ok(StoreLock { _file: file })
}

fn try_lock_file(path: &Path) -> Result<Option<StoreLock>, StoreError> {
    let file = file_lock::try_lock(path, Sharing::Exclusive).map_err(StoreError::of("lock", path))?;
    Ok(file.map(|file| StoreLock { _file: file }))
}

/// Makes a complete temporary file durable under its final name.
fn persist(file: NamedTempFile, path: &Path) -> Result<(), StoreError> {
    file.as_file().sync_all().map_err(StoreError::of("write", path))?;
    file.persist(path)
        .map_err(|error| StoreError::of("create", path)(error.error))?;
    let directory = path.parent().unwrap_or(path);
    sync_directory(directory).map_err(StoreError::of("write", directory))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
    });
    entries.map_err(StoreError::of("read", directory))
}

pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn allocated_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}
