//! Fetches a blob: broken connections are resumed where they ended, and the content is checked against its size and
//! digest.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::answer;
use super::retry::Backoff;
use super::source::Source;
use super::sources::{Sources, nothing_left};
use crate::error::PullError;
use crate::manifest::Blob;
use crate::reference::Digest;

/// Minimum amount that must arrive within the stall timeout, and between two failures for the backoff to reset.
const PROGRESS_MIN_BYTES: u64 = 16 << 10;
/// Maximum number of resumptions of one blob, however much arrives in between.
const RESUMES_MAX: u32 = 100;

/// Fetches one blob. It ends without an error only after exactly the bytes that match the blob's digest.
#[derive(Debug)]
pub(crate) struct BlobReader<'a> {
    sources: &'a Sources,
    blob: &'a Blob,
    what: String,
    hash: Sha256,
    received_bytes: u64,
    answer: Option<Answer<'a>>,
    /// Whether to request only the missing part.
    ranges: bool,
    backoff: Backoff,
    resumes: u32,
    since_failure_bytes: u64,
}

#[derive(Debug)]
struct Answer<'a> {
    source: &'a Source,
    response: Response,
    /// Bytes that are sent again because the server cannot send only the missing part.
    skip_bytes: u64,
    patience: Patience,
}

impl<'a> BlobReader<'a> {
    pub(super) fn new(sources: &'a Sources, blob: &'a Blob, what: &str) -> Self {
        Self {
            sources,
            blob,
            what: what.to_owned(),
            hash: Sha256::new(),
            received_bytes: 0,
            answer: None,
            ranges: true,
            backoff: Backoff::new(sources.limits()),
            resumes: 0,
            since_failure_bytes: 0,
        }
    }

    /// Bytes that are still missing.
    pub fn remaining_bytes(&self) -> u64 {
        self.blob.size_bytes.saturating_sub(self.received_bytes)
    }

    /// The next bytes, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PullError> {
        loop {
            if self.remaining_bytes() == 0 {
                return self.end().map(|()| None);
            }
            let error = match self.step().await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => continue,
                Err(error) => error,
            };
            self.answer = None;
            // A registry that was reachable a moment ago may come back.
            let was_there = self.received_bytes > 0 && matches!(error, PullError::Unreachable { .. });
            self.resumes += 1;
            if !(error.is_transient() || was_there) || self.resumes > RESUMES_MAX {
                return Err(error);
            }
            if self.since_failure_bytes >= PROGRESS_MIN_BYTES {
                self.backoff.reset();
            }
            self.since_failure_bytes = 0;
            self.backoff.after(error).await?;
        }
    }

    /// Connects or receives data; `None` if there is nothing new yet.
    async fn step(&mut self) -> Result<Option<Bytes>, PullError> {
        let Some(answer) = &mut self.answer else {
            self.answer = Some(self.connect().await?);
            return Ok(None);
        };
        let registry = || answer.source.name().to_owned();
        let cut = |source: crate::error::Cause| PullError::Cut {
            registry: registry(),
            what: self.what.clone(),
            source,
        };
        let chunk = match answer.patience.chunk(&mut answer.response).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err(cut("it ended too early".into())),
            Ok(Err(error)) => return Err(cut(answer::bare_cause(&error))),
            Err(Stalled) => return Err(cut("it stalled".into())),
        };
        let skipped = answer.skip_bytes.min(chunk.len() as u64);
        answer.skip_bytes -= skipped;
        let new = chunk.slice(usize::try_from(skipped).unwrap_or(chunk.len()).min(chunk.len())..);
        let length = new.len() as u64;
        if length > self.blob.size_bytes.saturating_sub(self.received_bytes) {
            let source = answer.source;
            let why = format!("it is longer than the announced {} bytes", self.blob.size_bytes);
            return Err(self.sources.pass_over(source, PullError::invalid(&self.what, why)));
        }
        self.hash.update(&new);
        self.received_bytes += length;
        self.since_failure_bytes += length;
        Ok((length > 0).then_some(new))
    }

    async fn connect(&mut self) -> Result<Answer<'a>, PullError> {
        let sources = self.sources;
        let mut last = None;
        for source in sources.usable() {
            match self.connect_to(source).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_transient() && sources.is_last(source) => return Err(error),
                Err(error) => last = Some(sources.pass_over(source, error)),
            }
        }
        Err(last.unwrap_or_else(nothing_left))
    }

    async fn connect_to(&mut self, source: &'a Source) -> Result<Answer<'a>, PullError> {
        let path = format!("blobs/{}", self.blob.digest);
        let size_bytes = self.blob.size_bytes;
        let wrong = |why: String| PullError::invalid(&self.what, why);
        let mut response = None;
        if self.ranges && self.received_bytes > 0 {
            let partial = source.get(&path, &[], self.received_bytes).await?;
            match partial.status() {
                StatusCode::PARTIAL_CONTENT => {
                    let range = partial
                        .headers()
                        .get(CONTENT_RANGE)
                        .and_then(|value| value.to_str().ok());
                    if range.and_then(parse_content_range) != Some((self.received_bytes, size_bytes)) {
                        return Err(wrong("the registry sent a different range than requested".into()));
                    }
                    return Ok(Answer {
                        source,
                        response: partial,
                        skip_bytes: 0,
                        patience: Patience::new(self.sources.limits().stall_timeout),
                    });
                }
                StatusCode::OK => response = Some(partial),
                // The server does not support range requests.
                _ => self.ranges = false,
            }
        }
        let response = match response {
            Some(response) => response,
            None => source.get(&path, &[], 0).await?,
        };
        match response.content_length() {
            Some(length) if length != size_bytes => Err(PullError::invalid(
                &self.what,
                format!("the registry has {length} bytes, the manifest says {size_bytes}"),
            )),
            _ => Ok(Answer {
                source,
                response,
                skip_bytes: self.received_bytes,
                patience: Patience::new(self.sources.limits().stall_timeout),
            }),
        }
    }

    /// Everything has arrived: checks the digest.
    fn end(&mut self) -> Result<(), PullError> {
        let actual = Digest::from_hash(self.hash.clone());
        if actual == self.blob.digest {
            return Ok(());
        }
        let error = PullError::Digest {
            what: self.what.clone(),
            expected: self.blob.digest.to_string(),
            actual: actual.to_string(),
        };
        match self.answer.take() {
            Some(answer) => Err(self.sources.pass_over(answer.source, error)),
            None => Err(error),
        }
    }
}

/// Start and total length of `bytes START-END/LENGTH`.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, length.parse().ok()?))
}

/// Limits how long a server may send too slowly. Time that the receiver takes does not count.
#[derive(Debug)]
struct Patience {
    stall_timeout: Duration,
    left: Duration,
    received_bytes: u64,
}

struct Stalled;

impl Patience {
    fn new(stall_timeout: Duration) -> Self {
        Self {
            stall_timeout,
            left: stall_timeout,
            received_bytes: 0,
        }
    }

    async fn chunk(&mut self, response: &mut Response) -> Result<reqwest::Result<Option<Bytes>>, Stalled> {
        let start = Instant::now();
        let chunk = tokio::time::timeout(self.left, response.chunk())
            .await
            .map_err(|_| Stalled)?;
        self.left = self.left.saturating_sub(start.elapsed());
        if let Ok(Some(chunk)) = &chunk {
            self.received_bytes += chunk.len() as u64;
            if self.received_bytes >= PROGRESS_MIN_BYTES {
                *self = Self::new(self.stall_timeout);
            }
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn content_range_gives_the_start_and_the_total_length() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 10)));
        for text in [
            "bytes */10",
            "bytes 5-9/*",
            "5-9/10",
            "bytes -1-9/10",
            "bytes 99999999999999999999-1/2",
            "",
        ] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }
}
