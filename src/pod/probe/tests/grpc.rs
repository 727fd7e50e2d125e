//! gRPC probes against a server that speaks the protocol, or something else.

use super::*;

/// A gRPC server's answer.
#[derive(Clone)]
enum Grpc {
    /// A message, and trailers with this status.
    Message(Vec<u8>, &'static str),
    /// Trailers only.
    Trailers(&'static str, &'static str),
    /// An HTTP response that is not gRPC.
    Http(u16),
    /// A message and no trailers.
    NoTrailers(Vec<u8>),
}

/// Answers one call, and returns the request: path, headers, body.
async fn grpc_server(answer: Grpc) -> (u16, tokio::task::JoinHandle<(String, http::HeaderMap, Vec<u8>)>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        // Frames are only sent while the connection is polled.
        let driver = tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let (head, mut body) = request.into_parts();
        let mut sent = Vec::new();
        while let Some(Ok(chunk)) = body.data().await {
            sent.extend_from_slice(&chunk);
        }
        let response = http::Response::builder().header("content-type", "application/grpc");
        match answer {
            Grpc::Message(message, status) => {
                let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                stream.send_data(message.into(), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                stream.send_trailers(trailers).unwrap();
            }
            Grpc::Trailers(status, message) => {
                let response = response.header("grpc-status", status).header("grpc-message", message);
                respond.send_response(response.body(()).unwrap(), true).unwrap();
            }
            Grpc::Http(status) => {
                let response = response.status(status).body(()).unwrap();
                respond.send_response(response, true).unwrap();
            }
            Grpc::NoTrailers(message) => {
                let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                stream.send_data(message.into(), true).unwrap();
            }
        }
        drop(respond);
        let _ = driver.await;
        (head.uri.path().to_owned(), head.headers, sent)
    });
    (port, served)
}

async fn grpc_outcome(answer: Grpc) -> Outcome {
    let (port, _served) = grpc_server(answer).await;
    run_probe(
        json!({"grpc": {"port": port}, "timeoutSeconds": 30}),
        port,
        &Answer::none(),
    )
    .await
}

#[tokio::test]
async fn grpc_probes_send_the_service_name() {
    let (port, served) = grpc_server(Grpc::Message(vec![0, 0, 0, 0, 2, 8, 1], "0")).await;
    let probe = json!({"grpc": {"port": port, "service": "db"}, "timeoutSeconds": 30});
    assert_eq!(run_probe(probe, port, &Answer::none()).await, Outcome::Success);
    let (path, headers, body) = served.await.unwrap();
    assert_eq!(path, "/grpc.health.v1.Health/Check");
    assert_eq!(body, [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "kube-probe/1.36"),
        ("grpc-timeout", "30S"),
    ] {
        assert_eq!(headers[name], value);
    }
}

#[tokio::test]
async fn grpc_results_have_the_kubelets_messages() {
    let message = |status: u8| Grpc::Message(vec![0, 0, 0, 0, 2, 8, status], "0");
    for (answer, expected) in [
        (message(2), "service unhealthy (responded with \"NOT_SERVING\")"),
        (message(3), "service unhealthy (responded with \"SERVICE_UNKNOWN\")"),
        (
            Grpc::Trailers("12", "unknown%20service"),
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service",
        ),
        (
            Grpc::Trailers("5", "unknown service"),
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
        ),
        (
            Grpc::Trailers("4", ""),
            "timeout: health rpc did not complete within 30s",
        ),
        (
            Grpc::Trailers("99", "?"),
            "error: health rpc probe failed: rpc error: code = Code(99) desc = ?",
        ),
        (
            Grpc::Trailers("x", ""),
            "error: health rpc probe failed: rpc error: code = Internal desc = malformed grpc-status",
        ),
        (
            Grpc::Http(404),
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unexpected HTTP status code received from server: 404 Not Found",
        ),
        (
            Grpc::Http(503),
            "error: health rpc probe failed: rpc error: code = Unavailable desc = unexpected HTTP status code received from server: 503 Service Unavailable",
        ),
        (
            Grpc::NoTrailers(vec![0, 0, 0, 0, 2, 8, 1]),
            "error: health rpc probe failed: rpc error: code = Internal desc = server closed the stream without sending trailers",
        ),
        (
            Grpc::Message(vec![0, 0, 0, 0, 9, 8, 1], "0"),
            "error: health rpc probe failed: rpc error: code = Internal desc = the message has 2 bytes instead of 9",
        ),
        (
            Grpc::Message(vec![0; 1000], "0"),
            "error: health rpc probe failed: rpc error: code = ResourceExhausted desc = received message larger than max (256 bytes)",
        ),
    ] {
        assert_eq!(grpc_outcome(answer).await, Outcome::Failure(expected.to_owned()));
    }
}

#[tokio::test]
async fn servers_without_grpc_are_failures() {
    let (address, _) = serve(|_| status("400 Bad Request")).await;
    let probe = json!({"grpc": {"port": address.port()}, "timeoutSeconds": 30});
    let outcome = run_probe(probe, 1, &Answer::none()).await;
    let Outcome::Failure(message) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(
        message.starts_with("error: health rpc probe failed: rpc error: code = Unavailable desc = connection error"),
        "{message}"
    );
}
