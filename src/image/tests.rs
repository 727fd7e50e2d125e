//! The store, loading and pulling, with images made here and a registry of a few lines on the loopback interface.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::reference::Digest;
use super::*;

type Blobs = HashMap<String, Vec<u8>>;

fn layer_tar(file: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, file, content).unwrap();
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn put(blobs: &mut Blobs, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = Digest::of(&bytes).to_string();
    let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    blobs.insert(digest, bytes);
    descriptor
}

/// An image of gzipped layers; returns its manifest's descriptor.
fn image(blobs: &mut Blobs, layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/app"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    image_of(blobs, layers, &config)
}

fn image_of(blobs: &mut Blobs, layers: &[Vec<u8>], config: &Value) -> Value {
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

struct Fixture {
    directory: TempDir,
    store: ImageStore,
}

fn fixture() -> Fixture {
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

    fn content(&self, part: &str) -> usize {
        fs::read_dir(self.directory.path().join("images").join(part))
            .unwrap()
            .count()
    }
}

fn chain(error: &dyn std::error::Error) -> String {
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

/// A registry that serves `blobs`, and the tag `v1`. `answer` may replace an answer's body by a shorter one.
struct TestRegistry {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

fn registry(blobs: Blobs, tag: &str, cut: impl Fn(&str, usize) -> Option<usize> + Send + 'static) -> TestRegistry {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let requests = Arc::<Mutex<Vec<String>>>::default();
    let (seen, tag) = (Arc::clone(&requests), tag.to_owned());
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut lines = BufReader::new(connection.try_clone().unwrap())
                .lines()
                .map_while(Result::ok);
            let Some(request) = lines.next() else { continue };
            let _ = lines.by_ref().take_while(|line| !line.is_empty()).count();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            seen.lock().unwrap().push(path.clone());
            let last = path.rsplit('/').next().unwrap_or_default();
            let body = blobs.get(if last == "v1" { tag.as_str() } else { last });
            let head = if body.is_some() || path == "/v2/" {
                "200 OK"
            } else {
                "404 Not Found"
            };
            let body = body.cloned().unwrap_or_default();
            let head = format!(
                "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let end = cut(&path, body.len()).unwrap_or(body.len());
            // A client that has seen enough closes its end.
            let _ = connection
                .write_all(head.as_bytes())
                .and_then(|()| connection.write_all(&body[..end]));
        }
    });
    TestRegistry { address, requests }
}

/// An index with a foreign platform first, and the image behind it.
fn index_image(blobs: &mut Blobs) -> String {
    let mut manifest = image(blobs, &[layer_tar("a", &[1; 200_000]), layer_tar("b", b"2")]);
    manifest["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let other = json!({ "mediaType": manifest["mediaType"], "digest": Digest::of(b"arm").as_str(), "size": 3,
        "platform": { "os": "linux", "architecture": "arm64" } });
    let index = json!({ "schemaVersion": 2, "manifests": [other, manifest] });
    let index = put(
        blobs,
        "application/vnd.oci.image.index.v1+json",
        index.to_string().into_bytes(),
    );
    index["digest"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_pull_follows_the_index_and_honours_the_policy() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let tag = index_image(&mut blobs);
    let registry = registry(blobs, &tag, |_, _| None);
    let name = format!("{}/test/app:v1", registry.address);
    let error = fixture
        .store
        .ensure(&name, PullPolicy::Never, &Quiet)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "ErrImageNeverPull");
    assert_eq!(
        error.to_string(),
        format!("Container image \"{name}\" is not present with pull policy of Never")
    );
    assert!(registry.requests.lock().unwrap().is_empty());
    let image = fixture
        .store
        .ensure(&name, PullPolicy::IfNotPresent, &Quiet)
        .await
        .unwrap();
    assert_eq!(image.layers.len(), 2);
    let layers_fetched = registry
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter(|path| path.contains("/blobs/"))
        .count();
    assert_eq!(layers_fetched, 3, "configuration and two layers");
    registry.requests.lock().unwrap().clear();
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert_eq!(fixture.store.ensure(&name, policy, &Quiet).await.unwrap(), image);
    }
    assert!(registry.requests.lock().unwrap().is_empty());
    assert_eq!(
        fixture.store.ensure(&name, PullPolicy::Always, &Quiet).await.unwrap(),
        image
    );
    let again = registry.requests.lock().unwrap().clone();
    let config = format!("/v2/test/app/blobs/{}", image.id);
    assert!(
        again.iter().all(|path| !path.contains("/blobs/") || *path == config),
        "{again:?}"
    );
}

#[tokio::test]
async fn a_cut_transfer_is_tried_again_and_then_reported() {
    let mut blobs = Blobs::new();
    let tag = index_image(&mut blobs);
    for (failures, succeeds) in [(2, true), (usize::MAX, false)] {
        let fixture = fixture();
        let count = AtomicUsize::new(0);
        let is_cut = move |path: &str| path.contains("/blobs/") && count.fetch_add(1, Ordering::Relaxed) < failures;
        let registry = registry(blobs.clone(), &tag, move |path, length| {
            is_cut(path).then_some(length / 2)
        });
        let result = fixture
            .store
            .ensure(&format!("{}/test/app:v1", registry.address), PullPolicy::Always, &Quiet)
            .await;
        match result {
            Ok(_) => assert!(succeeds),
            Err(error) => {
                assert!(!succeeds && error.reason() == "ErrImagePull", "{}", chain(&error));
                assert!(
                    chain(&error).contains("broke while the configuration"),
                    "{}",
                    chain(&error)
                );
                assert_eq!((fixture.content("tmp"), fixture.content("references")), (0, 0));
            }
        }
    }
}

#[tokio::test]
async fn what_the_registry_lacks_is_said_once() {
    let fixture = fixture();
    let registry = registry(Blobs::new(), "", |_, _| None);
    let name = format!("{}/test/none:v1", registry.address);
    let error = fixture
        .store
        .ensure(&name, PullPolicy::Always, &Quiet)
        .await
        .unwrap_err();
    let address = &registry.address;
    let expected =
        format!("failed to pull image \"{name}\": registry {address} does not have it: check repository and tag");
    assert_eq!(chain(&error), expected);
}

#[test]
fn a_pull_can_run_on_any_thread() {
    fn is_send(_: &impl Send) {}
    let fixture = fixture();
    is_send(&fixture.store.ensure("nginx", PullPolicy::Never, &Quiet));
}
