//! Writes images built by tests as OCI layouts.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Writes an image layout with this configuration and these uncompressed layers, lowest first. The configuration's
/// `rootfs` is added here.
///
/// # Panics
/// If the layout cannot be written.
pub fn write(layout: &Path, mut config: Value, layers: impl IntoIterator<Item = Vec<u8>>) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(blobs.join(&hex), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
    };
    let layers = layers.into_iter();
    let layers: Vec<Value> = layers
        .map(|layer| put("application/vnd.oci.image.layer.v1.tar", &layer))
        .collect();
    // The blob of an uncompressed layer is the layer itself.
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = put(
        "application/vnd.oci.image.config.v1+json",
        config.to_string().as_bytes(),
    );
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    let manifest = put(
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().as_bytes(),
    );
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}
