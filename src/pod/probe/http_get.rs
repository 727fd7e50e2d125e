//! `httpGet`: one GET request, like the kubelet's (`pkg/probe/http`).
//!
//! Probes share no connections, use no proxies and verify no certificates: they only test whether this container
//! answers now.

use std::io;
use std::str::FromStr;
use std::sync::{Once, OnceLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::HTTPGetAction;
use microkube_base::causes::{self, innermost};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, LOCATION,
    USER_AGENT,
};
use reqwest::{Client, Response, StatusCode, Url};
use rustls::InvalidMessage;
use tokio::time::Instant;

use super::outcome::{KUBERNETES_VERSION, OUTPUT_MAX_BYTES, Outcome, shown};
use super::target::{PortError, join_host_port};
use super::{Target, go};

/// Maximum number of redirects. After them the probe's result is the last redirect response.
const REDIRECTS_MAX: usize = 10;

/// A GET request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpGetError {
    /// The port could not be resolved.
    #[error(transparent)]
    Port(#[from] PortError),
    /// There was no response.
    #[error("Get {}: {cause}", go::quoted(.url))]
    Request {
        /// The URL as shown in messages.
        url: String,
        /// Why.
        cause: RequestError,
    },
    /// The connection broke while the response body was read.
    #[error("unexpected end of the response's body: {}", broken_body(.0))]
    Body(reqwest::Error),
    /// The timeout passed while the response body was read.
    #[error("context deadline exceeded (Client.Timeout or context cancellation while reading body)")]
    BodyTimedOut,
}

/// Why there was no response, with the messages of Go's client.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The URL is not valid.
    #[error(transparent)]
    Url(<Url as FromStr>::Err),
    /// This is not a valid header name.
    #[error("net/http: invalid header field name {}", go::quoted(.0))]
    HeaderName(String),
    /// The header with this name has an invalid value.
    #[error("net/http: invalid header field value for {}", go::quoted(.0))]
    HeaderValue(String),
    /// The value of our own `User-Agent` is not valid.
    #[error(transparent)]
    UserAgent(InvalidHeaderValue),
    /// The client could not be created.
    #[error("{}", innermost(.0))]
    Client(&'static reqwest::Error),
    /// The server redirects to an invalid URL.
    #[error("failed to parse Location header {}", go::quoted(.0))]
    Location(String),
    /// The server redirects to a scheme that is neither HTTP nor HTTPS.
    #[error("unsupported protocol scheme {}", go::quoted(.0))]
    Scheme(String),
    #[error("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    TimedOut,
    #[error("dial tcp {address}: connect: {}", go::io_error(.error))]
    Connect {
        /// The address and port.
        address: String,
        error: io::Error,
    },
    /// The response could not be received.
    #[error("read tcp {address}: read: {}", go::io_error(.error))]
    Read {
        /// The address and port.
        address: String,
        error: io::Error,
    },
    /// The server closed the connection instead of answering.
    #[error("EOF")]
    Closed,
    /// The server does not speak TLS.
    #[error("http: server gave HTTP response to HTTPS client")]
    NoTls,
    /// Another error, with the text of this client.
    #[error("{}", innermost(.0))]
    Other(reqwest::Error),
}

/// Sends the request, within the timeout. Returns an error if the result says nothing about the container.
pub(super) async fn probe(
    action: &HTTPGetAction,
    target: &Target<'_>,
    timeout: Duration,
) -> Result<Outcome, HttpGetError> {
    let mut request = HttpProbe::new(action, target, "probe", Some(timeout))?;
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Ok(Outcome::Failure(error.to_string())),
    };
    let status = response.status();
    let body = read_body(response, request.deadline).await?;
    Ok(match status.as_u16() {
        200..300 => Outcome::Success,
        300..400 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", shown(&body))),
        code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    })
}

/// Sends a hook's request. As in the kubelet, any response is a success. If a server answers HTTPS with HTTP, the
/// request is repeated over HTTP: the `scheme` of hooks had no effect for years, so it is wrong in some manifests.
pub(super) async fn call_hook(action: &HTTPGetAction, target: &Target<'_>) -> Result<(), HttpGetError> {
    match HttpProbe::new(action, target, "lifecycle", None)?.send().await {
        Ok(_) => return Ok(()),
        Err(HttpGetError::Request {
            cause: RequestError::NoTls,
            ..
        }) => {}
        Err(error) => return Err(error),
    }
    let plain = HTTPGetAction {
        scheme: Some("HTTP".to_owned()),
        ..action.clone()
    };
    let mut request = HttpProbe::new(&plain, target, "lifecycle", None)?;
    // The header was meant for an encrypted connection.
    request.headers.remove(AUTHORIZATION);
    request.send().await.map(drop)
}

struct HttpProbe {
    client: &'static Client,
    /// The URL as shown in messages: with its port, even if that is the scheme's default.
    shown_url: String,
    url: Url,
    headers: HeaderMap,
    deadline: Option<Instant>,
}

impl HttpProbe {
    /// `purpose` becomes part of the `User-Agent`: `kube-probe`, `kube-lifecycle`.
    fn new(
        action: &HTTPGetAction,
        target: &Target<'_>,
        purpose: &str,
        timeout: Option<Duration>,
    ) -> Result<Self, HttpGetError> {
        let port = target.port(&action.port)?;
        let address = join_host_port(&target.host(action.host.as_deref()), port);
        let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
        let path = action.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let shown_url = format!("{scheme}://{address}{slash}{path}");
        let failed = |cause: RequestError| HttpGetError::Request {
            url: shown_url.clone(),
            cause,
        };
        let url = Url::parse(&shown_url).map_err(|error| failed(RequestError::Url(error)))?;
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let named = HeaderName::from_bytes(header.name.as_bytes());
            let name = named.map_err(|_| failed(RequestError::HeaderName(header.name.clone())))?;
            let value = HeaderValue::from_bytes(header.value.as_bytes());
            let value = value.map_err(|_| failed(RequestError::HeaderValue(header.name.clone())))?;
            headers.append(name, value);
        }
        if !headers.contains_key(USER_AGENT) {
            let agent = format!("kube-{purpose}/{KUBERNETES_VERSION}");
            let agent = HeaderValue::from_str(&agent).map_err(|error| failed(RequestError::UserAgent(error)))?;
            headers.insert(USER_AGENT, agent);
        }
        if !headers.contains_key(ACCEPT) {
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(Self {
            client: client().map_err(|error| failed(RequestError::Client(error)))?,
            shown_url,
            url,
            headers,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        })
    }

    /// Sends the request and follows redirects to the same host, all within one timeout.
    async fn send(&mut self) -> Result<Response, HttpGetError> {
        let host = self.url.host_str().map(str::to_owned);
        let mut followed = 0;
        loop {
            let response = self.send_once().await?;
            let Some(location) = redirection(&response) else {
                return Ok(response);
            };
            let shown = String::from_utf8_lossy(location.as_bytes()).into_owned();
            let next = location.to_str().ok().and_then(|to| self.url.join(to).ok());
            let Some(next) = next else {
                return Err(self.failed(RequestError::Location(shown)));
            };
            if next.host_str() != host.as_deref() || followed >= REDIRECTS_MAX {
                return Ok(response);
            }
            if !matches!(next.scheme(), "http" | "https") {
                return Err(self.failed(RequestError::Scheme(next.scheme().to_owned())));
            }
            if Url::parse(&shown).is_ok() {
                // A `Host` header applies to the first request and to relative redirects.
                self.headers.remove(HOST);
            }
            self.shown_url = next.to_string();
            self.url = next;
            followed += 1;
        }
    }

    async fn send_once(&self) -> Result<Response, HttpGetError> {
        let sent = self.client.get(self.url.clone()).headers(self.headers.clone()).send();
        let sent = match self.deadline {
            None => Ok(sent.await),
            Some(deadline) => tokio::time::timeout_at(deadline, sent).await,
        };
        match sent {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.failed(self.cause(error))),
            Err(_) => Err(self.failed(RequestError::TimedOut)),
        }
    }

    fn failed(&self, cause: RequestError) -> HttpGetError {
        HttpGetError::Request {
            url: self.shown_url.clone(),
            cause,
        }
    }

    /// Converts an error of this client to that of Go's client.
    fn cause(&self, error: reqwest::Error) -> RequestError {
        let code = go::io_error_below(&error).and_then(io::Error::raw_os_error);
        if let Some(code) = code {
            let host = self.url.host_str().unwrap_or_default();
            let address = join_host_port(host, self.url.port_or_known_default().unwrap_or_default());
            let system = io::Error::from_raw_os_error(code);
            return if error.is_connect() {
                RequestError::Connect { address, error: system }
            } else {
                RequestError::Read { address, error: system }
            };
        }
        // Nested in another hyper error if the server closed the connection before the request was sent.
        let closed = |error: &(dyn std::error::Error + 'static)| {
            error.downcast_ref().is_some_and(hyper::Error::is_incomplete_message)
        };
        if causes::layers(&error).any(closed) {
            return RequestError::Closed;
        }
        match causes::find::<rustls::Error>(&error) {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) if self.url.scheme() == "https" => {
                RequestError::NoTls
            }
            _ => RequestError::Other(error),
        }
    }
}

/// Where a response redirects to, if Go's client would follow it (`redirectBehavior`).
fn redirection(response: &Response) -> Option<&HeaderValue> {
    let follows = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    response.headers().get(LOCATION).filter(|_| follows)
}

/// Reads the beginning of the body. Like the kubelet, it reads no more and closes the connection.
async fn read_body(mut response: Response, deadline: Option<Instant>) -> Result<Vec<u8>, HttpGetError> {
    let mut body = Vec::new();
    while body.len() < OUTPUT_MAX_BYTES {
        let chunk = match deadline {
            None => Ok(response.chunk().await),
            Some(deadline) => tokio::time::timeout_at(deadline, response.chunk()).await,
        };
        match chunk {
            Ok(Ok(Some(chunk))) => {
                let end = chunk.len().min(OUTPUT_MAX_BYTES - body.len());
                body.extend_from_slice(&chunk[..end]);
            }
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(HttpGetError::Body(error)),
            Err(_) => return Err(HttpGetError::BodyTimedOut),
        }
    }
    Ok(body)
}

fn broken_body(error: &reqwest::Error) -> String {
    go::io_error_below(error).map_or_else(|| innermost(error).to_string(), go::io_error)
}

fn client() -> Result<&'static Client, &'static reqwest::Error> {
    static PROVIDER: Once = Once::new();
    static CLIENT: OnceLock<Result<Client, reqwest::Error>> = OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        // Fails only if the process already has a default provider, which is fine, too.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        Client::builder()
            .no_proxy()
            .http1_only()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .tls_certs_only([])
            .tls_danger_accept_invalid_certs(true)
            .build()
    });
    client.as_ref()
}
