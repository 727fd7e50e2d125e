//! Fetching from registries: the documents and blobs of one image, from its registry's mirrors or the registry itself.
//!
//! A registry is not trusted: nothing it sends is kept in memory beyond a bound, it cannot keep a pull waiting for ever, what
//! it sends is what was asked for or it is refused, and credentials go to it alone. What the documents mean and where blobs
//! end up does not belong here.

mod access;
mod answer;
mod blob;
mod challenge;
#[cfg(fuzzing)]
pub mod fuzzing;
mod retry;
mod settings;
mod source;
#[cfg(test)]
pub(super) mod test_server;
#[cfg(test)]
pub(super) mod tests;
mod tls;
mod token;

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub(super) use blob::BlobReader;
pub(super) use settings::Settings;
pub(super) use tls::Certificates;

use super::credentials::{CredentialFiles, PullSecret};
use super::error::PullError;
use super::manifest::{Blob, MANIFEST_MAX_BYTES, MANIFEST_MEDIA_TYPES};
use super::reference::{Digest, ImageReference};
use retry::Backoff;
use source::Source;

/// How long and how often things are tried.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// For TCP and TLS together.
    pub connect_timeout: Duration,
    /// How long a registry may send next to nothing.
    pub stall_timeout: Duration,
    /// How long a whole small document may take.
    pub document_timeout: Duration,
    /// How often something is tried that fails for a reason that may pass.
    pub attempts: u32,
    /// The first wait between two attempts; each next one is twice as long, up to the longest.
    pub first_wait: Duration,
    pub longest_wait: Duration,
    /// The longest wait that a registry may ask for. Longer ones are the caller's (the kubelet's image back-off).
    pub longest_retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            document_timeout: Duration::from_secs(60),
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(8),
            longest_retry_after: Duration::from_secs(60),
        }
    }
}

/// All of this host that pulls depend on.
#[derive(Debug)]
pub(super) struct Environment {
    pub settings: Settings,
    pub certificates: Certificates,
    pub credentials: CredentialFiles,
    pub limits: Limits,
}

impl Environment {
    /// As this process finds it.
    pub fn of_process() -> Result<Self, PullError> {
        Ok(Self {
            settings: Settings::of_process()?,
            certificates: Certificates::of_process(),
            credentials: CredentialFiles::of_process(),
            limits: Limits::default(),
        })
    }
}

/// Where one image is fetched from.
#[derive(Debug)]
pub(super) struct Registry {
    /// Mirrors, then the registry itself; never empty.
    sources: Vec<Source>,
    /// Tag or digest.
    wanted: String,
    digest: Option<Digest>,
    limits: Limits,
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
        let mut sources = Vec::new();
        for place in environment.settings.places(reference)? {
            sources.push(Source::new(place, environment, secrets)?);
        }
        Ok(Self {
            sources,
            wanted: digest.as_ref().map_or(tag, Digest::to_string),
            digest,
            limits: environment.limits.clone(),
        })
    }

    /// The manifest or index that the reference names, or another one of its repository that an index lists.
    pub async fn manifest(&self, listed: Option<&Blob>) -> Result<Vec<u8>, PullError> {
        let wanted = listed.map_or(self.wanted.as_str(), |blob| blob.digest.as_str());
        let digest = listed.map(|blob| &blob.digest).or(self.digest.as_ref());
        let size_bytes = listed.map(|blob| blob.size_bytes);
        let mut last = None;
        for source in self.usable_sources() {
            let mut backoff = Backoff::new(&self.limits);
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
                Err(error) => last = Some(self.pass_over(source, error)),
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
        BlobReader::new(self, blob, what)
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
        self.usable_sources().count()
    }

    fn usable_sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| source.is_usable())
    }

    /// Notes that a source failed: a mirror is not asked again in this pull.
    fn pass_over(&self, source: &Source, error: PullError) -> PullError {
        if !self.is_last(source) {
            tracing::warn!(mirror = source.name(), error = %innermost_of(&error), "a mirror failed, going on with the next");
            source.give_up();
        }
        error
    }

    fn is_last(&self, source: &Source) -> bool {
        self.sources.last().is_some_and(|last| std::ptr::eq(last, source))
    }
}

fn nothing_left() -> PullError {
    PullError::invalid("registry", "no mirror and no registry is left to ask")
}

/// An error with its causes on one line, for the log.
fn innermost_of(error: &PullError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
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

/// Reads a file of the host's configuration, which must not be larger than that.
fn read_bounded(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large"));
    }
    Ok(bytes)
}
