//! Requests tokens from a registry's token server, with Docker's or OAuth's protocol.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::challenge::TokenServer;
use crate::credentials::Credential;
use crate::error::PullError;

/// Maximum size of a token server's answer, in bytes.
pub(super) const ANSWER_MAX_BYTES: u64 = 1 << 20;
/// Longest token that is sent to a registry.
const TOKEN_MAX_BYTES: usize = 64 << 10;
const CLIENT_ID: &str = "microkube";

/// A request for a token.
pub(super) enum TokenRequest {
    /// With or without user name and password.
    Get {
        url: Url,
        authorization: Option<HeaderValue>,
    },
    /// With an identity token.
    Post {
        url: Url,
        form: Vec<(&'static str, String)>,
    },
}

/// The request that exchanges a credential for a token.
pub(super) fn request(
    server: &TokenServer,
    url: Url,
    repository: &str,
    credential: Option<&Credential>,
) -> TokenRequest {
    // The registry may ask for more scopes than needed; if it names none, this one is used.
    let scope = server
        .scope
        .clone()
        .unwrap_or_else(|| format!("repository:{repository}:pull"));
    if let Some(Credential::IdentityToken(token)) = credential {
        let mut form = vec![
            ("grant_type", "refresh_token".to_owned()),
            ("client_id", CLIENT_ID.to_owned()),
            ("refresh_token", token.clone()),
            ("scope", scope),
        ];
        form.extend(server.service.clone().map(|service| ("service", service)));
        return TokenRequest::Post { url, form };
    }
    let mut url = url;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &server.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &scope);
        if let Some(Credential::Password { username, .. }) = credential {
            query.append_pair("account", username);
        }
    }
    let authorization = credential.and_then(basic);
    TokenRequest::Get { url, authorization }
}

/// The header for user name and password; `None` for other credentials.
pub(super) fn basic(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Password { username, password } = credential else {
        return None;
    };
    let mut text = String::from("Basic ");
    BASE64_STANDARD.encode_string(format!("{username}:{password}"), &mut text);
    header(&text)
}

/// The header for a token; `None` if it is not a valid token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut text = String::from("Bearer ");
    // Writing to a String cannot fail.
    let _ = write!(text, "{token}");
    (!token.is_empty() && token.len() <= TOKEN_MAX_BYTES && token.bytes().all(|byte| byte.is_ascii_graphic()))
        .then(|| header(&text))
        .flatten()
}

fn header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The token from a token server's answer, as a header.
pub(super) fn parse(answer: &[u8]) -> Result<HeaderValue, PullError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    // The parser's message could quote the token.
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| PullError::invalid("token", "it is not JSON"))?;
    let token = answer.token.or(answer.access_token).unwrap_or_default();
    bearer(&token).ok_or_else(|| PullError::invalid("token", "it is empty, too long or contains spaces"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server() -> TokenServer {
        TokenServer {
            realm: "https://auth.example/token?x=1".into(),
            service: Some("a service".into()),
            scope: None,
        }
    }

    #[test]
    fn users_present_their_password_and_ask_for_pulling_only() {
        let credential = Credential::Password {
            username: "ü".into(),
            password: "p:q".into(),
        };
        let url = server().realm.parse().unwrap();
        let TokenRequest::Get { url, authorization } = request(&server(), url, "a/b", Some(&credential)) else {
            panic!("a password is presented with GET");
        };
        assert_eq!(
            url.as_str(),
            "https://auth.example/token?x=1&service=a+service&scope=repository%3Aa%2Fb%3Apull&account=%C3%BC"
        );
        let authorization = authorization.unwrap();
        assert_eq!(authorization, "Basic w7w6cDpx");
        assert!(!format!("{authorization:?}").contains("w7w6"));
    }

    #[test]
    fn identity_tokens_are_sent_in_the_body() {
        let credential = Credential::IdentityToken("secret".into());
        let url = server().realm.parse().unwrap();
        let TokenRequest::Post { url, form } = request(&server(), url, "a/b", Some(&credential)) else {
            panic!("an identity token is presented with POST");
        };
        assert!(!url.as_str().contains("secret"));
        assert!(form.contains(&("refresh_token", "secret".into())) && form.contains(&("service", "a service".into())));
    }

    #[test]
    fn a_token_is_read_from_either_field() {
        assert_eq!(parse(br#"{"token":"a.b-c"}"#).unwrap(), "Bearer a.b-c");
        assert_eq!(
            parse(br#"{"access_token":"t","expires_in":"soon"}"#).unwrap(),
            "Bearer t"
        );
        let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_MAX_BYTES + 1));
        for answer in [
            "",
            "{}",
            "[]",
            r#"{"token":""}"#,
            r#"{"token":"a\r\nb"}"#,
            r#"{"token":"a b"}"#,
            r#"{"token":5}"#,
            &long,
        ] {
            assert!(parse(answer.as_bytes()).is_err(), "{answer:.40}");
        }
    }

    proptest! {
        #[test]
        fn any_response_is_a_token_or_refused(answer in "\\PC{0,100}") {
            let _ = parse(answer.as_bytes());
            let _ = parse(serde_json::json!({"token": answer}).to_string().as_bytes());
        }
    }
}
