//! Supervisors of other builds, simulated by the bytes that they send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::pod::supervisor_protocol::SOCKET_FILE;

/// The directories of a Pod, and a listener on its supervisor's socket.
fn listening() -> (tempfile::TempDir, Paths, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
    std::fs::create_dir_all(paths.pod_run("u")).unwrap();
    let listener = UnixListener::bind(paths.pod_run("u").join(SOCKET_FILE)).unwrap();
    (dir, paths, listener)
}

async fn frame_bytes(frame: SupervisorFrame) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &frame).await.unwrap();
    bytes
}

async fn hello() -> Vec<u8> {
    frame_bytes(SupervisorFrame::Request(SupervisorRequest::Hello(Greeting::own()))).await
}

/// Simulates a supervisor that expects this frame, sends this answer and closes the connection.
async fn answer(listener: &UnixListener, asked: &[u8], answer: &[u8]) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut got = vec![0; asked.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, asked);
    stream.write_all(answer).await.unwrap();
}

/// A supervisor of version 0: its bytes were recorded from the last build without versions
/// (`supervisor_protocol::kept_frames` has all of them).
async fn version_0(listener: UnixListener, asked: &[u8], said: &[u8]) {
    // It does not understand the greeting and hangs up.
    answer(&listener, &hello().await, b"").await;
    answer(&listener, asked, said).await;
}

#[tokio::test]
async fn a_supervisor_without_versions_gets_the_original_protocol() {
    let (_dir, paths, listener) = listening();
    let asked = async {
        let mut client = SupervisorClient::connect(&paths, "u").await?;
        assert_eq!(client.version, 0);
        client.stats().await
    };
    let said = b"\x03\0\0\0\x45{\"stats\":[{\"container\":\"web\",\"cpu_nanocores\":1,\"memory_bytes\":4096}]}";
    let (usage, ()) = tokio::join!(asked, version_0(listener, b"\x04\0\0\0\x07\"stats\"", said));
    assert_eq!(usage.unwrap().first().unwrap().memory_bytes, 4096);
}

#[tokio::test]
async fn a_supervisor_of_this_version_is_greeted_once() {
    let (_dir, paths, listener) = listening();
    let supervisor = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let greeted = read_frame(&mut stream).await.unwrap();
        assert_eq!(
            greeted,
            Some(SupervisorFrame::Request(SupervisorRequest::Hello(Greeting::own())))
        );
        // A later build that also supports this version.
        let later = Greeting {
            newest: VERSIONS.newest + 5,
            build: "9".to_owned(),
            ..Greeting::own()
        };
        write_frame(&mut stream, &SupervisorFrame::Notice(Notice::Hello(later)))
            .await
            .unwrap();
        assert_eq!(
            read_frame(&mut stream).await.unwrap(),
            Some(SupervisorFrame::Request(SupervisorRequest::Stats))
        );
        write_frame(&mut stream, &SupervisorFrame::Notice(Notice::Stats(Vec::new())))
            .await
            .unwrap();
    };
    let asked = async {
        let mut client = SupervisorClient::connect(&paths, "u").await?;
        assert_eq!(client.version, VERSIONS.newest);
        client.stats().await
    };
    let (usage, ()) = tokio::join!(asked, supervisor);
    assert_eq!(usage.unwrap(), []);
}

#[tokio::test]
async fn a_supervisor_without_a_common_version_is_reported() {
    let (_dir, paths, listener) = listening();
    let said = frame_bytes(SupervisorFrame::Notice(Notice::Hello(Greeting {
        oldest: 7,
        newest: 9,
        build: "3.1.0".to_owned(),
    })));
    let (said, greeting) = tokio::join!(said, hello());
    let (client, ()) = tokio::join!(
        SupervisorClient::connect(&paths, "u"),
        answer(&listener, &greeting, &said)
    );
    assert_eq!(
        client.unwrap_err().to_string(),
        format!(
            "the Pod's supervisor (microkube 3.1.0) speaks protocol versions 7 to 9, this microkube ({own}) versions 0 to 4; \
             use microkube 3.1.0 for this Pod",
            own = crate::build_id::build()
        )
    );
}

#[tokio::test]
async fn a_supervisor_that_exits_during_the_greeting_counts_as_not_running() {
    let (_dir, paths, listener) = listening();
    let ending = async {
        let _greeted = listener.accept().await.unwrap();
        drop(listener);
    };
    let (client, ()) = tokio::join!(SupervisorClient::connect(&paths, "u"), ending);
    assert!(matches!(client, Err(ClientError::NotRunning(_))), "{client:?}");
}
