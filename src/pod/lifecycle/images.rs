//! The containers' images. All except those of ephemeral containers must be available before the sandbox starts,
//! because their layers are on one of its disks.

use super::event;
use super::interface::Action;
use super::interface::Time;
use super::restart::{BackOff, FIRST_BACK_OFF, RELIST_PERIOD};
use super::state::{Image, Lifecycle, Stage};

/// Only pulls have a back-off; problems on this host are checked again at a fixed interval.
fn is_pull_failure(reason: &str) -> bool {
    !matches!(reason, "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError")
}

impl Lifecycle {
    /// Starts the Pod's life, unless scheduling gates prevent it.
    pub(super) fn begin(&mut self, now: Time) {
        self.is_invalid = false;
        if !self.is_gated() {
            self.forget_placement();
            self.began_at.get_or_insert(now);
        }
    }

    /// The id of a container's image as the status shows it, if the image is available.
    #[must_use]
    pub fn image_id(&self, container: usize) -> Option<&str> {
        match &self.containers.get(container)?.image {
            Image::Ready { id } => Some(id.as_str()),
            Image::Unasked | Image::Wanted { .. } | Image::Failed { .. } => None,
        }
    }

    /// Name and id of the image of a container's current or last attempt; of its available image if it has not run.
    #[must_use]
    pub fn ran_image(&self, container: usize) -> Option<(&str, &str)> {
        let planned = self.containers.get(container)?;
        match &planned.ran_image {
            Some(ran) => Some((ran.name.as_str(), ran.id.as_str())),
            None => Some((planned.plan.image.as_str(), self.image_id(container)?)),
        }
    }

    pub(super) fn has_images(&self) -> bool {
        self.containers
            .iter()
            .filter(|container| !container.plan.is_ephemeral())
            .all(|container| matches!(container.image, Image::Ready { .. }))
    }

    pub(super) fn image_pull_started(&mut self, index: usize, out: &mut Vec<Action>) {
        if let Some(container) = self.containers.get_mut(index)
            && let Image::Wanted { is_fetched, .. } = &mut container.image
            && !*is_fetched
        {
            *is_fetched = true;
            out.push(event::pulling(index, &container.plan.image));
        }
    }

    pub(super) fn image_ready(&mut self, now: Time, index: usize, id: String, out: &mut Vec<Action>) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let Image::Wanted {
            asked_at, is_fetched, ..
        } = container.image
        else {
            return;
        };
        let image = &container.plan.image;
        out.push(if is_fetched {
            event::pulled(index, image, now.saturating_sub(asked_at))
        } else {
            event::already_present(index, image)
        });
        container.image = Image::Ready { id };
    }

    pub(super) fn image_failed(
        &mut self,
        now: Time,
        index: usize,
        reason: String,
        message: String,
        out: &mut Vec<Action>,
    ) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let Image::Wanted { back_off, .. } = &container.image else {
            return;
        };
        out.extend(event::image_failed(index, &container.plan.image, &reason, &message));
        let mut back_off = back_off.clone();
        let wait = if is_pull_failure(&reason) {
            back_off.lengthen(now, now);
            back_off.wait_after(now)
        } else {
            FIRST_BACK_OFF
        };
        container.image = Image::Failed {
            reason,
            message,
            at: now,
            retry_at: now.saturating_add(wait),
            is_shown: false,
            back_off,
        };
    }

    /// Repeats the requests of the previous supervisor.
    pub(super) fn pull_again(&self, out: &mut Vec<Action>) {
        if !self.wants_images() {
            return;
        }
        for (index, container) in self.containers.iter().enumerate() {
            if matches!(container.image, Image::Wanted { .. }) {
                out.push(Action::PullImage { container: index });
            }
        }
    }

    fn wants_images(&self) -> bool {
        self.began_at.is_some() && !self.is_terminating()
    }

    /// When the state of a container's image changes next.
    pub(super) fn image_due_at(&self, index: usize) -> Option<Time> {
        if !self.wants_images() {
            return None;
        }
        let container = self.containers.get(index)?;
        let has_sandbox = !matches!(self.sandbox.stage, Stage::Absent { .. });
        if has_sandbox && container.has_ended_in_sandbox() {
            // The container's image has changed, but only the next sandbox needs it.
            return None;
        }
        match &container.image {
            Image::Failed {
                reason,
                at,
                is_shown: false,
                retry_at,
                ..
            } if is_pull_failure(reason) => Some(at.saturating_add(RELIST_PERIOD).min(*retry_at)),
            Image::Failed { retry_at, .. } => Some(*retry_at),
            Image::Unasked => Some(Time::ZERO),
            Image::Wanted { .. } | Image::Ready { .. } => None,
        }
    }

    pub(super) fn keep_images(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            if self.image_due_at(index).is_none_or(|at| now < at) {
                continue;
            }
            let Some(container) = self.containers.get_mut(index) else {
                continue;
            };
            let back_off = match &mut container.image {
                Image::Failed { is_shown, retry_at, .. } if now < *retry_at => {
                    *is_shown = true;
                    out.extend(event::image_back_off(index, &container.plan.image));
                    continue;
                }
                Image::Failed { back_off, .. } => std::mem::take(back_off),
                _ => BackOff::default(),
            };
            container.image = Image::Wanted {
                asked_at: now,
                is_fetched: false,
                back_off,
            };
            out.push(Action::PullImage { container: index });
            if container.plan.always_pull {
                self.image_pull_started(index, out);
            }
        }
    }
}
