//! `httpGet`: one GET, as the kubelet makes it (`pkg/probe/http`).
//!
//! Nothing is reused from one probe to the next, proxies are not asked, certificates not checked: the question is whether this
//! container answers now.

use std::sync::{Once, OnceLock};
use std::time::Duration;

use k8s_openapi::api::core::v1::HTTPGetAction;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::Instant;

use super::outcome::{KUBERNETES_VERSION, OUTPUT_MAX_BYTES, Outcome, shown};
use super::target::join_host_port;
use super::{Target, go};

/// With more the probe ends as it is.
const REDIRECTS_MAX: usize = 10;

/// Makes the request, within the timeout. The error is why nothing is known.
pub(super) async fn probe(action: &HTTPGetAction, target: &Target<'_>, timeout: Duration) -> Result<Outcome, String> {
    let mut request = HttpProbe::new(action, target, "probe", Some(timeout))?;
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Ok(Outcome::Failure(error)),
    };
    let status = response.status();
    let body = read_body(response, request.deadline).await?;
    Ok(match status.as_u16() {
        200..300 => Outcome::Success,
        300..400 => Outcome::Warning(format!("Probe terminated redirects, Response body: {}", shown(&body))),
        code => Outcome::Failure(format!("HTTP probe failed with statuscode: {code}")),
    })
}

/// Calls a hook. Whatever is answered is success, as with the kubelet, and where the answer to HTTPS is HTTP, that is used: hooks'
/// `scheme` meant nothing for years, so there are manifests in which it is wrong.
pub(super) async fn call_hook(action: &HTTPGetAction, target: &Target<'_>) -> Result<(), String> {
    let Err(error) = HttpProbe::new(action, target, "lifecycle", None)?.send().await else {
        return Ok(());
    };
    if !error.ends_with(NO_TLS) {
        return Err(error);
    }
    let plain = HTTPGetAction {
        scheme: Some("HTTP".to_owned()),
        ..action.clone()
    };
    let mut request = HttpProbe::new(&plain, target, "lifecycle", None)?;
    // It was meant for an encrypted connection.
    request.headers.remove(AUTHORIZATION);
    request.send().await.map(drop)
}

/// Go's error for a server that answers without TLS.
const NO_TLS: &str = "http: server gave HTTP response to HTTPS client";

struct HttpProbe {
    client: &'static Client,
    /// As it is shown: with its port, even if that is the scheme's own.
    shown_url: String,
    url: Url,
    headers: HeaderMap,
    deadline: Option<Instant>,
}

impl HttpProbe {
    /// `purpose` is what the server is told: `kube-probe`, `kube-lifecycle`.
    fn new(
        action: &HTTPGetAction,
        target: &Target<'_>,
        purpose: &str,
        timeout: Option<Duration>,
    ) -> Result<Self, String> {
        let port = target.port(&action.port)?;
        let address = join_host_port(&target.host(action.host.as_deref()), port);
        let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
        let path = action.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let shown_url = format!("{scheme}://{address}{slash}{path}");
        let failed = |what: &str| format!("Get {}: {what}", go::quoted(&shown_url));
        let url = Url::parse(&shown_url).map_err(|error| failed(&error.to_string()))?;
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let named = HeaderName::from_bytes(header.name.as_bytes());
            let name = named.map_err(|_| {
                failed(&format!(
                    "net/http: invalid header field name {}",
                    go::quoted(&header.name)
                ))
            })?;
            let value = HeaderValue::from_bytes(header.value.as_bytes()).map_err(|_| {
                failed(&format!(
                    "net/http: invalid header field value for {}",
                    go::quoted(&header.name)
                ))
            })?;
            headers.append(name, value);
        }
        if !headers.contains_key(USER_AGENT) {
            let agent = format!("kube-{purpose}/{KUBERNETES_VERSION}");
            let agent = HeaderValue::from_str(&agent).map_err(|error| failed(&error.to_string()))?;
            headers.insert(USER_AGENT, agent);
        }
        if !headers.contains_key(ACCEPT) {
            headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        Ok(Self {
            client: client().map_err(|error| failed(&error))?,
            shown_url,
            url,
            headers,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        })
    }

    /// Sends the request, also to where it is redirected on the same host. All of it has one timeout.
    async fn send(&mut self) -> Result<Response, String> {
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
                let shown = go::quoted(&shown);
                return Err(self.failed(&format!("failed to parse Location header {shown}")));
            };
            if next.host_str() != host.as_deref() || followed >= REDIRECTS_MAX {
                return Ok(response);
            }
            if !matches!(next.scheme(), "http" | "https") {
                return Err(self.failed(&format!("unsupported protocol scheme {}", go::quoted(next.scheme()))));
            }
            if Url::parse(&shown).is_ok() {
                // The name that was asked for belongs to the first request, unless the redirect is relative.
                self.headers.remove(HOST);
            }
            self.shown_url = next.to_string();
            self.url = next;
            followed += 1;
        }
    }

    async fn send_once(&self) -> Result<Response, String> {
        let sent = self.client.get(self.url.clone()).headers(self.headers.clone()).send();
        let sent = match self.deadline {
            None => Ok(sent.await),
            Some(deadline) => tokio::time::timeout_at(deadline, sent).await,
        };
        match sent {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.failed(&self.reason(&error))),
            Err(_) => Err(self.failed("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")),
        }
    }

    fn failed(&self, what: &str) -> String {
        format!("Get {}: {what}", go::quoted(&self.shown_url))
    }

    /// What Go would say.
    fn reason(&self, error: &reqwest::Error) -> String {
        let below = go::io_error_below(error);
        let system = below.filter(|error| error.raw_os_error().is_some()).map(go::io_error);
        let address = || {
            let host = self.url.host_str().unwrap_or_default();
            join_host_port(host, self.url.port_or_known_default().unwrap_or_default())
        };
        match system {
            Some(system) if error.is_connect() => format!("dial tcp {}: connect: {system}", address()),
            Some(system) => format!("read tcp {}: read: {system}", address()),
            None => {
                let text = innermost(error);
                if text == "connection closed before message completed" {
                    "EOF".to_owned()
                } else if self.url.scheme() == "https" && text.contains("InvalidContentType") {
                    NO_TLS.to_owned()
                } else {
                    text
                }
            }
        }
    }
}

/// Where a response leads, if a client is to go there (`redirectBehavior` of Go's client).
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

/// The beginning of the body; the kubelet reads no more either, and closes the connection.
async fn read_body(mut response: Response, deadline: Option<Instant>) -> Result<Vec<u8>, String> {
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
            Ok(Err(error)) => {
                let text = go::io_error_below(&error).map_or_else(|| innermost(&error), go::io_error);
                return Err(format!("unexpected end of the response's body: {text}"));
            }
            Err(_) => {
                return Err(
                    "context deadline exceeded (Client.Timeout or context cancellation while reading body)".to_owned(),
                );
            }
        }
    }
    Ok(body)
}

fn innermost(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn client() -> Result<&'static Client, String> {
    static PROVIDER: Once = Once::new();
    static CLIENT: OnceLock<Result<Client, String>> = OnceLock::new();
    let client = CLIENT.get_or_init(|| {
        // Fails only where the process has installed one already, which is as good.
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
            .map_err(|error| innermost(&error))
    });
    client.as_ref().map_err(Clone::clone)
}
