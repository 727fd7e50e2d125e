//! HTTP probes: requests, redirects, and which responses count as success.

use super::*;

fn redirect(code: u16, location: &str) -> Vec<u8> {
    format!("HTTP/1.1 {code} Moved\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\nmove").into_bytes()
}

async fn get(handler: Value, answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> (Outcome, Vec<String>, SocketAddr) {
    let (address, asked) = serve(answer).await;
    let mut handler = handler;
    handler["port"] = json!("http");
    let probe = json!({"httpGet": handler, "timeoutSeconds": 5});
    let outcome = run_probe(probe, address.port(), &Answer::none()).await;
    let asked = asked.lock().unwrap().clone();
    (outcome, asked, address)
}

#[tokio::test]
async fn http_status_codes_determine_the_outcome() {
    for (line, expected) in [
        ("200 OK", Outcome::Success),
        ("204 No Content", Outcome::Success),
        (
            "304 Not Modified",
            Outcome::Warning("Probe terminated redirects, Response body: ".into()),
        ),
        (
            "404 Not Found",
            Outcome::Failure("HTTP probe failed with statuscode: 404".into()),
        ),
        (
            "500 Internal Server Error",
            Outcome::Failure("HTTP probe failed with statuscode: 500".into()),
        ),
    ] {
        let (outcome, asked, _) = get(json!({"path": "/"}), move |_| status(line)).await;
        assert_eq!((outcome, asked.len()), (expected, 1), "{line}");
    }
}

#[tokio::test]
async fn requests_match_the_kubelets_with_the_manifests_headers() {
    let (_, asked, address) = get(json!({"path": "/a?b=c"}), |_| status("200 OK")).await;
    let head = asked[0].to_lowercase();
    assert!(head.starts_with("get /a?b=c http/1.1\r\n"), "{head}");
    for line in [
        &format!("host: {address}"),
        "user-agent: kube-probe/1.36",
        "accept: */*",
        "connection: close",
    ] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    let headers = json!([
        {"name": "Host", "value": "example.com"}, {"name": "X-Two", "value": "1"}, {"name": "X-Two", "value": "2"},
        {"name": "User-Agent", "value": "me"}
    ]);
    let (_, asked, _) = get(json!({"path": "a", "httpHeaders": headers}), |_| status("200 OK")).await;
    let head = asked[0].to_lowercase();
    assert!(head.starts_with("get /a http/1.1\r\n"), "{head}");
    for line in ["host: example.com", "x-two: 1", "x-two: 2", "user-agent: me"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert_eq!(head.matches("host:").count(), 1, "{head}");
    let wrong = json!({"path": "/", "httpHeaders": [{"name": "X-A", "value": "a\nb"}]});
    let (outcome, asked, address) = get(wrong, |_| status("200 OK")).await;
    assert_eq!(
        outcome,
        Outcome::Unknown(format!(
            "Get \"http://{address}/\": net/http: invalid header field value for \"X-A\""
        ))
    );
    assert!(asked.is_empty());
}

#[tokio::test]
async fn up_to_ten_redirects_on_the_same_host_are_followed() {
    let answer = |number| match number {
        0 => redirect(302, "/next"),
        1 => redirect(307, "other?x=1"),
        _ => status("200 OK"),
    };
    let (outcome, asked, _) = get(json!({"path": "/dir/start"}), answer).await;
    assert_eq!(outcome, Outcome::Success);
    let lines: Vec<&str> = asked.iter().map(|head| head.lines().next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "GET /dir/start HTTP/1.1",
            "GET /next HTTP/1.1",
            "GET /other?x=1 HTTP/1.1"
        ]
    );
    let warning = Outcome::Warning("Probe terminated redirects, Response body: move".into());
    let (outcome, asked, _) = get(json!({"path": "/"}), |_| redirect(301, "/again")).await;
    assert_eq!((outcome, asked.len()), (warning.clone(), 11));
    let (outcome, asked, _) = get(json!({"path": "/"}), |_| redirect(302, "http://example.com/")).await;
    assert_eq!((outcome, asked.len()), (warning, 1));
    let (outcome, _, _) = get(json!({"path": "/"}), |number| match number {
        0 => redirect(302, "/gone"),
        _ => status("404 Not Found"),
    })
    .await;
    assert_eq!(
        outcome,
        Outcome::Failure("HTTP probe failed with statuscode: 404".into())
    );
    let (outcome, _, address) = get(json!({"path": "/"}), |_| redirect(302, "http://[")).await;
    let expected = format!("Get \"http://{address}/\": failed to parse Location header \"http://[\"");
    assert_eq!(outcome, Outcome::Failure(expected));
}

#[tokio::test]
async fn unresponsive_http_servers_are_failures_with_gos_messages() {
    let port = closed_port().await;
    let probe = json!({"httpGet": {"port": port, "path": "/healthz"}, "timeoutSeconds": 5});
    assert_eq!(
        run_probe(probe, port, &Answer::none()).await,
        Outcome::Failure(format!(
            "Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        ))
    );
    let (outcome, _, address) = get(json!({"path": "/"}), |_| Vec::new()).await;
    assert_eq!(outcome, Outcome::Failure(format!("Get \"http://{address}/\": EOF")));
    let (outcome, asked, _) = get(json!({"path": "/"}), |_| b"220 smtp.example.com ESMTP\r\n".to_vec()).await;
    assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
    assert_eq!(asked.len(), 1);
    let probe = json!({"httpGet": {"port": "web", "path": "/"}});
    assert_eq!(
        run_probe(probe, port, &Answer::none()).await,
        Outcome::Unknown("port web not found".into())
    );
}

/// The request may have been started before the close or not: the loop covers both.
#[tokio::test]
async fn an_http_server_that_closes_at_once_is_reported_as_eof() {
    for _ in 0..50 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Keep the stream: dropping it with an unread request would reset the connection.
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.shutdown().await.unwrap();
            stream
        });
        let probe = json!({"httpGet": {"port": address.port(), "path": "/"}, "timeoutSeconds": 5});
        let outcome = run_probe(probe, address.port(), &Answer::none()).await;
        assert_eq!(outcome, Outcome::Failure(format!("Get \"http://{address}/\": EOF")));
        server.await.unwrap();
    }
}

#[tokio::test]
async fn endless_responses_are_read_to_a_limit() {
    let (outcome, _, _) = get(json!({"path": "/"}), |_| {
        let mut response = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n".to_vec();
        response.resize(1 << 20, b'x');
        response
    })
    .await;
    assert_eq!(outcome, Outcome::Success);
    let (outcome, _, _) = get(json!({"path": "/"}), |_| {
        let mut response = b"HTTP/1.1 302 Found\r\nContent-Length: 100000\r\n\r\n".to_vec();
        response.resize(100_000, b'\xff');
        response
    })
    .await;
    let Outcome::Warning(message) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(message.chars().filter(|c| *c == '\u{fffd}').count(), OUTPUT_MAX_BYTES);
    let (outcome, _, _) = get(json!({"path": "/"}), |_| {
        let mut response = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        response.resize(4 << 20, b'x');
        response
    })
    .await;
    assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
    // A truncated body says nothing about the container, so the probe is repeated.
    let (outcome, asked, _) = get(json!({"path": "/"}), |_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_vec()
    })
    .await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(asked.len(), 3);
}

#[tokio::test]
async fn https_certificates_are_not_verified() {
    let key = rcgen::generate_simple_self_signed(["another.example.com".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(&status("200 OK")).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    let probe = json!({"httpGet": {"port": port, "path": "/", "scheme": "HTTPS"}, "timeoutSeconds": 30});
    assert_eq!(run_probe(probe, port, &Answer::none()).await, Outcome::Success);
    // A server without TLS is a failure.
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let hello = stream.read(&mut [0; 4096]).await.unwrap();
        assert!(hello > 0);
        stream.write_all(&status("400 Bad Request")).await.unwrap();
    });
    let probe = json!({"httpGet": {"port": address.port(), "path": "/", "scheme": "HTTPS"}, "timeoutSeconds": 30});
    assert_eq!(
        run_probe(probe, port, &Answer::none()).await,
        Outcome::Failure(format!(
            "Get \"https://{address}/\": http: server gave HTTP response to HTTPS client"
        ))
    );
}
