//! Handles Pods that this node does not run. As with the kubelet, a rejected Pod fails, and an invalid Pod is ignored
//! and waits.

use std::time::Duration;

use super::event;
use super::interface::{Action, Time};
use super::state::{Lifecycle, Rejection};

impl Lifecycle {
    /// The Pod fails without having started (`rejectPod` in `pkg/kubelet/kubelet.go`). A Pod whose life has begun was
    /// accepted.
    pub(super) fn rejected(&mut self, now: Time, reason: &'static str, message: String, out: &mut Vec<Action>) {
        if self.began_at.is_some() || self.is_terminating() {
            return;
        }
        out.push(event::rejected(reason, message.clone()));
        self.is_invalid = false;
        self.began_at = Some(now);
        self.rejection = Some(Rejection {
            reason: reason.to_owned(),
            message,
        });
        self.begin_termination(now, Duration::ZERO, out);
    }

    /// The Pod waits until the node accepts it or it is deleted.
    pub(super) fn found_invalid(&mut self, message: String, out: &mut Vec<Action>) {
        if self.began_at.is_none() && !self.is_terminating() {
            self.is_invalid = true;
            out.push(event::invalid(message));
        }
    }

    /// Whether the Pod's life has begun. Until then, each restart of the supervisor checks the Pod again.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.began_at.is_some()
    }
}
