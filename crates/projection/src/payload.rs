//! The files of a volume while they are collected (`pkg/volume/util/atomic_writer.go`).

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::content::Content;
use crate::error::{PathError, ProjectionError};

/// Maximum size of a volume: all its files with their paths. An object has at most 1 MiB, but a projected volume can
/// combine many.
pub const MAX_VOLUME_BYTES: usize = 16 << 20;

const MAX_NAME_BYTES: usize = 255;
const MAX_PATH_BYTES: usize = 4096;
const MAX_MODE: u32 = 0o777;

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative to the volume's root, without `.`, `..` and empty parts.
    pub path: String,
    pub content: Content,
    /// The permissions, before `fsGroup` adds the group's.
    pub mode: u32,
    /// The user who owns the file, if it is not root: that of the containers, for tokens.
    pub owner: Option<i64>,
}

/// Files by their paths. A later file replaces an earlier one at the same path.
#[derive(Debug, Default)]
pub(crate) struct Payload {
    files: BTreeMap<String, File>,
    bytes: usize,
}

impl Payload {
    pub(crate) fn insert(&mut self, path: &str, content: &[u8], mode: i32) -> Result<(), ProjectionError> {
        self.insert_owned(path, content, mode, None)
    }

    pub(crate) fn insert_owned(
        &mut self,
        path: &str,
        content: &[u8],
        mode: i32,
        owner: Option<i64>,
    ) -> Result<(), ProjectionError> {
        let path = clean(path).map_err(ProjectionError::Path)?;
        let mode = u32::try_from(mode).ok().filter(|mode| *mode <= MAX_MODE);
        let mode = mode.ok_or_else(|| ProjectionError::Mode { path: path.clone() })?;
        if let Some(earlier) = self.files.remove(&path) {
            self.bytes = self
                .bytes
                .saturating_sub(size(&earlier.path, earlier.content.as_bytes()));
        }
        self.bytes = self.bytes.saturating_add(size(&path, content));
        if self.bytes > MAX_VOLUME_BYTES {
            return Err(ProjectionError::VolumeTooLarge(MAX_VOLUME_BYTES));
        }
        let file = File {
            path: path.clone(),
            content: content.to_vec().into(),
            mode,
            owner,
        };
        self.files.insert(path, file);
        Ok(())
    }

    /// The files in the order of their paths.
    pub(crate) fn finish(self) -> Result<Vec<File>, ProjectionError> {
        for directory in self.files.keys() {
            let inside = format!("{directory}/");
            let next = self
                .files
                .range((Bound::Included(inside.clone()), Bound::Unbounded))
                .next();
            if let Some((file, _)) = next.filter(|(file, _)| file.starts_with(&inside)) {
                return Err(ProjectionError::FileAndDirectory {
                    directory: directory.clone(),
                    file: file.clone(),
                });
            }
        }
        Ok(self.files.into_values().collect())
    }
}

fn size(path: &str, content: &[u8]) -> usize {
    path.len().saturating_add(content.len())
}

/// The path without `.` and empty parts, checked like `validatePath`. Names that begin with `..` at the root belong to
/// the writer.
fn clean(path: &str) -> Result<String, PathError> {
    if path.starts_with('/') {
        return Err(PathError::Absolute(shortened(path)));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong(MAX_PATH_BYTES));
    }
    if path.contains('\0') {
        return Err(PathError::Nul(path.to_owned()));
    }
    for name in path.split('/') {
        if name == ".." {
            return Err(PathError::Parent(path.to_owned()));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(PathError::NameTooLong(MAX_NAME_BYTES));
        }
    }
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    match names.first() {
        None => Err(PathError::Empty(path.to_owned())),
        Some(first) if first.starts_with("..") => Err(PathError::Reserved(path.to_owned())),
        Some(_) => Ok(names.join("/")),
    }
}

fn shortened(path: &str) -> String {
    path.chars().take(MAX_PATH_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_relative_and_stay_in_the_volume() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(2049);
        for (path, expected) in [
            ("a", Ok("a")),
            ("a/b.c/d", Ok("a/b.c/d")),
            ("./a//b/.", Ok("a/b")),
            ("a/", Ok("a")),
            ("a..b", Ok("a..b")),
            ("a/..b", Ok("a/..b")),
            ("...", Err("must not start with '..': ...")),
            ("", Err("must not be empty: \"\"")),
            (".", Err("must not be empty: \".\"")),
            ("/a", Err("must be relative path: /a")),
            ("..", Err("must not contain '..': ..")),
            ("../a", Err("must not contain '..': ../a")),
            ("a/../b", Err("must not contain '..': a/../b")),
            ("..data", Err("must not start with '..': ..data")),
            ("./..data/a", Err("must not start with '..': ./..data/a")),
            ("a\0b", Err("must not contain NUL: \"a\\x00b\"")),
            (&long, Err("filenames must be less than 255 characters")),
            (&deep, Err("must be less than 4096 characters")),
        ] {
            let found = clean(path).map_err(|error| error.to_string());
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{path}");
        }
    }

    #[test]
    fn a_later_file_replaces_an_earlier_one() {
        let mut payload = Payload::default();
        payload.insert("b", b"1", 0o644).unwrap();
        payload.insert("a/c", b"2", 0o644).unwrap();
        payload.insert("./b", b"3", 0o400).unwrap();
        let files = payload.finish().unwrap();
        let found: Vec<_> = files
            .iter()
            .map(|file| (file.path.as_str(), file.content.as_bytes(), file.mode))
            .collect();
        assert_eq!(found, [("a/c", &b"2"[..], 0o644), ("b", b"3", 0o400)]);
    }

    #[test]
    fn a_path_is_not_both_file_and_directory() {
        let mut payload = Payload::default();
        for path in ["a", "a-b", "a.b/c", "a/b/c"] {
            payload.insert(path, b"", 0o644).unwrap();
        }
        let error = payload.finish().unwrap_err();
        assert_eq!(error.to_string(), "a is a file and also the directory of a/b/c");
    }

    #[test]
    fn modes_are_permissions_only() {
        for (mode, valid) in [
            (0, true),
            (0o777, true),
            (0o1000, false),
            (-1, false),
            (i32::MAX, false),
        ] {
            let inserted = Payload::default().insert("a", b"", mode);
            assert_eq!(inserted.is_ok(), valid, "{mode:o}");
        }
        assert_eq!(
            Payload::default().insert("a", b"", -1).unwrap_err().to_string(),
            "a: must be a number between 0 and 0777 (octal), both inclusive"
        );
    }

    #[test]
    fn the_total_size_is_bounded() {
        let mut payload = Payload::default();
        let half = vec![0; MAX_VOLUME_BYTES / 2 - 1];
        payload.insert("a", &half, 0o644).unwrap();
        payload.insert("b", &half, 0o644).unwrap();
        // Replacing a file frees its bytes.
        payload.insert("b", &half, 0o644).unwrap();
        let error = payload.insert("c", b"", 0o644).unwrap_err();
        assert_eq!(error.to_string(), "volume is too large: at most 16777216 bytes");
    }

    proptest! {
        #[test]
        fn any_path_is_cleaned_once_and_for_all_or_refused(path in "[a.\\-/\0]{0,12}") {
            if let Ok(cleaned) = clean(&path) {
                prop_assert_eq!(clean(&cleaned), Ok(cleaned.clone()));
                prop_assert!(!cleaned.starts_with("..") && !cleaned.starts_with('/') && !cleaned.is_empty());
                prop_assert!(cleaned.split('/').all(|name| !matches!(name, "" | "." | "..")));
            }
        }

        #[test]
        fn no_file_of_a_finished_payload_is_inside_another(paths in prop::collection::vec("[ab](/[ab]){0,3}", 0..6)) {
            let mut payload = Payload::default();
            for path in &paths {
                payload.insert(path, b"", 0o644).unwrap();
            }
            let inside = |file: &str, other: &str| file.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
            let conflict = paths.iter().any(|file| paths.iter().any(|other| inside(file, other)));
            prop_assert_eq!(payload.finish().is_err(), conflict);
        }
    }
}
