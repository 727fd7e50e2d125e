//! Writes images to archives and directories that other tools can load: OCI layouts with the layers exactly as they
//! were transferred, plus what `docker load` needs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::manifest::{CONFIG_MAX_BYTES, MANIFEST_MAX_BYTES};
use super::reference::Digest;
use super::{Image, ImageStore};

/// The target of saved images.
#[allow(missing_debug_implementations, reason = "a writer need not implement it")]
pub enum SaveTo<'a> {
    Archive(&'a mut dyn Write),
    /// A directory that is empty or does not exist yet.
    Directory(&'a Path),
}

impl ImageStore {
    /// Saves the images that `names` refer to. Errors call the target `path`.
    pub fn save(&self, names: &[String], target: SaveTo<'_>, path: &Path) -> Result<Vec<Image>, ImageError> {
        let _lock = self.lock_shared()?;
        let mut images: Vec<Image> = Vec::new();
        for name in names {
            for image in self.find(name)? {
                if !images.contains(&image) {
                    images.push(image);
                }
            }
        }
        let contents = Contents::of(self, &images)?;
        let failed = |source| ImageError::Save {
            path: path.to_path_buf(),
            source,
        };
        match target {
            SaveTo::Archive(out) => contents.write(&mut Archive(tar::Builder::new(out))),
            SaveTo::Directory(root) => contents.write(&mut Directory(root.to_path_buf())),
        }
        .map_err(failed)?;
        Ok(images)
    }
}

/// The contents of an archive.
struct Contents {
    index: Value,
    docker: Value,
    /// Manifests and configurations.
    small: Vec<(Digest, Vec<u8>)>,
    layers: Vec<(Digest, PathBuf)>,
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Contents {
    fn of(store: &ImageStore, images: &[Image]) -> Result<Self, ImageError> {
        let mut contents = Self {
            index: json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json" }),
            docker: json!([]),
            small: Vec::new(),
            layers: Vec::new(),
        };
        let mut descriptors = Vec::new();
        let mut docker: Vec<(Digest, Value)> = Vec::new();
        let mut seen = BTreeSet::new();
        for image in images {
            let gone = || ImageError::Removed {
                reference: image.reference.clone(),
            };
            let record = store.read_record(&store.reference_path_of(&image.reference)?)?;
            let (digest, manifest) = record.ok_or_else(gone)?;
            let bytes = store.read_file(&store.blob_path("manifests", &digest), MANIFEST_MAX_BYTES)?;
            let bytes = bytes.ok_or_else(gone)?;
            let config = store.read_file(&store.blob_path("configs", &manifest.config.digest), CONFIG_MAX_BYTES)?;
            let config = config.ok_or_else(gone)?;
            let media_type = serde_json::from_slice::<Value>(&bytes)
                .ok()
                .and_then(|value| value.get("mediaType")?.as_str().map(str::to_owned))
                .unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
            let mut descriptor = json!({
                "mediaType": media_type,
                "digest": digest.as_str(),
                "size": bytes.len(),
            });
            // A digest cannot be assigned as a name.
            let tag = (!image.reference.contains('@')).then_some(&image.reference);
            if let (Some(tag), Some(object)) = (tag, descriptor.as_object_mut()) {
                object.insert(
                    "annotations".to_owned(),
                    json!({
                        "io.containerd.image.name": tag,
                        "org.opencontainers.image.ref.name": tag,
                    }),
                );
            }
            descriptors.push(descriptor);
            let known = docker.iter_mut().find(|(other, _)| *other == digest);
            match known.and_then(|(_, entry)| entry.get_mut("RepoTags")?.as_array_mut()) {
                Some(tags) => tags.extend(tag.map(|tag| json!(tag))),
                None => {
                    let layers: Vec<_> = manifest.layers.iter().map(|layer| blob_name(&layer.digest)).collect();
                    docker.push((
                        digest.clone(),
                        json!({
                            "Config": blob_name(&manifest.config.digest),
                            "RepoTags": tag.into_iter().collect::<Vec<_>>(),
                            "Layers": layers,
                        }),
                    ));
                }
            }
            if seen.insert(digest.clone()) {
                contents.small.push((digest, bytes));
            }
            if seen.insert(manifest.config.digest.clone()) {
                contents.small.push((manifest.config.digest.clone(), config));
            }
            for layer in &manifest.layers {
                let path = store.layer_blob_path(&layer.digest);
                if !path.is_file() {
                    return Err(ImageError::NoBlob {
                        reference: image.reference.clone(),
                        what: format!("layer {}", layer.digest),
                    });
                }
                if seen.insert(layer.digest.clone()) {
                    contents.layers.push((layer.digest.clone(), path));
                }
            }
        }
        if let Some(index) = contents.index.as_object_mut() {
            index.insert("manifests".to_owned(), descriptors.into());
        }
        contents.docker = docker.into_iter().map(|(_, entry)| entry).collect();
        Ok(contents)
    }

    fn write(&self, target: &mut dyn Target) -> io::Result<()> {
        target.start()?;
        let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
        target.file("oci-layout", &mut layout.as_bytes(), layout.len() as u64)?;
        for (digest, bytes) in &self.small {
            target.file(&blob_name(digest), &mut bytes.as_slice(), bytes.len() as u64)?;
        }
        for (digest, path) in &self.layers {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            let mut checked = Checked {
                inner: file,
                hash: Sha256::new(),
            };
            target.file(&blob_name(digest), &mut checked, length)?;
            let actual = Digest::from_hash(checked.hash);
            if actual != *digest {
                let path = path.display();
                return Err(io::Error::other(format!(
                    "{path} is damaged: it has digest {actual}; `microkube image verify --repair` removes it"
                )));
            }
        }
        for (name, value) in [("manifest.json", &self.docker), ("index.json", &self.index)] {
            let text = value.to_string();
            target.file(name, &mut text.as_bytes(), text.len() as u64)?;
        }
        target.end()
    }
}

/// Hashes data as it is read.
struct Checked {
    inner: File,
    hash: Sha256,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

trait Target {
    fn start(&mut self) -> io::Result<()>;
    fn file(&mut self, name: &str, content: &mut dyn Read, length: u64) -> io::Result<()>;
    fn end(&mut self) -> io::Result<()>;
}

struct Archive<'a>(tar::Builder<&'a mut dyn Write>);

impl Target for Archive<'_> {
    fn start(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn file(&mut self, name: &str, content: &mut dyn Read, length: u64) -> io::Result<()> {
        // Write no times and owners, so that the same images give the same archive.
        let mut header = tar::Header::new_ustar();
        header.set_size(length);
        header.set_mode(0o644);
        self.0.append_data(&mut header, name, content.take(length))
    }

    fn end(&mut self) -> io::Result<()> {
        self.0.finish()?;
        self.0.get_mut().flush()
    }
}

struct Directory(PathBuf);

impl Target for Directory {
    fn start(&mut self) -> io::Result<()> {
        let occupied = match fs::read_dir(&self.0) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if occupied {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it exists and is not empty",
            ));
        }
        fs::create_dir_all(self.0.join("blobs/sha256"))
    }

    fn file(&mut self, name: &str, content: &mut dyn Read, _length: u64) -> io::Result<()> {
        let mut file = File::create_new(self.0.join(name))?;
        io::copy(content, &mut file)?;
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        Ok(())
    }
}
