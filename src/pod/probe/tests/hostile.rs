//! Servers that never answer, or answer with arbitrary bytes.

use super::*;

/// A server that accepts connections and never sends anything.
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
async fn all_probes_end_at_their_timeout() {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a server sends, as HTTP or gRPC, the probe has an outcome of bounded size.
    #[test]
    fn any_response_has_an_outcome(
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
