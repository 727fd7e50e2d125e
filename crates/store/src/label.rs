//! Checks names that become names of directories.

/// Maximum length of an object's name, in bytes: the limit of DNS subdomains, which is below the limit of file names.
const MAX_NAME_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// Why this text cannot be the name of an object. These rules apply to all types (`IsValidPathSegmentName`); most types
/// have stricter rules, which the caller checks.
pub(crate) fn problem_of_name(name: &str) -> Option<&'static str> {
    match name {
        "" => return Some("must not be empty"),
        "." => return Some("may not be '.'"),
        ".." => return Some("may not be '..'"),
        _ => {}
    }
    if name.contains('/') {
        Some("may not contain '/'")
    } else if name.contains('%') {
        Some("may not contain '%'")
    } else if name.contains(char::is_control) {
        Some("may not contain control characters")
    } else if name.len() > MAX_NAME_BYTES {
        Some("must be no more than 253 bytes")
    } else {
        None
    }
}

pub(crate) fn is_dns_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= MAX_LABEL_BYTES
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
