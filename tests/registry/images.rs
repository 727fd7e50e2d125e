//! Images in the forms that other tools produce.

use std::ffi::OsString;
use std::fs::DirEntry;
use std::process::Command;

use serde_json::{Value, json};

use crate::server::{Options, Registry, layout, result, succeed};

/// An image's manifest or configuration, from skopeo.
fn inspect(registry: &Registry, name: &str, what: &str) -> Value {
    let mut command = Command::new("skopeo");
    command
        .args(["inspect", "--tls-verify=false", what])
        .arg(format!("docker://{}", registry.image(name)));
    serde_json::from_slice(&succeed(&mut command)).unwrap()
}

fn image_id(registry: &Registry, name: &str) -> String {
    inspect(registry, name, "--raw")["config"]["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The files of microkube's layers and their content.
fn layers(registry: &Registry) -> Vec<(OsString, Vec<u8>)> {
    let entries = std::fs::read_dir(registry.path("state/images/layers/sha256")).unwrap();
    let read = |entry: DirEntry| (entry.file_name(), std::fs::read(entry.path()).unwrap());
    let mut layers: Vec<_> = entries.map(|entry| read(entry.unwrap())).collect();
    layers.sort();
    layers
}

#[test]
fn all_manifest_and_layer_formats_give_the_same_image() {
    let registry = Registry::start(&Options::default());
    let source = layout("configured");
    registry.push(&source, "oci", &["--format", "oci"]);
    registry.push(&source, "docker", &["--format", "v2s2"]);
    // When copying straight to the registry, skopeo would reuse the layers that are already there.
    for (name, options) in [
        ("zstd", &["--dest-compress", "--dest-compress-format", "zstd"][..]),
        ("plain", &["--dest-decompress"]),
    ] {
        let target = format!("dir:{}", registry.path(name).display());
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--format", "oci"]);
        succeed(command.args(options).arg(&source).arg(&target));
        registry.push(&target, name, &["--preserve-digests"]);
    }
    let mut expected = None;
    for (name, media_type) in [
        ("oci", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("docker", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("plain", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        assert_eq!(inspect(&registry, name, "--raw")["layers"][0]["mediaType"], media_type);
        assert_eq!(registry.pull(name).unwrap(), image_id(&registry, name), "{name}");
        let layers = layers(&registry);
        assert_eq!(layers.len(), 2);
        assert!(*expected.get_or_insert_with(|| layers.clone()) == layers, "{name}");
        std::fs::remove_dir_all(registry.path("state")).unwrap();
    }
}

#[test]
fn an_index_selects_the_matching_platform_and_a_digest_the_exact_image() {
    let registry = Registry::start(&Options::default());
    registry.push(&layout("busybox"), "app:amd64", &[]);
    registry.push(&layout("configured"), "app:other", &[]);
    let entry = |tag: &str, os: &str, architecture: &str| {
        let mut command = Command::new("skopeo");
        command.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
        let name = format!("app:{tag}");
        let digest = succeed(command.arg(format!("docker://{}", registry.image(&name))));
        let raw = succeed(
            Command::new("skopeo")
                .args(["inspect", "--tls-verify=false", "--raw"])
                .arg(format!("docker://{}", registry.image(&name))),
        );
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": String::from_utf8(digest).unwrap().trim(),
            "size": raw.len(),
            "platform": {"os": os, "architecture": architecture},
        })
    };
    let amd64 = entry("amd64", "linux", "amd64");
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry("other", "linux", "arm64"), entry("other", "unknown", "unknown"), amd64],
    });
    std::fs::write(registry.path("index.json"), index.to_string()).unwrap();
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--fail", "--request", "PUT"])
        .args(["--header", "Content-Type: application/vnd.oci.image.index.v1+json"])
        .arg("--data-binary")
        .arg(format!("@{}", registry.path("index.json").display()))
        .arg(format!("http://{}/v2/test/app/manifests/multi", registry.address));
    succeed(&mut command);
    let id = image_id(&registry, "app:amd64");
    assert_eq!(registry.pull("app:multi").unwrap(), id);
    let digest = amd64["digest"].as_str().unwrap();
    // The tag is ignored.
    assert_eq!(registry.pull(&format!("app:other@{digest}")).unwrap(), id);
    let nothing = format!("sha256:{}", "0".repeat(64));
    let error = registry.pull(&format!("app:multi@{nothing}")).unwrap_err();
    assert!(error.contains("does not have this image"), "{error}");
}

#[test]
fn mirrors_and_blocked_registries_follow_registries_conf() {
    let (mirror, registry) = (
        Registry::start(&Options::default()),
        Registry::start(&Options::default()),
    );
    mirror.push(&layout("busybox"), "busybox", &[]);
    registry.push(&layout("busybox"), "only-here", &[]);
    let config = registry.path("registries.conf");
    let text = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n[[registry]]\nprefix = \"{}/secret\"\nblocked = true\n",
        registry.address, mirror.address, registry.address
    );
    std::fs::write(&config, text).unwrap();
    let pull = |name: &str| {
        let mut command = registry.microkube(["image", "pull", "-q", name]);
        result(command.env("CONTAINERS_REGISTRIES_CONF", &config).output().unwrap())
    };
    assert_eq!(pull(&registry.image("busybox")).unwrap(), image_id(&mirror, "busybox"));
    assert_eq!(
        pull(&registry.image("only-here")).unwrap(),
        image_id(&registry, "only-here")
    );
    let error = pull(&format!("{}/secret/app", registry.address)).unwrap_err();
    assert!(error.contains("blocked"), "{error}");
}
