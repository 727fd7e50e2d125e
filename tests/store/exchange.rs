//! Exchange of images with other tools, in both directions.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use microkube_image::{Image, ImageStore, PullPolicy, Quiet, SaveTo};

use crate::mounted::{Fixture, Mount, extract, pack, succeed};

/// Builds two layers with all kinds of entries; busybox's own files do not matter here.
fn umoci_layout(fixture: &Fixture) -> std::path::PathBuf {
    let layout = fixture.path("umoci");
    let tag = format!("{}:latest", layout.display());
    succeed(Command::new("umoci").args(["init", "--layout"]).arg(&layout));
    succeed(Command::new("umoci").args(["new", "--image", &tag]));
    for (number, content) in [("1", "first"), ("2", "second")] {
        let tree = fixture.path(&format!("tree-{number}"));
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc").join(number), content).unwrap();
        let archive = fixture.path(&format!("{number}.tar"));
        pack(&tree, &archive);
        succeed(
            Command::new("umoci")
                .args(["raw", "add-layer", "--image", &tag])
                .arg(&archive),
        );
    }
    succeed(Command::new("umoci").args(["config", "--image", &tag, "--architecture", "amd64", "--os", "linux"]));
    layout
}

fn save(store: &ImageStore, image: &Image, path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    store
        .save(std::slice::from_ref(&image.reference), SaveTo::Archive(&mut file), path)
        .unwrap();
}

fn skopeo_digest(source: &str) -> String {
    let format = "{{.Digest}}";
    succeed(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--format", format, source]))
        .trim()
        .to_owned()
}

/// Debian's docker-registry, running until it is dropped.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(fixture: &Fixture) -> Self {
        // The kernel chooses the port. If another process takes it in the meantime, the registry fails to start with a
        // message.
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let root = fixture.path("registry");
        let config = fixture.path("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            root.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed by guest-image/install-requirements.sh");
        let start = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "the registry does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { child, address }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_pulled_and_saved_image_has_the_digests_of_the_registry_in_skopeo_and_podman() {
    let fixture = Fixture::new();
    let layout = umoci_layout(&fixture);
    let registry = Registry::start(&fixture);
    let source = format!("oci:{}:latest", layout.display());
    let name = format!("{}/test/app:v1", registry.address);
    let at_registry = format!("docker://{name}");
    let copy = |from: &str, to: &str| {
        let flags = [
            "--insecure-policy",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ];
        succeed(Command::new("skopeo").args(flags).args([from, to]));
    };
    copy(&source, &at_registry);
    let expected = skopeo_digest(&at_registry);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let image = runtime
        .block_on(fixture.store.ensure(&name, PullPolicy::Always, &[], &Quiet))
        .unwrap();
    assert_eq!(image.manifest_digest, expected);

    let archive = fixture.path("saved.tar");
    save(&fixture.store, &image, &archive);
    let oci_archive = format!("oci-archive:{}:{name}", archive.display());
    assert_eq!(skopeo_digest(&oci_archive), expected);
    // Back to the registry under another name: manifest and layers are the same.
    let again = format!("docker://{}/test/again:v1", registry.address);
    copy(&oci_archive, &again);
    assert_eq!(skopeo_digest(&again), expected);
    let layers =
        |source: &str| succeed(Command::new("skopeo").args(["inspect", "--tls-verify=false", "--raw", source]));
    assert_eq!(layers(&again), layers(&at_registry));

    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(fixture.path("podman"))
            .arg("--runroot")
            .arg(fixture.path("podman-run"));
        succeed(
            command
                .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"])
                .args(args),
        )
    };
    podman(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let inspected = podman(&["image", "inspect", "--format", "{{.Digest}} {{.Id}}", &name]);
    let id = image.id.strip_prefix("sha256:").unwrap();
    assert_eq!(inspected.trim(), format!("{expected} {id}"));

    // Images saved by podman can be loaded here, in both of its formats.
    for format in ["oci-archive", "docker-archive"] {
        let saved = fixture.path(format);
        podman(&[
            "save",
            "--quiet",
            "--format",
            format,
            "--output",
            saved.to_str().unwrap(),
            &name,
        ]);
        let other = Fixture::new();
        let loaded = other.store.load(&saved, Some("loaded:v1"), &Quiet).unwrap().remove(0);
        let diff_ids = |image: &Image| {
            image
                .layers
                .iter()
                .map(|layer| layer.diff_id.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(diff_ids(&loaded), diff_ids(&image), "{format}");
    }
}

#[test]
fn images_from_skopeo_umoci_and_buildah_load_in_every_format() {
    let fixture = Fixture::new();
    let layout = umoci_layout(&fixture);
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(fixture.path("buildah"))
            .arg("--runroot")
            .arg(fixture.path("buildah-run"));
        succeed(command.args(["--storage-driver", "vfs"]).args(args))
            .trim()
            .to_owned()
    };
    let container = buildah(&["from", "scratch"]);
    buildah(&[
        "copy",
        "--quiet",
        &container,
        fixture.path("tree-1").to_str().unwrap(),
        "/",
    ]);
    buildah(&["config", "--cmd", "/bin/sh", "--env", "A=b", &container]);
    let built = fixture.path("buildah.oci");
    buildah(&["commit", "--quiet", &container, &format!("oci:{}:v1", built.display())]);

    let source = format!("oci:{}:latest", layout.display());
    let copies = [
        (
            "oci-archive",
            format!("oci-archive:{}:example.org/a:v1", fixture.path("a.oci").display()),
        ),
        (
            "docker-archive",
            format!("docker-archive:{}:example.org/a:v1", fixture.path("a.docker").display()),
        ),
    ];
    for (_, copy) in &copies {
        succeed(Command::new("skopeo").args(["--insecure-policy", "copy", "--quiet", &source, copy]));
    }
    let zstd = format!("oci:{}:latest", fixture.path("zstd").display());
    let flags = ["--insecure-policy", "copy", "--quiet", "--dest-compress-format", "zstd"];
    succeed(Command::new("skopeo").args(flags).args([&source, &zstd]));
    let mut loaded = Vec::new();
    for path in [
        layout,
        fixture.path("a.oci"),
        fixture.path("a.docker"),
        fixture.path("zstd"),
        built,
    ] {
        let image = fixture.store.load(&path, Some("loaded:v1"), &Quiet).unwrap().remove(0);
        let mounts: Vec<_> = image
            .layers
            .iter()
            .enumerate()
            .map(|(index, layer)| Mount::layer(&layer.path, fixture.path(&format!("layer-{index}"))))
            .collect();
        let root = Mount::overlay(&mounts, fixture.path("root"));
        assert_eq!(
            fs::read_to_string(root.0.join("etc/1")).unwrap(),
            "first",
            "{}",
            path.display()
        );
        drop(root);
        drop(mounts);
        loaded.push(image);
    }
    let diff_ids = |image: &Image| {
        image
            .layers
            .iter()
            .map(|layer| layer.diff_id.clone())
            .collect::<Vec<_>>()
    };
    assert!(loaded[..4].iter().all(|image| diff_ids(image) == diff_ids(&loaded[0])));
}

#[test]
fn thirty_stacked_layers_equal_the_unpacked_archives() {
    let fixture = Fixture::new();
    let together = fixture.path("together");
    let mut archives = Vec::new();
    for number in 0..30 {
        let tree = fixture.path("tree");
        let _ = fs::remove_dir_all(&tree);
        fs::create_dir_all(tree.join("shared/deeper")).unwrap();
        fs::write(tree.join(format!("own-{number}")), format!("{number}")).unwrap();
        fs::write(tree.join("shared/deeper/last"), format!("{number}")).unwrap();
        let archive = fixture.path(&format!("{number}.tar"));
        let mut tar = Command::new("tar");
        tar.args(["--create", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&tree);
        // Every other layer has no directory entries.
        if number % 2 == 0 {
            succeed(tar.arg("."));
        } else {
            succeed(tar.arg(format!("own-{number}")).arg("shared/deeper/last"));
        }
        extract(&archive, &together);
        archives.push(archive);
    }
    let archives: Vec<_> = archives.iter().map(std::path::PathBuf::as_path).collect();
    let image = fixture.load("many:v1", &archives);
    assert_eq!(image.layers.len(), 30);
    let mounts: Vec<_> = image
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| Mount::layer(&layer.path, fixture.path(&format!("layer-{index}"))))
        .collect();
    let root = Mount::overlay(&mounts, fixture.path("root"));
    for number in 0..30 {
        assert_eq!(
            fs::read_to_string(root.0.join(format!("own-{number}"))).unwrap(),
            number.to_string()
        );
    }
    assert_eq!(fs::read_to_string(root.0.join("shared/deeper/last")).unwrap(), "29");
    drop(root);
    drop(mounts);
}
