//! The store on disk: content-addressed, shared by all Pods and processes, safe against any of them dying at any moment.
//!
//! ```text
//! lock                          flock: shared while images are added, exclusive while unreferenced content is removed
//! tmp/                          files being written, and a lock a layer; all of it is stale to whoever has the exclusive lock
//! layers/sha256/<diff ID>.erofs
//! manifests/sha256/<digest>.json
//! configs/sha256/<digest>.json
//! references/<name>             which manifest a name means
//! ```
//! Everything appears under its name complete, by renaming. Layers in use are safe from removal because their users hold
//! them open ([`Image::open_layers`]).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::error::{ImageError, StoreError};
use super::manifest::{self, CONFIG_MAX_BYTES, Document, MANIFEST_MAX_BYTES, Manifest};
use super::reference::{Digest, ImageReference};
use super::{Image, Layer};

/// Length of a file name in bytes beyond which a reference is stored under its digest.
const FILE_NAME_MAX: usize = 240;

/// The images on this host.
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: PathBuf,
}

/// What [`ImageStore::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub references: Vec<String>,
    /// Space that is free again, in bytes. Zero where a pull is running; its content goes with the next removal or pull.
    pub freed_bytes: u64,
}

/// A lock on the store or a layer, released when dropped.
#[derive(Debug)]
pub(super) struct StoreLock {
    _file: Flock<File>,
}

/// The content of a file in `references/`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    reference: String,
    manifest: String,
}

impl ImageStore {
    /// Opens the store in `root`, which is made if it does not exist.
    pub fn open(root: PathBuf) -> Result<Self, ImageError> {
        for part in [
            "tmp",
            "references",
            "layers/sha256",
            "manifests/sha256",
            "configs/sha256",
        ] {
            let path = root.join(part);
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(StoreError::of("create", &path))?;
        }
        Ok(Self { root })
    }

    /// The image that `reference` names, if it is here with all its layers.
    pub fn get(&self, reference: &str) -> Result<Option<Image>, ImageError> {
        let reference = ImageReference::parse(reference)?;
        Ok(self.read_image(&self.reference_path(&reference))?)
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
        removed.freed_bytes = self.sweep()?;
        Ok(removed)
    }

    fn find(&self, reference_or_id: &str) -> Result<Vec<Image>, ImageError> {
        let reference = ImageReference::parse(reference_or_id);
        if let Ok(reference) = &reference
            && let Some(image) = self.read_image(&self.reference_path(reference))?
        {
            return Ok(vec![image]);
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
    /// Returns how many bytes are free again.
    pub(super) fn sweep(&self) -> Result<u64, StoreError> {
        let Some(_lock) = self.lock(FlockArg::LockExclusiveNonblock)? else {
            return Ok(0);
        };
        let mut keep = BTreeSet::new();
        for path in self.reference_files()? {
            let Some((record, manifest)) = self.read_record(&path)? else {
                continue;
            };
            let config = self.read_file(&self.blob_path("configs", &manifest.config.digest), CONFIG_MAX_BYTES)?;
            keep.insert(self.blob_path("manifests", &record));
            keep.insert(self.blob_path("configs", &manifest.config.digest));
            if let Some(Ok((_, layers))) = config.map(|config| manifest::join(&manifest, &config)) {
                keep.extend(layers.iter().map(|layer| self.layer_path(&layer.diff_id)));
            }
        }
        let mut freed = 0;
        for part in ["layers/sha256", "manifests/sha256", "configs/sha256", "tmp"] {
            for path in files(&self.root.join(part))? {
                if !keep.contains(&path) {
                    freed += allocated_bytes(&path);
                    remove_file(&path)?;
                }
            }
        }
        Ok(freed)
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

    pub(super) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_path(diff_id).is_file()
    }

    /// Gives a converted layer its name.
    pub(super) fn add_layer(&self, file: NamedTempFile, diff_id: &Digest) -> Result<(), StoreError> {
        persist(file, &self.layer_path(diff_id))
    }

    /// Adds an image whose layers are all there, and returns it.
    pub(super) fn add_image(
        &self,
        reference: &ImageReference,
        manifest: &[u8],
        config: &[u8],
    ) -> Result<Option<Image>, StoreError> {
        let digest = Digest::of(manifest);
        self.write(&self.blob_path("configs", &Digest::of(config)), config)?;
        self.write(&self.blob_path("manifests", &digest), manifest)?;
        let path = self.reference_path(reference);
        let record = Record {
            reference: reference.to_string(),
            manifest: digest.to_string(),
        };
        let json = serde_json::to_vec(&record).map_err(|error| StoreError::of("write", &path)(error.into()))?;
        self.write(&path, &json)?;
        self.read_image(&path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let file = NamedTempFile::new_in(self.temporary_directory());
        let mut file = file.map_err(StoreError::of("create a file in", &self.temporary_directory()))?;
        file.write_all(bytes).map_err(StoreError::of("write", path))?;
        persist(file, path)
    }

    fn read_image(&self, path: &Path) -> Result<Option<Image>, StoreError> {
        let Some((digest, manifest)) = self.read_record(path)? else {
            return Ok(None);
        };
        let Some(reference) = self.read_reference(path)? else {
            return Ok(None);
        };
        let Some(bytes) = self.read_file(&self.blob_path("configs", &manifest.config.digest), CONFIG_MAX_BYTES)? else {
            return Ok(None);
        };
        let Ok((config, blobs)) = manifest::join(&manifest, &bytes) else {
            return Ok(None);
        };
        let mut layers = Vec::new();
        for blob in blobs {
            let path = self.layer_path(&blob.diff_id);
            let length_bytes = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(StoreError::of("read", &path)(error)),
            };
            layers.push(Layer {
                diff_id: blob.diff_id.to_string(),
                path,
                length_bytes,
            });
        }
        Ok(Some(Image {
            reference,
            id: manifest.config.digest.to_string(),
            manifest_digest: digest.to_string(),
            size_bytes: layers.iter().map(|layer| layer.length_bytes).sum(),
            config,
            layers,
        }))
    }

    fn read_reference(&self, path: &Path) -> Result<Option<String>, StoreError> {
        let bytes = self.read_file(path, MANIFEST_MAX_BYTES)?.unwrap_or_default();
        Ok(serde_json::from_slice::<Record>(&bytes)
            .ok()
            .map(|record| record.reference))
    }

    /// A reference's manifest with its digest; `None` where anything is missing or broken: such an image is pulled again.
    fn read_record(&self, path: &Path) -> Result<Option<(Digest, Manifest)>, StoreError> {
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

    fn read_file(&self, path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, StoreError> {
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

    fn reference_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        files(&self.root.join("references"))
    }

    fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers/sha256").join(format!("{}.erofs", diff_id.hex()))
    }

    fn blob_path(&self, kind: &str, digest: &Digest) -> PathBuf {
        self.root
            .join(kind)
            .join("sha256")
            .join(format!("{}.json", digest.hex()))
    }

    fn reference_path(&self, reference: &ImageReference) -> PathBuf {
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

fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StoreError::of("remove", path)(error)),
        _ => Ok(()),
    }
}

fn allocated_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}
