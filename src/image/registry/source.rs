//! One place that an image is fetched from: https or http, redirects, and requests that authenticate when asked to.

use std::error::Error as StdError;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};
use rustls::CertificateError;

use super::super::credentials::PullSecret;
use super::super::error::PullError;
use super::super::reference::is_loopback;
use super::access::Access;
use super::answer::{self, BodyError, innermost};
use super::settings::Place;
use super::tls::Clients;
use super::{Environment, Limits, challenge};

/// How often one request may be sent elsewhere.
const REDIRECTS_MAX: usize = 5;
/// How often one request may be refused for want of (other) credentials.
const REFUSALS_MAX: usize = 24;

/// A registry, or a mirror of one, with the repository.
#[derive(Debug)]
pub(super) struct Source {
    place: Place,
    /// Where its API is: for Docker Hub not where its name says.
    api_host: String,
    /// http is fine: it is this machine, or the host's settings say so.
    plain_allowed: bool,
    scheme: Mutex<Option<&'static str>>,
    clients: Clients,
    access: tokio::sync::Mutex<Access>,
    limits: Limits,
    given_up: AtomicBool,
}

/// A request without body.
pub(super) struct Get<'a> {
    pub url: Url,
    pub authorization: Option<&'a HeaderValue>,
    pub accept: &'a [&'a str],
    /// From where on, of a blob.
    pub from_byte: u64,
}

impl Source {
    pub fn new(place: Place, environment: &Arc<Environment>, secrets: &[PullSecret]) -> Result<Self, PullError> {
        let api_host = match place.host.as_str() {
            "docker.io" | "index.docker.io" => "registry-1.docker.io".to_owned(),
            host => host.to_owned(),
        };
        let loopback = is_loopback(&api_host);
        let clients = Clients::new(
            &place.host,
            &api_host,
            place.insecure,
            loopback,
            &environment.certificates,
            &environment.limits,
        )?;
        Ok(Self {
            plain_allowed: place.insecure || loopback,
            scheme: Mutex::default(),
            clients,
            access: tokio::sync::Mutex::new(Access::new(Arc::clone(environment), secrets.to_vec())),
            limits: environment.limits.clone(),
            given_up: AtomicBool::new(false),
            api_host,
            place,
        })
    }

    /// Host (and port) as users know it.
    pub fn name(&self) -> &str {
        &self.place.host
    }

    pub fn repository(&self) -> &str {
        &self.place.repository
    }

    pub fn is_usable(&self) -> bool {
        !self.given_up.load(Ordering::Relaxed)
    }

    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Asks for something of the repository, `manifests/…` or `blobs/…`, and authenticates as far as it is asked to. The answer
    /// is a success, or says that there are no parts where `from_byte` asks for one.
    pub async fn get(&self, path: &str, accept: &[&str], from_byte: u64) -> Result<Response, PullError> {
        for _ in 0..REFUSALS_MAX {
            let authorization = self.access.lock().await.authorization();
            let (response, is_own) = self.get_once(path, accept, from_byte, authorization.as_ref()).await?;
            let status = response.status();
            if status.is_success() || (from_byte > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE) {
                self.access.lock().await.worked(authorization.as_ref());
                return Ok(response);
            }
            let refused = is_own && matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let challenge = challenge::of(response.headers());
            let error = self.error(response).await;
            if !refused {
                return Err(error);
            }
            let mut access = self.access.lock().await;
            if let Some(why) = access.next(self, challenge, authorization.as_ref()).await? {
                return Err(with_hint(error, why));
            }
        }
        Err(PullError::Denied {
            registry: self.name().to_owned(),
            detail: "it asks for credentials again and again".into(),
        })
    }

    /// Reads the whole of a small answer.
    pub async fn document(&self, response: Response, what: &str, max_bytes: u64) -> Result<Vec<u8>, PullError> {
        let cut = |source| PullError::Cut {
            registry: self.name().to_owned(),
            what: what.to_owned(),
            source,
        };
        let body = answer::body(response, max_bytes, self.limits.document_timeout).await;
        body.map_err(|error| match error {
            BodyError::TooLarge => PullError::invalid(
                what.trim_start_matches("the "),
                format!("it is longer than the {max_bytes} bytes that it may have"),
            ),
            BodyError::TooSlow => cut("it took too long".into()),
            BodyError::Broken(error) => cut(innermost(&error)),
        })
    }

    /// The error that an answer reports.
    pub async fn error(&self, response: Response) -> PullError {
        answer::error(response, self.name(), self.limits.stall_timeout).await
    }

    async fn get_once(
        &self,
        path: &str,
        accept: &[&str],
        from_byte: u64,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, bool), PullError> {
        let get = async |scheme: &'static str| {
            let get = Get {
                url: self.url(scheme, path)?,
                authorization,
                accept,
                from_byte,
            };
            let response = self.follow(get).await?;
            *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheme);
            Ok(response)
        };
        let known = *self.scheme.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scheme) = known {
            return get(scheme).await;
        }
        match get("https").await {
            // Nothing was sent yet but the start of a TLS handshake.
            Err(PullError::NotTls { .. } | PullError::Unreachable { .. }) if self.plain_allowed => get("http").await,
            result => result,
        }
    }

    /// Where the registry is, with the scheme that it is known to speak.
    pub fn own_url(&self) -> Result<Url, PullError> {
        let known = *self.scheme.lock().unwrap_or_else(PoisonError::into_inner);
        self.url(known.unwrap_or("https"), "")
    }

    fn url(&self, scheme: &str, path: &str) -> Result<Url, PullError> {
        let text = format!("{scheme}://{}/v2/{}/{path}", self.api_host, self.place.repository);
        Url::parse(&text).map_err(|error| PullError::invalid("registry name", error))
    }

    /// Sends a request, also to where it is redirected, within limits: not too often, not from https to http, and with its
    /// authorization only as long as it goes to where it went first. Tells whether the answer came from there.
    pub async fn follow(&self, get: Get<'_>) -> Result<(Response, bool), PullError> {
        let first = get.url.origin();
        let mut url = get.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let is_first = url.origin() == first;
            let mut request = self.client(&url).get(url.clone());
            if !get.accept.is_empty() {
                request = request.header(ACCEPT, get.accept.join(", "));
            }
            if get.from_byte > 0 {
                request = request.header(RANGE, format!("bytes={}-", get.from_byte));
            }
            if let (Some(authorization), true) = (get.authorization, is_first) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            let response = self.send(request, &url).await?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, is_first));
            }
            url = self.redirected(&url, &response)?;
        }
        Err(self.redirect_error(format!("more than {REDIRECTS_MAX} times")))
    }

    /// Sends one request and waits for the head of its answer.
    pub async fn send(&self, request: reqwest::RequestBuilder, url: &Url) -> Result<Response, PullError> {
        let limit = self.limits.connect_timeout + self.limits.stall_timeout;
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.connection_error(&error, url)),
            Err(_) => Err(PullError::Cut {
                registry: host(url).unwrap_or_else(|| self.name().to_owned()),
                what: "its answer".into(),
                source: "it took too long".into(),
            }),
        }
    }

    /// The client for an address: only the registry itself gets to see its client certificate and is trusted unchecked.
    pub fn client(&self, url: &Url) -> &reqwest::Client {
        let own = ["https", "http"].iter().any(|scheme| {
            Url::parse(&format!("{scheme}://{}/", self.api_host)).is_ok_and(|own| own.origin() == url.origin())
        });
        if own { &self.clients.own } else { &self.clients.other }
    }

    fn redirected(&self, from: &Url, response: &Response) -> Result<Url, PullError> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let target = location.and_then(|location| from.join(location).ok());
        let target = target.ok_or_else(|| self.redirect_error("to nowhere".into()))?;
        self.check(from, target).map_err(|why| self.redirect_error(why))
    }

    /// Makes sure that an address that `from` names may be asked.
    pub fn check(&self, from: &Url, mut target: Url) -> Result<Url, String> {
        let host = host(&target).unwrap_or_default();
        match target.scheme() {
            "https" => {}
            "http" if from.scheme() == "https" => return Err(format!("from https to http, to {host}")),
            "http" if self.place.insecure || is_loopback(&host) => {}
            "http" => return Err(format!("to {host}, where only http is spoken")),
            _ => return Err("to something that is not http".into()),
        }
        // What is in front of an @ would be sent as a password.
        let removed = target.set_username("").and_then(|()| target.set_password(None));
        removed.map_err(|()| "to nowhere".to_owned())?;
        Ok(target)
    }

    fn redirect_error(&self, why: String) -> PullError {
        PullError::Redirect {
            registry: self.name().to_owned(),
            why,
        }
    }

    fn connection_error(&self, error: &reqwest::Error, url: &Url) -> PullError {
        let registry = host(url).filter(|host| *host != self.api_host);
        let registry = registry.unwrap_or_else(|| self.name().to_owned());
        let why = |text: &str| answer::printable(text);
        match tls_error(error) {
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
                if !self.clients.has_authorities =>
            {
                PullError::NoAuthorities { registry }
            }
            Some(rustls::Error::InvalidCertificate(error)) => PullError::Certificate {
                registry,
                why: match error {
                    CertificateError::UnknownIssuer => "no authority that this host trusts has signed it".into(),
                    error => why(&error.to_string()),
                },
            },
            Some(rustls::Error::AlertReceived(alert)) => PullError::Denied {
                registry,
                detail: why(&format!("TLS alert {alert:?}")),
            },
            Some(error) if url.scheme() == "https" && !matches!(error, rustls::Error::PeerMisbehaved(_)) => {
                PullError::NotTls {
                    registry,
                    why: why(&error.to_string()),
                }
            }
            _ if error.is_connect() => PullError::Unreachable {
                registry,
                source: innermost(error),
            },
            _ => PullError::Cut {
                registry,
                what: "its answer".into(),
                source: innermost(error),
            },
        }
    }
}

/// Adds to a refusal what the user can do about it.
fn with_hint(error: PullError, hint: &str) -> PullError {
    match error {
        PullError::Denied { registry, detail } => PullError::Denied {
            registry,
            detail: format!("{detail}; {hint}"),
        },
        other => other,
    }
}

/// Host, and port where it is not the scheme's.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// The error of TLS in a chain; it hides inside errors of I/O.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
