//! The documents of an image: index, manifest and configuration, in OCI and Docker formats, validated before use.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::PullError;
use super::reference::Digest;

/// Maximum size of a manifest or index, in bytes; the limit of registries.
pub(super) const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Maximum size of a configuration, in bytes.
pub(super) const CONFIG_MAX_BYTES: u64 = 8 << 20;
/// Maximum number of layers of an image. overlayfs in the guest stacks up to 500.
const LAYERS_MAX: usize = 500;

/// Supported media types of manifests and indexes.
pub(super) const MANIFEST_MEDIA_TYPES: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Media types of configurations: OCI's, Docker's, and others that Docker accepts because old clients and registries
/// wrote them (`ImageTypes` in moby's `distribution/registry.go`). The content decides whether it is a configuration.
const CONFIG_MEDIA_TYPES: &[&str] = &[
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];

/// A blob of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub digest: Digest,
    pub size_bytes: u64,
}

/// A layer: the blob as transferred, and the digest of its uncompressed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerBlob {
    pub blob: Blob,
    pub diff_id: Digest,
}

/// A document with the media type of a manifest or index.
#[derive(Debug)]
pub(super) enum Document {
    Manifest(Manifest),
    /// Its manifests and indexes are separate documents ([`super::index`]).
    Index(Box<ImageIndex>),
}

#[derive(Debug)]
pub(super) struct Manifest {
    pub config: Blob,
    pub layers: Vec<Blob>,
}

/// The fields that distinguish manifests from indexes. Registries and archives may leave out the media type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Kind {
    /// Whether it is an index. A document that could be read as either is refused, because other tools might read it
    /// the other way.
    fn is_index(&self) -> Result<bool, PullError> {
        if self.fs_layers.is_some() || self.schema_version == Some(1) {
            let why = "schema version 1 (Docker before 1.10) is not supported: push the image again with a newer tool";
            return Err(PullError::invalid("manifest", why));
        }
        let is_index = self.manifests.is_some();
        let is_manifest = self.config.is_some() || self.layers.is_some();
        let stated = match self.media_type.as_deref() {
            None => is_index,
            Some(
                "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json",
            ) => true,
            Some(
                "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json",
            ) => false,
            Some(other) => {
                let shown: String = other.chars().take(100).collect();
                return Err(PullError::invalid(
                    "manifest",
                    format!("it has the unknown type {shown:?}"),
                ));
            }
        };
        if is_index && is_manifest || stated != is_index {
            return Err(PullError::invalid("manifest", "it is both a manifest and an index"));
        }
        Ok(is_index)
    }
}

/// Parses a manifest or an index.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, PullError> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(PullError::invalid("manifest", "it is not a JSON object"));
    }
    let kind: Kind = serde_json::from_slice(bytes).map_err(|e| PullError::invalid("manifest", e))?;
    if kind.is_index()? {
        let index = serde_json::from_slice(bytes).map_err(|error| PullError::invalid("index", error))?;
        return Ok(Document::Index(Box::new(index)));
    }
    let manifest: ImageManifest =
        serde_json::from_slice(bytes).map_err(|error| PullError::invalid("manifest", error))?;
    if manifest.schema_version() != 2 {
        return Err(PullError::invalid(
            "manifest",
            format!("unknown schema version {}", manifest.schema_version()),
        ));
    }
    let config_type = manifest.config().media_type().as_ref();
    if !CONFIG_MEDIA_TYPES.contains(&config_type) {
        return Err(PullError::invalid(
            "manifest",
            format!("it describes {config_type:?}, not a container image"),
        ));
    }
    if manifest.layers().len() > LAYERS_MAX {
        let count = manifest.layers().len();
        return Err(PullError::invalid(
            "manifest",
            format!("it has {count} layers; the maximum is {LAYERS_MAX}"),
        ));
    }
    for layer in manifest.layers() {
        let media_type = layer.media_type();
        if !is_layer(media_type) {
            return Err(PullError::invalid(
                "manifest",
                format!("layer type {media_type} is not supported"),
            ));
        }
    }
    let config = blob(manifest.config())?;
    if config.size_bytes > CONFIG_MAX_BYTES {
        return Err(PullError::invalid(
            "manifest",
            format!("its configuration is too large ({} bytes)", config.size_bytes),
        ));
    }
    let layers = manifest.layers().iter().map(blob).collect::<Result<_, _>>()?;
    Ok(Document::Manifest(Manifest { config, layers }))
}

pub(super) fn blob(descriptor: &Descriptor) -> Result<Blob, PullError> {
    let digest = Digest::parse(descriptor.digest().as_ref()).map_err(|why| PullError::invalid("manifest", why))?;
    Ok(Blob {
        digest,
        size_bytes: descriptor.size(),
    })
}

fn is_layer(media_type: &MediaType) -> bool {
    let text = media_type.as_ref();
    let base = text
        .strip_suffix("+gzip")
        .or_else(|| text.strip_suffix("+zstd"))
        .unwrap_or(text);
    let base = base
        .strip_suffix(".gzip")
        .or_else(|| base.strip_suffix(".zstd"))
        .unwrap_or(base);
    matches!(
        base,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
    )
}

/// Parses a configuration and pairs its layers with the manifest's.
pub(super) fn join(manifest: &Manifest, config: &[u8]) -> Result<(ImageConfiguration, Vec<LayerBlob>), PullError> {
    let config: ImageConfiguration =
        serde_json::from_slice(config).map_err(|error| PullError::invalid("configuration", error))?;
    if *config.os() != Os::Linux || *config.architecture() != Arch::Amd64 {
        return Err(PullError::Platform {
            available: format!("{}/{}", config.os(), config.architecture()),
        });
    }
    super::config::check(&config)?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != manifest.layers.len() {
        let why = format!(
            "it lists {} layers, but the manifest lists {}",
            diff_ids.len(),
            manifest.layers.len()
        );
        return Err(PullError::invalid("configuration", why));
    }
    let layers = diff_ids.iter().zip(&manifest.layers).map(|(diff_id, blob)| {
        let diff_id = Digest::parse(diff_id).map_err(|why| PullError::invalid("configuration", why))?;
        Ok(LayerBlob {
            blob: blob.clone(),
            diff_id,
        })
    });
    let layers = layers.collect::<Result<_, PullError>>()?;
    Ok((config, layers))
}
