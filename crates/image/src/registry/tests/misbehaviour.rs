//! Servers that send too much, wrong data, endless redirects, or nothing.

use super::*;

const GIGABYTE: u64 = 1 << 30;

#[tokio::test]
async fn an_endless_manifest_is_refused_before_it_fills_memory() {
    for reply in [
        Reply::new(200, "{").then(Then::Flood),
        Reply::new(200, "{").announcing(GIGABYTE).then(Then::Flood),
    ] {
        let server = TestServer::http(move |_| reply.clone()).await;
        let error = registry(&server).manifest(None).await.unwrap_err();
        assert!(chain(&error).contains("longer than 4194304 bytes"), "{error}");
    }
}

#[tokio::test]
async fn a_manifest_request_times_out() {
    for then in [Then::Hang, Then::Drip(Duration::from_millis(1))] {
        let server = TestServer::http(move |_| Reply::new(200, "{").announcing(4_000_000).then(then)).await;
        let error = impatient_registry(&server).manifest(None).await.unwrap_err();
        assert!(matches!(error, PullError::Cut { .. }), "{error}");
        assert!(chain(&error).contains("timed out"), "{}", chain(&error));
        assert_eq!(server.requests().len(), 2, "as often as the limit allows");
    }
}

#[tokio::test]
async fn an_endless_error_body_does_not_hide_the_error() {
    let server = TestServer::http(|_| Reply::new(404, "<html>").then(Then::Flood)).await;
    let error = registry(&server).manifest(None).await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_must_match_its_digest_and_index_entry() {
    let server = TestServer::http(|_| Reply::new(200, "{}")).await;
    let registry_of = |name: String| registry_in(environment(), &name, &[]);
    let wrong = registry_of(format!("{}/a@{}", server.address, Digest::of(b"other")));
    assert!(matches!(wrong.manifest(None).await, Err(PullError::Digest { .. })));
    let right = registry_of(format!("{}/a:ignored@{}", server.address, Digest::of(b"{}")));
    assert_eq!(right.manifest(None).await.unwrap(), b"{}");
    assert!(server.paths("ignored").is_empty());
    let mut listed = blob(b"{}");
    assert_eq!(right.manifest(Some(&listed)).await.unwrap(), b"{}");
    for size in [1, 3, u64::MAX] {
        listed.size_bytes = size;
        let error = right.manifest(Some(&listed)).await.unwrap_err();
        assert!(matches!(error, PullError::Invalid { .. }), "{size}: {error}");
    }
}

#[tokio::test]
async fn a_manifest_by_tag_must_match_the_digest_header_of_the_registry() {
    let server = TestServer::http(|request| {
        let digest = Digest::of(if request.path.ends_with("/v1") { b"other" } else { b"{}" });
        Reply::new(200, "{}").header("Docker-Content-Digest", digest)
    })
    .await;
    assert!(matches!(
        registry(&server).manifest(None).await,
        Err(PullError::Digest { .. })
    ));
    let name = format!("{}/team/app:v2", server.address);
    assert!(registry_in(environment(), &name, &[]).manifest(None).await.is_ok());
}

#[tokio::test]
async fn the_number_of_redirects_is_limited() {
    let server = TestServer::http(|request| Reply::new(307, "").header("Location", format!("{}x", request.path))).await;
    let error = registry(&server).manifest(None).await.unwrap_err();
    assert!(error.to_string().contains("more than 5 times"), "{error}");
    assert_eq!(server.requests().len(), 6);
}

#[tokio::test]
async fn redirects_to_unsafe_targets_are_not_followed() {
    for (location, expected) in [
        (
            "http://registry.example/x",
            "to registry.example, which supports only http",
        ),
        ("file:///etc/shadow", "to a URL that is not http"),
        ("ftp://a/b", "to a URL that is not http"),
        ("http://", "to a missing or invalid URL"),
    ] {
        let server = TestServer::http(move |_| Reply::new(302, "").header("Location", location)).await;
        let error = registry(&server).manifest(None).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{location}: {error}");
    }
    let server = TestServer::http(|_| Reply::new(302, "")).await;
    assert!(matches!(
        registry(&server).manifest(None).await,
        Err(PullError::Redirect { .. })
    ));
}

#[tokio::test]
async fn a_busy_registry_is_retried_a_few_times() {
    for status in [429, 500, 503] {
        let server = TestServer::http(move |_| Reply::new(status, "").header("Retry-After", "0")).await;
        let error = registry(&server).manifest(None).await.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert_eq!(server.requests().len(), 5, "{status}");
    }
    let count = std::sync::atomic::AtomicUsize::new(0);
    let server = TestServer::http(
        move |_| match count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => Reply::new(429, "").header("Retry-After", "0"),
            1 => Reply::new(502, "<html>"),
            2 => Reply::new(200, "{").announcing(2).then(Then::Cut),
            _ => Reply::new(200, "{}"),
        },
    )
    .await;
    assert_eq!(registry(&server).manifest(None).await.unwrap(), b"{}");
}

#[tokio::test]
async fn a_retry_after_of_an_hour_fails_at_once() {
    let server = TestServer::http(|_| Reply::new(429, "").header("Retry-After", "3600")).await;
    let error = registry(&server).manifest(None).await.unwrap_err();
    assert!(error.to_string().contains("429"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn permanent_errors_are_not_retried() {
    for status in [400, 404, 418] {
        let server = TestServer::http(move |_| Reply::new(status, "")).await;
        registry(&server).manifest(None).await.unwrap_err();
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn control_characters_in_registry_messages_are_removed() {
    let body = r#"{"errors":[{"code":"X","message":"a\u001b[2Jb\r\nc"}]}"#;
    let server = TestServer::http(move |_| Reply::new(400, body)).await;
    let error = registry(&server).manifest(None).await.unwrap_err().to_string();
    assert!(error.contains("a[2Jbc"), "{error:?}");
}

#[tokio::test]
async fn endless_response_headers_are_refused() {
    let server = TestServer::http(|_| {
        (0..1000).fold(Reply::new(200, "{}"), |reply, n| {
            reply.header(&format!("X-{n}"), "y".repeat(1000))
        })
    })
    .await;
    let error = registry(&server).manifest(None).await.unwrap_err();
    assert!(matches!(error, PullError::Cut { .. }), "{error}");
}
