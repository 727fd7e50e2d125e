//! Whether a certificate and a private key belong together, with the messages of Go's `tls.X509KeyPair`.

use anyhow::{anyhow, bail};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Checks a certificate and a private key in PEM. Messages do not contain the key.
pub(super) fn check(certificate: &[u8], key: &[u8]) -> anyhow::Result<()> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|_| anyhow!("tls: the certificate input is not valid PEM"))?;
    if certificates.is_empty() {
        bail!("tls: failed to find any PEM data in certificate input");
    }
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|_| anyhow!("tls: failed to find any PEM data in key input"))?;
    let key = any_supported_type(&key).map_err(|_| anyhow!("tls: failed to parse private key"))?;
    match CertifiedKey::new(certificates, key).keys_match() {
        Ok(()) => Ok(()),
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
            bail!("tls: private key does not match public key")
        }
        // This kind of key does not reveal its public part.
        Err(rustls::Error::InconsistentKeys(_)) => Ok(()),
        Err(error) => bail!("x509: malformed certificate: {error}"),
    }
}
