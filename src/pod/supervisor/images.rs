//! Pulls the images of a Pod's containers and volumes, and protects them until a VM has opened them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use microkube_base::causes::with_causes;
use microkube_image::{Image, ImageStore, PullSecret, StoreLock};
use microkube_manifest::image_volumes;

use super::message::{ImageNews, Message};
use super::supervised_pod::SupervisedPod;
use crate::pod::container_images;
use crate::pod::container_order::containers;
use crate::pod::lifecycle::{ImageUse, PodEvent};
use crate::pod::node_objects::NodeObjects;
use crate::pod::pull_secrets::{self, PullSecrets};
use crate::pod::timings::Stage;

/// An image that was found for a container or a volume.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// The image's name in the Pod.
    pub name: String,
    pub image: Image,
}

/// The last request for an image.
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
    found: BTreeMap<ImageUse, FoundImage>,
    requests: BTreeMap<ImageUse, Request>,
    /// Prevents the removal of layers between finding and opening them.
    hold: Option<StoreLock>,
    /// When the first pull started; `None` once all images are available.
    start: Option<Instant>,
}

/// The images for one start of a VM.
#[derive(Debug)]
pub struct HeldImages {
    found: BTreeMap<ImageUse, FoundImage>,
    hold: Option<StoreLock>,
}

/// The images of all containers and volumes, for one start of a VM.
#[derive(Debug)]
pub struct CompleteImages {
    /// By container number.
    pub containers: Vec<FoundImage>,
    /// By the number of the image volume.
    pub volumes: Vec<FoundImage>,
    /// Once it is dropped, layers may be removed again.
    pub hold: Option<StoreLock>,
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

    /// Starts to pull or look up an image; the result arrives as a message.
    ///
    /// # Errors
    /// If this process is about to exit.
    pub async fn pull(&mut self, of: ImageUse) -> anyhow::Result<()> {
        let Some(wanted) = self.pod.wanted_image(of) else {
            return Ok(());
        };
        // Answers to earlier requests are ignored, because the container's image may have changed.
        let last = self.requests.entry(of).or_default();
        last.number = last.number.wrapping_add(1);
        last.name.clone_from(&wanted.name);
        let request = last.number;
        self.found.remove(&of);
        let container = of.container();
        let is_ephemeral = container.is_some_and(|container| self.pod.is_ephemeral(container));
        if !is_ephemeral {
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
                    let must_be_pulled = container_images::must_be_pulled(&pod.paths, &wanted);
                    if must_be_pulled {
                        pod.send(Message::Image {
                            of,
                            request,
                            news: ImageNews::PullStarted,
                        });
                    }
                    let secrets = secrets_for_pull(&pod, must_be_pulled).await;
                    container_images::ensure(&pod.paths, &wanted, &secrets, pod.client.clone()).await
                }
            };
            let news = match result {
                Ok(image) => ImageNews::Ready(Box::new(image)),
                Err(error) => ImageNews::Failed {
                    reason: error.reason().to_owned(),
                    message: with_causes(&error),
                },
            };
            pod.send(Message::Image { of, request, news });
        });
        Ok(())
    }

    /// Whether this is the last request for an image.
    pub fn is_current(&self, of: ImageUse, request: u64) -> bool {
        self.requests.get(&of).is_some_and(|last| last.number == request)
    }

    /// Adds the image of the last request. If it was the last image, returns how long all pulls took.
    pub fn add(&mut self, of: ImageUse, image: Image) -> Option<Stage> {
        let name = self.requests.get(&of)?.name.clone();
        self.found.insert(of, FoundImage { name, image });
        let pod = &self.pod.record.pod;
        let volumes = (0..image_volumes(pod).count()).map(ImageUse::Volume);
        let mut needed = (0..containers(pod).count()).map(ImageUse::Container).chain(volumes);
        if !needed.all(|of| self.found.contains_key(&of)) {
            return None;
        }
        self.start.take().map(|start| Stage::since("image", start))
    }

    /// The image of a container, if it was found.
    pub fn get(&self, container: usize) -> Option<FoundImage> {
        self.found.get(&ImageUse::Container(container)).cloned()
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

    /// All images. Looks up those that the previous supervisor found.
    ///
    /// # Errors
    /// If one of them can neither be found nor pulled.
    pub async fn complete(mut self, pod: &Arc<SupervisedPod>) -> anyhow::Result<CompleteImages> {
        let current = pod.current();
        let (mut of_containers, mut of_volumes) = (Vec::new(), Vec::new());
        for number in 0..containers(&current).count() {
            of_containers.push(self.take(pod, ImageUse::Container(number)).await?);
        }
        for number in 0..image_volumes(&current).count() {
            of_volumes.push(self.take(pod, ImageUse::Volume(number)).await?);
        }
        Ok(CompleteImages {
            containers: of_containers,
            volumes: of_volumes,
            hold: self.hold,
        })
    }

    async fn take(&mut self, pod: &Arc<SupervisedPod>, of: ImageUse) -> anyhow::Result<FoundImage> {
        match self.found.remove(&of) {
            Some(found) => Ok(found),
            None => find(pod, of).await,
        }
    }
}

/// An image of the Pod. Pulls it if necessary.
///
/// # Errors
/// If it can neither be found nor pulled.
pub async fn find(pod: &Arc<SupervisedPod>, of: ImageUse) -> anyhow::Result<FoundImage> {
    let user = match of {
        ImageUse::Container(container) => format!("container {:?}", pod.container_name(container)),
        ImageUse::Volume(number) => format!("volume {:?}", pod.image_volume_name(number)),
    };
    let wanted = pod.wanted_image(of);
    let wanted = wanted.with_context(|| format!("the Pod does not have the {user}"))?;
    let must_be_pulled = container_images::must_be_pulled(&pod.paths, &wanted);
    let secrets = secrets_for_pull(pod, must_be_pulled).await;
    let image = container_images::ensure(&pod.paths, &wanted, &secrets, None).await;
    Ok(FoundImage {
        name: wanted.name,
        image: image.context(user)?,
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
