//! Frames of every version as they were on the wire, byte for byte. They never change, because a supervisor from the
//! build that sent them may still run. New versions add frames.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 80 };

fn version_0() -> Vec<(&'static [u8], SupervisorFrame)> {
    vec![
        (b"\x04\x00\x00\x00,{\"terminate\":{\"grace\":{\"secs\":3,\"nanos\":0}}}", SupervisorFrame::Request(SupervisorRequest::Terminate { grace: Some(Duration::from_secs(3)) })),
        (b"\x04\x00\x00\x00\x06\"kill\"", SupervisorFrame::Request(SupervisorRequest::Kill)),
        (b"\x04\x00\x00\x00\x19{\"delete\":{\"grace\":null}}", SupervisorFrame::Request(SupervisorRequest::Delete { grace: None })),
        (b"\x04\x00\x00\x00){\"delete\":{\"grace\":{\"secs\":0,\"nanos\":0}}}", SupervisorFrame::Request(SupervisorRequest::Delete { grace: Some(Duration::ZERO) })),
        (b"\x04\x00\x00\x00\x08\"follow\"", SupervisorFrame::Request(SupervisorRequest::Follow)),
        (b"\x04\x00\x00\x00O{\"attach\":{\"container\":\"web\",\"stdin\":true,\"tty_size\":{\"rows\":24,\"columns\":80}}}", SupervisorFrame::Request(SupervisorRequest::Attach(AttachOptions { container: "web".to_owned(), stdin: true, tty_size: Some(SIZE), from_start_of: None }))),
        (b"\x04\x00\x00\x00i{\"exec\":{\"container\":\"web\",\"command\":[\"sh\",\"-c\",\"echo \\\"\xc3\xa4\\\"\"],\"stdin\":false,\"tty\":true,\"tty_size\":null}}", SupervisorFrame::Request(SupervisorRequest::Exec(ExecOptions { container: "web".to_owned(), command: ["sh", "-c", "echo \"\u{e4}\""].map(str::to_owned).into(), stdin: false, tty: true, tty_size: None }))),
        (b"\x04\x00\x00\x00#{\"resize\":{\"rows\":24,\"columns\":80}}", SupervisorFrame::Request(SupervisorRequest::Resize(SIZE))),
        (b"\x04\x00\x00\x00\x07\"stats\"", SupervisorFrame::Request(SupervisorRequest::Stats)),
        (b"\x03\x00\x00\x00\x12{\"warning\":\"slow\"}", SupervisorFrame::from(PodNotice::Warning("slow".to_owned()))),
        (b"\x03\x00\x00\x00K{\"pull_progress\":{\"image\":\"nginx:1\",\"received_bytes\":7,\"total_bytes\":null}}", SupervisorFrame::from(PodNotice::PullProgress { image: "nginx:1".to_owned(), received_bytes: 7, total_bytes: None })),
        (b"\x03\x00\x00\x00\x1e{\"pulled\":{\"image\":\"nginx:1\"}}", SupervisorFrame::from(PodNotice::Pulled { image: "nginx:1".to_owned() })),
        (b"\x03\x00\x00\x00O{\"running\":{\"pod_ip\":\"10.88.0.2\",\"stages\":[{\"name\":\"vmm\",\"milliseconds\":1.5}]}}", SupervisorFrame::from(PodNotice::Running { pod_ip: "10.88.0.2".to_owned(), stages: vec![Stage { name: "vmm".to_owned(), milliseconds: 1.5 }] })),
        (b"\x03\x00\x00\x00W{\"container_ended\":{\"container\":1,\"exit_code\":137,\"reason\":\"OOMKilled\",\"message\":null}}", SupervisorFrame::from(PodNotice::ContainerEnded { container: 1, exit_code: 137, reason: "OOMKilled".to_owned(), message: None })),
        (b"\x03\x00\x00\x00){\"finished\":{\"exit_code\":3,\"error\":\"no\"}}", SupervisorFrame::from(PodNotice::Finished { exit_code: 3, error: Some("no".to_owned()) })),
        (b"\x03\x00\x00\x00\x06\"done\"", SupervisorFrame::Notice(Notice::Done)),
        (b"\x03\x00\x00\x00\x0a\"attached\"", SupervisorFrame::Notice(Notice::Attached)),
        (b"\x03\x00\x00\x00\x09\"started\"", SupervisorFrame::Notice(Notice::Started)),
        (b"\x03\x00\x00\x00\x1c{\"exited\":{\"exit_code\":137}}", SupervisorFrame::Notice(Notice::Exited { exit_code: 137 })),
        (b"\x03\x00\x00\x00\x0d\"input_ended\"", SupervisorFrame::Notice(Notice::InputEnded)),
        (b"\x03\x00\x00\x00\x1c{\"refused\":{\"message\":\"no\"}}", SupervisorFrame::Notice(Notice::Refused { message: "no".to_owned() })),
        (b"\x03\x00\x00\x00E{\"stats\":[{\"container\":\"web\",\"cpu_nanocores\":1,\"memory_bytes\":4096}]}", SupervisorFrame::Notice(Notice::Stats(vec![ContainerUsage { container: "web".to_owned(), cpu_nanocores: 1, memory_bytes: 4096 }]))),
        (b"\x01\x00\x00\x00\x07\x01,\x01err\x0a", SupervisorFrame::Output { container: 300, stream: OutputStream::Stderr, bytes: b"err\n".to_vec() }),
        (b"\x01\x00\x00\x00\x03\x00\x00\x00", SupervisorFrame::Output { container: 0, stream: OutputStream::Stdout, bytes: Vec::new() }),
        (b"\x02\x00\x00\x00\x06kernel", SupervisorFrame::Log(b"kernel".to_vec())),
        (b"\x05\x00\x00\x00\x03in\xff", SupervisorFrame::Stdin(b"in\xff".to_vec())),
        (b"\x05\x00\x00\x00\x00", SupervisorFrame::Stdin(Vec::new())),
    ]
}

fn greeting() -> Greeting {
    Greeting {
        oldest: 0,
        newest: 1,
        build: "0.1.0".to_owned(),
    }
}

/// The frames that version 1 adds to version 0.
fn version_1() -> Vec<(&'static [u8], SupervisorFrame)> {
    vec![
        (
            b"\x04\x00\x00\x001{\"hello\":{\"oldest\":0,\"newest\":1,\"build\":\"0.1.0\"}}",
            SupervisorFrame::Request(SupervisorRequest::Hello(greeting())),
        ),
        (
            b"\x03\x00\x00\x001{\"hello\":{\"oldest\":0,\"newest\":1,\"build\":\"0.1.0\"}}",
            SupervisorFrame::Notice(Notice::Hello(greeting())),
        ),
    ]
}

/// The frames that version 2 adds to version 1.
fn version_2() -> Vec<(&'static [u8], SupervisorFrame)> {
    vec![
        (b"\x04\x00\x00\x00T{\"attach\":{\"container\":\"web\",\"stdin\":false,\"tty_size\":null,\"from_start_of\":\"web-0\"}}", SupervisorFrame::Request(SupervisorRequest::Attach(AttachOptions { container: "web".to_owned(), stdin: false, tty_size: None, from_start_of: Some("web-0".to_owned()) }))),
        (b"\x03\x00\x00\x005{\"attached_at\":{\"stdout_bytes\":300,\"stderr_bytes\":0}}", SupervisorFrame::Notice(Notice::AttachedAt { stdout_bytes: 300, stderr_bytes: 0 })),
    ]
}

/// The frames that version 3 adds to version 2.
fn version_3() -> Vec<(&'static [u8], SupervisorFrame)> {
    let container = EphemeralContainer {
        name: "d".to_owned(),
        image: Some("b".to_owned()),
        target_container_name: Some("web".to_owned()),
        ..EphemeralContainer::default()
    };
    let update = |since: Option<&str>, change| {
        let since = since.map(str::to_owned);
        SupervisorFrame::Request(SupervisorRequest::Update(UpdateRequest { since, change }))
    };
    vec![
        (
            b"\x04\x00\x00\x00\x70{\"update\":{\"since\":\"7\",\"change\":{\"pod\":{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"labels\":{\"tier\":\"back\"}}}}}}",
            update(
                Some("7"),
                Change::Pod(Box::new(Pod {
                    metadata: ObjectMeta {
                        labels: Some([("tier".to_owned(), "back".to_owned())].into()),
                        ..ObjectMeta::default()
                    },
                    ..Pod::default()
                })),
            ),
        ),
        (
            b"\x04\x00\x00\x00\x72{\"update\":{\"since\":null,\"change\":{\"conditions\":{\"since\":[],\"wanted\":[{\"status\":\"True\",\"type\":\"example.com/a\"}]}}}}",
            update(
                None,
                Change::Conditions {
                    since: Vec::new(),
                    wanted: vec![PodCondition {
                        type_: "example.com/a".to_owned(),
                        status: "True".to_owned(),
                        ..PodCondition::default()
                    }],
                },
            ),
        ),
        (b"\x03\x00\x00\x00\x0a\"outdated\"", SupervisorFrame::Notice(Notice::Outdated)),
        (b"\x04\x00\x00\x00P{\"add_ephemeral_container\":{\"image\":\"b\",\"name\":\"d\",\"targetContainerName\":\"web\"}}", SupervisorFrame::Request(SupervisorRequest::AddEphemeralContainer(Box::new(container)))),
    ]
}

/// The frame that version 4 adds to version 3.
fn version_4() -> Vec<(&'static [u8], SupervisorFrame)> {
    vec![(
        b"\x04\x00\x00\x00\x1e{\"port_forward\":{\"port\":8080}}",
        SupervisorFrame::Request(SupervisorRequest::PortForward { port: 8080 }),
    )]
}

#[tokio::test]
async fn frames_of_all_versions_are_unchanged() {
    for (bytes, frame) in version_0()
        .into_iter()
        .chain(version_1())
        .chain(version_2())
        .chain(version_3())
        .chain(version_4())
    {
        let mut rest = bytes;
        assert_eq!(read_frame(&mut rest).await.unwrap(), Some(frame.clone()));
        assert!(rest.is_empty(), "{frame:?}");
        let mut written = Vec::new();
        write_frame(&mut written, &frame).await.unwrap();
        assert_eq!(written, bytes, "{frame:?}");
    }
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_unknown_requests_reported() {
    let read = async |kind: u8, json: &str| {
        let length = u32::try_from(json.len()).unwrap().to_be_bytes();
        let bytes = [&[kind], &length[..], json.as_bytes()].concat();
        read_frame(&mut bytes.as_slice()).await
    };
    let exited = read(3, r#"{"exited":{"exit_code":3,"signal":null}}"#).await.unwrap();
    assert_eq!(exited, Some(SupervisorFrame::Notice(Notice::Exited { exit_code: 3 })));
    let hello = read(4, r#"{"hello":{"oldest":4,"newest":9,"build":"2","features":["x"]}}"#)
        .await
        .unwrap();
    let Some(SupervisorFrame::Request(SupervisorRequest::Hello(greeting))) = hello else {
        panic!("{hello:?}")
    };
    assert_eq!(greeting.versions(), Versions { oldest: 4, newest: 9 });
    for (kind, json) in [(4, r#"{"checkpoint":{"path":"/x"}}"#), (3, r#""paused""#), (6, "")] {
        let error = read(kind, json).await.unwrap_err().to_string();
        let length = json.len();
        assert_eq!(
            error,
            format!("received an unknown frame of kind {kind} and {length} bytes")
        );
    }
}
