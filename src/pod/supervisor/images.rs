//! The images of a Pod's containers: pulled, and held until a machine has opened them.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use microkube_base::causes::with_causes;
use microkube_image::{Image, ImageStore, StoreLock};

use super::message::Message;
use super::supervised_pod::SupervisedPod;
use crate::pod::container_images;
use crate::pod::container_order::containers;
use crate::pod::lifecycle::Event;
use crate::pod::timings::Stage;

/// The images that were found so far.
#[derive(Debug)]
pub struct Images {
    pod: Arc<SupervisedPod>,
    /// By the container's number.
    found: Vec<Option<Image>>,
    /// Keeps layers from being removed between finding them and opening them.
    hold: Option<StoreLock>,
    /// When the first pull began; `None` once all are there.
    start: Option<Instant>,
}

/// The images for one start of a machine.
#[derive(Debug)]
pub struct HeldImages {
    found: Vec<Option<Image>>,
    hold: Option<StoreLock>,
}

impl Images {
    /// None is there yet.
    pub fn new(pod: Arc<SupervisedPod>) -> Self {
        let count = containers(&pod.record.pod).count();
        Self {
            pod,
            found: vec![None; count],
            hold: None,
            start: None,
        }
    }

    /// Begins to pull the image of a container, or to look it up; the answer comes as a message.
    ///
    /// # Errors
    /// When this process is about to end.
    pub async fn pull(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(container) = self.pod.container(index).cloned() else {
            return Ok(());
        };
        self.start.get_or_insert_with(Instant::now);
        let hold = match &self.hold {
            Some(_) => None,
            // From here until the layers are open, they cannot be removed.
            None => {
                let images = self.pod.paths.images();
                Some(tokio::task::spawn_blocking(move || ImageStore::open(images)?.hold()).await?)
            }
        };
        let hold_failure = match hold {
            Some(Ok(hold)) => {
                self.hold = Some(hold);
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let pod = Arc::clone(&self.pod);
        tokio::spawn(async move {
            let result = match hold_failure {
                Some(error) => Err(error),
                None => {
                    if container_images::must_be_pulled(&pod.paths, &container) {
                        pod.report(Event::ImagePullStarted { container: index });
                    }
                    container_images::ensure(&pod.paths, &container, &pod.record.pull_secrets, pod.client.clone()).await
                }
            };
            pod.send(match result {
                Ok(image) => Message::Image {
                    container: index,
                    image: Box::new(image),
                },
                Err(error) => Message::Event(Event::ImageFailed {
                    container: index,
                    reason: error.reason().to_owned(),
                    message: with_causes(&error),
                }),
            });
        });
        Ok(())
    }

    /// Adds an image; returns how long all of them took, when this was the last.
    pub fn add(&mut self, container: usize, image: Image) -> Option<Stage> {
        if let Some(slot) = self.found.get_mut(container) {
            *slot = Some(image);
        }
        if !self.found.iter().all(Option::is_some) {
            return None;
        }
        self.start.take().map(|start| Stage::since("image", start))
    }

    /// The images for the next start of a machine, with the lock that keeps them.
    pub fn for_machine(&mut self) -> HeldImages {
        HeldImages {
            found: self.found.clone(),
            hold: self.hold.take(),
        }
    }
}

impl HeldImages {
    /// The images of all containers: those that this process has not looked up itself were there for the supervisor before it. Layers may be
    /// removed again once the hold is dropped.
    ///
    /// # Errors
    /// When one of them can neither be found nor pulled.
    pub async fn complete(self, pod: &SupervisedPod) -> anyhow::Result<(Vec<Image>, Option<StoreLock>)> {
        let mut images = Vec::new();
        for (container, found) in containers(&pod.record.pod).zip(self.found) {
            images.push(match found {
                Some(image) => image,
                None => {
                    let image = container_images::ensure(&pod.paths, container, &pod.record.pull_secrets, None).await;
                    image.with_context(|| format!("container {:?}", container.name))?
                }
            });
        }
        Ok((images, self.hold))
    }
}
