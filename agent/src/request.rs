//! Checks of the host's requests. The host is trusted; a bug there must still not turn into a path outside its place.

use std::time::Duration;

use microkube_protocol::messages::{StartContainerRequest, StartProcessRequest};
use tokio::time::Instant;

use crate::container::ProcessRequest;
use crate::request_field::{
    InvalidRequest, absolute_path, args, container_id, process_id, sub_path, terminal_size, text, volume_name,
};

/// Linux' limits of oom_score_adj.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1000..=1000;

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

#[cfg(test)]
mod tests {
    use microkube_protocol::messages::{Mount, TerminalSize};

    use super::*;
    use crate::container::spec::Size;

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
}
