//! Reads answers of a registry, within limits: small documents, errors, and requests to retry later.

use std::time::Duration;

use microkube_base::causes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use crate::error::{Cause, PullError};

/// Maximum size of an error answer, in bytes.
const ERROR_MAX_BYTES: u64 = 64 << 10;
/// Maximum length of a registry's error message, in characters; the rest is cut off.
const DETAIL_MAX_CHARS: usize = 300;
/// Maximum number of errors kept of one answer.
const ERRORS_MAX: usize = 5;

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum BodyError {
    TooLarge,
    TooSlow,
    Broken(reqwest::Error),
}

/// Reads a whole body. Refuses more than `max_bytes` before they are in memory, and takes at most `timeout`.
pub(super) async fn body(mut response: Response, max_bytes: u64, timeout: Duration) -> Result<Vec<u8>, BodyError> {
    if response.content_length().is_some_and(|length| length > max_bytes) {
        return Err(BodyError::TooLarge);
    }
    let read = async {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(BodyError::Broken)? {
            if (bytes.len() + chunk.len()) as u64 > max_bytes {
                return Err(BodyError::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    tokio::time::timeout(timeout, read)
        .await
        .map_err(|_| BodyError::TooSlow)?
}

/// The error that an answer with an error status reports.
pub(super) async fn error(response: Response, registry: &str, timeout: Duration) -> PullError {
    let (status, headers) = (response.status(), response.headers().clone());
    // If the explanation cannot be read, the status alone must suffice.
    let body = body(response, ERROR_MAX_BYTES, timeout).await.unwrap_or_default();
    of_status(status, &headers, &body, registry)
}

fn of_status(status: StatusCode, headers: &HeaderMap, body: &[u8], registry: &str) -> PullError {
    let registry = registry.to_owned();
    let reported = parse_errors(body);
    let has = |wanted: &[&str]| reported.iter().any(|error| wanted.contains(&error.code.as_str()));
    let detail = detail(status, &reported);
    if has(&["UNAUTHORIZED", "DENIED"]) || matches!(status.as_u16(), 401 | 403) {
        return PullError::Denied { registry, detail };
    }
    if status == StatusCode::NOT_FOUND || has(&["MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN"]) {
        return PullError::NotFound { registry };
    }
    let busy = status == StatusCode::TOO_MANY_REQUESTS || has(&["TOOMANYREQUESTS"]);
    PullError::Registry {
        registry,
        detail,
        transient: busy || status == StatusCode::REQUEST_TIMEOUT || status.is_server_error(),
        retry_after: retry_after(headers, jiff::Timestamp::now()),
    }
}

/// An entry of the JSON in which registries report errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Reported {
    pub code: String,
    pub message: String,
}

/// The errors in a body; empty if it has another format.
pub(super) fn parse_errors(body: &[u8]) -> Vec<Reported> {
    #[derive(Deserialize)]
    struct Envelope {
        errors: Vec<Reported>,
    }
    let mut errors = serde_json::from_slice(body).map_or(Vec::new(), |envelope: Envelope| envelope.errors);
    errors.truncate(ERRORS_MAX);
    errors
}

fn detail(status: StatusCode, reported: &[Reported]) -> String {
    let mut parts = vec![format!("HTTP status {status}")];
    parts.extend(reported.iter().map(|error| match error.message.as_str() {
        "" => error.code.clone(),
        message => message.to_owned(),
    }));
    printable(&parts.join(": "))
}

/// Text from a registry, made safe for a terminal.
pub(super) fn printable(text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    printable.take(DETAIL_MAX_CHARS).collect()
}

/// How long an answer asks to wait: in seconds, or until a date.
fn retry_after(headers: &HeaderMap, now: jiff::Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let seconds = date.as_second().saturating_sub(now.as_second());
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The innermost error, without URLs: those of the storage behind a registry may contain secrets.
pub(super) fn bare_cause(error: &(dyn std::error::Error + 'static)) -> Cause {
    let innermost = causes::innermost(error);
    let is_client = innermost.downcast_ref::<reqwest::Error>();
    let text = match is_client {
        Some(error) if error.is_timeout() => "it timed out".to_owned(),
        Some(_) => "the client failed".to_owned(),
        None => innermost.to_string(),
    };
    printable(&text).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn status(code: u16, body: &str) -> PullError {
        of_status(
            StatusCode::from_u16(code).unwrap(),
            &HeaderMap::new(),
            body.as_bytes(),
            "r.example",
        )
    }

    #[test]
    fn the_report_of_the_registry_determines_the_error() {
        assert!(matches!(status(404, ""), PullError::NotFound { .. }));
        assert!(matches!(status(401, "<html>"), PullError::Denied { .. }));
        let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        assert!(matches!(status(400, unknown), PullError::NotFound { .. }));
        let denied = r#"{"errors":[{"code":"DENIED","message":"no access to \u001b[31mthis"}]}"#;
        let error = status(404, denied).to_string();
        assert!(error.contains("no access to [31mthis"), "{error:?}");
        let transient = |code| status(code, "").is_transient();
        assert!(transient(429) && transient(500) && transient(503) && transient(408));
        assert!(!transient(400) && !transient(418));
    }

    #[test]
    fn long_reports_are_truncated() {
        let body =
            serde_json::json!({"errors": vec![serde_json::json!({"code": "X", "message": "y".repeat(500)}); 50]});
        assert!(status(500, &body.to_string()).to_string().len() < 400);
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_a_date() {
        let now: jiff::Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Sat, 21 Nov 2026 10:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(wait("Sat, 21 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        for text in ["-1", "soon", "99999999999999999999999", ""] {
            assert_eq!(wait(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_report_is_parsed_or_ignored(body in prop::collection::vec(any::<u8>(), 0..200), code in 100_u16..600) {
            let _ = of_status(StatusCode::from_u16(code).unwrap(), &HeaderMap::new(), &body, "r").to_string();
        }
    }
}
