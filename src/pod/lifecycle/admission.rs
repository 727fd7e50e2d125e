//! Handles Pods that this node does not run. As with the kubelet, a rejected Pod fails, and an invalid Pod is ignored
//! and waits. A Pod whose claims have no volumes waits for the scheduler.

use std::time::Duration;

use super::event;
use super::interface::{Action, NotPlaced, Time};
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
        self.forget_placement();
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
            self.forget_placement();
            out.push(event::invalid(message));
        }
    }

    /// The Pod waits until its claims have volumes or it is deleted.
    pub(super) fn unplaced(&mut self, why: Option<NotPlaced>) {
        if self.began_at.is_some() || self.is_terminating() || self.is_invalid {
            return;
        }
        self.is_unplaced = true;
        if why.is_some() {
            self.not_placed = why;
        }
    }

    /// The Pod's claims have volumes, or do not matter any more.
    pub(super) fn forget_placement(&mut self) {
        self.is_unplaced = false;
        self.not_placed = None;
    }

    /// Whether the Pod waits for volumes for its claims.
    #[must_use]
    pub fn is_unplaced(&self) -> bool {
        self.is_unplaced
    }

    /// Whether the Pod's life has begun. Until then, each restart of the supervisor checks the Pod again.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.began_at.is_some()
    }
}
