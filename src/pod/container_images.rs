//! Images of containers and volumes in the store: finds them, pulls them while reporting progress to the client, and merges layers if
//! there are too many.

use std::collections::HashMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource};
use microkube_base::lock::lock;
use microkube_image::{Image, ImageError, ImageStore, Progress, PullPolicy, PullSecret};
use tokio::sync::mpsc;

use super::supervisor_protocol::{PodNotice, SupervisorFrame};
use crate::state::Paths;

/// Maximum number of layers on a Pod's layers disk: each is a partition, and Linux supports 255 of them
/// (`DISK_MAX_PARTS`).
pub const LAYERS_MAX: usize = 255;

/// An image as a Pod names it.
#[derive(Debug, Clone)]
pub struct WantedImage {
    pub name: String,
    policy: PullPolicy,
}

impl WantedImage {
    /// The image of a container.
    #[must_use]
    pub fn of_container(container: &Container) -> Self {
        Self::new(container.image.as_deref(), container.image_pull_policy.as_deref())
    }

    /// The image of a volume.
    #[must_use]
    pub fn of_volume(source: &ImageVolumeSource) -> Self {
        Self::new(source.reference.as_deref(), source.pull_policy.as_deref())
    }

    fn new(name: Option<&str>, policy: Option<&str>) -> Self {
        Self {
            name: name.unwrap_or_default().to_owned(),
            policy: match policy {
                Some("Always") => PullPolicy::Always,
                Some("Never") => PullPolicy::Never,
                _ => PullPolicy::IfNotPresent,
            },
        }
    }
}

/// Finds or pulls an image according to its pull policy. `client` receives the progress.
///
/// # Errors
/// See [`ImageError`].
pub async fn ensure(
    paths: &Paths,
    wanted: &WantedImage,
    pull_secrets: &[PullSecret],
    client: Option<mpsc::Sender<SupervisorFrame>>,
) -> Result<Image, ImageError> {
    let reference = wanted.name.clone();
    let store = ImageStore::open(paths.images())?;
    let progress = ClientProgress {
        image: reference.clone(),
        client,
        layers: Mutex::default(),
    };
    let image = store.ensure(&reference, wanted.policy, pull_secrets, &progress).await?;
    if let Some(client) = &progress.client {
        let _ = client.send(PodNotice::Pulled { image: reference }.into()).await;
    }
    Ok(image)
}

/// Whether the image requires a request to its registry.
#[must_use]
pub fn must_be_pulled(paths: &Paths, wanted: &WantedImage) -> bool {
    match wanted.policy {
        PullPolicy::Always => true,
        PullPolicy::Never => false,
        PullPolicy::IfNotPresent => {
            let found = ImageStore::open(paths.images()).and_then(|store| store.get(&wanted.name));
            matches!(found, Ok(None))
        }
    }
}

/// Sends the progress of a pull to the client, summed over all layers. A slow client misses some updates.
#[derive(Debug)]
struct ClientProgress {
    image: String,
    client: Option<mpsc::Sender<SupervisorFrame>>,
    layers: Mutex<HashMap<String, (u64, u64)>>,
}

impl Progress for ClientProgress {
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64) {
        let Some(client) = &self.client else { return };
        let mut layers = lock(&self.layers);
        layers.insert(digest.to_owned(), (received_bytes, total_bytes));
        let notice = PodNotice::PullProgress {
            image: self.image.clone(),
            received_bytes: layers.values().map(|(received, _)| received).sum(),
            total_bytes: Some(layers.values().map(|(_, total)| total).sum()),
        };
        let _ = client.try_send(notice.into());
    }

    fn layer_done(&self, _digest: &str, _present: bool) {}
}

/// Merges layers until all layers of the Pod fit on the layers disk.
///
/// # Errors
/// If there are too many images, or layers cannot be merged.
pub async fn fit_layers(paths: &Paths, images: Vec<Image>) -> anyhow::Result<Vec<Image>> {
    if images.iter().map(|image| image.layers.len()).sum::<usize>() <= LAYERS_MAX {
        return Ok(images);
    }
    let store = ImageStore::open(paths.images())?;
    let fitted = tokio::task::spawn_blocking(move || store.fit(images, LAYERS_MAX));
    Ok(fitted.await??)
}
