//! Passwords and tokens, and which hosts get them.

use std::sync::Mutex;

use super::*;

const BASIC: (&str, &str) = ("WWW-Authenticate", "Basic realm=\"registry\"");
/// u:p and v:q
const U: &str = "Basic dTpw";
const V: &str = "Basic djpx";

fn unauthorized(header: (&str, &str)) -> Reply {
    Reply::new(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}"#).header(header.0, header.1)
}

/// Puts the server's own address into its answer.
fn bearer(request: &Request) -> (&'static str, String) {
    let realm = format!("http://{}/token", request.header("host"));
    (
        "WWW-Authenticate",
        format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:team/app:pull\""),
    )
}

/// A registry that requires the token `good`, and a token server that gives it to `user`.
fn with_tokens(user: &'static str) -> impl Fn(&Request) -> Reply + Send + Sync {
    move |request| {
        if request.path.starts_with("/token") {
            return match request.header("authorization") == user {
                true => Reply::new(200, r#"{"token":"good"}"#),
                false => Reply::new(401, ""),
            };
        }
        if request.header("authorization") == "Bearer good" {
            return Reply::new(200, "{}");
        }
        let (name, value) = bearer(request);
        unauthorized((name, &value))
    }
}

fn with_secrets(server: &TestServer, users: &[(&str, &str)]) -> Registry {
    let secrets: Vec<_> = users
        .iter()
        .map(|(user, password)| secret(&server.address, user, password))
        .collect();
    registry_in(environment(), &format!("{}/team/app:v1", server.address), &secrets)
}

#[tokio::test]
async fn a_password_is_sent_only_when_challenged() {
    let server = TestServer::http(|request| match request.header("authorization") {
        U => Reply::new(200, "{}"),
        _ => unauthorized(BASIC),
    })
    .await;
    let registry = with_secrets(&server, &[("u", "p")]);
    for _ in 0..2 {
        assert_eq!(registry.manifest(None).await.unwrap(), b"{}");
    }
    let shown: Vec<_> = server
        .requests()
        .iter()
        .map(|request| request.header("authorization").to_owned())
        .collect();
    assert_eq!(shown, ["", U, U]);
}

#[tokio::test]
async fn the_error_without_credentials_suggests_a_remedy() {
    let server = TestServer::http(|_| unauthorized(BASIC)).await;
    let error = registry(&server).manifest(None).await.unwrap_err().to_string();
    assert!(
        error.contains("who are you?") && error.contains("imagePullSecrets"),
        "{error}"
    );
    let error = with_secrets(&server, &[("u", "p")])
        .manifest(None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("rejected the credentials"), "{error}");
    assert!(!error.contains("dTpw"), "{error}");
}

#[tokio::test]
async fn all_matching_credentials_are_tried_in_order() {
    for status in [401, 403] {
        let server = TestServer::http(move |request| match request.header("authorization") {
            V => Reply::new(200, "{}"),
            _ => Reply::new(status, "").header(BASIC.0, BASIC.1),
        })
        .await;
        let registry = with_secrets(&server, &[("u", "p"), ("v", "q")]);
        assert_eq!(registry.manifest(None).await.unwrap(), b"{}");
    }
    let server = TestServer::http(with_tokens(V)).await;
    assert_eq!(
        with_secrets(&server, &[("u", "p"), ("v", "q")])
            .manifest(None)
            .await
            .unwrap(),
        b"{}"
    );
}

#[tokio::test]
async fn a_token_is_fetched_once_even_without_credentials() {
    let server = TestServer::http(with_tokens("")).await;
    let registry = registry(&server);
    for _ in 0..3 {
        assert_eq!(registry.manifest(None).await.unwrap(), b"{}");
    }
    assert_eq!(
        server.paths("/token"),
        ["/token?service=s&scope=repository%3Ateam%2Fapp%3Apull"]
    );
}

#[tokio::test]
async fn the_password_goes_to_the_token_server_and_the_token_to_the_registry() {
    let server = TestServer::http(with_tokens(U)).await;
    assert_eq!(
        with_secrets(&server, &[("u", "p")]).manifest(None).await.unwrap(),
        b"{}"
    );
    for request in server.requests() {
        let shown = request.header("authorization");
        assert_eq!(shown == U, request.path.starts_with("/token"), "{request:?}");
    }
    let error = registry(&server).manifest(None).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
}

#[tokio::test]
async fn an_expired_token_is_replaced() {
    let valid = Mutex::new(0);
    let server = TestServer::http(move |request| {
        let mut valid = valid.lock().unwrap();
        if request.path.starts_with("/token") {
            *valid += 1;
            return Reply::new(200, format!(r#"{{"access_token":"t{valid}"}}"#));
        }
        let (name, value) = bearer(request);
        if *valid == 0 || request.header("authorization") != format!("Bearer t{valid}") {
            return unauthorized((name, &value));
        }
        // Valid for the manifest and one blob after it.
        if request.path.ends_with("/expire") {
            *valid += 1;
        }
        Reply::new(200, "{}")
    })
    .await;
    let name = format!("{}/team/app:expire", server.address);
    let registry = registry_in(environment(), &name, &[]);
    registry.manifest(None).await.unwrap();
    assert_eq!(fetch(&registry, &blob(b"{}")).await.unwrap(), b"{}");
    assert_eq!(server.paths("/token").len(), 2);
}

#[tokio::test]
async fn identity_tokens_are_exchanged() {
    let server = TestServer::http(|request| {
        if request.path.starts_with("/token") {
            let is_right = request.method == "POST" && request.body.contains("refresh_token=secret");
            return match is_right {
                true => Reply::new(200, r#"{"access_token":"good"}"#),
                false => Reply::new(400, ""),
            };
        }
        with_tokens("")(request)
    })
    .await;
    let config = json!({"auths": {&server.address: {"identitytoken": "secret"}}}).to_string();
    let secret = PullSecret::new("identity", config.into_bytes());
    let name = format!("{}/team/app:v1", server.address);
    assert_eq!(
        registry_in(environment(), &name, &[secret])
            .manifest(None)
            .await
            .unwrap(),
        b"{}"
    );
}

#[tokio::test]
async fn a_registry_that_rejects_every_token_is_given_up() {
    // Accepts every token once, so that each refusal looks like an expired token.
    let count = Mutex::new(0);
    let server = TestServer::http(move |request| {
        let mut count = count.lock().unwrap();
        *count += 1;
        if request.path.starts_with("/token") {
            return Reply::new(200, format!(r#"{{"token":"t{count}"}}"#));
        }
        let (name, value) = bearer(request);
        unauthorized((name, &value))
    })
    .await;
    let users: Vec<_> = (0..50).map(|n| (format!("u{n}"), "p")).collect();
    let users: Vec<_> = users
        .iter()
        .map(|(user, password)| (user.as_str(), *password))
        .collect();
    let error = with_secrets(&server, &users).manifest(None).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    assert!(server.requests().len() < 50, "{}", server.requests().len());
}

#[tokio::test]
async fn hostile_token_servers_are_refused() {
    for (reply, expected) in [
        (Reply::new(200, "{").then(Then::Flood), "longer than 1048576 bytes"),
        (Reply::new(200, "<html>"), "not JSON"),
        (Reply::new(200, r#"{"token":"a\nHost: b"}"#), "contains spaces"),
        (Reply::new(302, "").header("Location", "/token"), "more than 5 times"),
        (
            Reply::new(302, "").header("Location", "http://r.example/"),
            "which supports only http",
        ),
    ] {
        let server = TestServer::http(move |request| {
            if request.path.starts_with("/token") {
                return reply.clone();
            }
            let (name, value) = bearer(request);
            unauthorized((name, &value))
        })
        .await;
        let error = registry(&server).manifest(None).await.unwrap_err();
        assert!(chain(&error).contains(expected), "{expected}: {}", chain(&error));
    }
    for realm in ["", "file:///etc/passwd", "http://r.example/token", "https://", "token"] {
        let header = format!("Bearer realm=\"{realm}\"");
        let server = TestServer::http(move |_| unauthorized(("WWW-Authenticate", &header))).await;
        let error = registry(&server).manifest(None).await.unwrap_err();
        assert!(
            matches!(&error, PullError::Invalid { what, .. } if what == "token server"),
            "{realm}: {error}"
        );
    }
}

#[tokio::test]
async fn credentials_are_not_sent_to_redirect_targets() {
    let storage = TestServer::http(|_| Reply::new(200, "{}")).await;
    let target = format!("http://user:pass@{}/blob?signature=x", storage.address);
    let server = TestServer::http(move |request| match request.header("authorization") {
        U => Reply::new(307, "").header("Location", &target),
        _ => unauthorized(BASIC),
    })
    .await;
    let registry = with_secrets(&server, &[("u", "p")]);
    assert_eq!(fetch(&registry, &blob(b"{}")).await.unwrap(), b"{}");
    let [request] = &storage.requests()[..] else {
        panic!("one request")
    };
    assert_eq!(
        (request.header("authorization"), request.path.as_str()),
        ("", "/blob?signature=x")
    );
    assert_eq!(request.header("cookie"), "");
}

#[tokio::test]
async fn a_challenge_from_a_redirect_target_gets_no_credentials() {
    let storage = TestServer::http(|_| Reply::new(401, "").header(BASIC.0, BASIC.1)).await;
    let target = format!("http://{}/blob", storage.address);
    let server = TestServer::http(move |_| Reply::new(307, "").header("Location", &target)).await;
    let error = fetch(&with_secrets(&server, &[("u", "p")]), &blob(b"{}"))
        .await
        .unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    assert_eq!(storage.requests().len(), 1);
}

#[tokio::test]
async fn credentials_are_looked_up_only_when_challenged() {
    let server = TestServer::http(|_| Reply::new(200, "{}")).await;
    let mut environment = environment();
    environment.credentials.paths = vec!["/nonexistent".into()];
    environment.credentials.required = true;
    let registry = registry_in(environment, &format!("{}/team/app:v1", server.address), &[]);
    assert_eq!(registry.manifest(None).await.unwrap(), b"{}");
}
