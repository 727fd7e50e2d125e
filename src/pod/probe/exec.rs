//! `exec`: a command in the container. The caller provides the means to run it ([`Exec`]).

use std::time::Duration;

use k8s_openapi::api::core::v1::ExecAction;

use super::go;
use super::outcome::{Outcome, shown};

/// The result of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// 0 is success; 128 + n means signal n.
    pub exit_code: i32,
    /// The beginning of its standard output and error, at least up to [`OUTPUT_MAX_BYTES`](super::OUTPUT_MAX_BYTES).
    pub output: Vec<u8>,
}

/// Why a command did not run to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecError {
    /// Its timeout has passed.
    #[error("timed out")]
    TimedOut,
    /// It could not be run.
    #[error("{0}")]
    Failed(String),
}

/// Runs commands in the probed container.
pub trait Exec {
    /// Runs a command to its end. The timeout counts from the call and includes the start. When it passes, or the
    /// future is dropped, the command is killed, even if it only starts later.
    ///
    /// # Errors
    /// [`ExecError`].
    fn run(
        &self,
        command: &[String],
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<ExecOutput, ExecError>> + Send;
}

/// Runs the command, within the timeout.
pub(super) async fn probe(action: &ExecAction, timeout: Duration, exec: &(impl Exec + Sync)) -> Outcome {
    let command = action.command.as_deref().unwrap_or_default();
    let run = tokio::time::timeout(timeout, exec.run(command, Some(timeout)));
    match run.await.unwrap_or(Err(ExecError::TimedOut)) {
        Ok(ExecOutput { exit_code: 0, .. }) => Outcome::Success,
        Ok(ended) => Outcome::Failure(shown(&ended.output)),
        Err(ExecError::Failed(error)) => Outcome::Unknown(error),
        // The kubelet's feature gate ExecProbeTimeout: a timeout is a failure of the container.
        Err(ExecError::TimedOut) => Outcome::Failure(format!(
            "command timed out: {} timed out after {}",
            go::quoted(&command.join(" ")),
            go::duration(timeout)
        )),
    }
}
