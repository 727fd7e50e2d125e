//! Checks of the host's requests. The host is trusted; a bug there must still not turn into a path outside its place.

use std::path::{Component, Path};

use microkube_protocol::messages::StartContainerRequest;

/// A field of a request that cannot be used.
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

/// Longest path in bytes (`PATH_MAX`, linux/limits.h).
const MAX_PATH_BYTES: usize = 4096;

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

/// A host name, as sethostname(2) takes it (`__NEW_UTS_LEN`).
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

fn text(field: &str, value: &str) -> Result<(), InvalidRequest> {
    match value.contains('\0') {
        true => Err(InvalidRequest::new(field, "contains a NUL byte")),
        false => Ok(()),
    }
}

fn absolute_path(field: &str, value: &str) -> Result<(), InvalidRequest> {
    text(field, value)?;
    match value.starts_with('/') && value.len() < MAX_PATH_BYTES {
        true => Ok(()),
        false => Err(InvalidRequest::new(
            field,
            format!("is not an absolute path: {value:?}"),
        )),
    }
}

fn sub_path(value: &str) -> Result<(), InvalidRequest> {
    text("mounts.sub_path", value)?;
    let inside = Path::new(value)
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    match inside && value.len() < MAX_PATH_BYTES {
        true => Ok(()),
        false => Err(InvalidRequest::new(
            "mounts.sub_path",
            format!("is not a relative path inside the volume: {value:?}"),
        )),
    }
}

/// Checks everything in the request that does not depend on the sandbox.
pub fn start_container(request: &StartContainerRequest) -> Result<(), InvalidRequest> {
    container_id(&request.id)?;
    if request.layer_ids.is_empty() {
        return Err(InvalidRequest::new("layer_ids", "is empty"));
    }
    if request.args.is_empty() {
        return Err(InvalidRequest::new("args", "is empty"));
    }
    for argument in &request.args {
        text("args", argument)?;
    }
    for variable in &request.env {
        text("env", variable)?;
        if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(InvalidRequest::new("env", format!("is not NAME=value: {variable:?}")));
        }
    }
    if !request.working_dir.is_empty() {
        absolute_path("working_dir", &request.working_dir)?;
    }
    for mount in &request.mounts {
        volume_name(&mount.volume)?;
        absolute_path("mounts.mount_path", &mount.mount_path)?;
        sub_path(&mount.sub_path)?;
    }
    Ok(())
}

/// A signal number that can be sent.
pub fn signal(value: u32) -> Result<i32, InvalidRequest> {
    i32::try_from(value)
        .ok()
        .filter(|signal| (1..=64).contains(signal))
        .ok_or_else(|| InvalidRequest::new("signal", format!("is not between 1 and 64: {value}")))
}

#[cfg(test)]
mod tests {
    use microkube_protocol::messages::Mount;
    use proptest::prelude::*;

    use super::*;

    fn request() -> StartContainerRequest {
        StartContainerRequest {
            id: "web-0".to_owned(),
            layer_ids: vec!["a1".to_owned()],
            args: vec!["true".to_owned()],
            env: vec!["A=".to_owned()],
            mounts: vec![Mount {
                volume: "data".to_owned(),
                mount_path: "/data".to_owned(),
                sub_path: "a/b".to_owned(),
                ..Default::default()
            }]
            .into_iter()
            .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_complete_request_is_taken() {
        assert_eq!(start_container(&request()), Ok(()));
    }

    #[test]
    fn what_could_leave_its_place_is_refused() {
        for break_it in [
            (|r| r.id = "../x".to_owned()) as fn(&mut StartContainerRequest),
            |r| r.id.clear(),
            |r| r.id = "x".repeat(129),
            |r| r.layer_ids.clear(),
            |r| r.args.clear(),
            |r| r.args.push("a\0b".to_owned()),
            |r| r.env.push("=x".to_owned()),
            |r| r.env.push("x".to_owned()),
            |r| r.working_dir = "relative".to_owned(),
            |r| r.mounts[0].volume = "..".to_owned(),
            |r| r.mounts[0].mount_path = "data".to_owned(),
            |r| r.mounts[0].sub_path = "a/../..".to_owned(),
            |r| r.mounts[0].sub_path = "/etc".to_owned(),
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(start_container(&request).is_err(), "{request:?}");
        }
    }

    #[test]
    fn only_existing_signals_are_sent() {
        assert_eq!(signal(15), Ok(15));
        assert!(signal(0).is_err());
        assert!(signal(65).is_err());
        assert!(signal(u32::MAX).is_err());
    }

    proptest! {
        #[test]
        fn a_valid_name_never_is_a_path(value in any::<String>()) {
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
