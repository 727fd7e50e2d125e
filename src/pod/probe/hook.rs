//! Hooks of a container's `lifecycle`: each runs a command, makes a request or sleeps, once.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::exec::{Exec, ExecError, ExecOutput};
use super::http_get::{self, HttpGetError};
use super::outcome::shown;
use super::{Target, go};

/// A hook failed, in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Its command failed.
    #[error("Exec lifecycle hook ([{}]) for {container} failed - error: {cause}", .command.join(" "))]
    Exec {
        /// Whose hook.
        container: String,
        /// Program and arguments.
        command: Vec<String>,
        /// How.
        cause: CommandError,
    },
    /// Its request failed.
    #[error("HTTP lifecycle hook ({path}) for {container} failed - error: {cause}")]
    HttpGet {
        /// Whose hook.
        container: String,
        /// As in the manifest.
        path: String,
        /// How.
        cause: HttpGetError,
    },
    /// Its timeout has passed.
    #[error("lifecycle hook for {container} did not complete within {}", go::duration(*.timeout))]
    TimedOut {
        /// Whose hook.
        container: String,
        /// How long it had.
        timeout: Duration,
    },
    /// Hooks have no handler of this kind.
    #[error("Cannot run handler: invalid handler: only exec, httpGet and sleep are lifecycle hooks")]
    Invalid,
}

/// The command of a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It exited with another code than 0.
    #[error("command '{}' exited with {exit_code}: , message: {}", .command.join(" "), go::quoted(&shown(.output)))]
    Exited {
        /// Program and arguments.
        command: Vec<String>,
        /// The exit code.
        exit_code: i32,
        /// What it wrote.
        output: Vec<u8>,
    },
    /// It could not be run.
    #[error("{0}, message: \"\"")]
    NotRun(String),
}

/// Runs a hook of a validated and defaulted Pod to its end. Without a timeout nothing limits it.
///
/// # Errors
/// [`HookError`].
pub async fn run_hook(
    hook: &LifecycleHandler,
    target: &Target<'_>,
    timeout: Option<Duration>,
    exec: &(impl Exec + Sync),
) -> Result<(), HookError> {
    let ran = run_handler(hook, target, timeout, exec);
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, ran)
            .await
            .unwrap_or_else(|_| Err(timed_out(target, timeout))),
        None => ran.await,
    }
}

fn timed_out(target: &Target<'_>, timeout: Duration) -> HookError {
    HookError::TimedOut {
        container: target.container_name(),
        timeout,
    }
}

async fn run_handler(
    hook: &LifecycleHandler,
    target: &Target<'_>,
    timeout: Option<Duration>,
    exec: &(impl Exec + Sync),
) -> Result<(), HookError> {
    if let Some(action) = &hook.exec {
        let command = action.command.clone().unwrap_or_default();
        let cause = match exec.run(&command, timeout).await {
            Ok(ExecOutput { exit_code: 0, .. }) => return Ok(()),
            Ok(ExecOutput { exit_code, output }) => CommandError::Exited {
                command: command.clone(),
                exit_code,
                output,
            },
            Err(ExecError::Failed(message)) => CommandError::NotRun(message),
            Err(ExecError::TimedOut) => return Err(timed_out(target, timeout.unwrap_or_default())),
        };
        return Err(HookError::Exec {
            container: target.container_name(),
            command,
            cause,
        });
    }
    if let Some(action) = &hook.http_get {
        let called = http_get::call_hook(action, target).await;
        return called.map_err(|cause| HookError::HttpGet {
            container: target.container_name(),
            path: action.path.clone().unwrap_or_default(),
            cause,
        });
    }
    if let Some(action) = &hook.sleep {
        // Validation bounds it by the grace period; a negative one has been refused.
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err(HookError::Invalid)
}
