//! What a user can do about errors of microkube's own directories and of the records in them. What an error is about is asked of its
//! type; its text is not searched.

use std::error::Error;
use std::io::ErrorKind;
use std::path::Path;

use microkube_image::{ImageError, StoreError};

use super::readable::PodsUnreadable;
use crate::network::{LeaseError, NetworkError};
use crate::pod::operations::delete::AskError;
use crate::privileged::ReleaseError;
use crate::state::{Paths, PathsError, RecordError, RecordsError};

/// What to do about an error; `None` where it says so itself, or nothing is known.
pub(super) fn of<'e>(error: &'e anyhow::Error, paths: &Paths) -> Option<String> {
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
        return Some(format!("{shown} must be a directory: {variable} names another"));
    }
    let kind = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<std::io::Error>())
        .map(std::io::Error::kind)?;
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(format!(
            "make room in the file system of {shown}: `microkube image prune` removes images that no Pod uses"
        )),
        ErrorKind::ReadOnlyFilesystem => Some(format!(
            "{shown} must be writable: mount it so, or let {variable} name another directory"
        )),
        ErrorKind::PermissionDenied => Some(format!("{shown} must be root's: use sudo")),
        _ => None,
    }
}

/// The file or directory that an error of a store, a record or a Pod's own files is about.
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
        .or_else(|| of(cause, NetworkError::path))
        .or_else(|| of(cause, LeaseError::path))
        .or_else(|| of(cause, ReleaseError::path))
        .or_else(|| of(cause, AskError::path))
        .or_else(|| of(cause, |error: &PodsUnreadable| Some(&error.path)))
}

/// Only who knows a record's format can do something with what it is about.
fn of_newer(path: &Path, paths: &Paths) -> &'static str {
    if path.starts_with(paths.pods()) {
        "use the newer one, or delete the Pod with it"
    } else {
        "use the newer one"
    }
}

/// A record of a Pod is there once; what else is damaged is made again.
fn of_damaged(path: &Path, paths: &Paths) -> Option<String> {
    let dir = path.parent().filter(|dir| dir.starts_with(paths.pods()))?;
    Some(format!(
        "restore the file, or remove {} and forget this Pod: `microkube recover` then releases what is left of it",
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
    fn errors_of_the_directories_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let of_kind = |kind: ErrorKind, path: &Path| {
            let error = RecordError::Io {
                action: "write",
                path: path.to_owned(),
                source: std::io::Error::from(kind),
            };
            // As verbs have it: with what they were about to do in front.
            of(&anyhow::Error::from(error).context("cannot go on"), &paths)
        };
        for (kind, part) in [
            (ErrorKind::StorageFull, "microkube image prune"),
            (ErrorKind::ReadOnlyFilesystem, "MICROKUBE_STATE_DIR"),
            (ErrorKind::PermissionDenied, "use sudo"),
        ] {
            let remedy = of_kind(kind, &paths.pods()).unwrap();
            assert!(remedy.contains(part), "{remedy}");
            // What has nothing to do with them is left as it is.
            assert_eq!(of_kind(kind, Path::new("/elsewhere")), None);
        }
        // Nor has what only quotes one of them.
        let quoted = anyhow::Error::from(std::io::Error::from(ErrorKind::PermissionDenied));
        let quoted = quoted.context(format!("a container says {}", paths.pods().display()));
        assert_eq!(of(&quoted, &paths), None);
        std::fs::write(paths.run_dir(), "a file").unwrap();
        let remedy = of_kind(ErrorKind::AlreadyExists, paths.run_dir()).unwrap();
        assert!(
            remedy.ends_with("must be a directory: MICROKUBE_RUN_DIR names another"),
            "{remedy}"
        );
    }

    #[test]
    fn a_file_in_place_of_a_directory_is_found_below_errors_that_are_transparent() {
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
            assert!(remedy.ends_with("must be a directory: MICROKUBE_STATE_DIR names another"));
        }
    }

    #[test]
    fn a_record_of_a_newer_microkube_says_who_can_do_something() {
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
                "{} was written by a newer microkube, in version 2 of its format; this one knows version 1 and older ones; use the newer one, or \
                 delete the Pod with it",
                path.display()
            )
        );
    }

    #[test]
    fn a_damaged_record_says_which_directory_is_its_pods() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        paths.create().unwrap();
        std::fs::create_dir(paths.pod_state("u")).unwrap();
        replace_file(&paths.pod_state("u").join("pod.json"), b"{\"uid\": \"u").unwrap();
        let error = PodRecords::new(paths.clone()).find("default", "web").unwrap_err();
        let error = anyhow::Error::from(error);
        assert!(
            format!("{error:#}").starts_with("cannot tell whether there is a pod \"web\": "),
            "{error:#}"
        );
        let remedy = of(&error, &paths).unwrap();
        assert!(
            remedy.contains(&format!("remove {} and forget", paths.pod_state("u").display())),
            "{remedy}"
        );
    }
}
