//! The images of containers and volumes. All except those of ephemeral containers must be available before the sandbox
//! starts, because their layers are on one of its disks.
//!
//! The kubelet looks at the images of volumes before those of containers (`getImageVolumes` and
//! `toKubeContainerImageVolumes` in `pkg/kubelet/kuberuntime`), with the same back-off. If one is not available, the
//! containers that mount the volume wait, with the reasons and messages of their own images.

use super::event;
use super::interface::{Action, ImageUse, Time};
use super::restart::{BackOff, FIRST_BACK_OFF, RELIST_PERIOD};
use super::state::{Container, Image, ImageVolume, Lifecycle, Stage};

/// An image, and what its pull depends on.
struct Pulled<'l> {
    name: &'l str,
    always_pull: bool,
    image: &'l mut Image,
}

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

    /// All images, in the order in which they are pulled.
    pub(super) fn image_uses(&self) -> impl Iterator<Item = ImageUse> + use<> {
        let volumes = (0..self.image_volumes.len()).map(ImageUse::Volume);
        volumes.chain((0..self.containers.len()).map(ImageUse::Container))
    }

    fn image(&self, of: ImageUse) -> Option<&Image> {
        match of {
            ImageUse::Container(index) => Some(&self.containers.get(index)?.image),
            ImageUse::Volume(number) => Some(&self.image_volumes.get(number)?.image),
        }
    }

    fn pulled(&mut self, of: ImageUse) -> Option<Pulled<'_>> {
        match of {
            ImageUse::Container(index) => {
                let container = self.containers.get_mut(index)?;
                Some(Pulled {
                    name: &container.plan.image,
                    always_pull: container.plan.always_pull,
                    image: &mut container.image,
                })
            }
            ImageUse::Volume(number) => {
                let volume = self.image_volumes.get_mut(number)?;
                Some(Pulled {
                    name: &volume.plan.image,
                    always_pull: volume.plan.always_pull,
                    image: &mut volume.image,
                })
            }
        }
    }

    pub(super) fn has_images(&self) -> bool {
        let containers = self
            .containers
            .iter()
            .filter(|container| !container.plan.is_ephemeral());
        let mut images = containers
            .map(|container| &container.image)
            .chain(self.image_volumes.iter().map(|volume| &volume.image));
        images.all(|image| matches!(image, Image::Ready { .. }))
    }

    /// Whether a container waits for the image of a volume: it mounts the volume. The sandbox needs the image in any case,
    /// so if no container mounts the volume, all wait for it.
    fn needs_volume(&self, index: usize, volume: &ImageVolume) -> bool {
        let mounts = |container: &Container| {
            let mut mounts = container.plan.volume_mounts.iter();
            mounts.any(|mount| mount.name == volume.plan.name)
        };
        let mut others = self
            .containers
            .iter()
            .filter(|container| !container.plan.is_ephemeral());
        self.containers.get(index).is_some_and(mounts) || !others.any(mounts)
    }

    /// The containers that wait for an image.
    fn waiting_for(&self, of: ImageUse) -> Vec<usize> {
        match of {
            ImageUse::Container(index) => vec![index],
            ImageUse::Volume(number) => {
                let volume = self.image_volumes.get(number);
                let needs = |index: &usize| volume.is_some_and(|volume| self.needs_volume(*index, volume));
                (0..self.containers.len()).filter(needs).collect()
            }
        }
    }

    /// Name and state of an image that was not available, and that a container needs. As in the kubelet, the last of the
    /// volumes comes first.
    pub(super) fn missing_image(&self, index: usize) -> Option<(&str, &Image)> {
        let container = self.containers.get(index)?;
        let is_missing = |image: &Image| matches!(image, Image::Failed { .. });
        let mut volumes = self.image_volumes.iter().rev();
        let volume = volumes.find(|volume| is_missing(&volume.image) && self.needs_volume(index, volume));
        match volume {
            Some(volume) => Some((volume.plan.image.as_str(), &volume.image)),
            None => is_missing(&container.image).then_some((container.plan.image.as_str(), &container.image)),
        }
    }

    pub(super) fn image_pull_started(&mut self, of: ImageUse, out: &mut Vec<Action>) {
        if let Some(Pulled { name, image, .. }) = self.pulled(of)
            && let Image::Wanted { is_fetched, .. } = image
            && !*is_fetched
        {
            *is_fetched = true;
            out.push(event::pulling(of.container(), name));
        }
    }

    pub(super) fn image_ready(&mut self, now: Time, of: ImageUse, id: String, out: &mut Vec<Action>) {
        let Some(Pulled { name, image, .. }) = self.pulled(of) else {
            return;
        };
        let Image::Wanted {
            asked_at, is_fetched, ..
        } = *image
        else {
            return;
        };
        out.push(if is_fetched {
            event::pulled(of.container(), name, now.saturating_sub(asked_at))
        } else {
            event::already_present(of.container(), name)
        });
        *image = Image::Ready { id };
    }

    pub(super) fn image_failed(
        &mut self,
        now: Time,
        of: ImageUse,
        reason: String,
        message: String,
        out: &mut Vec<Action>,
    ) {
        let Some(Pulled { name, image, .. }) = self.pulled(of) else {
            return;
        };
        let Image::Wanted { back_off, .. } = &*image else {
            return;
        };
        out.push(event::image_failed(of.container(), name, &reason, &message));
        let mut back_off = back_off.clone();
        let wait = if is_pull_failure(&reason) {
            back_off.lengthen(now, now);
            back_off.wait_after(now)
        } else {
            FIRST_BACK_OFF
        };
        *image = Image::Failed {
            reason: reason.clone(),
            message,
            at: now,
            retry_at: now.saturating_add(wait),
            is_shown: false,
            back_off,
        };
        let waiting = self.waiting_for(of).into_iter();
        out.extend(waiting.map(|container| event::start_failed(container, &reason)));
    }

    /// Repeats the requests of the previous supervisor.
    pub(super) fn pull_again(&self, out: &mut Vec<Action>) {
        if !self.wants_images() {
            return;
        }
        let wanted = self
            .image_uses()
            .filter(|of| matches!(self.image(*of), Some(Image::Wanted { .. })));
        out.extend(wanted.map(|of| Action::PullImage { of }));
    }

    fn wants_images(&self) -> bool {
        self.began_at.is_some() && !self.is_terminating()
    }

    /// When the state of an image changes next.
    pub(super) fn image_due_at(&self, of: ImageUse) -> Option<Time> {
        if !self.wants_images() {
            return None;
        }
        let has_sandbox = !matches!(self.sandbox.stage, Stage::Absent { .. });
        let container = of.container().and_then(|index| self.containers.get(index));
        if has_sandbox && container.is_some_and(Container::has_ended_in_sandbox) {
            // The container's image has changed, but only the next sandbox needs it.
            return None;
        }
        match self.image(of)? {
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
        for of in self.image_uses() {
            if self.image_due_at(of).is_none_or(|at| now < at) {
                continue;
            }
            let Some(Pulled {
                name,
                always_pull,
                image,
            }) = self.pulled(of)
            else {
                continue;
            };
            let back_off = match &mut *image {
                Image::Failed { is_shown, retry_at, .. } if now < *retry_at => {
                    *is_shown = true;
                    out.push(event::image_back_off(of.container(), name));
                    let waiting = self.waiting_for(of).into_iter();
                    out.extend(waiting.map(|container| event::start_failed(container, "ImagePullBackOff")));
                    continue;
                }
                Image::Failed { back_off, .. } => std::mem::take(back_off),
                _ => BackOff::default(),
            };
            *image = Image::Wanted {
                asked_at: now,
                is_fetched: false,
                back_off,
            };
            out.push(Action::PullImage { of });
            if always_pull {
                self.image_pull_started(of, out);
            }
        }
    }
}
