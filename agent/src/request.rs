//! Checks of the host's requests. The host is trusted; a bug there must still not turn into a path outside its place.

use std::path::{Component, Path};
use std::time::Duration;

use microkube_protocol::messages::{StartContainerRequest, StartProcessRequest, TerminalSize};
use tokio::time::Instant;

use crate::container::ProcessRequest;
use crate::container::terminal::Size;

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

/// Linux' limits of oom_score_adj.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1000..=1000;

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

/// The id of a further process: `[a-z0-9-]{1,128}`.
pub fn process_id(value: &str) -> Result<(), InvalidRequest> {
    name("process_id", value, 128, b"-")
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

fn args(args: &[String]) -> Result<(), InvalidRequest> {
    if args.is_empty() {
        return Err(InvalidRequest::new("args", "is empty"));
    }
    args.iter().try_for_each(|argument| text("args", argument))
}

/// Checks everything in the request that does not depend on the sandbox.
pub fn start_container(request: &StartContainerRequest) -> Result<(), InvalidRequest> {
    container_id(&request.id)?;
    if request.layer_ids.is_empty() {
        return Err(InvalidRequest::new("layer_ids", "is empty"));
    }
    args(&request.args)?;
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
    if !request.termination_message_path.is_empty() {
        absolute_path("termination_message_path", &request.termination_message_path)?;
    }
    if !OOM_SCORE_ADJ.contains(&request.oom_score_adj) {
        let problem = format!("is not between -1000 and 1000: {}", request.oom_score_adj);
        return Err(InvalidRequest::new("oom_score_adj", problem));
    }
    Ok(())
}

/// Checks a request for a further process of a container.
pub fn start_process(request: StartProcessRequest) -> Result<ProcessRequest, InvalidRequest> {
    container_id(&request.container_id)?;
    process_id(&request.process_id)?;
    args(&request.args)?;
    let terminal = match request.tty {
        true => Some(terminal_size(request.terminal_size.as_ref())?),
        false => None,
    };
    Ok(ProcessRequest {
        id: request.process_id,
        args: request.args,
        stdin: request.stdin,
        terminal,
        deadline: deadline(request.timeout_ms),
    })
}

/// When the time is up that a request gives from now on; centuries ahead is never.
fn deadline(timeout_ms: u64) -> Option<Instant> {
    match timeout_ms {
        0 => None,
        timeout_ms => Instant::now().checked_add(Duration::from_millis(timeout_ms)),
    }
}

/// A size of a terminal; nobody knows it where it is absent.
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
            |r| r.termination_message_path = "dev/termination-log".to_owned(),
            |r| r.oom_score_adj = 1001,
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(start_container(&request).is_err(), "{request:?}");
        }
    }

    #[test]
    fn a_process_needs_an_id_a_command_and_a_terminal_that_can_be() {
        let request = || StartProcessRequest {
            container_id: "web-0".to_owned(),
            process_id: "exec-1".to_owned(),
            args: vec!["sh".to_owned()],
            tty: true,
            terminal_size: Some(TerminalSize {
                rows: 24,
                columns: 80,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        let size = start_process(request()).unwrap().terminal;
        assert_eq!(size, Some(Size { rows: 24, columns: 80 }));
        for break_it in [
            (|r| r.container_id = "..".to_owned()) as fn(&mut StartProcessRequest),
            |r| r.process_id.clear(),
            |r| r.args.clear(),
            |r| r.args.push("a\0b".to_owned()),
            |r| r.terminal_size.as_mut().unwrap().rows = 65_536,
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(start_process(request).is_err());
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
