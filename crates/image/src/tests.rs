//! The store, loading and pulling, with images built here and a minimal registry on the loopback interface.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::reference::{Digest, ImageReference};
use super::*;

pub(super) type Blobs = HashMap<String, Vec<u8>>;

pub(super) fn layer_tar(file: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
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

/// An image with these layers, gzipped; returns its manifest's descriptor.
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
    pub fn load(&self, blobs: &Blobs, manifest: Value, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
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
fn removing_keeps_content_used_by_other_names() {
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
        "blobs/sha256",
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
        "an open layer stays readable"
    );
    assert!(matches!(
        fixture.store.remove("example.org/two:v1"),
        Err(ImageError::NotFound { .. })
    ));
}

#[test]
fn unversioned_names_are_read_and_newer_ones_keep_their_content() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let manifest = image(&mut blobs, &[layer_tar("a", b"1")]);
    let loaded = fixture
        .load(&blobs, manifest.clone(), Some("example.org/a:v1"))
        .unwrap();
    let path = fixture.directory.path().join("images/references/example.org%2Fa:v1");
    let digest = manifest["digest"].as_str().unwrap();
    // Version 0 is the format before versions existed; version 1 is written now.
    let kept =
        format!(r#"{{"reference":"example.org/a:v1","manifest":"{digest}","repo_digest":"example.org/a@{digest}"}}"#);
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(written, kept.replace('}', r#","version":1}"#));
    fs::write(&path, &kept).unwrap();
    assert_eq!(fixture.store.list().unwrap(), loaded);

    fs::write(&path, r#"{"version":2,"something":"else"}"#).unwrap();
    let said = format!(
        "cannot read {}: it was written by a newer microkube, in format version 2; this one reads versions up to 1; use the newer microkube",
        path.display()
    );
    assert_eq!(chain(&fixture.store.list().unwrap_err()), said);
    assert_eq!(chain(&fixture.store.remove("example.org/a:v1").unwrap_err()), said);
    assert_eq!(chain(&fixture.store.prune(true, |_| true).unwrap_err()), said);
    assert_eq!(fixture.content("layers/sha256"), 1);
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
fn mismatched_content_is_refused_and_leaves_nothing_behind() {
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
        // The time in the gzip header: changes the blob but not its content.
        bytes[4] ^= 1;
    }
    let cases = [
        ((flipped, manifest), "is corrupt"),
        (wrong_config(json!([other_digest]), "amd64"), "is corrupt"),
        (
            wrong_config(json!([]), "amd64"),
            "lists 0 layers, but the manifest lists 1",
        ),
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
            "blobs/sha256",
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
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
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
    let mut builder = tar::Builder::new(fs::File::create(&archive).unwrap());
    let list = json!([{ "Config": "c.json", "RepoTags": ["a:1", "b:2"], "Layers": ["l/layer.tar"] }]).to_string();
    for (name, bytes) in [
        ("manifest.json", list.as_bytes()),
        ("c.json", config),
        ("l/layer.tar", &layer),
    ] {
        let mut header = tar::Header::new_gnu();
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

fn damage(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_saved_image_has_the_digests_of_the_loaded_one() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let layers = [layer_tar("a", &[7; 100_000]), layer_tar("b", b"2")];
    let manifest = image(&mut blobs, &layers);
    let first = fixture
        .load(&blobs, manifest, Some("example.org/app:v1"))
        .unwrap()
        .remove(0);
    fixture.store.tag("example.org/app:v1", "other:x").unwrap();
    let archive = fixture.directory.path().join("saved.tar");
    let mut out = fs::File::create(&archive).unwrap();
    let id = first.id.clone();
    let saved = fixture.store.save(&[id], SaveTo::Archive(&mut out), &archive).unwrap();
    assert_eq!(saved.len(), 2);
    let directory = fixture.directory.path().join("saved");
    let name = ["other:x".to_owned()];
    fixture
        .store
        .save(&name, SaveTo::Directory(&directory), &directory)
        .unwrap();
    assert!(
        fixture
            .store
            .save(&name, SaveTo::Directory(&directory), &directory)
            .is_err()
    );
    let compressed = fixture.directory.path().join("saved.tar.gz");
    fs::write(&compressed, gzip(&fs::read(&archive).unwrap())).unwrap();
    for (path, names) in [
        (&archive, ["docker.io/library/other:x", "example.org/app:v1"].as_slice()),
        (&compressed, &["docker.io/library/other:x", "example.org/app:v1"]),
        (&directory, &["docker.io/library/other:x"]),
    ] {
        let other = super::tests::fixture();
        let mut loaded = other.store.load(path, None, &Quiet).unwrap();
        loaded.sort_by(|a, b| a.reference.cmp(&b.reference));
        let found: Vec<_> = loaded.iter().map(|image| image.reference.as_str()).collect();
        assert_eq!(found, names);
        assert!(
            loaded
                .iter()
                .all(|image| image.manifest_digest == first.manifest_digest && image.id == first.id)
        );
        assert_eq!(other.content("blobs/sha256"), 2);
    }
}

#[test]
fn an_image_without_its_blobs_can_be_used_but_not_saved() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        keep_blobs: false,
        ..Options::default()
    };
    let store = ImageStore::open_with(directory.path().join("images"), options).unwrap();
    let fixture = Fixture { directory, store };
    let mut blobs = Blobs::new();
    let manifest = image(&mut blobs, &[layer_tar("a", b"1")]);
    fixture.load(&blobs, manifest, Some("example.org/app:v1")).unwrap();
    assert_eq!(fixture.content("blobs/sha256"), 0);
    let error = fixture
        .store
        .save(
            &["example.org/app:v1".to_owned()],
            SaveTo::Archive(&mut Vec::new()),
            Path::new("x"),
        )
        .unwrap_err();
    assert!(error.to_string().contains("MICROKUBE_KEEP_BLOBS"), "{error}");
}

#[test]
fn an_image_pulled_by_digest_is_found_by_digest_only() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let manifest = image(&mut blobs, &[layer_tar("one", b"1")]);
    let loaded = fixture
        .load(&blobs, manifest, Some("example.org/one:v1"))
        .unwrap()
        .remove(0);
    let digest = loaded.manifest_digest;
    let pulled = ImageReference::parse(&format!("example.org/two:v1@{digest}")).unwrap();
    fixture.store.write_reference(&pulled, &digest, None).unwrap();
    let find = |name: &str| fixture.store.find(name).map(|images| images[0].reference.clone());
    for name in ["example.org/two", "example.org/two:v1", "example.org/two:v2"] {
        assert_eq!(find(&format!("{name}@{digest}")).unwrap(), pulled.to_string());
    }
    assert!(find("example.org/two:v1").is_err());
    // A tag does not match an image that was pulled by digest.
    assert!(find(&format!("example.org/one@{digest}")).is_err());
}

#[test]
fn tags_can_be_added_and_unused_images_are_removed_with_all_tags() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let one = image(&mut blobs, &[layer_tar("one", b"1")]);
    let two = image(&mut blobs, &[layer_tar("two", b"2")]);
    fixture.load(&blobs, one, Some("example.org/one:v1")).unwrap();
    fixture.load(&blobs, two, Some("example.org/two:v1")).unwrap();
    fixture
        .store
        .tag("example.org/one:v1", "example.org/one:again")
        .unwrap();
    assert!(fixture.store.tag("example.org/missing:v1", "a:b").is_err());
    assert!(fixture.store.tag("example.org/one:v1", "No Name").is_err());
    let removed = fixture.store.prune(false, |_| true).unwrap();
    assert_eq!((removed.references.len(), removed.swept), (0, true));
    let removed = fixture
        .store
        .prune(true, |image| image.reference != "example.org/one:again")
        .unwrap();
    assert_eq!(
        removed.references,
        ["example.org/two:v1"],
        "one name in use keeps the others"
    );
    assert!(removed.freed_bytes > 0);
    assert_eq!(fixture.store.list().unwrap().len(), 2);
    assert_eq!(fixture.content("blobs/sha256"), 1);
}

#[test]
fn damage_is_found_and_repaired_from_local_blobs() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let manifest = image(&mut blobs, &[layer_tar("a", &[7; 100_000]), layer_tar("b", b"2")]);
    let loaded = fixture
        .load(&blobs, manifest.clone(), Some("example.org/app:v1"))
        .unwrap()
        .remove(0);
    let verify = |repair| {
        let how = Verification { blobs: true, repair };
        let found = fixture.store.verify_named(None, how).unwrap();
        found
            .iter()
            .flat_map(|image| &image.problems)
            .map(|problem| problem.repaired)
            .collect::<Vec<_>>()
    };
    assert!(verify(false).is_empty());
    // One bit of the content: only reading it reveals the damage.
    damage(&loaded.layers[0].path, 8192);
    assert_eq!(verify(false), [false]);
    assert_eq!(verify(true), [true]);
    assert!(verify(false).is_empty());
    // With a damaged superblock or length, the image counts as absent.
    for broken in [vec![], vec![0; 8192]] {
        fs::write(&loaded.layers[1].path, broken).unwrap();
        assert_eq!(fixture.store.get("example.org/app:v1").unwrap(), None);
        assert_eq!(verify(true), [true]);
        assert!(fixture.store.get("example.org/app:v1").unwrap().is_some());
    }
    // Without an intact copy the layer is removed, and loading restores it.
    for blob in fs::read_dir(fixture.directory.path().join("images/blobs/sha256")).unwrap() {
        damage(&blob.unwrap().path(), 4);
    }
    damage(&loaded.layers[0].path, 8192);
    assert_eq!(verify(true), [false, false, false]);
    assert_eq!(fixture.store.get("example.org/app:v1").unwrap(), None);
    fixture.load(&blobs, manifest, Some("example.org/app:v1")).unwrap();
    assert!(verify(false).is_empty());
    // A record, a manifest, a configuration.
    for part in ["references", "manifests/sha256", "configs/sha256"] {
        let directory = fixture.directory.path().join("images").join(part);
        let path = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
        let bytes = fs::read(&path).unwrap();
        damage(&path, 3);
        assert_eq!(fixture.store.get("example.org/app:v1").unwrap(), None, "{part}");
        assert_eq!(verify(false), [false], "{part}");
        fs::write(&path, bytes).unwrap();
        assert!(verify(false).is_empty());
    }
}

#[test]
fn damage_is_found_before_use_if_verification_is_enabled() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        verify: true,
        ..Options::default()
    };
    let store = ImageStore::open_with(directory.path().join("images"), options).unwrap();
    let fixture = Fixture { directory, store };
    let mut blobs = Blobs::new();
    let manifest = image(&mut blobs, &[layer_tar("a", &[7; 100_000])]);
    let loaded = fixture
        .load(&blobs, manifest, Some("example.org/app:v1"))
        .unwrap()
        .remove(0);
    let intact = fs::read(&loaded.layers[0].path).unwrap();
    damage(&loaded.layers[0].path, 8192);
    assert!(fixture.store.get("example.org/app:v1").unwrap().is_some(), "recreated");
    assert!(fs::read(&loaded.layers[0].path).unwrap() == intact);
    fs::remove_dir_all(fixture.directory.path().join("images/blobs/sha256")).unwrap();
    damage(&loaded.layers[0].path, 8192);
    assert_eq!(
        fixture.store.get("example.org/app:v1").unwrap(),
        None,
        "to be pulled again"
    );
}

#[test]
fn a_layer_dependent_on_lower_layers_is_built_per_stack() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let mut base = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o1777);
    header.set_size(0);
    base.append_data(&mut header, "tmp", std::io::empty()).unwrap();
    let base = base.into_inner().unwrap();
    let top = layer_tar("tmp/x", b"1");
    let on_base = image(&mut blobs, &[base.clone(), top.clone()]);
    let alone = image(&mut blobs, std::slice::from_ref(&top));
    let on_base = fixture
        .load(&blobs, on_base, Some("example.org/on-base:v1"))
        .unwrap()
        .remove(0);
    let alone = fixture
        .load(&blobs, alone, Some("example.org/alone:v1"))
        .unwrap()
        .remove(0);
    assert_eq!(on_base.layers[1].diff_id, alone.layers[0].diff_id);
    assert_ne!(on_base.layers[1].path, alone.layers[0].path);
    let mode_of_tmp = |layer: &Layer| {
        let volume = microkube_erofs::Volume::open(fs::File::open(&layer.path).unwrap()).unwrap();
        volume.lookup(&volume.root().unwrap(), b"tmp").unwrap().unwrap().mode
    };
    assert_eq!(
        (mode_of_tmp(&on_base.layers[1]), mode_of_tmp(&alone.layers[0])),
        (0o041777, 0o040755)
    );
    fixture.store.remove("example.org/on-base:v1").unwrap();
    assert_eq!(fixture.content("layers/sha256"), 1);
    // A dangling link is refused, and the error names it.
    let mut dangling = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    dangling.append_link(&mut header, "x", "missing").unwrap();
    let dangling = image(&mut blobs, &[base, dangling.into_inner().unwrap()]);
    let error = fixture
        .load(&blobs, dangling, Some("example.org/dangling:v1"))
        .unwrap_err();
    assert!(
        chain(&error).contains("entry x is a hard link to missing"),
        "{}",
        chain(&error)
    );
}

#[test]
fn layouts_cannot_refer_outside_their_directory() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let manifest = image(&mut blobs, &[layer_tar("a", b"1")]);
    let layout = fixture.directory.path().join("hostile");
    write_layout(&layout, &blobs, manifest, Some("example.org/a:v1"));
    let secret = fixture.directory.path().join("index.json");
    fs::rename(layout.join("index.json"), &secret).unwrap();
    std::os::unix::fs::symlink(&secret, layout.join("index.json")).unwrap();
    let error = fixture.store.load(&layout, None, &Quiet).unwrap_err();
    assert!(chain(&error).contains("neither an OCI layout"), "{}", chain(&error));
}
