//! Hooks of a container's `lifecycle`: each runs a command, sends a request or sleeps, once.

use std::time::Duration;

use k8s_openapi::api::core::v1::LifecycleHandler;

use super::exec::{Exec, ExecError, ExecOutput};
use super::http_get::{self, HttpGetError};
use super::outcome::shown;
use super::{Target, go};

/// A hook failed. The messages are the kubelet's.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// Its command failed.
    #[error("Exec lifecycle hook ([{}]) for {container} failed - error: {cause}", .command.join(" "))]
    Exec {
        /// Name of the container.
        container: String,
        /// Program and arguments.
        command: Vec<String>,
        /// Why it failed.
        cause: CommandError,
    },
    /// Its request failed.
    #[error("HTTP lifecycle hook ({path}) for {container} failed - error: {cause}")]
    HttpGet {
        /// Name of the container.
        container: String,
        /// The path in the manifest.
        path: String,
        /// Why it failed.
        cause: HttpGetError,
    },
    #[error("lifecycle hook for {container} did not complete within {}", go::duration(*.timeout))]
    TimedOut {
        /// Name of the container.
        container: String,
        timeout: Duration,
    },
    /// The handler is not valid for hooks.
    #[error("Cannot run handler: invalid handler: only exec, httpGet and sleep are lifecycle hooks")]
    Invalid,
}

/// The command of a hook failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It exited with a code other than 0.
    #[error("command '{}' exited with {exit_code}: , message: {}", .command.join(" "), go::quoted(&shown(.output)))]
    Exited {
        /// Program and arguments.
        command: Vec<String>,
        exit_code: i32,
        /// Its output.
        output: Vec<u8>,
    },
    /// It could not be run.
    #[error("{0}, message: \"\"")]
    NotRun(String),
}

/// Runs a hook of a validated and defaulted Pod to its end. Without a timeout, its duration is unlimited.
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
        // Validation limits it to the grace period and refuses negative values.
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err(HookError::Invalid)
}
