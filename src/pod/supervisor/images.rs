//! Pulls the images of a Pod's containers, and protects them until a VM has opened them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Container;
use microkube_base::causes::with_causes;
use microkube_image::{Image, ImageStore, PullSecret, StoreLock};

use super::message::{ImageNews, Message};
use super::supervised_pod::SupervisedPod;
use crate::pod::container_images;
use crate::pod::container_order::containers;
use crate::pod::lifecycle::PodEvent;
use crate::pod::node_objects::NodeObjects;
use crate::pod::pull_secrets::{self, PullSecrets};
use crate::pod::timings::Stage;

/// An image that was found for a container.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// The image's name in the Pod.
    pub name: String,
    pub image: Image,
}

/// The last request for the image of a container.
#[derive(Debug, Default)]
struct Request {
    number: u64,
    /// The image's name in the Pod.
    name: String,
}

/// The images found so far.
#[derive(Debug)]
pub struct Images {
    pod: Arc<SupervisedPod>,
    /// By container number.
    found: BTreeMap<usize, FoundImage>,
    /// By container number.
    requests: BTreeMap<usize, Request>,
    /// Prevents the removal of layers between finding and opening them.
    hold: Option<StoreLock>,
    /// When the first pull started; `None` once all images are available.
    start: Option<Instant>,
}

/// The images for one start of a VM.
#[derive(Debug)]
pub struct HeldImages {
    /// By container number.
    found: BTreeMap<usize, FoundImage>,
    hold: Option<StoreLock>,
}

impl Images {
    pub fn new(pod: Arc<SupervisedPod>) -> Self {
        Self {
            pod,
            found: BTreeMap::new(),
            requests: BTreeMap::new(),
            hold: None,
            start: None,
        }
    }

    /// Starts to pull or look up the image of a container; the result arrives as a message.
    ///
    /// # Errors
    /// If this process is about to exit.
    pub async fn pull(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(container) = self.pod.container(index) else {
            return Ok(());
        };
        // Answers to earlier requests are ignored, because the container's image may have changed.
        let last = self.requests.entry(index).or_default();
        last.number = last.number.wrapping_add(1);
        last.name = container.image.clone().unwrap_or_default();
        let request = last.number;
        self.found.remove(&index);
        if !self.pod.is_ephemeral(index) {
            self.start.get_or_insert_with(Instant::now);
        }
        let hold = match &self.hold {
            Some(_) => None,
            // Prevents the removal of layers until they are open.
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
                    let must_be_pulled = container_images::must_be_pulled(&pod.paths, &container);
                    if must_be_pulled {
                        pod.send(Message::Image {
                            container: index,
                            request,
                            news: ImageNews::PullStarted,
                        });
                    }
                    let secrets = secrets_for_pull(&pod, must_be_pulled).await;
                    container_images::ensure(&pod.paths, &container, &secrets, pod.client.clone()).await
                }
            };
            let news = match result {
                Ok(image) => ImageNews::Ready(Box::new(image)),
                Err(error) => ImageNews::Failed {
                    reason: error.reason().to_owned(),
                    message: with_causes(&error),
                },
            };
            pod.send(Message::Image {
                container: index,
                request,
                news,
            });
        });
        Ok(())
    }

    /// Whether this is the last request for the image of a container.
    pub fn is_current(&self, container: usize, request: u64) -> bool {
        self.requests.get(&container).is_some_and(|last| last.number == request)
    }

    /// Adds the image of the last request. If it was the last image, returns how long all pulls took.
    pub fn add(&mut self, container: usize, image: Image) -> Option<Stage> {
        let name = self.requests.get(&container)?.name.clone();
        self.found.insert(container, FoundImage { name, image });
        let mut needed = 0..containers(&self.pod.record.pod).count();
        if !needed.all(|container| self.found.contains_key(&container)) {
            return None;
        }
        self.start.take().map(|start| Stage::since("image", start))
    }

    /// The image of a container, if it was found.
    pub fn get(&self, container: usize) -> Option<FoundImage> {
        self.found.get(&container).cloned()
    }

    /// The lock that protects an image until its layers are on the disk of the running VM.
    pub fn take_hold(&mut self) -> Option<StoreLock> {
        self.hold.take()
    }

    /// The images for the next start of a VM, with the lock that protects them.
    pub fn for_machine(&mut self) -> HeldImages {
        HeldImages {
            found: self.found.clone(),
            hold: self.hold.take(),
        }
    }
}

impl HeldImages {
    /// Allows the removal of images while the VM has to wait. The Pod's record protects the Pod's own images.
    pub fn release(&mut self) {
        self.hold = None;
    }

    /// The images of all containers. Looks up the images that the previous supervisor found. Once the lock is dropped,
    /// layers may be removed again.
    ///
    /// # Errors
    /// If one of them can neither be found nor pulled.
    pub async fn complete(mut self, pod: &Arc<SupervisedPod>) -> anyhow::Result<(Vec<FoundImage>, Option<StoreLock>)> {
        let mut images = Vec::new();
        let current = pod.current();
        for (number, container) in containers(&current).enumerate() {
            images.push(match self.found.remove(&number) {
                Some(found) => found,
                None => find(pod, container).await?,
            });
        }
        Ok((images, self.hold))
    }
}

/// The image of a container. Pulls it if necessary.
///
/// # Errors
/// If it can neither be found nor pulled.
pub async fn find(pod: &Arc<SupervisedPod>, container: &Container) -> anyhow::Result<FoundImage> {
    let must_be_pulled = container_images::must_be_pulled(&pod.paths, container);
    let secrets = secrets_for_pull(pod, must_be_pulled).await;
    let image = container_images::ensure(&pod.paths, container, &secrets, None).await;
    Ok(FoundImage {
        name: container.image.clone().unwrap_or_default(),
        image: image.with_context(|| format!("container {:?}", container.name))?,
    })
}

/// The Secrets for pulling an image, if it must be pulled. Reports missing Secrets.
async fn secrets_for_pull(pod: &Arc<SupervisedPod>, must_be_pulled: bool) -> Vec<PullSecret> {
    if !must_be_pulled {
        return Vec::new();
    }
    let copy = Arc::clone(pod);
    let found = tokio::task::spawn_blocking(move || pull_secrets::find(&copy.record, &NodeObjects::new(&copy.paths)));
    let secrets = found.await.unwrap_or_else(|_| PullSecrets::unreadable(&pod.record));
    if let Some(message) = secrets.complaint() {
        pod.warn(message.clone()).await;
        pod.send(Message::Emit(PodEvent {
            warning: true,
            reason: "FailedToRetrieveImagePullSecret",
            message,
            container: None,
        }));
    }
    secrets.found
}
