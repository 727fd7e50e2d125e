//! TCP probes.

use super::*;

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
