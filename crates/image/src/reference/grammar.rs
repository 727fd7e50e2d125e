//! The grammar of image names (github.com/distribution/reference), implemented by hand: compiling a regular expression
//! for it takes longer than starting a Pod.
//!
//! ```text
//! name      [registry "/"] component *("/" component) [":" tag] ["@" digest]
//! registry  (label *("." label) | "[" IPv6 address "]") [":" digits]
//! label     letters and digits, with hyphens between them
//! component lower-case letters and digits, with one ".", one or two "_" or any number of "-" between them
//! tag       a letter, digit or "_", then up to 127 of these, "." and "-"
//! ```

use std::net::Ipv6Addr;

use super::error::NameError;

/// Maximum length of a repository without its registry, in bytes.
const REPOSITORY_MAX_BYTES: usize = 255;
/// Maximum length of a tag, in bytes.
const TAG_MAX_BYTES: usize = 128;

/// The parts of a name, unchecked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// Registry, if any, and repository.
    pub path: &'a str,
    pub tag: Option<&'a str>,
    pub digest: Option<&'a str>,
}

/// Splits a name into its parts.
pub(super) fn split(name: &str) -> Parts<'_> {
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (name, None),
    };
    // A colon before the last slash belongs to the registry.
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    Parts { path, tag, digest }
}

/// Whether the first part of a name is a registry and not part of a Docker Hub repository.
pub(super) fn names_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// Whether a name could be an image ID.
pub(super) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

pub(super) fn check_registry(registry: &str) -> Result<(), NameError> {
    let invalid = || Err(NameError::Registry(registry.to_owned()));
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let Some((address, port)) = rest.split_once(']') else {
                return invalid();
            };
            if address.contains('.') || address.parse::<Ipv6Addr>().is_err() {
                return invalid();
            }
            (None, port)
        }
        None => match registry.split_once(':') {
            Some((host, _)) => (Some(host), registry.get(host.len()..).unwrap_or_default()),
            None => (Some(registry), ""),
        },
    };
    let port_fits = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    if port_fits && host.is_none_or(|host| host.split('.').all(is_label)) {
        return Ok(());
    }
    invalid()
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

pub(super) fn check_repository(repository: &str) -> Result<(), NameError> {
    if repository.is_empty() {
        return Err(NameError::NoRepository);
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(NameError::UpperCase);
    }
    if repository.len() > REPOSITORY_MAX_BYTES {
        return Err(NameError::LongRepository {
            max: REPOSITORY_MAX_BYTES,
        });
    }
    match repository.split('/').find(|component| !is_component(component)) {
        None => Ok(()),
        Some("") => Err(NameError::EmptyComponent),
        Some(component) => Err(NameError::Component(component.to_owned())),
    }
}

fn is_component(component: &str) -> bool {
    let mut rest = component;
    loop {
        let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let after_word = rest.trim_start_matches(|c: char| u8::try_from(c).is_ok_and(word));
        if after_word.len() == rest.len() {
            return false;
        }
        if after_word.is_empty() {
            return true;
        }
        let after_hyphens = after_word.trim_start_matches('-');
        rest = if after_hyphens.len() < after_word.len() {
            after_hyphens
        } else {
            let separator = ["__", "_", "."]
                .into_iter()
                .find_map(|one| after_word.strip_prefix(one));
            match separator {
                Some(rest) => rest,
                None => return false,
            }
        };
    }
}

pub(super) fn check_tag(tag: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if tag.is_empty() || tag.starts_with(['.', '-']) || !tag.bytes().all(fits) {
        return Err(NameError::Tag(tag.to_owned()));
    }
    if tag.len() > TAG_MAX_BYTES {
        return Err(NameError::LongTag { max: TAG_MAX_BYTES });
    }
    Ok(())
}
