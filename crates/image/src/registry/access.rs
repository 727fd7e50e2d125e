//! Authentication at a registry: which credential to try next, and the header that carries it.

use std::sync::Arc;

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::challenge::{Challenge, TokenServer};
use super::environment::Environment;
use super::token::{self, TokenRequest};
use super::transport::{Get, Transport};
use crate::credentials::{Credential, PullSecret};
use crate::error::PullError;

const NO_CREDENTIALS: &str = "log in with `podman login` or `docker login`, or give the Pod imagePullSecrets";
const REFUSED: &str = "it rejected the credentials";

/// The state of authentication at a registry.
#[derive(Debug)]
pub(super) struct Access {
    environment: Arc<Environment>,
    secrets: Vec<PullSecret>,
    /// Looked up when the registry first asks.
    candidates: Option<Vec<Credential>>,
    /// The one being tried.
    candidate: usize,
    challenge: Option<Challenge>,
    authorization: Option<HeaderValue>,
    /// Whether the current authorization was accepted at least once.
    worked: bool,
}

impl Access {
    pub fn new(environment: Arc<Environment>, secrets: Vec<PullSecret>) -> Self {
        Self {
            environment,
            secrets,
            candidates: None,
            candidate: 0,
            challenge: None,
            authorization: None,
            worked: false,
        }
    }

    /// The authorization header for requests.
    pub fn authorization(&self) -> Option<HeaderValue> {
        self.authorization.clone()
    }

    /// A request with this authorization succeeded.
    pub fn note_accepted(&mut self, authorization: Option<&HeaderValue>) {
        self.worked |= self.authorization.as_ref() == authorization;
    }

    /// A request with this authorization was refused: selects the next one to try. If there is none, the error contains
    /// the remedy.
    pub async fn next(
        &mut self,
        transport: &Transport,
        challenge: Option<Challenge>,
        used: Option<&HeaderValue>,
    ) -> Result<Option<&'static str>, PullError> {
        if self.authorization.as_ref() != used {
            // Another request has found one in the meantime.
            return Ok(None);
        }
        let Some(challenge) = challenge.or(self.challenge.take()) else {
            return Ok(Some("and it does not say how to authenticate"));
        };
        if used.is_some() && !std::mem::take(&mut self.worked) {
            self.candidate += 1;
        }
        let candidates = match &self.candidates {
            Some(known) => known.clone(),
            None => {
                let environment = Arc::clone(&self.environment);
                let find = environment
                    .credentials
                    .find(&self.secrets, transport.name(), transport.repository());
                self.candidates.insert(find.await?).clone()
            }
        };
        let found = if candidates.is_empty() && self.candidate == 0 {
            self.present(transport, &challenge, None).await?
        } else {
            loop {
                let Some(credential) = candidates.get(self.candidate) else {
                    break None;
                };
                match self.present(transport, &challenge, Some(credential)).await? {
                    Some(authorization) => break Some(authorization),
                    None => self.candidate += 1,
                }
            }
        };
        self.challenge = Some(challenge);
        if found.is_none() {
            return Ok(Some(if candidates.is_empty() { NO_CREDENTIALS } else { REFUSED }));
        }
        self.authorization = found;
        Ok(None)
    }

    /// The header for a credential; `None` if it is unusable here.
    async fn present(
        &self,
        transport: &Transport,
        challenge: &Challenge,
        credential: Option<&Credential>,
    ) -> Result<Option<HeaderValue>, PullError> {
        match (challenge, credential) {
            (Challenge::Basic, credential) => Ok(credential.and_then(token::basic)),
            (Challenge::Bearer(_), Some(Credential::RegistryToken(token))) => Ok(token::bearer(token)),
            (Challenge::Bearer(server), credential) => match fetch(transport, server, credential).await {
                Err(PullError::Denied { .. }) => Ok(None),
                result => result.map(Some),
            },
        }
    }
}

/// Asks a token server for a token. It is usually a different host, and gets the credentials because the registry names
/// it: they are meant for that registry.
async fn fetch(
    transport: &Transport,
    server: &TokenServer,
    credential: Option<&Credential>,
) -> Result<HeaderValue, PullError> {
    let invalid = |why: String| PullError::invalid("token server", why);
    let realm = Url::parse(&server.realm).map_err(|error| invalid(error.to_string()))?;
    let realm = transport
        .check(&transport.own_url()?, realm)
        .map_err(|why| invalid(format!("it redirects {why}")))?;
    let response = match token::request(server, realm, transport.repository(), credential) {
        TokenRequest::Get { url, authorization } => {
            let get = Get {
                url,
                authorization: authorization.as_ref(),
                accept: &[],
                from_byte: 0,
            };
            transport.follow(get).await?.0
        }
        // Redirects are not followed, because the body contains the secret.
        TokenRequest::Post { url, form } => {
            let request = transport.client(&url).post(url.clone()).form(&form);
            transport.send(request, &url).await?
        }
    };
    if !response.status().is_success() {
        return Err(transport.error(response).await);
    }
    token::parse(
        &transport
            .document(response, "the token", token::ANSWER_MAX_BYTES)
            .await?,
    )
}
