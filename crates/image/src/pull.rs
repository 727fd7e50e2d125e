//! Pulls an image from its registry: documents first, then layers in parallel, each streamed into the store.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use oci_spec::image::ImageIndex;
use tokio::sync::mpsc;

use super::credentials::PullSecret;
use super::error::{ImageError, PullError, StoreError};
use super::index::{Candidate, Search};
use super::layer::{self, Converted, accept};
use super::manifest::{self, Document, LayerBlob};
use super::reference::{Digest, ImageReference};
use super::registry::{Environment, Registry};
use super::store::{ImageStore, StoreLock};
use super::{Image, Progress, PullPolicy};

/// How many layers are fetched at the same time, as in containerd and Docker.
const LAYERS_AT_ONCE: usize = 3;
/// Maximum number of chunks that wait between network and decompression. Each is what one read of the connection
/// returns.
const CHUNKS_AHEAD: usize = 16;
/// If a layer cannot be converted, up to this many more bytes are fetched to find out whether the registry's content or
/// the transfer is at fault.
const DRAIN_MAX_BYTES: u64 = 64 << 20;

impl ImageStore {
    /// Makes sure that the image is present, according to the policy, and returns it. If a registry asks for
    /// credentials, those of `secrets` are tried first, then this host's.
    pub async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        secrets: &[PullSecret],
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        self.ensure_in(Environment::of_process, reference, policy, secrets, progress)
            .await
    }

    /// Like [`Self::ensure`], with registry settings that are read when they are needed.
    pub(super) async fn ensure_in(
        &self,
        environment: impl FnOnce() -> Result<Environment, PullError> + Send,
        reference: &str,
        policy: PullPolicy,
        secrets: &[PullSecret],
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let name = ImageReference::parse(reference)?;
        if policy != PullPolicy::Always
            && let Some(image) = self.get(reference)?
        {
            return Ok(image);
        }
        if policy == PullPolicy::Never {
            return Err(ImageError::NeverPull {
                reference: name.to_string(),
            });
        }
        let pull = Pull {
            store: self,
            name: &name,
            progress,
        };
        let pulled = match environment() {
            Ok(environment) => pull.run(&Arc::new(environment), secrets).await,
            Err(error) => Err(error),
        };
        if pulled.is_err() {
            let store = self.clone();
            // Removes what the pull left behind. The pull's own error is the one to report.
            let _ = blocking(self, move || store.sweep()).await;
        }
        pulled.map_err(|source| ImageError::Pull {
            reference: name.to_string(),
            source: Box::new(source),
        })
    }
}

struct Pull<'a> {
    store: &'a ImageStore,
    name: &'a ImageReference,
    progress: &'a dyn Progress,
}

impl Pull<'_> {
    async fn run(&self, environment: &Arc<Environment>, secrets: &[PullSecret]) -> Result<Image, PullError> {
        let store = self.store.clone();
        let lock = blocking(self.store, move || {
            store.sweep()?;
            store.lock_shared()
        });
        let lock = Arc::new(lock.await??);
        let registry = Registry::new(self.name, environment, secrets)?;
        let found = self.find(&registry).await?;
        let mut layers = found.layers;
        layers.sort_by(|a, b| a.diff_id.cmp(&b.diff_id));
        layers.dedup_by(|a, b| a.diff_id == b.diff_id);
        // Largest first, so that the last layer to finish has started early.
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.blob.size_bytes));
        futures::stream::iter(layers)
            .map(|layer| self.layer(&registry, layer, &lock))
            .buffer_unordered(LAYERS_AT_ONCE)
            .try_collect::<()>()
            .await?;
        let (store, name) = (self.store.clone(), self.name.clone());
        let image = blocking(self.store, move || {
            let image = store.add_image(&name, &found.manifest, &found.config, Some(&found.root))?;
            drop(lock);
            // The content that the name previously referred to may be unneeded now.
            store.sweep()?;
            Ok::<_, StoreError>(image)
        });
        image
            .await??
            .ok_or_else(|| PullError::invalid("image", "another process removed it during the pull"))
    }

    /// Finds the name's image for this platform.
    async fn find(&self, registry: &Registry) -> Result<Found, PullError> {
        let bytes = registry.manifest(None).await?;
        let mut candidate = Candidate::root(&bytes);
        let mut search = Search::default();
        let mut document = Ok(bytes);
        loop {
            let looked = match document {
                Ok(bytes) => look(registry, &candidate, bytes).await,
                Err(error) => Err(error),
            };
            match looked {
                Ok(ImageOrIndex::Image(found)) => return Ok(found),
                Ok(ImageOrIndex::Index(index)) => search.enter(&candidate, index.manifests())?,
                Err(error) => search.refuse(&candidate, error)?,
            }
            candidate = search.next()?;
            document = registry.manifest(Some(&candidate.blob)).await;
        }
    }

    async fn layer(&self, registry: &Registry, layer: LayerBlob, lock: &Arc<StoreLock>) -> Result<(), PullError> {
        let digest = layer.blob.digest.as_str();
        if !self.store.has_layer(&layer) {
            let layer_lock = match self.store.try_lock_layer(&layer.diff_id)? {
                Some(lock) => lock,
                None => {
                    self.progress.layer_waiting(digest);
                    let (store, diff_id) = (self.store.clone(), layer.diff_id.clone());
                    blocking(self.store, move || store.lock_layer(&diff_id)).await??
                }
            };
            // Another process may have converted it in the meantime.
            if !self.store.has_layer(&layer) {
                let converted = self.fetch_from_any(registry, &layer, lock).await?;
                let (store, diff_id) = (self.store.clone(), layer.diff_id.clone());
                blocking(self.store, move || {
                    let added = store.add_layer(converted.file, &diff_id);
                    drop(layer_lock);
                    added
                })
                .await??;
                self.progress.layer_done(digest, false);
                return Ok(());
            }
        }
        self.progress.layer_done(digest, true);
        Ok(())
    }

    /// Downloads a layer, again if a mirror sent wrong content.
    async fn fetch_from_any(
        &self,
        registry: &Registry,
        layer: &LayerBlob,
        lock: &Arc<StoreLock>,
    ) -> Result<Converted, PullError> {
        loop {
            let sources = registry.usable_source_count();
            match self.fetch(registry, layer, lock).await {
                Err(PullError::Digest { .. } | PullError::Invalid { .. })
                    if registry.usable_source_count() < sources => {}
                result => return result,
            }
        }
    }

    /// Downloads a layer straight into the conversion.
    async fn fetch(
        &self,
        registry: &Registry,
        layer: &LayerBlob,
        lock: &Arc<StoreLock>,
    ) -> Result<Converted, PullError> {
        let digest = layer.blob.digest.as_str();
        let mut reader = registry.blob(&layer.blob, &format!("layer {digest}"));
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let directory = self.store.temporary_directory();
        // The thread holds the lock: it may outlive a cancelled pull, and its file must not be swept.
        let lock = Arc::clone(lock);
        // The reader ends without an error only if the digest matches.
        let known = Some(layer.blob.digest.clone());
        let options = *self.store.options();
        let conversion = tokio::task::spawn_blocking(move || {
            let _lock = lock;
            layer::convert(
                ChunkReader {
                    receiver,
                    chunk: Bytes::new(),
                    ended: false,
                },
                &directory,
                &options,
                known,
            )
        });
        let download = async {
            let total_bytes = layer.blob.size_bytes;
            while let Some(chunk) = reader.next().await? {
                if sender.send(Part::Chunk(chunk)).await.is_err() {
                    // The conversion reports its own error, unless the received content was wrong.
                    while reader.remaining_bytes() <= DRAIN_MAX_BYTES && reader.next().await?.is_some() {}
                    return Ok(());
                }
                let received_bytes = total_bytes - reader.remaining_bytes();
                self.progress.layer_bytes(digest, received_bytes, total_bytes);
            }
            let _ = sender.send(Part::End).await;
            drop(sender);
            Ok::<_, PullError>(())
        };
        let (downloaded, converted) = tokio::join!(download, conversion);
        downloaded?;
        let directory = self.store.temporary_directory();
        let converted = converted.map_err(|error| StoreError::of("convert a layer in", &directory)(error.into()))?;
        accept(converted, layer, &directory)
    }
}

/// An image found in a registry.
struct Found {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layers: Vec<LayerBlob>,
    /// The document that the name refers to: the manifest, or the index that leads to it.
    root: Digest,
}

/// A document from the registry.
enum ImageOrIndex {
    Image(Found),
    Index(Box<ImageIndex>),
}

async fn look(registry: &Registry, candidate: &Candidate, bytes: Vec<u8>) -> Result<ImageOrIndex, PullError> {
    let manifest = match manifest::parse(&bytes)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => return Ok(ImageOrIndex::Index(index)),
    };
    let config = registry.small_blob(&manifest.config, "the configuration").await?;
    let (_, layers) = manifest::join(&manifest, &config)?;
    Ok(ImageOrIndex::Image(Found {
        manifest: bytes,
        config,
        layers,
        root: candidate.root.clone(),
    }))
}

async fn blocking<T: Send + 'static>(
    store: &ImageStore,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::of("work in", &store.temporary_directory())(error.into()))
}

enum Part {
    Chunk(Bytes),
    /// The download is complete and its digest is right.
    End,
}

/// The chunks of a download, for a thread that may block.
struct ChunkReader {
    receiver: mpsc::Receiver<Part>,
    chunk: Bytes,
    ended: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Part::Chunk(chunk)) => self.chunk = chunk,
                Some(Part::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was cancelled",
                    ));
                }
            }
        }
        let count = buffer.len().min(self.chunk.len());
        let now = self.chunk.split_to(count);
        if let Some(place) = buffer.get_mut(..count) {
            place.copy_from_slice(&now);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
