//! What command lines want of the Pod as a whole.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::pod::lifecycle::Event;

/// An order to end the Pod.
#[derive(Debug)]
pub enum Order {
    /// Gracefully.
    Terminate {
        /// Instead of the Pod's own grace period.
        grace: Option<Duration>,
        /// The Pod's records go with it.
        deletion: bool,
        /// Told when the records say so.
        noted: Option<oneshot::Sender<()>>,
    },
    /// At once.
    Kill,
}

impl Order {
    /// What it means to the lifecycle, and who is to be told when that is noted.
    pub fn into_event(self) -> (Event, Option<oneshot::Sender<()>>) {
        match self {
            Self::Terminate { grace, deletion, noted } => (Event::TerminateRequested { grace, deletion }, noted),
            Self::Kill => (Event::KillRequested, None),
        }
    }
}
