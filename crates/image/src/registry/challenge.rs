//! Parses the header `WWW-Authenticate`, which describes how to authenticate.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Maximum length of a header that is parsed, and maximum number of headers.
const HEADER_MAX_BYTES: usize = 8 << 10;
const HEADERS_MAX: usize = 8;

/// A way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from a token server.
    Bearer(TokenServer),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TokenServer {
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
}

/// The best challenge in an answer: tokens rather than passwords. `None` if none is supported.
pub(super) fn of(headers: &HeaderMap) -> Option<Challenge> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().take(HEADERS_MAX);
    let challenges: Vec<_> = values.filter_map(|value| parse(value.as_bytes())).flatten().collect();
    let bearer = challenges
        .iter()
        .find(|challenge| matches!(challenge, Challenge::Bearer(_)));
    bearer.or(challenges.first()).cloned()
}

/// The supported challenges in a header; `None` if it is malformed.
pub(super) fn parse(header: &[u8]) -> Option<Vec<Challenge>> {
    if header.len() > HEADER_MAX_BYTES {
        return None;
    }
    let text = std::str::from_utf8(header).ok()?;
    let parsed = http_auth::parse_challenges(text).ok()?;
    let known = parsed.into_iter().filter_map(|challenge| {
        let parameter = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !challenge.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        Some(Challenge::Bearer(TokenServer {
            realm: parameter("realm")?,
            service: parameter("service"),
            scope: parameter("scope"),
        }))
    });
    Some(known.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn best(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, HeaderValue::from_str(header).unwrap());
        }
        of(&map)
    }

    #[test]
    fn bearer_challenges_are_preferred_to_basic() {
        let server = TokenServer {
            realm: "https://auth.example/token".into(),
            service: Some("r.example".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        let bearer =
            r#"bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
        assert_eq!(
            best(&["Basic realm=\"x\"", bearer]),
            Some(Challenge::Bearer(server.clone()))
        );
        assert_eq!(
            best(&[&format!("Basic realm=\"x\", {bearer}")]),
            Some(Challenge::Bearer(server))
        );
        assert_eq!(best(&["BASIC realm=\"x\""]), Some(Challenge::Basic));
    }

    #[test]
    fn unknown_and_malformed_challenges_are_ignored() {
        let long = format!("Bearer realm=\"{}\"", "x".repeat(HEADER_MAX_BYTES));
        for header in [
            "Negotiate",
            "Bearer service=\"x\"",
            "Bearer realm=\"x",
            "",
            ",,,",
            "=",
            long.as_str(),
        ] {
            assert_eq!(best(&[header]), None, "{header:.40}");
        }
        assert_eq!(best(&[]), None);
        assert_eq!(best(&["Negotiate", "Basic realm=x"]), Some(Challenge::Basic));
    }

    proptest! {
        #[test]
        fn any_header_is_parsed_or_ignored(header in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&header);
        }
    }
}
