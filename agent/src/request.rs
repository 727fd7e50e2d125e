//! Checks of the host's requests. The host is trusted, but a bug there must not lead to a path outside the intended
//! directory.

use std::time::Duration;

use microkube_protocol::messages::{StartContainerRequest, StartProcessRequest};
use tokio::time::Instant;

use crate::container::ProcessRequest;
use crate::request_field::{
    InvalidRequest, absolute_path, args, container_id, process_id, seccomp_program, sub_path, terminal_size, text,
    volume_name,
};

/// The range of oom_score_adj on Linux.
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i32> = -1000..=1000;

/// Maximum number of seccomp filters. A profile has one for each of its actions.
const MAX_SECCOMP_PROGRAMS: usize = 64;

/// Checks everything in the request that does not depend on the sandbox.
pub fn start_container(request: &StartContainerRequest) -> Result<(), InvalidRequest> {
    container_id(&request.id)?;
    if !request.pid_namespace_of.is_empty() {
        container_id(&request.pid_namespace_of)?;
    }
    if request.layer_ids.is_empty() {
        return Err(InvalidRequest::new("layer_ids", "is empty"));
    }
    args(&request.args)?;
    for variable in &request.env {
        text("env", variable)?;
        if variable.split_once('=').is_none_or(|(name, _)| name.is_empty()) {
            return Err(InvalidRequest::new("env", "has a variable that is not NAME=value"));
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
    if let Some(security) = request.security.as_ref() {
        let programs = &security.seccomp_programs;
        if programs.len() > MAX_SECCOMP_PROGRAMS {
            let problem = format!("has more than {MAX_SECCOMP_PROGRAMS} programs");
            return Err(InvalidRequest::new("security.seccomp_programs", problem));
        }
        programs.iter().try_for_each(|program| seccomp_program(program))?;
    }
    if !OOM_SCORE_ADJ.contains(&request.oom_score_adj) {
        let problem = format!("is not between -1000 and 1000: {}", request.oom_score_adj);
        return Err(InvalidRequest::new("oom_score_adj", problem));
    }
    Ok(())
}

/// Checks a request for an exec process.
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

/// The deadline of a request with this timeout, counted from now. `None` if there is no timeout, or it is centuries
/// long.
fn deadline(timeout_ms: u64) -> Option<Instant> {
    match timeout_ms {
        0 => None,
        timeout_ms => Instant::now().checked_add(Duration::from_millis(timeout_ms)),
    }
}

#[cfg(test)]
mod tests {
    use microkube_protocol::messages::{Mount, Security, TerminalSize};

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
    fn a_refusal_does_not_show_a_variable() {
        let refused = StartContainerRequest {
            env: vec!["=hunter2".to_owned()],
            ..request()
        };
        let error = start_container(&refused).unwrap_err().to_string();
        assert_eq!(error, "env has a variable that is not NAME=value");
    }

    #[test]
    fn a_complete_request_is_accepted() {
        assert_eq!(start_container(&request()), Ok(()));
    }

    #[test]
    fn unsafe_and_malformed_fields_are_refused() {
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
            |r| r.pid_namespace_of = "../x".to_owned(),
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(start_container(&request).is_err(), "{request:?}");
        }
    }

    #[test]
    fn a_seccomp_program_consists_of_whole_instructions() {
        let with = |programs: Vec<Vec<u8>>| StartContainerRequest {
            security: Some(Security {
                seccomp_programs: programs,
                ..Default::default()
            })
            .into(),
            ..request()
        };
        assert_eq!(start_container(&with(vec![vec![0; 8]; 64])), Ok(()));
        for programs in [
            vec![vec![0; 8], vec![]],
            vec![vec![0; 12]],
            vec![vec![0; 8 * 4097]],
            vec![vec![0; 8]; 65],
        ] {
            assert!(start_container(&with(programs)).is_err());
        }
    }

    #[test]
    fn a_process_needs_an_id_a_command_and_a_valid_terminal_size() {
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
