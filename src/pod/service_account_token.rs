//! Tokens of service accounts, bound to a Pod: JSON Web Tokens with Kubernetes' claims (`Claims` in
//! `pkg/serviceaccount/claims.go`), signed with the node's own key.
//!
//! No API server accepts them. They identify a Pod to services that know the node's public key.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Pod;
use microkube_base::lock::lock;
use microkube_base::replaced_file::sync_directory;
use microkube_projection::Content;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::json;

use crate::objects::DEFAULT_ACCOUNT;

/// The issuer, and the audience of tokens without their own: those of a cluster with default settings.
const ISSUER: &str = "https://kubernetes.default.svc";
/// Longer than any key in PKCS #8.
const MAX_KEY_BYTES: u64 = 4096;
/// A SubjectPublicKeyInfo up to the point of a P-256 key (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The kubelet renews tokens of this age even if they live longer (`maxTTL` in `pkg/kubelet/token`).
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// The name of a Pod's service account.
#[must_use]
pub fn service_account(pod: &Pod) -> &str {
    let own = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    own.filter(|name| !name.is_empty()).unwrap_or(DEFAULT_ACCOUNT)
}

/// A token cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot {action} the key of service accounts {path}")]
    Key {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is not a key for ES256; remove it, and microkube creates a new one")]
    InvalidKey { path: PathBuf },
    #[error("cannot sign a token")]
    Sign,
}

/// The identity in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub namespace: String,
    pub service_account: String,
    /// `None` if the service account `default` has no object, because its namespace is being deleted.
    pub service_account_uid: Option<String>,
    pub pod: String,
    pub pod_uid: String,
    pub node: String,
}

/// Signs tokens with the node's key.
pub struct Signer {
    key: EcdsaKeyPair,
    /// Kubernetes' name of the key: the hash of its public part.
    key_id: String,
    /// The node's UID, which is as old as the key.
    node_uid: String,
    random: SystemRandom,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads the key from this file, which is created with a new key if it does not exist.
    ///
    /// # Errors
    /// If the file cannot be read or created, or contains something else.
    pub fn open(path: &Path) -> Result<Self, TokenError> {
        let random = SystemRandom::new();
        let document = match read(path)? {
            Some(document) => document,
            None => create(path, &random)?,
        };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &document, &random);
        let key = key.map_err(|_| TokenError::InvalidKey { path: path.to_owned() })?;
        let public = [&P256_SPKI_PREFIX, key.public_key().as_ref()].concat();
        Ok(Self {
            key_id: URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &public)),
            node_uid: node_uid(&public),
            key,
            random,
        })
    }

    /// A token for an audience. Without one it is for the API server.
    ///
    /// # Errors
    /// If random numbers are not available.
    pub fn sign(
        &self,
        subject: &Subject,
        audience: Option<&str>,
        issued_at: SystemTime,
        lifetime_seconds: i64,
    ) -> Result<String, TokenError> {
        let issued_at = issued_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = json!({ "alg": "ES256", "kid": self.key_id });
        let expires_at = issued_at.saturating_add(u64::try_from(lifetime_seconds).unwrap_or_default());
        let mut account = json!({ "name": subject.service_account });
        if let Some(uid) = &subject.service_account_uid {
            account["uid"] = json!(uid);
        }
        let claims = json!({
            "aud": [audience.unwrap_or(ISSUER)],
            "exp": expires_at,
            "iat": issued_at,
            "iss": ISSUER,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": {
                "namespace": subject.namespace,
                "node": { "name": subject.node, "uid": self.node_uid },
                "pod": { "name": subject.pod, "uid": subject.pod_uid },
                "serviceaccount": account,
            },
            "nbf": issued_at,
            "sub": format!("system:serviceaccount:{}:{}", subject.namespace, subject.service_account),
        });
        let part = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| TokenError::Sign)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A UID that only depends on the node's key. There is no Node object that could have one.
fn node_uid(public_key: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, &[b"node UID ".as_slice(), public_key].concat());
    let hash: &[u8] = hash.as_ref();
    let bytes = hash.first_chunk::<16>().copied().unwrap_or_default();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TokenError + use<> {
    let path = path.to_owned();
    move |source| TokenError::Key { action, path, source }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, TokenError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let mut document = Vec::new();
    file.take(MAX_KEY_BYTES)
        .read_to_end(&mut document)
        .map_err(failed("read", path))?;
    Ok(Some(document))
}

/// Creates the file with a new key, readable only by its owner. If another process creates it at the same time, the
/// first key counts.
fn create(path: &Path, random: &SystemRandom) -> Result<Vec<u8>, TokenError> {
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, random).map_err(|_| TokenError::Sign)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    // Its mode is 0600.
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed("create", path))?;
    file.write_all(document.as_ref()).map_err(failed("write", path))?;
    file.as_file().sync_all().map_err(failed("write", path))?;
    match file.persist_noclobber(path) {
        Ok(_) => {
            sync_directory(directory).map_err(failed("create", path))?;
            Ok(document.as_ref().to_vec())
        }
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            read(path)?.ok_or_else(|| TokenError::InvalidKey { path: path.to_owned() })
        }
        Err(error) => Err(failed("create", path)(error.error)),
    }
}

/// The tokens of a Pod. Each is signed again after 80 % of its life, as by the kubelet's token manager. `Debug` does not
/// show them.
#[derive(Debug, Default)]
pub struct PodTokens {
    issued: Mutex<HashMap<(Option<String>, i64), Issued>>,
}

#[derive(Debug, Clone)]
struct Issued {
    token: Content,
    at: SystemTime,
    renewed_at: SystemTime,
}

impl PodTokens {
    /// The token for this audience and lifetime. `sign` creates a new one unless there is a recent one.
    ///
    /// # Errors
    /// An error from `sign`.
    pub fn token<E>(
        &self,
        audience: Option<&str>,
        lifetime_seconds: i64,
        now: SystemTime,
        sign: impl FnOnce() -> Result<String, E>,
    ) -> Result<Content, E> {
        let key = (audience.map(str::to_owned), lifetime_seconds);
        if let Some(issued) = lock(&self.issued).get(&key)
            // If the clock was set back, tokens may not be valid yet.
            && (issued.at..issued.renewed_at).contains(&now)
        {
            return Ok(issued.token.clone());
        }
        let token = Content::from(sign()?.into_bytes());
        let issued = Issued {
            token: token.clone(),
            at: now,
            renewed_at: now + renewed_after(lifetime_seconds),
        };
        lock(&self.issued).insert(key, issued);
        Ok(token)
    }

    /// When the next token is due, if there are any.
    #[must_use]
    pub fn renewal_at(&self) -> Option<SystemTime> {
        lock(&self.issued).values().map(|issued| issued.renewed_at).min()
    }
}

/// `requiresRefresh` in `pkg/kubelet/token/token_manager.go`.
fn renewed_after(lifetime_seconds: i64) -> Duration {
    let lifetime = Duration::from_secs(u64::try_from(lifetime_seconds).unwrap_or_default());
    (lifetime / 5).saturating_mul(4).min(MAX_AGE)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
    use serde_json::Value;

    use super::*;

    fn subject() -> Subject {
        Subject {
            namespace: "shop".to_owned(),
            service_account: "robot".to_owned(),
            service_account_uid: Some("s-1".to_owned()),
            pod: "web".to_owned(),
            pod_uid: "p-1".to_owned(),
            node: "node-1".to_owned(),
        }
    }

    fn decoded(part: &str) -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn a_token_has_kubernetes_claims_and_a_valid_signature() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Signer::open(&dir.path().join("key")).unwrap();
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let token = signer.sign(&subject(), Some("vault"), now, 600).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            panic!("{token}");
        };
        assert_eq!(decoded(header), json!({ "alg": "ES256", "kid": signer.key_id }));
        let mut found = decoded(claims);
        assert_eq!(found["jti"].take().as_str().map(str::len), Some(36));
        assert_eq!(
            found,
            json!({
                "aud": ["vault"], "exp": 1_700_000_600, "iat": 1_700_000_000, "nbf": 1_700_000_000,
                "iss": "https://kubernetes.default.svc", "jti": null, "sub": "system:serviceaccount:shop:robot",
                "kubernetes.io": {
                    "namespace": "shop", "node": { "name": "node-1", "uid": signer.node_uid }, "pod": { "name": "web", "uid": "p-1" },
                    "serviceaccount": { "name": "robot", "uid": "s-1" },
                },
            })
        );
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, signer.key.public_key().as_ref());
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        key.verify(format!("{header}.{claims}").as_bytes(), &signature).unwrap();
        let other = signer.sign(&subject(), None, now, 600).unwrap();
        let claims = decoded(other.split('.').nth(1).unwrap());
        assert_eq!(claims["aud"], json!(["https://kubernetes.default.svc"]));
    }

    #[test]
    fn the_node_has_one_key_that_only_its_owner_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = Signer::open(&path).unwrap();
        let second = Signer::open(&path).unwrap();
        assert_eq!(first.key_id, second.key_id);
        assert_eq!(first.node_uid, second.node_uid);
        assert_eq!(uuid::Uuid::parse_str(&first.node_uid).unwrap().get_version_num(), 4);
        let other = Signer::open(&dir.path().join("other")).unwrap();
        assert_ne!(first.node_uid, other.node_uid);
        std::fs::remove_file(dir.path().join("other")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // Another process was faster.
        assert_eq!(
            create(&path, &SystemRandom::new()).unwrap(),
            std::fs::read(&path).unwrap()
        );
    }

    #[test]
    fn a_damaged_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "not a key").unwrap();
        let error = Signer::open(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("is not a key for ES256; remove it, and microkube creates a new one"),
            "{error}"
        );
    }

    #[test]
    fn a_token_is_renewed_after_four_fifths_of_its_life() {
        let tokens = PodTokens::default();
        let start = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let count = std::cell::Cell::new(0);
        let token = |audience: Option<&str>, now| {
            let sign = || {
                count.set(count.get() + 1);
                Ok::<_, ()>(format!("token {}", count.get()))
            };
            let token = tokens.token(audience, 1000, now, sign).unwrap();
            String::from_utf8(token.into_vec()).unwrap()
        };
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(tokens.renewal_at(), None);
        assert_eq!(token(None, start), "token 1");
        assert_eq!(token(Some("vault"), after(100)), "token 2");
        assert_eq!(tokens.renewal_at(), Some(after(800)));
        assert_eq!(token(None, after(799)), "token 1");
        assert_eq!(token(None, after(800)), "token 3");
        assert_eq!(tokens.renewal_at(), Some(after(900)));
        assert_eq!(token(None, after(0)), "token 4", "the clock was set back");
        assert!(!format!("{tokens:?}").contains("token 4"));
    }

    #[test]
    fn a_token_is_not_older_than_a_day() {
        assert_eq!(renewed_after(600), Duration::from_secs(480));
        assert_eq!(renewed_after(1 << 32), MAX_AGE);
        assert_eq!(renewed_after(-1), Duration::ZERO);
    }
}
