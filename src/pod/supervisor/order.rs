//! Orders from command lines about the Pod as a whole.

use std::time::Duration;

use k8s_openapi::api::core::v1::EphemeralContainer;
use tokio::sync::oneshot;

use crate::pod::supervisor_protocol::{Notice, UpdateRequest};

/// An order to end or change the Pod.
#[derive(Debug)]
pub enum Order {
    /// End gracefully.
    Terminate {
        /// Replaces the Pod's own grace period.
        grace: Option<Duration>,
        /// Whether to delete the Pod's records, too.
        deletion: bool,
        /// Notified when the order is recorded.
        noted: Option<oneshot::Sender<()>>,
    },
    /// End at once.
    Kill,
    /// Add a container.
    AddEphemeralContainer {
        container: Box<EphemeralContainer>,
        /// Receives the answer for the client, once the container is recorded or refused.
        answer: oneshot::Sender<Notice>,
    },
    /// Change the Pod.
    Update {
        request: UpdateRequest,
        /// Receives the answer for the client, once the change is recorded or refused.
        answer: oneshot::Sender<Notice>,
    },
}
