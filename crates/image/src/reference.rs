//! Image names, normalised as in Docker and containerd, and digests.

use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use error::{DigestError, NameError};

pub(super) mod error;
mod grammar;
#[cfg(test)]
mod tests;

/// Docker Hub in image names.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Former name of Docker Hub.
const FORMER_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Docker Hub's namespace for images whose names have one part.
const DEFAULT_NAMESPACE: &str = "library";
/// The tag of a name that has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// A sha256 digest in the form `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Digest(String);

impl Digest {
    /// Parses a digest.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| DigestError::Algorithm(text.to_owned()))?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != 64 || !hex.bytes().all(is_hex) {
            return Err(DigestError::Digits(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new_with_prefix(bytes))
    }

    /// The digest of a stream's content.
    pub fn of_stream(stream: &mut impl Read) -> io::Result<Self> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(Self::from_hash(hash)),
                Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The digest from a finished hash.
    pub fn from_hash(hash: Sha256) -> Self {
        use std::fmt::Write;
        let mut text = String::from("sha256:");
        for byte in hash.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hexadecimal digits alone.
    pub fn hex(&self) -> &str {
        self.0.split_at("sha256:".len()).1
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A normalised image name: registry, repository, tag or digest or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageReference {
    /// Parses and completes a name by the rules of `ParseNormalizedNamed` (github.com/distribution/reference), as the
    /// kubelet and containerd do.
    pub fn parse(name: &str) -> Result<Self, ImageError> {
        Self::normalized(name).map_err(|why| ImageError::InvalidName {
            name: name.to_owned(),
            why,
        })
    }

    fn normalized(name: &str) -> Result<Self, NameError> {
        if grammar::is_id(name) {
            return Err(NameError::ImageId);
        }
        let parts = grammar::split(name);
        let (registry, path) = match parts.path.split_once('/') {
            Some((FORMER_DEFAULT_REGISTRY, path)) => (DEFAULT_REGISTRY, path),
            Some((first, path)) if grammar::names_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, parts.path),
        };
        grammar::check_registry(registry)?;
        let repository = match registry {
            DEFAULT_REGISTRY if !path.is_empty() && !path.contains('/') => format!("{DEFAULT_NAMESPACE}/{path}"),
            _ => path.to_owned(),
        };
        grammar::check_repository(&repository)?;
        parts.tag.map_or(Ok(()), grammar::check_tag)?;
        let digest = parts.digest.map(Digest::parse).transpose()?;
        let default_tag = digest.is_none().then_some(DEFAULT_TAG);
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag: parts.tag.or(default_tag).map(str::to_owned),
            digest,
        })
    }

    /// The registry as it appears in names: `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository, without the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one; it takes precedence over the tag.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_ref().map(Digest::as_str)
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// Whether a host (with or without a port) is this machine, where plain http cannot be intercepted.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
