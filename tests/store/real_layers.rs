//! Real layers: Debian, nginx, busybox, and one with a million files.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use microkube_image::{ImageStore, Quiet};

use crate::attributes;
use crate::mounted::{Fixture, Mount, extract, succeed, write_layout};

/// The layers of an OCI layout, unchanged, lowest first.
fn layer_blobs(layout: &Path) -> Vec<PathBuf> {
    let read = |path: &Path| -> serde_json::Value {
        let bytes =
            fs::read(path).unwrap_or_else(|error| panic!("{}: {error}; `make test-images` builds it", path.display()));
        serde_json::from_slice(&bytes).unwrap()
    };
    let blob = |descriptor: &serde_json::Value| {
        layout
            .join("blobs")
            .join(descriptor["digest"].as_str().unwrap().replace(':', "/"))
    };
    let manifest = read(&blob(&read(&layout.join("index.json"))["manifests"][0]));
    manifest["layers"].as_array().unwrap().iter().map(blob).collect()
}

#[test]
fn layers_of_debian_nginx_and_busybox_equal_what_gnu_tar_unpacks() {
    for name in ["busybox", "nginx", "debian-tools"] {
        let layout = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../build/images")
            .join(name);
        let fixture = Fixture::new();
        let blobs = layer_blobs(&layout);
        let load = |store: &ImageStore| store.load(&layout, Some("real:v1"), &Quiet).unwrap().remove(0);
        let [plain, compressed] = fixture.stores().map(load);
        let (was, is) = (plain.size_bytes, compressed.size_bytes);
        assert!(is * 4 < was * 3, "{name}: {is} of {was} bytes");
        for ((blob, plain), compressed) in blobs.iter().zip(&plain.layers).zip(&compressed.layers) {
            let unpacked = fixture.path("unpacked");
            extract(blob, &unpacked);
            let expected = attributes::of_tree(&unpacked);
            for layer in [plain, compressed] {
                let mount = Mount::layer(&layer.path, fixture.path("mounted"));
                attributes::assert_equal(&expected, &attributes::of_tree(&mount.0));
            }
            fs::remove_dir_all(&unpacked).unwrap();
        }
    }
}

const LAYOUT: &str = "MICROKUBE_TEST_LAYOUT";
/// Memory limit for the process that converts a million files, in kB. The names alone take 20 MB.
const PEAK_MAX_KB: u64 = 64 * 1024;

/// Loads a layout and prints the peak memory. The test below starts it as a separate process.
#[test]
#[ignore = "measures its own process; started by the other test"]
fn child() {
    let layout = PathBuf::from(std::env::var_os(LAYOUT).expect("started by the other test"));
    let store = ImageStore::open(layout.with_file_name("images")).unwrap();
    store.load(&layout, Some("million:v1"), &Quiet).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    println!("{peak}");
}

#[test]
fn a_million_files_convert_with_little_memory_and_equal_what_gnu_tar_unpacks() {
    let fixture = Fixture::new();
    let archive = fixture.path("million.tar");
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, fs::File::create(&archive).unwrap()));
    for number in 0..1_000_000u64 {
        let mut header = tar::Header::new_ustar();
        let content = number.to_string();
        let content = if number % 10 == 0 { content.as_str() } else { "" };
        header.set_size(content.len() as u64);
        header.set_mode(0o600 + (number % 64) as u32);
        header.set_uid(number % 70_000);
        header.set_mtime(1_700_000_000 + number);
        // One directory with a fifth of the files, and many small ones.
        let path = if number % 5 == 0 {
            format!("./wide/file-{number:07}")
        } else {
            format!("./some/{}/name-{number}", number / 100)
        };
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
    let layout = fixture.path("layout");
    write_layout(&layout, &[&archive]);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "real_layers::child", "--ignored", "--nocapture"])
        .env(LAYOUT, &layout);
    let output = succeed(&mut command);
    let peak = output.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("a million files took {peak} kB");
    assert!(peak < PEAK_MAX_KB, "{peak} kB");

    fs::remove_dir_all(&layout).unwrap();
    // In memory, where a million files are created and removed in a fraction of the time.
    let unpacked = Mount::tmpfs(fixture.path("unpacked"));
    extract(&archive, &unpacked.0);
    let image = fixture.store.get("million:v1").unwrap().unwrap();
    let mount = Mount::layer(&image.layers[0].path, fixture.path("mounted"));
    // Compares two sorted lists instead of two trees in memory. Directories have no entries in this archive, and
    // therefore no times.
    let list = |root: &Path, to: &Path| {
        let script = "find . ! -type d -printf '%P %m %U %G %T@ %s %n %y\\n' | LC_ALL=C sort > \"$0\"";
        succeed(Command::new("sh").args(["-c", script]).arg(to).current_dir(root));
    };
    let (expected, found) = (fixture.path("expected"), fixture.path("found"));
    list(&unpacked.0, &expected);
    list(&mount.0, &found);
    succeed(Command::new("cmp").args([&expected, &found]));
    succeed(
        Command::new("sh")
            .args(["-c", "test $(wc -l < \"$0\") = 1000000"])
            .arg(&found),
    );
    drop(mount);
}
