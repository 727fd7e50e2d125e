//! HTTP clients for one registry: trusted authorities, client certificates, timeouts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Once, OnceLock};

use reqwest::{Certificate, Client, ClientBuilder, Identity};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::bounded_file;
use super::error::ConfigurationError;
use super::limits::Limits;
use crate::error::PullError;

/// Maximum size of a certificate or key file, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Where certificates are found.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    /// Directories with a subdirectory for each registry, named HOST or HOST:PORT.
    pub directories: Vec<PathBuf>,
    /// The authorities that this host trusts.
    pub authorities: Arc<Vec<CertificateDer<'static>>>,
}

impl Certificates {
    /// The locations used by podman and related tools, by Docker, and the host's CA bundle.
    pub fn of_process() -> Self {
        static AUTHORITIES: OnceLock<Arc<Vec<CertificateDer<'static>>>> = OnceLock::new();
        let authorities = AUTHORITIES.get_or_init(|| {
            let loaded = rustls_native_certs::load_native_certs();
            for error in loaded.errors {
                tracing::debug!(%error, "cannot read a CA certificate");
            }
            // A certificate that the TLS library cannot parse must not make the others unusable.
            Arc::new(loaded.certs.into_iter().filter(is_usable).collect())
        });
        let users = std::env::home_dir().map(|home| home.join(".config/containers/certs.d"));
        let directories = [
            users,
            Some("/etc/containers/certs.d".into()),
            Some("/etc/docker/certs.d".into()),
        ];
        Self {
            directories: directories.into_iter().flatten().collect(),
            authorities: Arc::clone(authorities),
        }
    }
}

fn is_usable(certificate: &CertificateDer<'static>) -> bool {
    rustls::RootCertStore::empty().add(certificate.clone()).is_ok()
}

#[derive(Debug)]
pub(super) struct Clients {
    /// For the registry itself: with its client certificate, and without checks if it is insecure.
    pub own: Client,
    /// For redirect targets: trusts the same authorities, but sends no client certificate.
    pub other: Client,
    /// Whether there is an authority to check certificates against.
    pub has_authorities: bool,
}

impl Clients {
    /// The clients for the registry `host`, which may also be called `alias`.
    pub fn new(
        host: &str,
        alias: &str,
        insecure: bool,
        direct: bool,
        certificates: &Certificates,
        limits: &Limits,
    ) -> Result<Self, PullError> {
        static PROVIDER: Once = Once::new();
        // Fails only if the process has already installed a provider, which is fine.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let mut authorities = Vec::new();
        for der in certificates.authorities.iter() {
            authorities.extend(Certificate::from_der(der));
        }
        let mut identity = None;
        let mut names = vec![host, alias];
        names.dedup();
        for directory in &certificates.directories {
            for name in &names {
                let found = read_directory(&directory.join(name))?;
                authorities.extend(found.authorities);
                identity = identity.or(found.identity);
            }
        }
        let has_authorities = !authorities.is_empty();
        let build = |builder: ClientBuilder| {
            builder.build().map_err(|error| PullError::Unreachable {
                registry: host.to_owned(),
                source: Box::new(error),
            })
        };
        let base = || {
            let builder = Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .connect_timeout(limits.connect_timeout)
                .user_agent(concat!("microkube/", env!("CARGO_PKG_VERSION")))
                .tls_certs_only(authorities.clone());
            if direct { builder.no_proxy() } else { builder }
        };
        let other = build(base())?;
        let mut own = base();
        if let Some(identity) = identity {
            own = own.identity(identity);
        }
        if insecure {
            own = own.tls_danger_accept_invalid_certs(true);
        }
        Ok(Self {
            own: build(own)?,
            other,
            has_authorities,
        })
    }
}

#[derive(Default)]
struct Found {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
}

/// Reads a registry's directory: `*.crt` are authorities, `NAME.cert` and `NAME.key` a client certificate.
fn read_directory(directory: &Path) -> Result<Found, PullError> {
    let mut found = Found::default();
    let failed = |path: &Path, why: ConfigurationError| PullError::Configuration {
        path: path.to_path_buf(),
        why,
    };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(directory, ConfigurationError::Read(error))),
    };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let read = |path: &Path| {
            bounded_file::read(path, FILE_MAX_BYTES).map_err(|error| failed(path, ConfigurationError::Read(error)))
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                let pem = read(&path)?;
                let before = found.authorities.len();
                for der in CertificateDer::pem_slice_iter(&pem) {
                    let usable = der
                        .ok()
                        .filter(is_usable)
                        .and_then(|der| Certificate::from_der(&der).ok());
                    let why = || failed(&path, ConfigurationError::NotACertificate);
                    found.authorities.push(usable.ok_or_else(why)?);
                }
                if found.authorities.len() == before {
                    return Err(failed(&path, ConfigurationError::NoCertificate));
                }
            }
            Some("cert") if found.identity.is_none() => {
                let key = path.with_extension("key");
                let pem = [read(&path)?, b"\n".to_vec(), read(&key)?].concat();
                let identity = Identity::from_pem(&pem);
                let identity = identity.map_err(|_| failed(&path, ConfigurationError::Identity { key }))?;
                found.identity = Some(identity);
            }
            _ => {}
        }
    }
    Ok(found)
}
