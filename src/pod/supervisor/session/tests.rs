//! Command lines of this and other builds, simulated by the bytes that they send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::supervised_pod::test_pod;
use super::*;
use crate::build_id::build;

/// Returns a supervisor's answer to these bytes, until it closes the connection. Orders are carried out.
async fn answers(sent: &[u8]) -> Vec<u8> {
    let (pod, _messages) = test_pod(true);
    let (order_sender, mut orders) = mpsc::channel::<Order>(1);
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(sent).await.unwrap();
    let carry_out = async {
        while let Some(order) = orders.recv().await {
            if let Order::Terminate { noted: Some(noted), .. } = order {
                noted.send(()).unwrap();
            }
        }
    };
    let (served, ()) = tokio::join!(serve(server, PodView::new(&pod), order_sender), carry_out);
    served.unwrap();
    let mut answered = Vec::new();
    client.read_to_end(&mut answered).await.unwrap();
    answered
}

async fn bytes(frames: &[SupervisorFrame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        write_frame(&mut bytes, frame).await.unwrap();
    }
    bytes
}

fn greeting(oldest: u32, newest: u32) -> SupervisorFrame {
    SupervisorFrame::Request(SupervisorRequest::Hello(Greeting {
        oldest,
        newest,
        build: "9".to_owned(),
    }))
}

fn own_greeting() -> SupervisorFrame {
    SupervisorFrame::Notice(Notice::Hello(Greeting::own()))
}

fn refused(message: &str) -> SupervisorFrame {
    SupervisorFrame::Notice(Notice::Refused {
        message: message.to_owned(),
    })
}

/// The bytes are those of `supervisor_protocol::kept_frames`.
#[tokio::test]
async fn a_client_without_versions_gets_the_original_protocol() {
    for (asked, answered) in [
        (
            &b"\x04\0\0\0\x19{\"delete\":{\"grace\":null}}"[..],
            &b"\x03\0\0\0\x06\"done\""[..],
        ),
        (
            b"\x04\0\0\0\x07\"stats\"",
            b"\x03\0\0\0\x30{\"refused\":{\"message\":\"the Pod is not running\"}}",
        ),
        (
            b"\x04\0\0\0\x56{\"exec\":{\"container\":\"web\",\"command\":[\"sh\"],\"stdin\":false,\"tty\":true,\"tty_size\":null}}",
            b"\x03\0\0\0\x3a{\"refused\":{\"message\":\"container \\\"web\\\" is not running\"}}",
        ),
    ] {
        let length = u32::from_be_bytes(asked[1..5].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), asked.len() - 5, "{}", asked.escape_ascii());
        let found = answers(asked).await;
        assert_eq!(found, answered, "{}", found.escape_ascii());
    }
}

#[tokio::test]
async fn a_port_of_a_pod_without_a_virtual_machine_is_refused() {
    let forward = |port| SupervisorFrame::Request(SupervisorRequest::PortForward { port });
    for (port, why) in [(80, "the Pod is not running"), (0, "the port 0 does not exist")] {
        let asked = bytes(&[greeting(0, 4), forward(port)]).await;
        assert_eq!(answers(&asked).await, bytes(&[own_greeting(), refused(why)]).await);
    }
}

#[tokio::test]
async fn a_client_that_greets_is_greeted_and_answered() {
    let delete = SupervisorFrame::Request(SupervisorRequest::Delete { grace: None });
    for newest in [0, 1, u32::MAX] {
        let asked = bytes(&[greeting(0, newest), delete.clone()]).await;
        let answered = bytes(&[own_greeting(), SupervisorFrame::Notice(Notice::Done)]).await;
        assert_eq!(answers(&asked).await, answered);
    }
}

#[tokio::test]
async fn a_client_without_a_common_version_is_told_by_the_greeting_and_not_served() {
    let asked = bytes(&[greeting(7, 9)]).await;
    assert_eq!(answers(&asked).await, bytes(&[own_greeting()]).await);
}

#[tokio::test]
async fn unknown_and_premature_requests_are_refused() {
    let why = format!(
        "the Pod's supervisor (microkube {}) does not understand the request",
        build()
    );
    for strange in [
        &b"\x04\0\0\0\x0c\"checkpoint\""[..],
        b"\x63\0\0\0\0",
        b"\x04\0\0\0\x02{}",
    ] {
        assert_eq!(answers(strange).await, bytes(&[refused(&why)]).await);
    }
    let twice = bytes(&[greeting(0, 1), greeting(0, 1)]).await;
    let answered = bytes(&[own_greeting(), refused("this request cannot be the first one")]).await;
    assert_eq!(answers(&twice).await, answered);
}
