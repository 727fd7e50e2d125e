//! The images of containers in the store: found, pulled with progress for the client, and merged where there are too many layers.

use std::collections::HashMap;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Container;
use microkube_base::lock::lock;
use microkube_image::{Image, ImageError, ImageStore, Progress, PullPolicy, PullSecret};
use tokio::sync::mpsc;

use super::supervisor_protocol::{PodNotice, SupervisorFrame};
use crate::state::{Paths, PullSecretRecord};

/// Most layers that a Pod's disk of layers can have: they are its partitions, of which Linux numbers 255 (`DISK_MAX_PARTS`).
const LAYERS_MAX: usize = 255;

/// Finds a container's image or pulls it, as its pull policy says. `client` sees the progress.
///
/// # Errors
/// See [`ImageError`].
pub async fn ensure(
    paths: &Paths,
    container: &Container,
    pull_secrets: &[PullSecretRecord],
    client: Option<mpsc::Sender<SupervisorFrame>>,
) -> Result<Image, ImageError> {
    let pull_secrets: Vec<PullSecret> = pull_secrets
        .iter()
        .map(|secret| PullSecret::new(&secret.name, secret.docker_config_json.clone().into_bytes()))
        .collect();
    let reference = container.image.clone().unwrap_or_default();
    let store = ImageStore::open(paths.images())?;
    let progress = ClientProgress {
        image: reference.clone(),
        client,
        layers: Mutex::default(),
    };
    let image = store
        .ensure(&reference, pull_policy(container), &pull_secrets, &progress)
        .await?;
    if let Some(client) = &progress.client {
        let _ = client.send(PodNotice::Pulled { image: reference }.into()).await;
    }
    Ok(image)
}

/// Whether a registry has to be asked for the container's image.
#[must_use]
pub fn must_be_pulled(paths: &Paths, container: &Container) -> bool {
    match pull_policy(container) {
        PullPolicy::Always => true,
        PullPolicy::Never => false,
        PullPolicy::IfNotPresent => {
            let found = ImageStore::open(paths.images())
                .and_then(|store| store.get(container.image.as_deref().unwrap_or_default()));
            matches!(found, Ok(None))
        }
    }
}

/// The container's `imagePullPolicy`.
fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

/// Passes the progress of a pull on to the client, all layers together. A client that does not keep up misses some of it.
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

/// Merges layers until the Pod's layers fit on the layers disk.
///
/// # Errors
/// When there are too many images, or layers cannot be merged.
pub async fn fit_layers(paths: &Paths, images: Vec<Image>) -> anyhow::Result<Vec<Image>> {
    if images.iter().map(|image| image.layers.len()).sum::<usize>() <= LAYERS_MAX {
        return Ok(images);
    }
    let store = ImageStore::open(paths.images())?;
    let fitted = tokio::task::spawn_blocking(move || store.fit(images, LAYERS_MAX));
    Ok(fitted.await??)
}
