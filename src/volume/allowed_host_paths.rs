//! The host's paths that Pods may share, by the configuration, and the types of hostPath volumes. Only computes.

use std::path::{Component, Path, PathBuf};

/// The setting for [`AllowedHostPaths`].
pub const ALLOWED_HOST_PATHS: &str = "MICROKUBE_ALLOWED_HOST_PATHS";

/// The text of the setting for an empty list.
pub const NO_HOST_PATHS: &str = "none";

/// The host's paths that Pods may share: these and everything below them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHostPaths(Vec<PathBuf>);

impl Default for AllowedHostPaths {
    /// All.
    fn default() -> Self {
        Self(vec!["/".into()])
    }
}

impl AllowedHostPaths {
    /// From the text of the setting: paths separated by commas, or [`NO_HOST_PATHS`].
    ///
    /// # Errors
    /// The first path that is not absolute or contains `..`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == NO_HOST_PATHS {
            return Ok(Self(Vec::new()));
        }
        let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
        let checked = paths.map(|path| match is_plain(Path::new(path)) {
            true => Ok(PathBuf::from(path)),
            false => Err(format!("{path:?} is not an absolute path without \"..\"")),
        });
        checked.collect::<Result<_, _>>().map(Self)
    }

    /// The setting of this process.
    ///
    /// # Errors
    /// See [`Self::parse`].
    pub fn of_environment() -> Result<Self, String> {
        match std::env::var_os(ALLOWED_HOST_PATHS).filter(|text| !text.is_empty()) {
            Some(text) => Self::parse(&text.to_string_lossy()),
            None => Ok(Self::default()),
        }
    }

    /// The paths.
    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path)
    }

    /// Whether a Pod may name this path. Symbolic links are checked when it is opened.
    #[must_use]
    pub fn allow(&self, path: &Path) -> bool {
        self.above(path).is_some()
    }

    /// The topmost allowed path above `path`, and the rest. A Pod with a path above another allowed one can replace the
    /// directories between them by links, and opening an allowed path follows links.
    pub(super) fn above<'p>(&self, path: &'p Path) -> Option<(&Path, &'p Path)> {
        let is_plain = is_plain(path);
        let found = self
            .0
            .iter()
            .filter(|_| is_plain)
            .filter_map(|allowed| Some((allowed.as_path(), path.strip_prefix(allowed).ok()?)));
        found.min_by_key(|(allowed, _)| allowed.components().count())
    }
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.components().all(|part| part != Component::ParentDir)
}

/// The `type` of a hostPath volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostPathType {
    /// Anything; a missing path becomes a directory, as containerd does.
    #[default]
    Unset,
    Directory,
    DirectoryOrCreate,
    File,
    FileOrCreate,
}

impl HostPathType {
    /// From the manifest; `None` for types that cannot be shared.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "" => Self::Unset,
            "Directory" => Self::Directory,
            "DirectoryOrCreate" => Self::DirectoryOrCreate,
            "File" => Self::File,
            "FileOrCreate" => Self::FileOrCreate,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowed_path_below_another_adds_nothing() {
        for text in [
            "/srv/data/a,/srv/data",
            "/srv/data,/srv/data/a",
            "/srv//data/,/srv/data/a",
        ] {
            let allowed = AllowedHostPaths::parse(text).unwrap();
            let found = allowed.above(Path::new("/srv/data/a/x"));
            assert_eq!(found, Some((Path::new("/srv/data"), Path::new("a/x"))), "{text}");
        }
    }

    #[test]
    fn only_allowed_paths_and_those_below_are_accepted() {
        let allowed = AllowedHostPaths::parse("/srv/data, /var/log").unwrap();
        for path in ["/srv/data", "/srv/data/", "/srv/data/a", "/var/log/x/y"] {
            assert!(allowed.allow(Path::new(path)), "{path}");
        }
        for path in ["/", "/srv", "/srv/database", "/srv/data/../x", "srv/data", ""] {
            assert!(!allowed.allow(Path::new(path)), "{path}");
        }
        assert!(AllowedHostPaths::default().allow(Path::new("/etc")));
        assert!(!AllowedHostPaths::parse(NO_HOST_PATHS).unwrap().allow(Path::new("/etc")));
        for wrong in ["srv", "/srv,../x", "/a/../b"] {
            assert!(AllowedHostPaths::parse(wrong).is_err(), "{wrong}");
        }
    }
}
