//! The store on disk: content-addressed, shared by all Pods and processes, safe against any of them dying at any moment.
//!
//! ```text
//! lock                          flock: shared while images are added, exclusive while unreferenced content is removed
//! tmp/                          files being written, and a lock a layer; all of it is stale to whoever has the exclusive lock
//! layers/sha256/<diff ID>.erofs
//! layers/sha256/<diff ID>-on-<digest>.erofs    a layer that depends on those below it, for one such stack
//! layers/sha256/<digest>-merged.erofs          the lowest layers of an image in one, for Pods that have too many
//! blobs/sha256/<digest>         layers as they were transferred
//! manifests/sha256/<digest>.json
//! configs/sha256/<digest>.json
//! references/<name>             which manifest a name means
//! ```
//! Everything appears under its name complete, by renaming. Layers in use are safe from removal because their users hold
//! them open ([`Image::open_layers`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::erofs::Volume;
use super::error::{ImageError, PullError, StoreError};
use super::layer::LayerFiles;
use super::manifest::{self, CONFIG_MAX_BYTES, Document, LayerBlob, MANIFEST_MAX_BYTES, Manifest};
use super::options::Options;
use super::reference::{Digest, ImageReference};
use super::stack::open_volume;
use super::verify::Verification;
use super::{Image, Layer};

/// Length of a file name in bytes beyond which a reference is stored under its digest.
const FILE_NAME_MAX: usize = 240;

/// The images on this host.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
    options: Options,
}

/// What [`ImageStore::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub references: Vec<String>,
    /// Space that is free again, in bytes. Zero where a pull is running; its content goes with the next removal or pull.
    pub freed_bytes: u64,
    /// Whether content that no name leads to is gone; not so while images are being added.
    pub swept: bool,
}

impl Removed {
    /// Removes what no name leads to any more.
    pub(super) fn sweep(&mut self, store: &ImageStore) -> Result<(), StoreError> {
        let freed = store.sweep()?;
        self.swept = freed.is_some();
        self.freed_bytes += freed.unwrap_or(0);
        Ok(())
    }
}

/// A lock on the store or a layer, released when dropped.
#[derive(Debug)]
pub struct StoreLock {
    _file: Flock<File>,
}

/// The content of a file in `references/`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub reference: String,
    manifest: String,
    /// See [`Image::repo_digest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repo_digest: Option<String>,
}

impl ImageStore {
    /// Opens the store in `root`, which is made if it does not exist.
    pub fn open(root: PathBuf) -> Result<Self, ImageError> {
        Self::open_with(root, Options::from_env()?)
    }

    /// Opens the store in `root` with other settings than the environment's.
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

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// The image that `reference` names, if it is here with all its layers. If the settings say so all of them are read, and
    /// damaged ones made again or removed.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let reference = ImageReference::parse(reference)?;
        let path = self.reference_path(&reference);
        let image = self.read_image(&path)?;
        match image {
            Some(image) if self.options.verify => {
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

    /// Keeps all content from being removed as long as the result lives: from looking an image up until its layers are open.
    pub fn hold(&self) -> Result<StoreLock, ImageError> {
        Ok(self.lock_shared()?)
    }

    /// All images with their names, in the names' order. An image of several names appears once for each.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for path in self.reference_files()? {
            images.extend(self.read_image(&path)?);
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Removes a name, or all names of the image with an ID that `reference_or_id` starts, and content that no image needs
    /// any more.
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

    /// The images that a name, an ID or its unique start stand for: one name, or all names of one image.
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
            // The digest decides: the image may have been pulled with a tag beside it, or with another one.
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

    /// Removes content that no name leads to and what dead processes left, unless images are being added at the moment.
    /// Returns how many bytes are free again, nothing where images are being added.
    pub(super) fn sweep(&self) -> Result<Option<u64>, StoreError> {
        let Some(_lock) = self.lock(FlockArg::LockExclusiveNonblock)? else {
            return Ok(None);
        };
        let mut keep = BTreeSet::new();
        for path in self.reference_files()? {
            let Some((record, manifest)) = self.read_record(&path)? else {
                continue;
            };
            let config = self.read_file(&self.blob_path("configs", &manifest.config.digest), CONFIG_MAX_BYTES)?;
            keep.insert(self.blob_path("manifests", &record));
            keep.insert(self.blob_path("configs", &manifest.config.digest));
            keep.extend(manifest.layers.iter().map(|layer| self.layer_blob_path(&layer.digest)));
            if let Some(Ok((_, layers))) = config.map(|config| manifest::join(&manifest, &config)) {
                keep.extend(layers.iter().map(|layer| self.layer_path(&layer.diff_id)));
                keep.extend(self.stacked(&layers)?.into_iter().flatten().map(|layer| layer.path));
                let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
                keep.extend(self.merged_paths(&diff_ids));
            }
        }
        let mut freed = 0;
        for part in [
            "layers/sha256",
            "blobs/sha256",
            "manifests/sha256",
            "configs/sha256",
            "tmp",
        ] {
            for path in files(&self.root.join(part))? {
                if !keep.contains(&path) {
                    freed += allocated_bytes(&path);
                    remove_file(&path)?;
                }
            }
        }
        Ok(Some(freed))
    }

    /// Keeps content from being removed while an image is added. Waits for a removal to end.
    pub(super) fn lock_shared(&self) -> Result<StoreLock, StoreError> {
        let lock = self.lock(FlockArg::LockShared)?;
        lock.ok_or_else(|| StoreError::of("lock", &self.root)(io::ErrorKind::WouldBlock.into()))
    }

    fn lock(&self, how: FlockArg) -> Result<Option<StoreLock>, StoreError> {
        lock_file(&self.root.join("lock"), how)
    }

    /// Waits until no other process or task converts this layer. Only while the shared lock is held.
    pub(super) fn lock_layer(&self, diff_id: &Digest) -> Result<StoreLock, StoreError> {
        let path = self.temporary_directory().join(format!("{}.lock", diff_id.hex()));
        let lock = lock_file(&path, FlockArg::LockExclusive)?;
        lock.ok_or_else(|| StoreError::of("lock", &path)(io::ErrorKind::WouldBlock.into()))
    }

    /// Like [`Self::lock_layer`], but without waiting.
    pub(super) fn try_lock_layer(&self, diff_id: &Digest) -> Result<Option<StoreLock>, StoreError> {
        let path = self.temporary_directory().join(format!("{}.lock", diff_id.hex()));
        lock_file(&path, FlockArg::LockExclusiveNonblock)
    }

    pub(super) fn temporary_directory(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Whether a layer is here and need not be fetched.
    pub(super) fn has_layer(&self, layer: &LayerBlob) -> bool {
        let converted = matches!(open_volume(&self.layer_path(&layer.diff_id)), Ok(Some(_)));
        converted && (!self.options.keep_blobs || self.has_blob(layer))
    }

    /// Whether a layer is here as it was transferred.
    pub(super) fn has_blob(&self, layer: &LayerBlob) -> bool {
        fs::metadata(self.layer_blob_path(&layer.blob.digest))
            .is_ok_and(|metadata| metadata.len() == layer.blob.size_bytes)
    }

    /// Gives the files of a converted layer their names.
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
                // Not made durable: its digest is checked whenever it is used.
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

    /// Adds an image whose layers are all there, and returns it. `root` is the digest of the document that the name means, if it means
    /// one anywhere but here.
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
                other => StoreError::of("stack the layers in", &self.root)(io::Error::other(other)),
            })?;
        }
        self.write(&self.blob_path("configs", &Digest::of(config)), config)?;
        self.write(&self.blob_path("manifests", &digest), manifest)?;
        let repo_digest = root.map(|root| format!("{}/{}@{root}", reference.registry(), reference.repository()));
        self.write_reference(reference, digest.as_str(), repo_digest)?;
        self.read_image(&self.reference_path(reference))
    }

    /// Makes a name mean a manifest.
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

    pub(super) fn read_reference(&self, path: &Path) -> Result<Option<Record>, StoreError> {
        let bytes = self.read_file(path, MANIFEST_MAX_BYTES)?.unwrap_or_default();
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// A reference's manifest with its digest; `None` where anything is missing or broken: such an image is pulled again.
    pub(super) fn read_record(&self, path: &Path) -> Result<Option<(Digest, Manifest)>, StoreError> {
        let Some(bytes) = self.read_file(path, MANIFEST_MAX_BYTES)? else {
            return Ok(None);
        };
        let record = serde_json::from_slice::<Record>(&bytes).ok();
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

    pub(super) fn reference_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        files(&self.root.join("references"))
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
        // Of what a reference may contain only the slash (and, to be unambiguous, nothing else) cannot stand in a file name.
        let text = reference.to_string();
        let name = text.replace('/', "%2F");
        let name = if name.len() > FILE_NAME_MAX {
            Digest::of(text.as_bytes()).hex().to_owned()
        } else {
            name
        };
        self.root.join("references").join(name)
    }
}

fn lock_file(path: &Path, how: FlockArg) -> Result<Option<StoreLock>, StoreError> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let mut file = file.map_err(StoreError::of("open", path))?;
    loop {
        match Flock::lock(file, how) {
            Ok(locked) => return Ok(Some(StoreLock { _file: locked })),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((unlocked, nix::errno::Errno::EINTR)) => file = unlocked,
            Err((_, errno)) => return Err(StoreError::of("lock", path)(errno.into())),
        }
    }
}

/// Makes a complete temporary file durable under its final name.
fn persist(file: NamedTempFile, path: &Path) -> Result<(), StoreError> {
    file.as_file().sync_all().map_err(StoreError::of("write", path))?;
    file.persist(path)
        .map_err(|error| StoreError::of("create", path)(error.error))?;
    let directory = path.parent().unwrap_or(path);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(StoreError::of("write", directory))
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
