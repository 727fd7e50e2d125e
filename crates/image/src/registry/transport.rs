//! Requests to one source of an image: https or http, redirects, and connection errors. The caller provides the
//! authorization.

use std::sync::Mutex;

use microkube_base::causes;
use microkube_base::lock::lock;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use reqwest::{Response, Url};
use rustls::CertificateError;

use super::answer::{self, BodyError, bare_cause};
use super::environment::Environment;
use super::error::RedirectError;
use super::limits::Limits;
use super::settings::Place;
use super::tls::Clients;
use crate::error::PullError;
use crate::reference::is_loopback;

/// Maximum number of redirects of one request.
const REDIRECTS_MAX: usize = 5;

/// The host of a registry or mirror, with the repository.
#[derive(Debug)]
pub(super) struct Transport {
    place: Place,
    /// Host of the API; Docker Hub's differs from its name.
    api_host: String,
    /// http is allowed: the host is this machine, or the settings say so.
    plain_allowed: bool,
    scheme: Mutex<Option<&'static str>>,
    clients: Clients,
    limits: Limits,
}

/// A GET request.
pub(super) struct Get<'a> {
    pub url: Url,
    pub authorization: Option<&'a HeaderValue>,
    pub accept: &'a [&'a str],
    /// The first byte requested of a blob.
    pub from_byte: u64,
}

impl Transport {
    pub fn new(place: Place, environment: &Environment) -> Result<Self, PullError> {
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
            limits: environment.limits.clone(),
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

    /// Sends one request to the repository, over https, or over http where that is allowed. Also returns whether the
    /// registry itself answered.
    pub async fn get(
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
            *lock(&self.scheme) = Some(scheme);
            Ok(response)
        };
        let known = *lock(&self.scheme);
        if let Some(scheme) = known {
            return get(scheme).await;
        }
        match get("https").await {
            // Nothing but the start of a TLS handshake has been sent yet.
            Err(PullError::NotTls { .. } | PullError::Unreachable { .. }) if self.plain_allowed => get("http").await,
            result => result,
        }
    }

    /// Reads a whole small answer.
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
                format!("it is longer than {max_bytes} bytes"),
            ),
            BodyError::TooSlow => cut("it timed out".into()),
            BodyError::Broken(error) => cut(bare_cause(&error)),
        })
    }

    /// The error that an answer reports.
    pub async fn error(&self, response: Response) -> PullError {
        answer::error(response, self.name(), self.limits.stall_timeout).await
    }

    /// The registry's URL, with the scheme that it is known to use.
    pub fn own_url(&self) -> Result<Url, PullError> {
        let known = *lock(&self.scheme);
        self.url(known.unwrap_or("https"), "")
    }

    fn url(&self, scheme: &str, path: &str) -> Result<Url, PullError> {
        let text = format!("{scheme}://{}/v2/{}/{path}", self.api_host, self.place.repository);
        Url::parse(&text).map_err(|error| PullError::invalid("registry name", error))
    }

    /// Sends a request and follows redirects, within limits: only a few, never from https to http, and with the
    /// authorization only for the original host. Also returns whether that host answered.
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
        Err(self.redirect_error(RedirectError::TooOften { max: REDIRECTS_MAX }))
    }

    /// Sends one request and waits for the answer's headers.
    pub async fn send(&self, request: reqwest::RequestBuilder, url: &Url) -> Result<Response, PullError> {
        let limit = self.limits.connect_timeout + self.limits.stall_timeout;
        match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.connection_error(&error, url)),
            Err(_) => Err(PullError::Cut {
                registry: host(url).unwrap_or_else(|| self.name().to_owned()),
                what: "its answer".into(),
                source: "it timed out".into(),
            }),
        }
    }

    /// The client for a URL. Only the registry itself gets the client certificate and may have its certificate check
    /// disabled.
    pub fn client(&self, url: &Url) -> &reqwest::Client {
        let own = ["https", "http"].iter().any(|scheme| {
            Url::parse(&format!("{scheme}://{}/", self.api_host)).is_ok_and(|own| own.origin() == url.origin())
        });
        if own { &self.clients.own } else { &self.clients.other }
    }

    fn redirected(&self, from: &Url, response: &Response) -> Result<Url, PullError> {
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let target = location.and_then(|location| from.join(location).ok());
        let target = target.ok_or_else(|| self.redirect_error(RedirectError::Nowhere))?;
        self.check(from, target).map_err(|why| self.redirect_error(why))
    }

    /// Checks that a URL named by `from` may be requested.
    pub fn check(&self, from: &Url, mut target: Url) -> Result<Url, RedirectError> {
        let host = host(&target).unwrap_or_default();
        match target.scheme() {
            "https" => {}
            "http" if from.scheme() == "https" => return Err(RedirectError::Downgrade { host }),
            "http" if self.place.insecure || is_loopback(&host) => {}
            "http" => return Err(RedirectError::PlainHttp { host }),
            _ => return Err(RedirectError::NotHttp),
        }
        // The user info before an @ would be sent as a password.
        let removed = target.set_username("").and_then(|()| target.set_password(None));
        removed.map_err(|()| RedirectError::Nowhere)?;
        Ok(target)
    }

    fn redirect_error(&self, why: RedirectError) -> PullError {
        PullError::Redirect {
            registry: self.name().to_owned(),
            why,
        }
    }

    fn connection_error(&self, error: &reqwest::Error, url: &Url) -> PullError {
        let registry = host(url).filter(|host| *host != self.api_host);
        let registry = registry.unwrap_or_else(|| self.name().to_owned());
        let why = |text: &str| answer::printable(text);
        match causes::find::<rustls::Error>(error) {
            Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))
                if !self.clients.has_authorities =>
            {
                PullError::NoAuthorities { registry }
            }
            Some(rustls::Error::InvalidCertificate(error)) => PullError::Certificate {
                registry,
                why: match error {
                    CertificateError::UnknownIssuer => "it is not signed by a CA that this host trusts".into(),
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
                source: bare_cause(error),
            },
            _ => PullError::Cut {
                registry,
                what: "its answer".into(),
                source: bare_cause(error),
            },
        }
    }
}

/// Host, and port if it is not the scheme's default.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}
