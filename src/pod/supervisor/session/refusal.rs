//! Why a command line does not get what it asks of a Pod.

use super::super::pod_view::ContainerError;
use crate::build_id::build;
use crate::pod::agent::AgentError;
use crate::pod::guest_process::RunError;
use crate::pod::supervisor_protocol::Notice;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Something that only makes sense after another request.
    #[error("this is not to be asked first")]
    NotFirst,
    /// Something that this build does not know.
    #[error(
        "the Pod's supervisor, of microkube {}, does not understand what it is asked",
        build()
    )]
    NotUnderstood,
    /// The Pod cannot be hidden.
    #[error("the Pod is being killed, but stays in the list until it has ended: {0:#}")]
    Hide(anyhow::Error),
    /// There is no machine.
    #[error("the Pod does not run")]
    NoMachine,
    /// The container is not to be had.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// The process was not started.
    #[error(transparent)]
    Start(#[from] RunError),
    /// The agent has no answer.
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
