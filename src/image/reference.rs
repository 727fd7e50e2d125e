//! Names of images as users write them, normalised as Docker and containerd do, and digests.

use std::fmt;
use std::net::IpAddr;

use oci_spec::distribution::Reference;
use sha2::{Digest as _, Sha256};

use super::error::ImageError;

/// A sha256 digest in the form `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Digest(String);

impl Digest {
    /// The digest that `text` spells; the error says why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| format!("digest {text:?} is not of the kind sha256"))?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != 64 || !hex.bytes().all(is_hex) {
            return Err(format!(
                "digest {text:?} does not have 64 lower-case hexadecimal digits"
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new_with_prefix(bytes))
    }

    /// The digest of what `hash` was fed.
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
pub(super) struct ImageReference(Reference);

impl ImageReference {
    pub fn parse(name: &str) -> Result<Self, ImageError> {
        let invalid = |why: String| ImageError::InvalidName {
            name: name.to_owned(),
            why,
        };
        let reference = Reference::try_from(name).map_err(|error| {
            let upper = name
                .split(['@', ':'])
                .next()
                .is_some_and(|name| name.chars().any(|c| c.is_ascii_uppercase()));
            invalid(if upper {
                "repository names are lower-case".to_owned()
            } else {
                error.to_string()
            })
        })?;
        if let Some(digest) = reference.digest() {
            Digest::parse(digest).map_err(invalid)?;
        }
        Ok(Self(reference))
    }

    /// The registry as names have it: `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The repository, without the registry.
    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    /// The tag, if there is one.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    /// The digest, if there is one; it then decides, whatever the tag is.
    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }
}

/// Whether a host (with or without a port) is this machine, where plain http is fine: nobody listens in between.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(name: &str) -> String {
        ImageReference::parse(name).unwrap().to_string()
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        assert_eq!(normal("nginx"), "docker.io/library/nginx:latest");
        assert_eq!(normal("nginx:1.27"), "docker.io/library/nginx:1.27");
        assert_eq!(normal("docker.io/nginx"), "docker.io/library/nginx:latest");
        assert_eq!(
            normal("index.docker.io/library/nginx"),
            "docker.io/library/nginx:latest"
        );
        assert_eq!(normal("me/app"), "docker.io/me/app:latest");
        assert_eq!(normal("ghcr.io/me/app:v1"), "ghcr.io/me/app:v1");
        assert_eq!(normal("localhost/app"), "localhost/app:latest");
        assert_eq!(normal("localhost:5000/app"), "localhost:5000/app:latest");
        assert_eq!(normal("127.0.0.1:5000/a/b:c"), "127.0.0.1:5000/a/b:c");
        let digest = format!("sha256:{}", "a1".repeat(32));
        assert_eq!(
            normal(&format!("nginx@{digest}")),
            format!("docker.io/library/nginx@{digest}")
        );
        assert_eq!(
            normal(&format!("nginx:1@{digest}")),
            format!("docker.io/library/nginx:1@{digest}")
        );
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_kubelets_reason() {
        let long = format!("a@sha256:{}", "A".repeat(64));
        for name in [
            "",
            "Nginx",
            "nginx:",
            "nginx:a b",
            "http://x/y",
            "-x",
            "a//b",
            "x@sha256:12",
            &long,
            "a/../b",
        ] {
            let error = ImageReference::parse(name).expect_err(name);
            assert_eq!(error.reason(), "InvalidImageName");
        }
        assert!(
            ImageReference::parse("Nginx")
                .unwrap_err()
                .to_string()
                .contains("lower-case")
        );
    }

    #[test]
    fn only_registries_of_this_machine_count_as_loopback() {
        for name in ["localhost:5000/a", "localhost/a", "127.0.0.1:5000/a", "127.8.9.1/a"] {
            assert!(is_loopback(ImageReference::parse(name).unwrap().registry()), "{name}");
        }
        for name in ["nginx", "localhost.example.org/a", "10.0.0.1:5000/a", "128.0.0.1/a"] {
            assert!(!is_loopback(ImageReference::parse(name).unwrap().registry()), "{name}");
        }
    }

    #[test]
    fn digests_are_taken_literally_only() {
        assert!(Digest::parse(&format!("sha256:{}", "0".repeat(64))).is_ok());
        for text in ["sha512:00", "sha256:../../x", &format!("sha256:{}", "A".repeat(64))] {
            assert!(Digest::parse(text).is_err(), "{text}");
        }
        assert_eq!(
            Digest::of(b"").hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
