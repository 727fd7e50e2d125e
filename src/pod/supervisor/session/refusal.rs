//! Why a command line's request is refused.

use super::super::pod_view::ContainerError;
use crate::build_id::build;
use crate::pod::agent::AgentError;
use crate::pod::guest_port::PortError;
use crate::pod::guest_process::RunError;
use crate::pod::supervisor_protocol::Notice;

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A request that is only valid after another one.
    #[error("this request cannot be the first one")]
    NotFirst,
    /// A request that this build does not support.
    #[error("the Pod's supervisor (microkube {}) does not understand the request", build())]
    NotUnderstood,
    /// The Pod cannot be hidden.
    #[error("the Pod is being killed, but stays listed until it has ended: {0:#}")]
    Hide(anyhow::Error),
    /// The Pod has no VM.
    #[error("the Pod is not running")]
    NoMachine,
    /// No server can listen on this port.
    #[error("the port 0 does not exist")]
    NoPort,
    /// The Pod has as many connections as it may have.
    #[error("the pod has {0} forwarded connections already; close some of them")]
    TooManyConnections(usize),
    /// The port of the Pod could not be connected to.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The container is not available.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The process could not be started.
    #[error(transparent)]
    Start(#[from] RunError),
    /// The agent did not answer.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

impl From<Refusal> for Notice {
    fn from(refusal: Refusal) -> Self {
        Self::Refused {
            message: refusal.to_string(),
        }
    }
}
