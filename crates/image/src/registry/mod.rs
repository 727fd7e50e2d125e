//! Fetches the documents and blobs of one image from its registry or the registry's mirrors.
//!
//! A registry is not trusted: everything kept in memory is bounded, a registry cannot delay a pull indefinitely,
//! content that does not match the request is refused, and credentials go only to their registry. The meaning of
//! documents and the storage of blobs do not belong here.

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

/// The registry and mirrors of one image.
#[derive(Debug)]
pub(super) struct Registry {
    sources: Sources,
    /// Tag or digest.
    wanted: String,
    digest: Option<Digest>,
}

impl Registry {
    /// Finds the sources of `reference`. Does not connect yet.
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

    /// Fetches the manifest or index that the reference names, or one that an index lists.
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
            let why = format!("it has {} bytes, which differs from the index", bytes.len());
            return Err(PullError::invalid("manifest", why));
        }
        // A document requested by tag can only be checked against the registry's own digest.
        verify("the manifest", digest.or(named.as_ref()), &bytes)?;
        Ok(bytes)
    }

    /// Starts fetching a blob. Errors call it `what`.
    pub fn blob<'a>(&'a self, blob: &'a Blob, what: &str) -> BlobReader<'a> {
        BlobReader::new(&self.sources, blob, what)
    }

    /// Fetches a whole small blob.
    pub async fn small_blob(&self, blob: &Blob, what: &str) -> Result<Vec<u8>, PullError> {
        let mut reader = self.blob(blob, what);
        let mut bytes = Vec::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Number of sources that have not failed.
    pub fn usable_source_count(&self) -> usize {
        self.sources.usable().count()
    }
}

/// Refuses content that does not match its digest.
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
