//! Remedies for errors in microkube's own directories, records and configuration file. They depend on the types of
//! errors, not on their texts.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;

use microkube_image::{ImageError, StoreError};

use super::readable::PodsUnreadable;
use crate::config::ConfigError;
use crate::network::{LeaseError, NetworkError};
use crate::pod::operations::delete::AskError;
use crate::privileged::ReleaseError;
use crate::state::{Paths, PathsError, RecordError, RecordsError};

/// The remedy for an error; `None` if the error contains it already, or none is known.
pub(super) fn of<'e>(error: &'e anyhow::Error, paths: &Paths) -> Option<String> {
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return Some(error.remedy().to_owned());
    }
    let damaged = |cause: &'e (dyn std::error::Error + 'static)| {
        let of_set = cause.downcast_ref().and_then(RecordsError::damaged_path);
        of_set.or_else(|| cause.downcast_ref().and_then(RecordError::damaged_path))
    };
    if let Some(path) = error.chain().find_map(damaged) {
        return of_damaged(path, paths);
    }
    let newer = |cause: &'e (dyn std::error::Error + 'static)| {
        let of_set = cause.downcast_ref().and_then(RecordsError::newer_path);
        of_set.or_else(|| cause.downcast_ref().and_then(RecordError::newer_path))
    };
    if let Some(path) = error.chain().find_map(newer) {
        return Some(of_newer(path, paths).to_owned());
    }
    let dirs = [
        (paths.state_dir(), "MICROKUBE_STATE_DIR"),
        (paths.run_dir(), "MICROKUBE_RUN_DIR"),
    ];
    let dir_of = |path: &Path| dirs.into_iter().find(|(dir, _)| path.starts_with(dir));
    let (dir, variable) = error.chain().filter_map(path_of).find_map(dir_of)?;
    let shown = dir.display();
    if dir.exists() && !dir.is_dir() {
        return Some(format!(
            "{shown} is not a directory: remove it, or set {variable} to a directory"
        ));
    }
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)?;
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(format!(
            "free space in the file system of {shown}: `microkube image prune --all` removes images that no Pod uses"
        )),
        ErrorKind::ReadOnlyFilesystem => Some(format!(
            "mount {shown} writable, or set {variable} to another directory"
        )),
        ErrorKind::PermissionDenied => Some(format!("{shown} belongs to root: use sudo")),
        _ => None,
    }
}

/// The file or directory that an error of a store, a record or a Pod's files is about.
fn path_of<'e>(cause: &'e (dyn Error + 'static)) -> Option<&'e Path> {
    fn of<'e, E: Error + 'static>(
        cause: &'e (dyn Error + 'static),
        path: impl FnOnce(&'e E) -> Option<&'e Path>,
    ) -> Option<&'e Path> {
        cause.downcast_ref().and_then(path)
    }
    of(cause, RecordsError::path)
        .or_else(|| of(cause, |error: &RecordError| Some(error.path())))
        .or_else(|| of(cause, |error: &PathsError| Some(error.path())))
        .or_else(|| of(cause, ImageError::path))
        .or_else(|| of(cause, |error: &StoreError| Some(&error.path)))
        .or_else(|| of(cause, path_of_object))
        .or_else(|| of(cause, NetworkError::path))
        .or_else(|| of(cause, LeaseError::path))
        .or_else(|| of(cause, ReleaseError::path))
        .or_else(|| of(cause, AskError::path))
        .or_else(|| of(cause, |error: &PodsUnreadable| Some(&error.path)))
}

fn path_of_object(error: &microkube_store::StoreError) -> Option<&Path> {
    match error {
        microkube_store::StoreError::Io { path, .. } => Some(path),
        _ => None,
    }
}

/// Only a version that supports the record's format can use the object that it describes.
fn of_newer(path: &Path, paths: &Paths) -> &'static str {
    if path.starts_with(paths.pods()) {
        "use that version, or delete the Pod with it"
    } else {
        "use that version"
    }
}

/// A Pod's record exists only once; other damaged files are recreated.
fn of_damaged(path: &Path, paths: &Paths) -> Option<String> {
    let dir = path.parent().filter(|dir| dir.starts_with(paths.pods()))?;
    Some(format!(
        "restore the file, or abandon the Pod: remove {} and run `microkube recover`",
        dir.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{PodRecords, replace_file};

    fn paths(dir: &Path) -> Paths {
        Paths::new(dir.join("state"), dir.join("run"))
    }

    #[test]
    fn directory_errors_suggest_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let of_kind = |kind: ErrorKind, path: &Path| {
            let error = RecordError::Io {
                action: "write",
                path: path.to_owned(),
                source: std::io::Error::from(kind),
            };
            // Verbs also put the attempted operation in front.
            of(&anyhow::Error::from(error).context("cannot go on"), &paths)
        };
        for (kind, part) in [
            (ErrorKind::StorageFull, "microkube image prune"),
            (ErrorKind::ReadOnlyFilesystem, "MICROKUBE_STATE_DIR"),
            (ErrorKind::PermissionDenied, "use sudo"),
        ] {
            let remedy = of_kind(kind, &paths.pods()).unwrap();
            assert!(remedy.contains(part), "{remedy}");
            // Errors about other paths stay unchanged.
            assert_eq!(of_kind(kind, Path::new("/elsewhere")), None);
        }
        // So do errors that only quote such a path.
        let quoted = anyhow::Error::from(std::io::Error::from(ErrorKind::PermissionDenied));
        let quoted = quoted.context(format!("a container says {}", paths.pods().display()));
        assert_eq!(of(&quoted, &paths), None);
        std::fs::write(paths.run_dir(), "a file").unwrap();
        let remedy = of_kind(ErrorKind::AlreadyExists, paths.run_dir()).unwrap();
        assert!(
            remedy.ends_with("is not a directory: remove it, or set MICROKUBE_RUN_DIR to a directory"),
            "{remedy}"
        );
    }

    #[test]
    fn a_file_in_place_of_a_directory_is_found_in_the_error_chain() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        std::fs::write(paths.state_dir(), "a file").unwrap();
        let store = || StoreError {
            action: "create",
            path: paths.images(),
            source: ErrorKind::NotADirectory.into(),
        };
        let lease = || LeaseError::Io {
            action: "create",
            path: paths.network(),
            source: ErrorKind::NotADirectory.into(),
        };
        for error in [
            paths.create().unwrap_err().into(),
            RecordsError::from(paths.create().unwrap_err()).into(),
            PodRecords::new(paths.clone()).list().unwrap_err().into(),
            anyhow::Error::from(store()),
            ImageError::from(store()).into(),
            lease().into(),
            NetworkError::from(lease()).into(),
        ] {
            let remedy = of(&error, &paths).unwrap_or_else(|| panic!("{error:#}"));
            assert!(remedy.ends_with("is not a directory: remove it, or set MICROKUBE_STATE_DIR to a directory"));
        }
    }

    #[test]
    fn an_unusable_configuration_file_can_be_corrected_or_left_out() {
        let path = std::path::PathBuf::from("/etc/microkube/config.yaml");
        let said = |error: ConfigError| {
            let error = anyhow::Error::from(error);
            format!("{error:#}; {}", of(&error, &paths(Path::new("/"))).unwrap())
        };
        let source = ErrorKind::PermissionDenied.into();
        assert_eq!(
            said(ConfigError::Unreadable {
                path: path.clone(),
                source
            }),
            "cannot read the configuration file /etc/microkube/config.yaml: permission denied; correct the file, or set \
             `MICROKUBE_CONFIG=` to use no file"
        );
        assert_eq!(
            said(ConfigError::Missing { path }),
            "MICROKUBE_CONFIG names the configuration file /etc/microkube/config.yaml, which does not exist; correct the \
             variable, or set `MICROKUBE_CONFIG=` to use no file"
        );
    }

    #[test]
    fn a_record_of_a_newer_microkube_suggests_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        paths.create().unwrap();
        std::fs::create_dir(paths.pod_state("u")).unwrap();
        let path = paths.pod_state("u").join("pod.json");
        replace_file(&path, br#"{"version": 2}"#).unwrap();
        let (pods, mut newer) = PodRecords::new(paths.clone()).list_all().unwrap();
        assert_eq!(pods, []);
        let error = anyhow::Error::from(newer.remove(0));
        let said = format!("{error:#}; {}", of(&error, &paths).unwrap());
        assert_eq!(
            said,
            format!(
                "{} was written by a newer microkube, in format version 2; this one reads versions up to 1; use that version, or \
                 delete the Pod with it",
                path.display()
            )
        );
    }

    #[test]
    fn a_damaged_record_names_the_directory_of_its_pod() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        paths.create().unwrap();
        std::fs::create_dir(paths.pod_state("u")).unwrap();
        replace_file(&paths.pod_state("u").join("pod.json"), b"{\"uid\": \"u").unwrap();
        let error = PodRecords::new(paths.clone()).find("default", "web").unwrap_err();
        let error = anyhow::Error::from(error);
        assert!(
            format!("{error:#}").starts_with("cannot tell whether pod \"web\" exists: "),
            "{error:#}"
        );
        let remedy = of(&error, &paths).unwrap();
        assert!(
            remedy.contains(&format!(
                "remove {} and run `microkube recover`",
                paths.pod_state("u").display()
            )),
            "{remedy}"
        );
    }
}
