//! The store, loading and pulling, with images made here and a registry of a few lines on the loopback interface.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::reference::Digest;
use super::*;

pub(super) type Blobs = HashMap<String, Vec<u8>>;

pub(super) fn layer_tar(file: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, file, content).unwrap();
    builder.into_inner().unwrap()
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn put(blobs: &mut Blobs, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = Digest::of(&bytes).to_string();
    let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    blobs.insert(digest, bytes);
    descriptor
}

/// An image of gzipped layers; returns its manifest's descriptor.
pub(super) fn image(blobs: &mut Blobs, layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/app"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    image_of(blobs, layers, &config)
}

pub(super) fn image_of(blobs: &mut Blobs, layers: &[Vec<u8>], config: &Value) -> Value {
    let config = put(
        blobs,
        "application/vnd.oci.image.config.v1+json",
        config.to_string().into_bytes(),
    );
    let layer = |layer: &Vec<u8>| put(blobs, "application/vnd.oci.image.layer.v1.tar+gzip", gzip(layer));
    let layers: Vec<_> = layers.iter().map(layer).collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    put(
        blobs,
        "application/vnd.oci.image.manifest.v1+json",
        manifest.to_string().into_bytes(),
    )
}

fn write_layout(directory: &Path, blobs: &Blobs, mut manifest: Value, name: Option<&str>) {
    fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
    for (digest, bytes) in blobs {
        fs::write(directory.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
    }
    if let Some(name) = name {
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    }
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

pub(super) struct Fixture {
    pub directory: TempDir,
    pub store: ImageStore,
}

pub(super) fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path().join("images")).unwrap();
    Fixture { directory, store }
}

impl Fixture {
    fn load(&self, blobs: &Blobs, manifest: Value, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
        let path = self.directory.path().join("layout");
        let _ = fs::remove_dir_all(&path);
        write_layout(&path, blobs, manifest, name);
        self.store.load(&path, None, &Quiet)
    }

    pub fn content(&self, part: &str) -> usize {
        fs::read_dir(self.directory.path().join("images").join(part))
            .unwrap()
            .count()
    }
}

pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn a_loaded_image_is_found_and_its_layers_open() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let layers = [layer_tar("a", b"1"), layer_tar("b", b"2"), layer_tar("a", b"1")];
    let manifest = image(&mut blobs, &layers);
    let loaded = fixture
        .load(&blobs, manifest.clone(), Some("example.org/app:v1"))
        .unwrap();
    let found = fixture.store.get("example.org/app:v1").unwrap().unwrap();
    assert_eq!(loaded, std::slice::from_ref(&found));
    assert_eq!(found.manifest_digest, manifest["digest"].as_str().unwrap());
    let ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    assert_eq!(
        found
            .layers
            .iter()
            .map(|layer| layer.diff_id.clone())
            .collect::<Vec<_>>(),
        ids
    );
    for (layer, file) in found.layers.iter().zip(found.open_layers().unwrap()) {
        assert_eq!(
            (file.metadata().unwrap().len(), layer.length_bytes % 4096),
            (layer.length_bytes, 0)
        );
    }
    assert_eq!(fixture.content("layers/sha256"), 2, "equal layers are stored once");
    assert_eq!(fixture.store.get("example.org/app:v2").unwrap(), None);
}

#[test]
fn removing_keeps_what_other_names_need() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let shared = layer_tar("shared", b"1");
    let one = image(&mut blobs, &[shared.clone(), layer_tar("one", b"1")]);
    let two = image(&mut blobs, &[shared, layer_tar("two", b"1")]);
    fixture.load(&blobs, one, Some("example.org/one:v1")).unwrap();
    let two = fixture.load(&blobs, two, Some("example.org/two:v1")).unwrap().remove(0);
    let open = two.open_layers().unwrap();
    assert_eq!(fixture.content("layers/sha256"), 3);
    assert_eq!(
        fixture.store.remove("example.org/one:v1").unwrap().references,
        ["example.org/one:v1"]
    );
    assert_eq!(fixture.content("layers/sha256"), 2);
    assert_eq!(fixture.store.list().unwrap(), std::slice::from_ref(&two));
    let id = two.id.strip_prefix("sha256:").unwrap();
    assert!(fixture.store.remove(&id[..12]).unwrap().freed_bytes > 0);
    for part in [
        "layers/sha256",
        "manifests/sha256",
        "configs/sha256",
        "references",
        "tmp",
    ] {
        assert_eq!(fixture.content(part), 0, "{part}");
    }
    assert!(matches!(two.open_layers(), Err(ImageError::Removed { .. })));
    assert_eq!(
        open[0].metadata().unwrap().len(),
        two.layers[0].length_bytes,
        "who holds a layer open keeps it"
    );
    assert!(matches!(
        fixture.store.remove("example.org/two:v1"),
        Err(ImageError::NotFound { .. })
    ));
}

#[test]
fn nothing_is_removed_while_images_are_added() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let manifest = image(&mut blobs, &[layer_tar("a", b"1")]);
    fixture.load(&blobs, manifest, Some("example.org/a:v1")).unwrap();
    fs::write(
        fixture.directory.path().join("images/tmp/layer-x"),
        b"of another process",
    )
    .unwrap();
    let lock = fixture.store.lock_shared().unwrap();
    fixture.store.remove("example.org/a:v1").unwrap();
    assert_eq!((fixture.content("layers/sha256"), fixture.content("tmp")), (1, 1));
    drop(lock);
    fixture.store.sweep().unwrap();
    assert_eq!((fixture.content("layers/sha256"), fixture.content("tmp")), (0, 0));
}

#[test]
fn lies_about_content_are_found_out_and_leave_nothing() {
    let layers = [layer_tar("a", &[7; 100_000])];
    let other_digest = Digest::of(b"other").to_string();
    let wrong_config = |diff_ids: Value, architecture: &str| {
        let mut blobs = Blobs::new();
        let config = json!({ "architecture": architecture, "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let manifest = image_of(&mut blobs, &layers, &config);
        (blobs, manifest)
    };
    let mut flipped = Blobs::new();
    let manifest = image(&mut flipped, &layers);
    for bytes in flipped.values_mut().filter(|bytes| bytes.starts_with(&[0x1f, 0x8b])) {
        // The gzip header's time: changes the blob but not its content.
        bytes[4] ^= 1;
    }
    let cases = [
        ((flipped, manifest), "is corrupt"),
        (wrong_config(json!([other_digest]), "amd64"), "is corrupt"),
        (wrong_config(json!([]), "amd64"), "lists 0 layers, the manifest 1"),
        (wrong_config(json!(["sha256:../../etc"]), "amd64"), "hexadecimal"),
        (
            wrong_config(json!([Digest::of(&layers[0]).as_str()]), "arm64"),
            "only for linux/arm64",
        ),
    ];
    for ((blobs, manifest), expected) in cases {
        let fixture = fixture();
        let error = fixture.load(&blobs, manifest, Some("example.org/a:v1")).unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
        for part in [
            "layers/sha256",
            "manifests/sha256",
            "configs/sha256",
            "references",
            "tmp",
        ] {
            assert_eq!(fixture.content(part), 0, "{part} after {expected}");
        }
    }
}

#[test]
fn archives_are_loaded_like_directories() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let layer = layer_tar("a", b"1");
    let manifest = image(&mut blobs, std::slice::from_ref(&layer));
    let layout = fixture.directory.path().join("layout");
    write_layout(&layout, &blobs, manifest, None);
    let archive = fixture.directory.path().join("oci.tar");
    let mut builder = ::tar::Builder::new(fs::File::create(&archive).unwrap());
    builder.append_dir_all(".", &layout).unwrap();
    builder.finish().unwrap();
    let error = fixture.store.load(&archive, None, &Quiet).unwrap_err();
    assert!(chain(&error).contains("--name"), "{}", chain(&error));
    let oci = fixture.store.load(&archive, Some("oci"), &Quiet).unwrap().remove(0);
    assert_eq!(oci.reference, "docker.io/library/oci:latest");

    let config = blobs
        .values()
        .find(|bytes| bytes.windows(6).any(|part| part == b"rootfs"))
        .unwrap();
    let archive = fixture.directory.path().join("docker.tar");
    let mut builder = ::tar::Builder::new(fs::File::create(&archive).unwrap());
    let list = json!([{ "Config": "c.json", "RepoTags": ["a:1", "b:2"], "Layers": ["l/layer.tar"] }]).to_string();
    for (name, bytes) in [
        ("manifest.json", list.as_bytes()),
        ("c.json", config),
        ("l/layer.tar", &layer),
    ] {
        let mut header = ::tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.finish().unwrap();
    let docker = fixture.store.load(&archive, None, &Quiet).unwrap();
    let names: Vec<_> = docker.iter().map(|image| image.reference.as_str()).collect();
    assert_eq!(names, ["docker.io/library/a:1", "docker.io/library/b:2"]);
    assert!(
        docker
            .iter()
            .all(|image| image.id == oci.id && image.layers == oci.layers)
    );
}
