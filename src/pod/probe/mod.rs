//! Executes probes and hooks: one request, connection or command each, with the kubelet's result messages.
//!
//! The lifecycle decides when to probe, and how to react to an outcome. Commands run through [`Exec`], which the
//! supervisor provides. The servers run in a container and are attackers: answers are read up to a limit, and
//! everything ends at its timeout.

mod exec;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod go;
mod grpc;
mod health;
mod hook;
mod http_get;
mod outcome;
mod target;
mod tcp;

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

pub use exec::{Exec, ExecError, ExecOutput};
pub use hook::{HookError, run_hook};
use http_get::HttpGetError;
pub use outcome::{OUTPUT_MAX_BYTES, Outcome};
use target::PortError;
pub use target::Target;

/// How many times in a row a probe is attempted if it cannot be executed (`maxProbeRetries` of the kubelet). A failed
/// probe is not repeated.
const ATTEMPTS_MAX: u32 = 3;

/// Why a probe could not be executed.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error(transparent)]
    HttpGet(#[from] HttpGetError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error("missing probe handler for {pod}:{container}")]
    NoHandler { pod: String, container: String },
}

/// Executes a probe of a validated and defaulted Pod once, within the probe's timeout.
pub async fn probe(probe: &Probe, target: &Target<'_>, exec: &(impl Exec + Sync)) -> Outcome {
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1).unsigned_abs().into());
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
        return exec::probe(action, timeout, exec).await;
    }
    let made = if let Some(action) = &probe.http_get {
        http_get::probe(action, target, timeout).await.map_err(Into::into)
    } else if let Some(action) = &probe.tcp_socket {
        tcp::probe(action, target, timeout).await.map_err(Into::into)
    } else if let Some(action) = &probe.grpc {
        grpc::probe(action, target, timeout).await.map_err(Into::into)
    } else {
        Err(ProbeError::NoHandler {
            pod: target.pod_name(),
            container: target.container.name.clone(),
        })
    };
    made.unwrap_or_else(|error| Outcome::Unknown(error.to_string()))
}

#[cfg(test)]
mod tests;
