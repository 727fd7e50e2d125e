//! How a Pod ends, as `run` sees it: what its end is put down to, and the exit code.

use super::supervised_pod::SupervisedPod;
use crate::pod::lifecycle::{Event, Lifecycle};

/// What `run` exits with when it was interrupted before anything ran, as a shell has it.
const INTERRUPTED: u8 = 130;

/// How a Pod ended, for `run`.
#[derive(Debug)]
pub struct Outcome {
    /// What `run` exits with.
    pub exit_code: u8,
    /// Why the Pod could not be run to its end, if so.
    pub error: Option<String>,
    /// Whether its records go with it.
    pub forget: bool,
}

/// What has happened that the end may have to be put down to.
#[derive(Debug, Default)]
pub struct Ending {
    sandbox_was_ready: bool,
    interrupted: bool,
    /// Why the Pod cannot go on.
    failure: Option<String>,
    /// How its machine was lost, until there is another.
    loss: Option<String>,
}

impl Ending {
    /// A command line has asked for the end.
    pub fn was_ordered(&mut self) {
        self.interrupted = true;
    }

    /// The machine was lost.
    pub fn machine_was_lost(&mut self, how: String) {
        self.loss = Some(how);
    }

    /// There is a machine, again perhaps; returns how the one before was lost.
    pub fn machine_is_ready(&mut self) -> Option<String> {
        self.sandbox_was_ready = true;
        self.loss.take()
    }

    /// In the foreground somebody waits: what Kubernetes would try for ever ends the Pod there.
    pub fn end_if_hopeless(&mut self, pod: &SupervisedPod, event: Event) -> Event {
        if pod.record.detached {
            return event;
        }
        let error = match &event {
            Event::ImageFailed { container, message, .. } => {
                format!("container {:?}: {message}", pod.container_name(*container))
            }
            Event::SandboxFailed { message } => message.clone(),
            // A container that could not even be created: the same attempt would be made again and again.
            Event::ContainerStartFailed {
                container,
                reason,
                message,
                ..
            } if reason.starts_with("Create") => {
                format!("container {:?}: {message}", pod.container_name(*container))
            }
            _ => return event,
        };
        if !self.interrupted {
            self.failure.get_or_insert(error);
        }
        Event::KillRequested
    }

    /// How the Pod has ended.
    pub fn outcome(self, pod: &SupervisedPod, lifecycle: &Lifecycle) -> Outcome {
        Outcome {
            exit_code: match (&self.failure, self.interrupted) {
                (Some(_), _) if !self.sandbox_was_ready => 1,
                (None, true) if !self.sandbox_was_ready => INTERRUPTED,
                _ => lifecycle.exit_code(),
            },
            error: self.failure.or(self.loss),
            forget: lifecycle.deletion().is_some() || !pod.record.detached,
        }
    }
}
