//! Images made of busybox and additional layers.

use std::io::Read;

use microkube_tests::oci_layout;
use serde_json::Value;

use crate::host::{host, image_layout};

/// Adds a file to an archive.
pub fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, content).unwrap();
}

/// An image based on busybox with another configuration or other layers: `change` gets busybox's and returns the new
/// ones, uncompressed.
pub fn layout_of(name: &str, change: impl FnOnce(&mut Value, Vec<Vec<u8>>) -> Vec<Vec<u8>>) -> std::path::PathBuf {
    let layout = host().file(name, "").with_file_name(format!("{name}-layout"));
    let _ = std::fs::remove_dir_all(&layout);
    let from = image_layout("busybox");
    let read = |descriptor: &Value| {
        std::fs::read(
            from.join("blobs")
                .join(descriptor["digest"].as_str().unwrap().replace(':', "/")),
        )
        .unwrap()
    };
    let index: Value = serde_json::from_slice(&std::fs::read(from.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0])).unwrap();
    let mut config: Value = serde_json::from_slice(&read(&manifest["config"])).unwrap();
    let unpacked = |layer: &Value| {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(read(layer).as_slice())
            .read_to_end(&mut bytes)
            .unwrap();
        bytes
    };
    let layers = manifest["layers"].as_array().unwrap().iter().map(unpacked).collect();
    let layers = change(&mut config, layers);
    oci_layout::write(&layout, config, layers);
    layout
}
