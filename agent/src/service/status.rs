//! Errors and states of the agent in the form of the RPC's answers.

use microkube_protocol::messages::{ProcessUser, ProtocolVersions, StartContainerResponse};
use microkube_protocol::{AGENT_VERSIONS, NoCommonVersion, Versions};
use ttrpc::{Code, get_status};

use crate::container::spec::FailureKind;
use crate::container::{Container, StartError, User};
use crate::reaper::ExitStatus;
use crate::registry::RegistryError;
use crate::request_field::InvalidRequest;

pub fn failure(code: Code, message: impl ToString) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, message))
}

pub fn invalid(error: InvalidRequest) -> ttrpc::Error {
    failure(Code::INVALID_ARGUMENT, error)
}

/// The protocol version that both sides use.
pub fn check_versions(supervisor: Option<&ProtocolVersions>) -> ttrpc::Result<u32> {
    let agreed = AGENT_VERSIONS.agree(Versions::from(supervisor));
    agreed.map_err(|NoCommonVersion { own, peer }| {
        let message = format!("the supervisor speaks protocol {peer}, this agent {own}");
        failure(Code::FAILED_PRECONDITION, message)
    })
}

pub fn unusable(error: &RegistryError) -> ttrpc::Error {
    let code = match error {
        RegistryError::Used { .. } => Code::ALREADY_EXISTS,
        RegistryError::Unknown { .. } => Code::NOT_FOUND,
        RegistryError::Starting { .. } => Code::FAILED_PRECONDITION,
        RegistryError::Full { .. } => Code::RESOURCE_EXHAUSTED,
    };
    failure(code, error)
}

/// Exit code and signal in the form of the answers.
pub fn exit_fields(status: ExitStatus) -> (u32, u32) {
    match status {
        ExitStatus::Code(code) => (code.into(), 0),
        ExitStatus::Signal(signal) => (0, signal.into()),
    }
}

pub fn process_user(user: &User) -> ProcessUser {
    ProcessUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_gids: user.groups.clone(),
        ..Default::default()
    }
}

pub fn started(container: &Container) -> StartContainerResponse {
    StartContainerResponse {
        pid: u32::try_from(container.pid().as_raw()).unwrap_or(0),
        started_boottime_ns: container.started_boottime_ns(),
        user: Some(process_user(container.user())).into(),
        ..Default::default()
    }
}

pub fn start_failed(error: &StartError) -> ttrpc::Error {
    let code = match error {
        StartError::Invalid(_) => Code::INVALID_ARGUMENT,
        StartError::Failed { kind, .. } => match kind {
            FailureKind::NotFound => Code::NOT_FOUND,
            FailureKind::PermissionDenied => Code::PERMISSION_DENIED,
            FailureKind::UnknownUser => Code::INVALID_ARGUMENT,
            FailureKind::SubPath => Code::ABORTED,
            FailureKind::Internal => Code::INTERNAL,
        },
        StartError::NotRunning(_) => Code::FAILED_PRECONDITION,
        StartError::GivenUp => Code::CANCELLED,
        StartError::TimedOut => Code::DEADLINE_EXCEEDED,
        StartError::Internal(_) => Code::INTERNAL,
    };
    match error {
        // No process of the container was created.
        StartError::Failed {
            kind: FailureKind::UnknownUser | FailureKind::SubPath,
            message,
        } => failure(code, message),
        _ => failure(code, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervisors_with_a_common_version_are_served() {
        let said = |oldest, newest| ProtocolVersions {
            oldest,
            newest,
            ..Default::default()
        };
        check_versions(None).unwrap();
        check_versions(Some(&said(0, 1))).unwrap();
        check_versions(Some(&said(1, 9))).unwrap();
        let ttrpc::Error::RpcStatus(status) = check_versions(Some(&said(7, 9))).unwrap_err() else {
            panic!("no status")
        };
        assert_eq!(status.code(), Code::FAILED_PRECONDITION);
        assert_eq!(
            status.message,
            "the supervisor speaks protocol versions 7 to 9, this agent versions 0 to 6"
        );
    }
}
