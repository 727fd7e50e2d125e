//! One source of an image, with requests that authenticate when asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::{Response, StatusCode};

use super::access::Access;
use super::challenge;
use super::environment::Environment;
use super::settings::Place;
use super::transport::Transport;
use crate::credentials::PullSecret;
use crate::error::PullError;

/// How many times one request may be refused for missing or wrong credentials.
const REFUSALS_MAX: usize = 24;

/// A registry, or a mirror of one, with the repository.
#[derive(Debug)]
pub(super) struct Source {
    transport: Transport,
    access: tokio::sync::Mutex<Access>,
    given_up: AtomicBool,
}

impl Source {
    pub fn new(place: Place, environment: &Arc<Environment>, secrets: &[PullSecret]) -> Result<Self, PullError> {
        Ok(Self {
            transport: Transport::new(place, environment)?,
            access: tokio::sync::Mutex::new(Access::new(Arc::clone(environment), secrets.to_vec())),
            given_up: AtomicBool::new(false),
        })
    }

    /// Host (and port) as users know it.
    pub fn name(&self) -> &str {
        self.transport.name()
    }

    pub fn is_usable(&self) -> bool {
        !self.given_up.load(Ordering::Relaxed)
    }

    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Requests something from the repository, `manifests/…` or `blobs/…`, and authenticates if asked to. The answer is
    /// a success, or reports that the server cannot send the part from `from_byte`.
    pub async fn get(&self, path: &str, accept: &[&str], from_byte: u64) -> Result<Response, PullError> {
        for _ in 0..REFUSALS_MAX {
            let authorization = self.access.lock().await.authorization();
            let asked = self.transport.get(path, accept, from_byte, authorization.as_ref());
            let (response, is_own) = asked.await?;
            let status = response.status();
            if status.is_success() || (from_byte > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE) {
                self.access.lock().await.note_accepted(authorization.as_ref());
                return Ok(response);
            }
            let refused = is_own && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let challenge = challenge::of(response.headers());
            let error = self.transport.error(response).await;
            if !refused {
                return Err(error);
            }
            let mut access = self.access.lock().await;
            if let Some(why) = access.next(&self.transport, challenge, authorization.as_ref()).await? {
                return Err(with_hint(error, why));
            }
        }
        Err(PullError::Denied {
            registry: self.name().to_owned(),
            detail: "it keeps asking for credentials".into(),
        })
    }

    /// Reads a whole small answer.
    pub async fn document(&self, response: Response, what: &str, max_bytes: u64) -> Result<Vec<u8>, PullError> {
        self.transport.document(response, what, max_bytes).await
    }
}

/// Adds a hint for the user to a refusal.
fn with_hint(error: PullError, hint: &str) -> PullError {
    match error {
        PullError::Denied { registry, detail } => PullError::Denied {
            registry,
            detail: format!("{detail}; {hint}"),
        },
        other => other,
    }
}
