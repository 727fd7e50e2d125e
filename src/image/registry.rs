//! Talking to a registry: one client for one image, with timeouts and a limit on what it may send. Errors of the client
//! become errors that name the registry and the remedy.

use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use oci_client::Client;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;

use super::error::{Cause, PullError};
use super::manifest::{Blob, MANIFEST_MAX_BYTES, MANIFEST_MEDIA_TYPES};
use super::reference::{Digest, ImageReference};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// What is kept of a registry's error message.
const DETAIL_MAX_CHARS: usize = 300;

/// A registry, to fetch one image from.
pub(super) struct Registry<'a> {
    client: Client,
    reference: &'a ImageReference,
}

impl<'a> Registry<'a> {
    /// A client for the registry of `reference`. Does not connect yet.
    pub fn new(reference: &'a ImageReference) -> Result<Self, PullError> {
        static PROVIDER: Once = Once::new();
        // Fails only where the process has installed one already, which is as good.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let registry = reference.registry().to_owned();
        let loopback = reference.is_loopback();
        let proxy = |names: [&str; 2]| {
            names
                .into_iter()
                .find_map(|name| std::env::var(name).ok())
                .filter(|value| !value.is_empty() && !loopback)
        };
        let config = ClientConfig {
            protocol: if loopback {
                ClientProtocol::HttpsExcept(vec![registry.clone()])
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("microkube/", env!("CARGO_PKG_VERSION")),
            https_proxy: proxy(["HTTPS_PROXY", "https_proxy"]),
            http_proxy: proxy(["HTTP_PROXY", "http_proxy"]),
            no_proxy: proxy(["NO_PROXY", "no_proxy"]),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).map_err(|error| PullError::Unreachable {
            registry,
            source: Box::new(error),
        })?;
        Ok(Self { client, reference })
    }

    /// The manifest or index that the reference names, or another one of its repository.
    pub async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes, PullError> {
        let reference = self.reference.client_reference();
        let reference = match digest {
            Some(digest) => reference.clone_with_digest(digest.to_string()),
            None => reference.clone(),
        };
        let pulled = self
            .client
            .pull_manifest_raw(&reference, &RegistryAuth::Anonymous, MANIFEST_MEDIA_TYPES)
            .await;
        let (bytes, _) = pulled.map_err(|error| self.explain(error, "the manifest"))?;
        if bytes.len() as u64 > MANIFEST_MAX_BYTES {
            return Err(PullError::invalid(
                "manifest",
                format!("{} bytes are too many", bytes.len()),
            ));
        }
        if let Some(expected) = digest.map(Digest::as_str).or(reference.digest()) {
            let actual = Digest::of(&bytes);
            if actual.as_str() != expected {
                let (expected, actual) = (expected.to_owned(), actual.to_string());
                return Err(PullError::Digest {
                    what: "the manifest".into(),
                    expected,
                    actual,
                });
            }
        }
        Ok(bytes)
    }

    /// Streams a blob. The stream ends without an error only after exactly the bytes that the blob's digest stands for.
    pub async fn blob(
        &self,
        blob: &Blob,
        what: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, PullError>> + Send + use<>, PullError> {
        let reference = self.reference.client_reference();
        let stream = self.client.pull_blob_stream(reference, blob.digest.as_str()).await;
        let stream = stream.map_err(|error| self.explain(error, what))?;
        let registry = self.reference.registry().to_owned();
        let (what, size, expected) = (what.to_owned(), blob.size_bytes, blob.digest.to_string());
        let mut received = 0u64;
        Ok(stream.map(move |chunk| {
            let chunk = chunk.map_err(|error| transfer_error(error, &registry, &what, &expected))?;
            received = received.saturating_add(chunk.len() as u64);
            if received > size {
                return Err(PullError::invalid(
                    what.clone(),
                    format!("it is longer than the {size} bytes announced"),
                ));
            }
            Ok(chunk)
        }))
    }

    /// A small blob as a whole.
    pub async fn small_blob(&self, blob: &Blob, what: &str) -> Result<Vec<u8>, PullError> {
        let mut stream = std::pin::pin!(self.blob(blob, what).await?);
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes)
    }

    fn explain(&self, error: OciDistributionError, what: &str) -> PullError {
        let registry = self.reference.registry().to_owned();
        let short = |text: &str| text.trim().chars().take(DETAIL_MAX_CHARS).collect::<String>();
        match error {
            OciDistributionError::UnauthorizedError { .. } => PullError::Denied {
                registry,
                detail: "401 Unauthorized".into(),
            },
            OciDistributionError::AuthenticationFailure(detail) => PullError::Denied {
                registry,
                detail: short(&detail),
            },
            OciDistributionError::ImageManifestNotFoundError(_) => PullError::NotFound { registry },
            OciDistributionError::ServerError { code: 404, .. } => PullError::NotFound { registry },
            OciDistributionError::ServerError { code: 403, message, .. } => PullError::Denied {
                registry,
                detail: short(&message),
            },
            OciDistributionError::ServerError { code, message, .. } => PullError::Registry {
                registry,
                detail: short(&format!("HTTP status {code} {message}")),
                transient: code == 429 || code >= 500,
            },
            OciDistributionError::RegistryError { envelope, .. } => {
                let has = |wanted: &[OciErrorCode]| envelope.errors.iter().any(|error| wanted.contains(&error.code));
                let messages: Vec<_> = envelope.errors.iter().map(|error| error.message.as_str()).collect();
                let detail = short(&messages.join("; "));
                use OciErrorCode::{Denied, ManifestUnknown, NameUnknown, NotFound, Toomanyrequests, Unauthorized};
                if has(&[Unauthorized, Denied]) {
                    PullError::Denied { registry, detail }
                } else if has(&[ManifestUnknown, NameUnknown, NotFound]) {
                    PullError::NotFound { registry }
                } else {
                    PullError::Registry {
                        registry,
                        detail,
                        transient: has(&[Toomanyrequests]),
                    }
                }
            }
            OciDistributionError::RequestError(error) if error.is_connect() => PullError::Unreachable {
                registry,
                source: Box::new(error),
            },
            OciDistributionError::RequestError(error) => PullError::Cut {
                registry,
                what: what.to_owned(),
                source: Box::new(error),
            },
            OciDistributionError::IoError(error) => PullError::Cut {
                registry,
                what: what.to_owned(),
                source: Box::new(error),
            },
            other => PullError::Registry {
                registry,
                detail: short(&other.to_string()),
                transient: false,
            },
        }
    }
}

/// Tells a wrong digest, which the client reports as an I/O error at the end of the stream, from a broken connection.
fn transfer_error(error: std::io::Error, registry: &str, what: &str, expected: &str) -> PullError {
    use oci_client::errors::DigestError;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<DigestError>());
    if let Some(DigestError::VerificationError { actual, .. }) = inner {
        return PullError::Digest {
            what: what.to_owned(),
            expected: expected.to_owned(),
            actual: actual.clone(),
        };
    }
    PullError::Cut {
        registry: registry.to_owned(),
        what: what.to_owned(),
        source: innermost(&error),
    }
}

/// The error at the end of the chain: the client's own errors above it only repeat the address in several ways.
fn innermost(error: &(dyn std::error::Error + 'static)) -> Cause {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string().into()
}
