//! Images in the forms that other tools give them.

use std::process::Command;

use serde_json::{Value, json};

use crate::server::{Options, Registry, layout, result, succeed};

/// What skopeo says of an image: its manifest or configuration.
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

#[test]
fn oci_and_docker_manifests_and_zstd_layers_give_the_same_image() {
    let registry = Registry::start(&Options::default());
    let source = layout("configured");
    registry.push(&source, "oci", &["--format", "oci"]);
    registry.push(&source, "docker", &["--format", "v2s2"]);
    registry.push(&source, "zstd", &["--format", "oci", "--dest-compress-format", "zstd"]);
    let zstd = inspect(&registry, "zstd", "--raw");
    assert!(
        zstd["layers"][0]["mediaType"].as_str().unwrap().ends_with("+zstd"),
        "{zstd}"
    );
    let layers = |registry: &Registry| {
        let directory = registry.path("state/images/layers/sha256");
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    let mut before = None;
    for name in ["oci", "docker", "zstd"] {
        assert_eq!(registry.pull(name).unwrap(), image_id(&registry, name), "{name}");
        // The content is the same, so no layer is added.
        assert_eq!(
            before.get_or_insert_with(|| layers(&registry)),
            &layers(&registry),
            "{name}"
        );
    }
}

#[test]
fn an_index_leads_to_what_runs_here_and_a_digest_to_just_that() {
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
    // The tag is not what is meant.
    assert_eq!(registry.pull(&format!("app:other@{digest}")).unwrap(), id);
    let nothing = format!("sha256:{}", "0".repeat(64));
    let error = registry.pull(&format!("app:multi@{nothing}")).unwrap_err();
    assert!(error.contains("does not have it"), "{error}");
}

#[test]
fn mirrors_and_blocked_registries_are_as_registries_conf_says() {
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
