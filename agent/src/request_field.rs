//! Checks single fields of the host's requests.

use std::path::{Component, Path};

use microkube_protocol::messages::TerminalSize;

use crate::container::spec::Size;

/// A field of a request that cannot be used, and why.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field} {problem}")]
pub struct InvalidRequest {
    field: String,
    problem: String,
}

impl InvalidRequest {
    /// `problem` completes a sentence that starts with the field.
    pub fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

/// Maximum length of a path in bytes (`PATH_MAX`, linux/limits.h).
const MAX_PATH_BYTES: usize = 4096;

/// Maximum length of one name in a path in bytes (`NAME_MAX`, linux/limits.h).
const MAX_NAME_BYTES: usize = 255;

fn name(field: &str, value: &str, max_bytes: usize, also: &[u8]) -> Result<(), InvalidRequest> {
    let valid_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || also.contains(&byte);
    if (1..=max_bytes).contains(&value.len()) && value.bytes().all(valid_byte) {
        Ok(())
    } else {
        Err(InvalidRequest::new(field, format!("is not a valid name: {value:?}")))
    }
}

/// A container's id: `[a-z0-9-]{1,128}`.
pub fn container_id(value: &str) -> Result<(), InvalidRequest> {
    name("id", value, 128, b"-")
}

/// The id of an exec process: `[a-z0-9-]{1,128}`.
pub fn process_id(value: &str) -> Result<(), InvalidRequest> {
    name("process_id", value, 128, b"-")
}

/// The id of a connection to a port: `[a-z0-9-]{1,128}`.
pub fn connection_id(value: &str) -> Result<(), InvalidRequest> {
    name("connection_id", value, 128, b"-")
}

/// A TCP port.
pub fn port(value: u32) -> Result<u16, InvalidRequest> {
    let port = u16::try_from(value).ok().filter(|port| *port > 0);
    port.ok_or_else(|| InvalidRequest::new("port", "is not between 1 and 65535"))
}

/// A layer's id: `[a-z0-9]{1,64}`.
pub fn layer_id(value: &str) -> Result<(), InvalidRequest> {
    name("layers.id", value, 64, b"")
}

/// A block device without /dev/: `[a-z0-9]{1,32}`.
pub fn device(value: &str) -> Result<(), InvalidRequest> {
    name("device", value, 32, b"")
}

/// A volume's name: a DNS label.
pub fn volume_name(value: &str) -> Result<(), InvalidRequest> {
    name("volume", value, 63, b"-")
}

/// A host name that sethostname(2) accepts (`__NEW_UTS_LEN`).
pub fn hostname(value: &str) -> Result<(), InvalidRequest> {
    let valid_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if (1..=64).contains(&value.len()) && value.bytes().all(valid_byte) {
        Ok(())
    } else {
        Err(InvalidRequest::new(
            "hostname",
            format!("is not a valid host name: {value:?}"),
        ))
    }
}

/// Text that is passed to the kernel.
pub fn text(field: &str, value: &str) -> Result<(), InvalidRequest> {
    match value.contains('\0') {
        true => Err(InvalidRequest::new(field, "contains a NUL byte")),
        false => Ok(()),
    }
}

/// A path in a container.
pub fn absolute_path(field: &str, value: &str) -> Result<(), InvalidRequest> {
    text(field, value)?;
    match value.starts_with('/') && value.len() < MAX_PATH_BYTES {
        true => Ok(()),
        false => Err(InvalidRequest::new(
            field,
            format!("is not an absolute path: {value:?}"),
        )),
    }
}

/// A path inside a volume.
pub fn sub_path(value: &str) -> Result<(), InvalidRequest> {
    volume_path("mounts.sub_path", value)
}

/// A relative path that does not go up.
pub fn volume_path(field: &str, value: &str) -> Result<(), InvalidRequest> {
    text(field, value)?;
    let inside = Path::new(value)
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    match inside && value.len() < MAX_PATH_BYTES {
        true => Ok(()),
        false => Err(InvalidRequest::new(
            field,
            format!("is not a relative path inside the volume: {value:?}"),
        )),
    }
}

/// The path of a file in a file volume (the kubelet's `validatePath` in `pkg/volume/util/atomic_writer.go`), in the form
/// that Go's `filepath.Clean` returns.
pub fn projected_path(value: &str) -> Result<(), InvalidRequest> {
    text("files.path", value)?;
    let is_name = |name: &str| !name.is_empty() && name != "." && name != ".." && name.len() <= MAX_NAME_BYTES;
    let is_reserved = value.starts_with("..");
    match value.len() < MAX_PATH_BYTES && value.split('/').all(is_name) && !is_reserved {
        true => Ok(()),
        false => Err(InvalidRequest::new(
            "files.path",
            format!("is not a path in a volume: {value:?}"),
        )),
    }
}

/// The name of a sysctl: parts separated by dots.
pub fn sysctl_name(value: &str) -> Result<(), InvalidRequest> {
    text("sysctls.name", value)?;
    let is_part = |part: &str| !part.is_empty() && part.split('/').all(|word| !word.is_empty());
    match value.len() < MAX_PATH_BYTES && value.split('.').all(is_part) {
        true => Ok(()),
        false => Err(InvalidRequest::new(
            "sysctls.name",
            format!("is not the name of a sysctl: {value:?}"),
        )),
    }
}

/// A BPF program: at least one instruction of eight bytes, at most `BPF_MAXINSNS` (linux/bpf_common.h).
pub fn seccomp_program(value: &[u8]) -> Result<(), InvalidRequest> {
    const MAX_INSTRUCTIONS: usize = 4096;
    match value.len().is_multiple_of(8) && (1..=MAX_INSTRUCTIONS).contains(&(value.len() / 8)) {
        true => Ok(()),
        false => Err(InvalidRequest::new(
            "security.seccomp_programs",
            format!("has a program of {} bytes", value.len()),
        )),
    }
}

/// A command line.
pub fn args(args: &[String]) -> Result<(), InvalidRequest> {
    if args.is_empty() {
        return Err(InvalidRequest::new("args", "is empty"));
    }
    args.iter().try_for_each(|argument| text("args", argument))
}

/// The size of a terminal; zeros if it is absent.
pub fn terminal_size(size: Option<&TerminalSize>) -> Result<Size, InvalidRequest> {
    let Some(size) = size else { return Ok(Size::default()) };
    let number = |field, value| {
        u16::try_from(value).map_err(|_| InvalidRequest::new(field, format!("is not between 0 and 65535: {value}")))
    };
    Ok(Size {
        rows: number("size.rows", size.rows)?,
        columns: number("size.columns", size.columns)?,
    })
}

/// A signal number that may be sent.
pub fn signal(value: u32) -> Result<i32, InvalidRequest> {
    i32::try_from(value)
        .ok()
        .filter(|signal| (1..=64).contains(signal))
        .ok_or_else(|| InvalidRequest::new("signal", format!("is not between 1 and 64: {value}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_existing_signals_are_sent() {
        assert_eq!(signal(15), Ok(15));
        assert!(signal(0).is_err());
        assert!(signal(65).is_err());
        assert!(signal(u32::MAX).is_err());
    }

    #[test]
    fn paths_in_file_volumes_are_relative_clean_and_not_reserved() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        for valid in ["a", "a/b.c/d", ".hidden", "a/..b", "tls.crt", &longest] {
            assert_eq!(projected_path(valid), Ok(()));
        }
        let too_long_path = "x/".repeat(MAX_PATH_BYTES / 2) + "x";
        let too_long_name = "x".repeat(MAX_NAME_BYTES + 1);
        for invalid in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "./a",
            "a/.",
            "..",
            "../a",
            "a/../b",
            "..data",
            "..a/b",
            "a\0b",
            &too_long_path,
            &too_long_name,
        ] {
            assert!(projected_path(invalid).is_err(), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn a_path_in_a_file_volume_stays_in_it(value in "[a./]{0,8}") {
            if projected_path(&value).is_ok() {
                let mut components = Path::new(&value).components();
                prop_assert!(components.all(|component| matches!(component, Component::Normal(_))));
            }
        }

        #[test]
        fn a_valid_name_is_never_a_path(value in any::<String>()) {
            if container_id(&value).is_ok() && layer_id(&value).is_ok() {
                prop_assert_eq!(Path::new(&value).components().count(), 1);
                prop_assert!(!value.contains(['.', '/']));
            }
        }

        #[test]
        fn a_valid_sub_path_stays_inside(value in "[a./]{0,12}") {
            if sub_path(&value).is_ok() {
                let joined = Path::new("/volume").join(&value);
                prop_assert!(!joined.components().any(|component| component == Component::ParentDir));
                prop_assert!(joined.starts_with("/volume"));
            }
        }
    }
}
