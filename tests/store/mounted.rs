//! Mounts layers as images, with the necessary environment.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use microkube_image::{Compression, Image, ImageStore, Options, Quiet};
use microkube_tests::oci_layout;
use serde_json::json;
use tempfile::TempDir;

/// Runs a program, which must succeed; returns its stdout.
#[track_caller]
pub fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; run guest-image/install-requirements.sh"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Two stores, one of which compresses, and space for other files, on a file system with extended attributes.
pub struct Fixture {
    pub directory: TempDir,
    pub store: ImageStore,
    pub compressing: ImageStore,
}

impl Fixture {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("microkube-store.")
            .tempdir_in("/var/tmp")
            .unwrap();
        let store = ImageStore::open(directory.path().join("images")).unwrap();
        let options = Options {
            compression: Compression::Lz4,
            ..Options::default()
        };
        let compressing = ImageStore::open_with(directory.path().join("compressed-images"), options).unwrap();
        Self {
            directory,
            store,
            compressing,
        }
    }

    pub fn stores(&self) -> [&ImageStore; 2] {
        [&self.store, &self.compressing]
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Loads an image of these layers, which are uncompressed tar archives.
    pub fn load(&self, name: &str, layers: &[&Path]) -> Image {
        self.load_into(&self.store, name, layers)
    }

    pub fn load_into(&self, store: &ImageStore, name: &str, layers: &[&Path]) -> Image {
        let layout = self.path("layout");
        let _ = fs::remove_dir_all(&layout);
        write_layout(&layout, layers);
        store.load(&layout, Some(name), &Quiet).unwrap().remove(0)
    }
}

/// Writes an OCI layout of an image with these layers.
pub fn write_layout(layout: &Path, layers: &[&Path]) {
    let config = json!({ "architecture": "amd64", "os": "linux" });
    oci_layout::write(layout, config, layers.iter().map(|path| fs::read(path).unwrap()));
}

/// A mount, until it is dropped.
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts a layer's file, which `fsck.erofs` must first find correct.
    pub fn layer(file: &Path, at: PathBuf) -> Self {
        let report = succeed(Command::new("fsck.erofs").arg("--extract").arg(file));
        assert!(
            report.contains("No errors found") || !report.to_lowercase().contains("error"),
            "{report}"
        );
        fs::create_dir_all(&at).unwrap();
        succeed(
            Command::new("mount")
                .args(["-t", "erofs", "-o", "loop,ro"])
                .arg(file)
                .arg(&at),
        );
        Self(at)
    }

    /// Mounts an empty tmpfs.
    pub fn tmpfs(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        succeed(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&at));
        Self(at)
    }

    /// Stacks mounted layers, lowest first.
    pub fn overlay(layers: &[Mount], at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let lower: Vec<_> = layers.iter().rev().map(|layer| layer.0.to_str().unwrap()).collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        if layers.len() == 1 {
            // overlayfs needs at least two layers.
            let empty = at.with_extension("empty");
            fs::create_dir_all(&empty).unwrap();
            options = format!("{options}:{}", empty.display());
        }
        succeed(
            Command::new("mount")
                .args(["-t", "overlay", "overlay", "-o", &options])
                .arg(&at),
        );
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg(&self.0).status();
        if !std::thread::panicking() {
            assert!(status.unwrap().success(), "{}", self.0.display());
        }
    }
}

/// Packs a tree with GNU tar.
pub fn pack(tree: &Path, archive: &Path) {
    succeed(
        Command::new("tar")
            .args(["--create", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(tree)
            .arg("."),
    );
}

/// Unpacks an archive with GNU tar, including all attributes.
pub fn extract(archive: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    succeed(
        Command::new("tar")
            .args([
                "--extract",
                "--numeric-owner",
                "--same-owner",
                "--same-permissions",
                "--xattrs",
                "--xattrs-include=*",
            ])
            .args(["--delay-directory-restore", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(to),
    );
}
