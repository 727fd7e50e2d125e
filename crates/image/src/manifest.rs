//! The documents of an image: index, manifest and configuration, in OCI's form and Docker's, validated before use.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::PullError;
use super::reference::Digest;

/// Most bytes a manifest or index may have; what registries accept.
pub(super) const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Most bytes a configuration may have.
pub(super) const CONFIG_MAX_BYTES: u64 = 8 << 20;
/// Most layers an image may have. overlayfs in the guest stacks up to 500.
const LAYERS_MAX: usize = 500;

/// Media types of manifests and indexes that are understood.
pub(super) const MANIFEST_MEDIA_TYPES: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Media types of configurations: OCI's, Docker's, and what Docker accepts for the sake of old clients and registries that wrote
/// something else there (`ImageTypes` in moby's `distribution/registry.go`). Whether it is one, its content tells.
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

/// A layer: the blob as transferred, and the digest of its plain content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LayerBlob {
    pub blob: Blob,
    pub diff_id: Digest,
}

/// What a document with a manifest's media type is.
#[derive(Debug)]
pub(super) enum Document {
    Manifest(Manifest),
    /// Manifests and indexes are elsewhere ([`super::index`]).
    Index(Box<ImageIndex>),
}

/// A manifest.
#[derive(Debug)]
pub(super) struct Manifest {
    pub config: Blob,
    pub layers: Vec<Blob>,
}

/// What tells a manifest from an index. Registries and archives may leave the media type out.
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
    /// Whether it is an index. A document that can be read as either is refused: others might read it the other way.
    fn is_index(&self) -> Result<bool, PullError> {
        if self.fs_layers.is_some() || self.schema_version == Some(1) {
            let why = "its schema version 1 is of Docker before 1.10 and no longer supported: push the image anew";
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
                    format!("it is of the unknown type {shown:?}"),
                ));
            }
        };
        if is_index && is_manifest || stated != is_index {
            return Err(PullError::invalid(
                "manifest",
                "it is a manifest and an index at the same time",
            ));
        }
        Ok(is_index)
    }
}

/// Parses a manifest or an index.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, PullError> {
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(PullError::invalid("manifest", "it is no JSON object"));
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
            format!("schema version {} is not known", manifest.schema_version()),
        ));
    }
    let config_type = manifest.config().media_type().as_ref();
    if !CONFIG_MEDIA_TYPES.contains(&config_type) {
        return Err(PullError::invalid(
            "manifest",
            format!("it describes no container image but {config_type:?}"),
        ));
    }
    if manifest.layers().len() > LAYERS_MAX {
        let count = manifest.layers().len();
        return Err(PullError::invalid(
            "manifest",
            format!("{count} layers, {LAYERS_MAX} are supported"),
        ));
    }
    for layer in manifest.layers() {
        let media_type = layer.media_type();
        if !is_layer(media_type) {
            return Err(PullError::invalid(
                "manifest",
                format!("layers of the type {media_type} are not supported"),
            ));
        }
    }
    let config = blob(manifest.config())?;
    if config.size_bytes > CONFIG_MAX_BYTES {
        return Err(PullError::invalid(
            "manifest",
            format!("a configuration of {} bytes", config.size_bytes),
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

/// Parses a configuration and joins its layers with the manifest's.
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
            "it lists {} layers, the manifest {}",
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
