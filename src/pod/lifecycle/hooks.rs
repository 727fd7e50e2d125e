//! Handles the results of hooks.

use super::event;
use super::interface::Time;
use super::interface::{Action, ContainerAttempt, Hook, HookOutcome};
use super::state::Lifecycle;
use super::state::{Cause, PostStart};

impl Lifecycle {
    pub(super) fn hook_ended(
        &mut self,
        now: Time,
        attempt: ContainerAttempt,
        hook: Hook,
        outcome: HookOutcome,
        out: &mut Vec<Action>,
    ) {
        let index = attempt.container;
        let active = self.attempt_mut(attempt);
        let Some(active) = active.filter(|active| active.hook() == Some(hook)) else {
            return;
        };
        match (hook, outcome) {
            (Hook::PostStart, HookOutcome::Success) => self.container_is_up(now, index),
            (Hook::PostStart, HookOutcome::Failure(message)) => {
                if let Some(running) = &mut active.running {
                    running.post_start = PostStart::Failed(message);
                }
                out.push(event::post_start_failed(index));
                let grace = self.plan.grace;
                self.stop_container(now, index, Cause::PostStart, grace, now.saturating_add(grace), out);
            }
            (Hook::PreStop, outcome) => {
                if let HookOutcome::Failure(_) = outcome {
                    out.push(event::pre_stop_failed(index));
                }
                self.stop_after_hook(now, index, out);
            }
        }
    }
}
