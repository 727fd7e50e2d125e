//! Processes killed at any moment leave a consistent store.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use microkube_image::{ImageStore, Quiet, Verification};

use crate::mounted::{Fixture, succeed, write_layout};

const DIRECTORY: &str = "MICROKUBE_TEST_DIRECTORY";

/// Loads, names and removes images until it is killed. The test below starts it as a separate process.
#[test]
#[ignore = "runs until it is killed; started by the other test"]
fn child() {
    let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("started by the other test"));
    let store = ImageStore::open(directory.join("images")).unwrap();
    loop {
        for name in ["one", "two"] {
            let reference = format!("example.org/{name}:v1");
            // Other processes remove what this one adds.
            let _ = store.load(&directory.join(name), Some(&reference), &Quiet);
            let _ = store.tag(&reference, &format!("example.org/{name}:again"));
            let _ = store.get(&reference).unwrap();
            let _ = store.remove(&reference);
        }
        let _ = store.prune(true, |_| true);
    }
}

fn start(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--ignored"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes_killed_at_any_time_leave_an_intact_store() {
    let fixture = Fixture::new();
    for name in ["one", "two"] {
        let tree = fixture.path("tree");
        std::fs::create_dir_all(tree.join("d")).unwrap();
        std::fs::write(tree.join("d").join(name), vec![name.len() as u8; 3_000_000]).unwrap();
        std::fs::write(tree.join("shared"), "in both images").unwrap();
        let (own, shared) = (fixture.path(&format!("{name}.tar")), fixture.path("shared.tar"));
        for (archive, member) in [(&own, "d"), (&shared, "shared")] {
            let mut tar = Command::new("tar");
            tar.args(["--create", "--mtime=@0", "--file"])
                .arg(archive)
                .arg("--directory")
                .arg(&tree)
                .arg(member);
            succeed(&mut tar);
        }
        write_layout(&fixture.path(name), &[&shared, &own]);
        std::fs::remove_dir_all(&tree).unwrap();
    }
    let how = Verification {
        blobs: true,
        repair: false,
    };
    for round in 0..20u64 {
        let mut children = [start(fixture.directory.path()), start(fixture.directory.path())];
        // Various moments; the exact time does not matter.
        std::thread::sleep(Duration::from_millis(30 + round * 37 % 200));
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        for image in fixture.store.verify_named(None, how).unwrap() {
            assert!(image.is_intact(), "round {round}: {image:?}");
        }
        // Existing content must be usable, and it must be possible to add missing content.
        let image = fixture
            .store
            .load(&fixture.path("one"), Some("example.org/one:v1"), &Quiet)
            .unwrap()
            .remove(0);
        assert_eq!(image.open_layers().unwrap().len(), 2);
    }
    let removed = fixture.store.prune(true, |_| true).unwrap();
    assert!(removed.swept);
    for part in [
        "tmp",
        "references",
        "layers/sha256",
        "blobs/sha256",
        "manifests/sha256",
        "configs/sha256",
    ] {
        let left: Vec<_> = std::fs::read_dir(fixture.path("images").join(part)).unwrap().collect();
        assert!(left.is_empty(), "{part}: {left:?}");
    }
}
