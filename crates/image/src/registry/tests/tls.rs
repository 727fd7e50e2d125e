//! Which certificates are accepted, and the effect of missing ones.

use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;

use super::*;
use crate::registry::test_server::Identity;

/// A certificate authority for tests.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, and its key in PEM.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    fn identity(&self, name: &str) -> Identity {
        let (certificate, key) = self.issue(name);
        Identity {
            certificates: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            clients: None,
        }
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

/// A host with these files for a registry.
fn host_with(directory: &Path, registry: &str, files: &[(&str, String)]) -> Environment {
    let mut environment = environment();
    let own = directory.join(registry);
    std::fs::create_dir_all(&own).unwrap();
    for (name, content) in files {
        std::fs::write(own.join(name), content).unwrap();
    }
    environment.certificates.directories = vec![directory.to_path_buf()];
    environment
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn registry_at(environment: Environment, server: &TestServer) -> Registry {
    registry_in(environment, &format!("{}/team/app:v1", server.address), &[])
}

fn ok(_: &Request) -> Reply {
    Reply::new(200, "{}")
}

#[tokio::test]
async fn the_authority_in_the_directory_of_a_registry_is_trusted_for_it() {
    let (authority, directory) = (Authority::new("own"), directory());
    let server = TestServer::https(authority.identity("127.0.0.1"), ok).await;
    let environment = host_with(directory.path(), &server.address, &[("ca.crt", authority.pem())]);
    assert_eq!(registry_at(environment, &server).manifest(None).await.unwrap(), b"{}");
}

#[tokio::test]
async fn the_hosts_authorities_are_trusted_for_all_registries() {
    let authority = Authority::new("of the host");
    let server = TestServer::https(authority.identity("127.0.0.1"), ok).await;
    let mut environment = environment();
    environment.certificates.authorities = Arc::new(vec![authority.0.der().clone()]);
    assert_eq!(registry_at(environment, &server).manifest(None).await.unwrap(), b"{}");
}

#[tokio::test]
async fn untrusted_certificates_are_refused_without_fallback_to_http() {
    let (authority, directory) = (Authority::new("evil"), directory());
    let server = TestServer::https(authority.identity("127.0.0.1"), ok).await;
    let trusted = [("ca.crt", Authority::new("trusted").pem())];
    let environment = host_with(directory.path(), &server.address, &trusted);
    let error = registry_at(environment, &server).manifest(None).await.unwrap_err();
    assert!(matches!(error, PullError::Certificate { .. }), "{error}");
    let advice = format!("/etc/containers/certs.d/{}/ca.crt", server.address);
    assert!(error.to_string().contains(&advice), "{error}");
    assert!(server.requests().is_empty());

    let server = TestServer::https(authority.identity("other.example"), ok).await;
    let environment = host_with(directory.path(), &server.address, &[("ca.crt", authority.pem())]);
    let error = registry_at(environment, &server).manifest(None).await.unwrap_err();
    assert!(matches!(error, PullError::Certificate { .. }), "{error}");
    assert!(error.to_string().contains("other.example"), "{error}");
}

#[tokio::test]
async fn a_host_without_authorities_can_use_http_and_explains_https_failures() {
    let plain = TestServer::http(ok).await;
    assert_eq!(registry(&plain).manifest(None).await.unwrap(), b"{}");
    let server = TestServer::https(Authority::new("any").identity("127.0.0.1"), ok).await;
    let error = registry(&server).manifest(None).await.unwrap_err();
    assert!(matches!(error, PullError::NoAuthorities { .. }), "{error}");
    assert!(error.to_string().contains("ca-certificates"), "{error}");
}

#[tokio::test]
async fn an_insecure_registry_may_present_any_certificate() {
    let server = TestServer::https(Authority::new("any").identity("other.example"), ok).await;
    let mut environment = environment();
    let text = format!("[[registry]]\nlocation = {:?}\ninsecure = true", server.address);
    environment.settings.add(text.as_bytes()).unwrap();
    assert_eq!(registry_at(environment, &server).manifest(None).await.unwrap(), b"{}");
}

#[tokio::test]
async fn a_client_certificate_is_sent_only_to_its_registry() {
    let (authority, clients, directory) = (Authority::new("own"), Authority::new("clients"), directory());
    let mut roots = RootCertStore::empty();
    roots.add(clients.0.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let wanting = || Identity {
        clients: Some(Arc::clone(&roots)),
        ..authority.identity("127.0.0.1")
    };
    let other = TestServer::https(wanting(), ok).await;
    let target = format!("https://{}/x", other.address);
    let server = TestServer::https(wanting(), move |request| match request.path.contains("/blobs/") {
        true => Reply::new(307, "").header("Location", &target),
        false => Reply::new(200, "{}"),
    })
    .await;
    let environment = host_with(directory.path(), &server.address, &[("ca.crt", authority.pem())]);
    registry_at(environment, &server).manifest(None).await.unwrap_err();
    assert!(server.requests().is_empty());

    let (certificate, key) = clients.issue("me");
    let files = [
        ("ca.crt", authority.pem()),
        ("me.cert", certificate.pem()),
        ("me.key", key.serialize_pem()),
    ];
    let environment = host_with(directory.path(), &server.address, &files);
    let registry = registry_at(environment, &server);
    assert_eq!(registry.manifest(None).await.unwrap(), b"{}");
    fetch(&registry, &blob(b"{}")).await.unwrap_err();
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn redirects_from_https_to_http_are_refused_and_to_https_followed() {
    let (authority, directory) = (Authority::new("own"), directory());
    let plain = TestServer::http(ok).await;
    let storage = TestServer::https(authority.identity("127.0.0.1"), ok).await;
    let targets = [
        format!("http://{}/x", plain.address),
        format!("https://{}/x", storage.address),
    ];
    let server = TestServer::https(authority.identity("127.0.0.1"), move |request| {
        let target = &targets[usize::from(request.path.contains("/blobs/"))];
        Reply::new(302, "").header("Location", target)
    })
    .await;
    let environment = host_with(directory.path(), &server.address, &[("ca.crt", authority.pem())]);
    let registry = registry_at(environment, &server);
    let error = registry.manifest(None).await.unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert!(plain.requests().is_empty());
    assert_eq!(fetch(&registry, &blob(b"{}")).await.unwrap(), b"{}");
}

#[tokio::test]
async fn tokens_for_an_https_registry_are_not_fetched_over_http() {
    let (authority, directory) = (Authority::new("own"), directory());
    let plain = TestServer::http(|_| Reply::new(200, r#"{"token":"t"}"#)).await;
    let header = format!("Bearer realm=\"http://{}/token\"", plain.address);
    let server = TestServer::https(authority.identity("127.0.0.1"), move |_| {
        Reply::new(401, "").header("WWW-Authenticate", &header)
    })
    .await;
    let environment = host_with(directory.path(), &server.address, &[("ca.crt", authority.pem())]);
    let name = format!("{}/team/app:v1", server.address);
    let registry = registry_in(environment, &name, &[secret(&server.address, "u", "p")]);
    let error = registry.manifest(None).await.unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert!(plain.requests().is_empty());
}

#[tokio::test]
async fn malformed_files_are_errors_that_name_them() {
    let (authority, directory) = (Authority::new("own"), directory());
    let (certificate, _) = authority.issue("me");
    for (name, content) in [
        ("ca.crt", "rubbish".to_owned()),
        (
            "ca.crt",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        ),
        ("me.cert", certificate.pem()),
    ] {
        let directory = directory.path().join(name);
        let environment = host_with(&directory, "r.example", &[(name, content)]);
        let name_of_image = ImageReference::parse("r.example/a").unwrap();
        let error = Registry::new(&name_of_image, &Arc::new(environment), &[]).unwrap_err();
        assert!(matches!(error, PullError::Configuration { .. }), "{error}");
        assert!(error.to_string().contains("r.example/"), "{error}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
