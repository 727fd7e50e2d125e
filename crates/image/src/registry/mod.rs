//! Fetching from registries: the documents and blobs of one image, from its registry's mirrors or the registry itself.
//!
//! A registry is not trusted: nothing it sends is kept in memory beyond a bound, it cannot keep a pull waiting for ever, what
//! it sends is what was asked for or it is refused, and credentials go to it alone. What the documents mean and where blobs
//! end up does not belong here.

mod access;
mod answer;
mod blob;
mod bounded_file;
mod challenge;
mod environment;
pub(super) mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod limits;
mod retry;
mod settings;
mod source;
mod sources;
#[cfg(test)]
pub(super) mod test_server;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod token;
mod transport;

use std::sync::Arc;

pub(super) use blob::BlobReader;
pub(super) use environment::Environment;

use super::credentials::PullSecret;
use super::error::PullError;
use super::manifest::{Blob, MANIFEST_MAX_BYTES, MANIFEST_MEDIA_TYPES};
use super::reference::{Digest, ImageReference};
use retry::Backoff;
use source::Source;
use sources::{Sources, nothing_left};

/// Where one image is fetched from.
#[derive(Debug)]
pub(super) struct Registry {
    sources: Sources,
    /// Tag or digest.
    wanted: String,
    digest: Option<Digest>,
}

impl Registry {
    /// The places that `reference` can be fetched from. Does not connect yet.
    pub fn new(
        reference: &ImageReference,
        environment: &Arc<Environment>,
        secrets: &[PullSecret],
    ) -> Result<Self, PullError> {
        let digest = reference.digest().map(Digest::parse).transpose();
        let digest = digest.map_err(|why| PullError::invalid("name", why))?;
        let tag = reference.tag().unwrap_or("latest").to_owned();
        Ok(Self {
            sources: Sources::new(reference, environment, secrets)?,
            wanted: digest.as_ref().map_or(tag, Digest::to_string),
            digest,
        })
    }

    /// The manifest or index that the reference names, or another one of its repository that an index lists.
    pub async fn manifest(&self, listed: Option<&Blob>) -> Result<Vec<u8>, PullError> {
        let wanted = listed.map_or(self.wanted.as_str(), |blob| blob.digest.as_str());
        let digest = listed.map(|blob| &blob.digest).or(self.digest.as_ref());
        let size_bytes = listed.map(|blob| blob.size_bytes);
        let mut last = None;
        for source in self.sources.usable() {
            let mut backoff = Backoff::new(self.sources.limits());
            let result = loop {
                match self.manifest_from(source, wanted, digest, size_bytes).await {
                    Err(error) if error.is_transient() => match backoff.after(error).await {
                        Ok(()) => {}
                        Err(error) => break Err(error),
                    },
                    result => break result,
                }
            };
            match result {
                Ok(bytes) => return Ok(bytes),
                Err(error) => last = Some(self.sources.pass_over(source, error)),
            }
        }
        Err(last.unwrap_or_else(nothing_left))
    }

    async fn manifest_from(
        &self,
        source: &Source,
        wanted: &str,
        digest: Option<&Digest>,
        size_bytes: Option<u64>,
    ) -> Result<Vec<u8>, PullError> {
        let response = source
            .get(&format!("manifests/{wanted}"), MANIFEST_MEDIA_TYPES, 0)
            .await?;
        let named = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| Digest::parse(value.to_str().ok()?).ok());
        let max_bytes = size_bytes.map_or(MANIFEST_MAX_BYTES, |size| size.min(MANIFEST_MAX_BYTES));
        let bytes = source.document(response, "the manifest", max_bytes).await?;
        if size_bytes.is_some_and(|size| size != bytes.len() as u64) {
            let why = format!("it has {} bytes, which is not what the index says", bytes.len());
            return Err(PullError::invalid("manifest", why));
        }
        // What was asked for by a tag has no digest to hold it to but the registry's own.
        verify("the manifest", digest.or(named.as_ref()), &bytes)?;
        Ok(bytes)
    }

    /// Starts to fetch a blob, which errors call `what`.
    pub fn blob<'a>(&'a self, blob: &'a Blob, what: &str) -> BlobReader<'a> {
        BlobReader::new(&self.sources, blob, what)
    }

    /// A small blob as a whole.
    pub async fn small_blob(&self, blob: &Blob, what: &str) -> Result<Vec<u8>, PullError> {
        let mut reader = self.blob(blob, what);
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// How many places are left to ask.
    pub fn usable_source_count(&self) -> usize {
        self.sources.usable().count()
    }
}

/// Refuses content that is not what its digest says.
fn verify(what: &str, expected: Option<&Digest>, bytes: &[u8]) -> Result<(), PullError> {
    let Some(expected) = expected else { return Ok(()) };
    let actual = Digest::of(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(PullError::Digest {
        what: what.to_owned(),
        expected: expected.to_string(),
        actual: actual.to_string(),
    })
}
