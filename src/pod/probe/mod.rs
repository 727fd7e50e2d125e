//! What probes and hooks do: one request, connection or command, and what comes of it in the kubelet's words.
//!
//! When to probe, how often, and what follows from an outcome is the lifecycle's business. Commands run through [`Exec`], which whoever
//! drives the virtual machine provides. Everything that answers here runs in a container and is an attacker: answers are read
//! up to a limit, and everything ends at its timeout.

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod go;
mod grpc;
mod health;
mod http_get;
mod outcome;
mod target;
mod tcp;

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ExecAction, LifecycleHandler, Probe};

use outcome::shown;
pub use outcome::{OUTPUT_MAX_BYTES, Outcome};
pub use target::Target;

/// How often a probe that could not be made is made again at once (`maxProbeRetries` of the kubelet). One that was made and failed is not.
const ATTEMPTS_MAX: u32 = 3;

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOutput {
    /// 0 is success; 128 + n stands for signal n.
    pub exit_code: i32,
    /// Its standard output and error, the beginning of it at least up to [`OUTPUT_MAX_BYTES`].
    pub output: Vec<u8>,
}

/// Why a command was not run to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecError {
    /// Its timeout has passed.
    TimedOut,
    /// It could not be run.
    Failed(String),
}

/// Runs commands in the container that is probed.
pub trait Exec {
    /// Runs a command to its end. The timeout counts from the call on, the start of the command included. When it has passed, or the future
    /// is dropped, the command is to be killed, however late it starts.
    ///
    /// # Errors
    /// [`ExecError`].
    fn run(
        &self,
        command: &[String],
        timeout: Option<Duration>,
    ) -> impl Future<Output = Result<ExecOutput, ExecError>> + Send;
}

/// Makes a probe of a validated and defaulted Pod once. It ends within the probe's timeout.
pub async fn probe(probe: &Probe, target: &Target<'_>, exec: &(impl Exec + Sync)) -> Outcome {
    let timeout = seconds(probe.timeout_seconds.unwrap_or(1).max(1).into());
    let mut outcome = Outcome::Unknown(String::new());
    for _ in 0..ATTEMPTS_MAX {
        outcome = attempt(probe, target, timeout, exec).await;
        if !matches!(outcome, Outcome::Unknown(_)) {
            break;
        }
    }
    outcome
}

async fn attempt(probe: &Probe, target: &Target<'_>, timeout: Duration, exec: &(impl Exec + Sync)) -> Outcome {
    if let Some(action) = &probe.exec {
        return exec_probe(action, timeout, exec).await;
    }
    let made = if let Some(action) = &probe.http_get {
        http_get::probe(action, target, timeout).await
    } else if let Some(action) = &probe.tcp_socket {
        tcp::probe(action, target, timeout).await
    } else if let Some(action) = &probe.grpc {
        Ok(grpc::probe(action, target, timeout).await)
    } else {
        Err(format!(
            "missing probe handler for {}:{}",
            target.pod_name(),
            target.container.name
        ))
    };
    made.unwrap_or_else(Outcome::Unknown)
}

async fn exec_probe(action: &ExecAction, timeout: Duration, exec: &(impl Exec + Sync)) -> Outcome {
    let command = action.command.as_deref().unwrap_or_default();
    let run = tokio::time::timeout(timeout, exec.run(command, Some(timeout)));
    match run.await.unwrap_or(Err(ExecError::TimedOut)) {
        Ok(ExecOutput { exit_code: 0, .. }) => Outcome::Success,
        Ok(ended) => Outcome::Failure(shown(&ended.output)),
        Err(ExecError::Failed(error)) => Outcome::Unknown(error),
        // The kubelet's gate ExecProbeTimeout: it says something about the container.
        Err(ExecError::TimedOut) => Outcome::Failure(format!(
            "command timed out: {} timed out after {}",
            go::quoted(&command.join(" ")),
            go::duration(timeout)
        )),
    }
}

/// Runs a hook of a validated and defaulted Pod to its end. Without a timeout it takes as long as it takes.
///
/// # Errors
/// What the kubelet says about a hook that failed.
pub async fn run_hook(
    hook: &LifecycleHandler,
    target: &Target<'_>,
    timeout: Option<Duration>,
    exec: &(impl Exec + Sync),
) -> Result<(), String> {
    let ran = run_handler(hook, target, timeout, exec);
    let ended = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, ran)
            .await
            .unwrap_or(Err(ExecError::TimedOut)),
        None => ran.await,
    };
    ended.map_err(|error| match error {
        ExecError::Failed(message) => message,
        ExecError::TimedOut => format!(
            "lifecycle hook for Container {} in Pod {} did not complete within {}",
            go::quoted(&target.container.name),
            go::quoted(&target.pod_name()),
            go::duration(timeout.unwrap_or_default())
        ),
    })
}

async fn run_handler(
    hook: &LifecycleHandler,
    target: &Target<'_>,
    timeout: Option<Duration>,
    exec: &(impl Exec + Sync),
) -> Result<(), ExecError> {
    let failed = |kind: &str, what: &str, error: &str| {
        ExecError::Failed(format!(
            "{kind} lifecycle hook ({what}) for Container {} in Pod {} failed - error: {error}",
            go::quoted(&target.container.name),
            go::quoted(&target.pod_name())
        ))
    };
    if let Some(action) = &hook.exec {
        let command = action.command.as_deref().unwrap_or_default();
        let what = format!("[{}]", command.join(" "));
        return match exec.run(command, timeout).await {
            Ok(ExecOutput { exit_code: 0, .. }) => Ok(()),
            Ok(ended) => {
                let (command, code) = (command.join(" "), ended.exit_code);
                let message = go::quoted(&shown(&ended.output));
                let error = format!("command '{command}' exited with {code}: , message: {message}");
                Err(failed("Exec", &what, &error))
            }
            Err(ExecError::Failed(error)) => Err(failed("Exec", &what, &format!("{error}, message: \"\""))),
            Err(ExecError::TimedOut) => Err(ExecError::TimedOut),
        };
    }
    if let Some(action) = &hook.http_get {
        let path = action.path.as_deref().unwrap_or_default();
        let called = http_get::call_hook(action, target).await;
        return called.map_err(|error| failed("HTTP", path, &error));
    }
    if let Some(action) = &hook.sleep {
        // Validation bounds it by the grace period; a negative one has been refused.
        tokio::time::sleep(seconds(action.seconds)).await;
        return Ok(());
    }
    let message = "Cannot run handler: invalid handler: only exec, httpGet and sleep are lifecycle hooks";
    Err(ExecError::Failed(message.to_owned()))
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests;
