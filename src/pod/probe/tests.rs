//! Probes and hooks against servers in this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::{Container, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs no command but answers as told, after a while.
struct Answer {
    answer: Result<ExecOutput, ExecError>,
    after: Duration,
    asked: Mutex<Vec<(Vec<String>, Option<Duration>)>>,
}

impl Answer {
    fn new(answer: Result<(i32, &[u8]), &str>) -> Self {
        let answer = answer.map(|(exit_code, output)| ExecOutput {
            exit_code,
            output: output.to_vec(),
        });
        Self {
            answer: answer.map_err(|error| ExecError::Failed(error.to_owned())),
            after: Duration::ZERO,
            asked: Mutex::default(),
        }
    }

    fn none() -> Self {
        Self::new(Err("nothing runs commands in this test"))
    }
}

impl Exec for Answer {
    async fn run(&self, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput, ExecError> {
        self.asked.lock().unwrap().push((command.to_vec(), timeout));
        tokio::time::sleep(self.after).await;
        self.answer.clone()
    }
}

fn pod() -> Pod {
    let metadata = json!({"name": "web", "namespace": "default", "uid": "u-1"});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap()
}

fn container(port: u16) -> Container {
    serde_json::from_value(json!({"name": "main", "ports": [{"containerPort": port, "name": "http"}]})).unwrap()
}

async fn run_probe(handler: Value, port: u16, exec: &Answer) -> Outcome {
    let (pod, container) = (pod(), container(port));
    let target = Target {
        pod: &pod,
        container: &container,
        pod_ip: LOCALHOST,
    };
    probe(&serde_json::from_value(handler).unwrap(), &target, exec).await
}

async fn run(hook: Value, port: u16, timeout: Option<Duration>, exec: &Answer) -> Result<(), String> {
    let (pod, container) = (pod(), container(port));
    let target = Target {
        pod: &pod,
        container: &container,
        pod_ip: LOCALHOST,
    };
    run_hook(&serde_json::from_value(hook).unwrap(), &target, timeout, exec).await
}

/// Reads a request's head.
async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Answers each connection's request with the answer to its number, in bytes, and closes. What was asked is collected.
async fn serve(answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            seen.lock().unwrap().push(head);
            // The client may have had enough.
            let _ = stream.write_all(&answer(number)).await;
        }
    });
    (address, asked)
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

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

/// A port at which nothing listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn http_status_codes_decide() {
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
async fn requests_are_the_kubelets_with_the_manifests_headers() {
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
async fn redirects_are_followed_on_the_same_host_and_ten_times() {
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
async fn http_servers_that_do_not_answer_are_failures_in_gos_words() {
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
    // A body that is cut says nothing about the container; the probe is made again.
    let (outcome, asked, _) = get(json!({"path": "/"}), |_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_vec()
    })
    .await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(asked.len(), 3);
}

/// A server that takes connections and says nothing.
async fn silent() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        let mut streams: Vec<TcpStream> = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            streams.push(stream);
        }
    });
    (address, accepting)
}

#[tokio::test(start_paused = true)]
async fn everything_ends_at_its_timeout() {
    let (address, _accepting) = silent().await;
    let port = address.port();
    let begun = tokio::time::Instant::now();
    let probe = json!({"httpGet": {"port": "http", "path": "/"}});
    assert_eq!(
        run_probe(probe, port, &Answer::none()).await,
        Outcome::Failure(format!(
            "Get \"http://{address}/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ))
    );
    assert_eq!(begun.elapsed().as_secs(), 1, "the default");
    let probe = json!({"grpc": {"port": port}, "timeoutSeconds": 90});
    assert_eq!(
        run_probe(probe, port, &Answer::none()).await,
        Outcome::Failure("timeout: health rpc did not complete within 1m30s".into())
    );
    assert_eq!(begun.elapsed().as_secs(), 91);
    let mut exec = Answer::new(Ok((0, b"")));
    exec.after = Duration::from_secs(3600);
    let probe = json!({"exec": {"command": ["sh", "-c", "sleep 9"]}, "timeoutSeconds": 2});
    assert_eq!(
        run_probe(probe, port, &exec).await,
        Outcome::Failure("command timed out: \"sh -c sleep 9\" timed out after 2s".into())
    );
    assert_eq!(exec.asked.lock().unwrap().len(), 1);
    assert_eq!(begun.elapsed().as_secs(), 93);
    let closed = closed_port().await;
    let probe = json!({"grpc": {"port": closed}, "timeoutSeconds": 3});
    assert_eq!(
        run_probe(probe, port, &Answer::none()).await,
        Outcome::Failure(format!(
            "timeout: failed to connect service \"127.0.0.1:{closed}\" within 3s: context deadline exceeded"
        ))
    );
    assert_eq!(begun.elapsed().as_secs(), 96);
}

#[tokio::test]
async fn https_is_not_verified() {
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
    // TLS where there is none is a failure.
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

#[tokio::test]
async fn hooks_fall_back_to_http_without_credentials() {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let hello = first.read(&mut [0; 4096]).await.unwrap();
        assert!(hello > 0);
        first.write_all(&status("400 Bad Request")).await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let head = read_head(&mut second).await;
        second.write_all(&status("200 OK")).await.unwrap();
        head.to_lowercase()
    });
    let headers = json!([{"name": "Authorization", "value": "Bearer x"}, {"name": "X-A", "value": "y"}]);
    let hook = json!({"httpGet": {"port": port, "path": "/stop", "scheme": "HTTPS", "httpHeaders": headers}});
    assert_eq!(run(hook, port, None, &Answer::none()).await, Ok(()));
    let head = served.await.unwrap();
    assert!(
        head.starts_with("get /stop ") && head.contains("x-a: y\r\n") && !head.contains("authorization"),
        "{head}"
    );
}

#[tokio::test]
async fn tcp_probes_connect() {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let to = |port: Value| json!({"tcpSocket": {"port": port}, "timeoutSeconds": 5});
    assert_eq!(
        run_probe(to(json!("http")), port, &Answer::none()).await,
        Outcome::Success
    );
    let other = json!({"tcpSocket": {"port": port, "host": "localhost"}, "timeoutSeconds": 5});
    assert_eq!(run_probe(other, 1, &Answer::none()).await, Outcome::Success);
    drop(listener);
    assert_eq!(
        run_probe(to(json!(port)), port, &Answer::none()).await,
        Outcome::Failure(format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
    );
    assert_eq!(
        run_probe(to(json!("nothing")), port, &Answer::none()).await,
        Outcome::Unknown("port nothing not found".into())
    );
}

#[tokio::test]
async fn commands_decide_by_their_exit_code() {
    let probe = json!({"exec": {"command": ["cat", "/tmp/healthy"]}, "timeoutSeconds": 5});
    let exec = Answer::new(Ok((0, b"fine")));
    assert_eq!(run_probe(probe.clone(), 1, &exec).await, Outcome::Success);
    let asked = exec.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [(
            vec!["cat".to_owned(), "/tmp/healthy".to_owned()],
            Some(Duration::from_secs(5))
        )]
    );
    let exec = Answer::new(Ok((1, b"cat: can't open '/tmp/healthy'\n")));
    assert_eq!(
        run_probe(probe.clone(), 1, &exec).await,
        Outcome::Failure("cat: can't open '/tmp/healthy'\n".into())
    );
    assert_eq!(exec.asked.lock().unwrap().len(), 1, "a failure is not tried again");
    let exec = Answer::new(Ok((1, &[b'x'; 20_000])));
    assert_eq!(
        run_probe(probe.clone(), 1, &exec).await,
        Outcome::Failure("x".repeat(OUTPUT_MAX_BYTES))
    );
    let exec = Answer::new(Err("the sandbox is gone"));
    assert_eq!(
        run_probe(probe, 1, &exec).await,
        Outcome::Unknown("the sandbox is gone".into())
    );
    assert_eq!(exec.asked.lock().unwrap().len(), 3);
    assert_eq!(
        run_probe(json!({}), 1, &exec).await,
        Outcome::Unknown("missing probe handler for web_default(u-1):main".into())
    );
}

/// What a gRPC server answers.
#[derive(Clone)]
enum Grpc {
    /// A message, then trailers with this status.
    Message(Vec<u8>, &'static str),
    /// Trailers only.
    Trailers(&'static str, &'static str),
    /// An HTTP response that is no gRPC.
    Http(u16),
    /// A message and no trailers.
    NoTrailers(Vec<u8>),
}

/// Answers one call, and gives back what was asked: path, headers, body.
async fn grpc_server(answer: Grpc) -> (u16, tokio::task::JoinHandle<(String, http::HeaderMap, Vec<u8>)>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        // Frames are moved only while the connection is polled.
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
async fn grpc_probes_ask_for_the_service() {
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
async fn grpc_answers_are_told_in_the_kubelets_words() {
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
async fn servers_that_speak_no_grpc_are_failures() {
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

#[tokio::test]
async fn hooks_run_commands_and_call_servers() {
    let exec = Answer::new(Ok((0, b"")));
    let hook = json!({"exec": {"command": ["nginx", "-s", "quit"]}});
    assert_eq!(run(hook.clone(), 1, None, &exec).await, Ok(()));
    assert_eq!(exec.asked.lock().unwrap()[0].1, None);
    let exec = Answer::new(Ok((3, b"no\n")));
    assert_eq!(
        run(hook.clone(), 1, Some(Duration::from_secs(9)), &exec).await,
        Err(
            "Exec lifecycle hook ([nginx -s quit]) for Container \"main\" in Pod \"web_default(u-1)\" failed - error: \
             command 'nginx -s quit' exited with 3: , message: \"no\\n\""
                .to_owned()
        )
    );
    assert_eq!(exec.asked.lock().unwrap()[0].1, Some(Duration::from_secs(9)));
    let error = run(hook, 1, None, &Answer::none()).await.unwrap_err();
    assert!(error.ends_with("error: nothing runs commands in this test, message: \"\""));
    // Any answer will do.
    let (address, asked) = serve(|_| status("500 Internal Server Error")).await;
    let hook = json!({"httpGet": {"port": "http", "path": "/stop"}});
    assert_eq!(run(hook, address.port(), None, &exec).await, Ok(()));
    let head = asked.lock().unwrap()[0].to_lowercase();
    assert!(
        head.starts_with("get /stop ") && head.contains("user-agent: kube-lifecycle/1.36\r\n"),
        "{head}"
    );
    let port = closed_port().await;
    assert_eq!(
        run(json!({"httpGet": {"port": port, "path": "/x"}}), port, None, &exec).await,
        Err(format!(
            "HTTP lifecycle hook (/x) for Container \"main\" in Pod \"web_default(u-1)\" failed - error: \
             Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        ))
    );
    let error = run(json!({"tcpSocket": {"port": port}}), port, None, &exec).await;
    assert!(error.unwrap_err().starts_with("Cannot run handler: invalid handler"));
}

#[tokio::test]
async fn a_command_that_runs_into_its_timeout_has_failed_and_is_not_tried_again() {
    let mut exec = Answer::none();
    exec.answer = Err(ExecError::TimedOut);
    let probe = json!({"exec": {"command": ["sleep", "9"]}, "timeoutSeconds": 2});
    assert_eq!(
        run_probe(probe, 1, &exec).await,
        Outcome::Failure("command timed out: \"sleep 9\" timed out after 2s".into())
    );
    assert_eq!(exec.asked.lock().unwrap().len(), 1);
    let hook = json!({"exec": {"command": ["sleep", "9"]}});
    assert_eq!(
        run(hook, 1, Some(Duration::from_secs(5)), &exec).await,
        Err("lifecycle hook for Container \"main\" in Pod \"web_default(u-1)\" did not complete within 5s".into())
    );
}

#[tokio::test(start_paused = true)]
async fn hooks_sleep_and_are_cut_at_their_timeout() {
    let begun = tokio::time::Instant::now();
    let sleep = json!({"sleep": {"seconds": 20}});
    assert_eq!(run(sleep.clone(), 1, None, &Answer::none()).await, Ok(()));
    assert_eq!(begun.elapsed().as_secs(), 20);
    let cut = run(sleep, 1, Some(Duration::from_secs(5)), &Answer::none()).await;
    assert_eq!(
        cut,
        Err("lifecycle hook for Container \"main\" in Pod \"web_default(u-1)\" did not complete within 5s".into())
    );
    assert_eq!(begun.elapsed().as_secs(), 25);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a server sends, as HTTP or as gRPC, there is an outcome of bounded size.
    #[test]
    fn any_answer_has_an_outcome(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        start in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 302 Found\r\nLocation: "), Just("\0\0\0\x04\0\0\0\0\0")],
    ) {
        let mut answer = start.as_bytes().to_vec();
        answer.extend(bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (address, _) = serve(move |_| answer.clone()).await;
            for handler in ["httpGet", "grpc"] {
                let probe = json!({handler: {"port": address.port()}, "timeoutSeconds": 5});
                match run_probe(probe, 1, &Answer::none()).await {
                    Outcome::Success => {}
                    Outcome::Warning(message) | Outcome::Failure(message) | Outcome::Unknown(message) => {
                        assert!(message.len() < 8 * OUTPUT_MAX_BYTES, "{message}");
                    }
                }
            }
        });
    }
}
