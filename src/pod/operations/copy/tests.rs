//! Copies with the local `tar` in place of a container's, and archives from hostile containers.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::extract::extract;
use super::*;

/// The local machine in place of a container.
struct ThisMachine;

impl CommandRunner for ThisMachine {
    fn command(&self, _: Streams, command: &[&str]) -> Command {
        let (program, args) = command.split_first().unwrap();
        let mut command = Command::new(program);
        command.args(args);
        command
    }
}

fn no_warning(text: String) {
    panic!("{text}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Everything below a directory: path, mode, content or link target.
fn tree(dir: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            std::fs::read(&path).unwrap()
        };
        let mode = if metadata.is_dir() {
            metadata.mode() & !0o777
        } else {
            metadata.mode()
        };
        all.push((path.strip_prefix(dir).unwrap().to_owned(), mode, content));
    }
    all.sort();
    all
}

fn make_tree(dir: &Path) {
    std::fs::create_dir_all(dir.join("sub/deep")).unwrap();
    std::fs::create_dir(dir.join("empty")).unwrap();
    std::fs::write(dir.join("binary"), (0..=255).cycle().take(70_000).collect::<Vec<u8>>()).unwrap();
    std::fs::write(dir.join("sub/no content"), "").unwrap();
    std::fs::write(dir.join("sub/deep/-dash"), "text\n").unwrap();
    std::fs::write(dir.join("x".repeat(200)), "long").unwrap();
    std::fs::set_permissions(dir.join("binary"), PermissionsExt::from_mode(0o750)).unwrap();
    symlink("../binary", dir.join("sub/link")).unwrap();
}

#[test]
fn a_directory_copied_to_a_container_and_back_is_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (local, container, back) = (
        dir.path().join("local"),
        dir.path().join("container"),
        dir.path().join("back"),
    );
    make_tree(&local);
    // Copy to a new name, and into an existing directory.
    send(&ThisMachine, &local, text(&container), false, &mut no_warning).unwrap();
    assert_eq!(tree(&container), tree(&local));
    send(&ThisMachine, &local, text(&container), true, &mut no_warning).unwrap();
    assert_eq!(tree(&container.join("local")), tree(&local));
    std::fs::remove_dir_all(container.join("local")).unwrap();

    fetch(&ThisMachine, text(&container), &back, &mut no_warning).unwrap();
    assert_eq!(tree(&back), tree(&local));
    // Copy again, over the existing files.
    fetch(
        &ThisMachine,
        &format!("{}/.", container.display()),
        &back,
        &mut no_warning,
    )
    .unwrap();
    assert_eq!(tree(&back), tree(&local));
}

#[test]
fn a_file_is_copied_to_the_given_name_or_into_the_given_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("-file");
    std::fs::write(&file, "content").unwrap();
    let target = dir.path().join("target");
    fetch(&ThisMachine, text(&file), &target, &mut no_warning).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"content");
    let into = dir.path().join("into");
    std::fs::create_dir(&into).unwrap();
    fetch(&ThisMachine, text(&file), &into, &mut no_warning).unwrap();
    assert_eq!(std::fs::read(into.join("-file")).unwrap(), b"content");
    send(
        &ThisMachine,
        &target,
        text(&dir.path().join("renamed")),
        false,
        &mut no_warning,
    )
    .unwrap();
    assert_eq!(std::fs::read(dir.path().join("renamed")).unwrap(), b"content");
}

#[test]
fn a_failure_on_either_side_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let error = send(&ThisMachine, &missing, "/x", false, &mut no_warning).unwrap_err();
    assert!(
        error.to_string().contains("doesn't exist in local filesystem"),
        "{error}"
    );
    let error = fetch(
        &ThisMachine,
        text(&missing),
        &dir.path().join("target"),
        &mut no_warning,
    )
    .unwrap_err();
    assert!(error.to_string().contains("copying failed"), "{error}");
    assert!(!dir.path().join("target").exists());
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = fetch(
        &ThisMachine,
        text(&dir.path().join("file")),
        &missing.join("x"),
        &mut no_warning,
    )
    .unwrap_err();
    assert!(format!("{error:#}").contains("cannot create"), "{error:#}");
}

#[test]
fn links_outside_the_target_and_special_files_are_skipped_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let container = dir.path().join("container");
    std::fs::create_dir_all(container.join("sub")).unwrap();
    symlink("/etc/passwd", container.join("absolute")).unwrap();
    symlink("../../x", container.join("sub/up")).unwrap();
    symlink("../inside", container.join("sub/ok")).unwrap();
    nix::unistd::mkfifo(&container.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let mut warnings = Vec::new();
    let target = dir.path().join("target");
    fetch(&ThisMachine, text(&container), &target, &mut |text| warnings.push(text)).unwrap();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let found: Vec<_> = tree(&target).into_iter().map(|(path, _, _)| path).collect();
    assert_eq!(found, ["", "sub", "sub/ok"].map(PathBuf::from));
}

#[test]
fn container_paths_are_split_into_directory_and_name() {
    for (path, expected) in [
        ("/", ("/", None)),
        ("/a", ("/", Some("a"))),
        ("a", ("", Some("a"))),
        ("/a/b/", ("/a", Some("b"))),
        ("/a/.", ("/a/.", None)),
        ("a/..", ("a/..", None)),
    ] {
        assert_eq!(split(path), expected, "{path}");
    }
}

/// A raw entry that no library would write.
fn raw_entry(archive: &mut Vec<u8>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn hostile_path() -> impl Strategy<Value = String> {
    let name =
        prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just("c"), 3 => Just(".."), 1 => Just("."), 1 => Just("")];
    let start = prop_oneof![6 => Just("base/"), 1 => Just(""), 1 => Just("/"), 1 => Just("./base/")];
    (start, proptest::collection::vec(name, 0..5)).prop_map(|(start, names)| format!("{start}{}", names.join("/")))
}

fn hostile_link() -> impl Strategy<Value = String> {
    let name = prop_oneof![2 => Just("a"), 2 => Just("b"), 4 => Just(".."), 1 => Just(".")];
    let start = prop_oneof![8 => Just(""), 1 => Just("/")];
    (start, proptest::collection::vec(name, 1..5)).prop_map(|(start, names)| format!("{start}{}", names.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn nothing_is_created_or_linked_outside_the_target(
        entries in proptest::collection::vec((0_u8..6, hostile_path(), hostile_link(), any::<bool>()), 1..14),
        with_base: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let outer = dir.path().canonicalize().unwrap().join("outer");
        let target = outer.join("target");
        std::fs::create_dir_all(outer.join("a/b")).unwrap();
        std::fs::create_dir(outer.join("base")).unwrap();
        std::fs::create_dir(&target).unwrap();
        for name in ["b", "c", "a/b/a"] {
            std::fs::write(outer.join(name), "outside").unwrap();
        }
        let before: Vec<_> = tree(&outer).into_iter().filter(|(path, _, _)| !path.starts_with("target")).collect();
        // All entries in one archive, and each in an archive with only that one: an error must not hide later entries.
        for (kind, path, link, links_to_path) in &entries {
            let mut archive = Vec::new();
            let kind = match kind {
                0 | 1 => EntryType::Regular,
                2 => EntryType::Directory,
                3 | 4 => EntryType::Symlink,
                _ => EntryType::Link,
            };
            let link = if *links_to_path { format!("base/{link}") } else { link.clone() };
            let content: &[u8] = if kind == EntryType::Regular { b"hostile" } else { b"" };
            raw_entry(&mut archive, EntryType::Directory, "base/", "", b"");
            raw_entry(&mut archive, kind, path, &link, content);
            let base = with_base.then(|| OsStr::new("base"));
            let _ = extract(archive.as_slice(), base, &target, &mut |_| {});
        }
        let after: Vec<_> = tree(&outer).into_iter().filter(|(path, _, _)| !path.starts_with("target")).collect();
        prop_assert_eq!(after, before);
        prop_assert_eq!(std::fs::metadata(outer.join("c")).unwrap().nlink(), 1);
        for (path, _, _) in tree(&target) {
            if let Ok(leads_to) = target.join(&path).canonicalize() {
                prop_assert!(leads_to.starts_with(&target), "{} leads to {}", path.display(), leads_to.display());
            }
        }
    }

    #[test]
    fn any_bytes_are_an_archive_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir().unwrap();
        let _ = extract(bytes.as_slice(), None, &dir.path().join("target"), &mut |_| {});
    }
}
