//! Frames on the wire, and sockets.

use proptest::prelude::*;

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn round_trip(frame: &SupervisorFrame) -> SupervisorFrame {
    block_on(async {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, frame).await.unwrap();
        read_frame(&mut bytes.as_slice()).await.unwrap().unwrap()
    })
}

#[test]
fn connecting_to_a_supervisor_that_accepts_nothing_fails_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(connect(dir.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    let listener = listen(dir.path()).unwrap();
    // SAFETY: listen(2) takes integers, and the descriptor is open. The short queue keeps the test within this
    // process's limit of open files.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
    let mut queue = Vec::new();
    let full = loop {
        match connect(dir.path()) {
            Ok(stream) => queue.push(stream),
            Err(error) => break error,
        }
    };
    assert!(!queue.is_empty());
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    drop(listener);
    assert_eq!(
        connect(dir.path()).unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
}

#[test]
fn every_kind_of_frame_survives_the_round_trip() {
    let size = TerminalSize { rows: 24, columns: 80 };
    let requests = [
        SupervisorRequest::Terminate {
            grace: Some(Duration::from_secs(3)),
        },
        SupervisorRequest::Kill,
        SupervisorRequest::Delete { grace: None },
        SupervisorRequest::Follow,
        SupervisorRequest::Attach(AttachOptions {
            container: "web".to_owned(),
            stdin: true,
            tty_size: Some(size),
            from_start_of: None,
        }),
        SupervisorRequest::Exec(ExecOptions {
            container: "web".to_owned(),
            command: vec!["sh".to_owned(), "-c".to_owned(), "echo \"\u{1}\"".to_owned()],
            stdin: false,
            tty: true,
            tty_size: None,
        }),
        SupervisorRequest::Resize(size),
        SupervisorRequest::Stats,
    ];
    let notices = [
        Notice::Pod(PodNotice::Finished {
            exit_code: 3,
            error: None,
        }),
        Notice::Done,
        Notice::Attached,
        Notice::AttachedAt {
            stdout_bytes: 7,
            stderr_bytes: 0,
        },
        Notice::Started,
        Notice::Exited { exit_code: 137 },
        Notice::InputEnded,
        Notice::Refused {
            message: "no".to_owned(),
        },
        Notice::Stats(vec![ContainerUsage {
            container: "web".to_owned(),
            cpu_nanocores: u64::MAX,
            memory_bytes: 0,
        }]),
    ];
    let raw = [
        SupervisorFrame::Output {
            container: 300,
            stream: OutputStream::Stderr,
            bytes: b"\0\xff\n".to_vec(),
        },
        SupervisorFrame::Output {
            container: 0,
            stream: OutputStream::Stdout,
            bytes: Vec::new(),
        },
        SupervisorFrame::Log(b"kernel".to_vec()),
        SupervisorFrame::Stdin(b"\x03\xff".to_vec()),
        SupervisorFrame::Stdin(Vec::new()),
    ];
    let frames = raw
        .into_iter()
        .chain(requests.into_iter().map(SupervisorFrame::Request))
        .chain(notices.into_iter().map(SupervisorFrame::Notice));
    for frame in frames {
        assert_eq!(round_trip(&frame), frame);
    }
}

#[test]
fn the_socket_works_under_a_path_of_any_length_and_a_stale_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("x".repeat(200));
    std::fs::create_dir(&run_dir).unwrap();
    assert_eq!(connect(&run_dir).unwrap_err().kind(), io::ErrorKind::NotFound);
    drop(listen(&run_dir).unwrap());
    assert_eq!(connect(&run_dir).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let _listener = listen(&run_dir).unwrap();
    connect(&run_dir).unwrap();
}

#[test]
fn a_closed_connection_ends_the_stream_but_a_partial_frame_is_an_error() {
    assert!(matches!(block_on(read_frame(&mut [].as_slice())), Ok(None)));
    assert!(matches!(
        block_on(read_frame(&mut [KIND_LOG, 0, 0, 0, 9, 1].as_slice())),
        Err(FrameError::Io(_))
    ));
}

#[test]
fn an_oversized_frame_is_refused_before_memory_is_allocated() {
    let bytes = [KIND_LOG, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(
        block_on(read_frame(&mut bytes.as_slice())),
        Err(FrameError::Malformed { .. })
    ));
}

#[test]
fn debug_shows_neither_streams_nor_command_lines() {
    let bytes = b"hunter2".to_vec();
    let exec = ExecOptions {
        container: "web".to_owned(),
        command: vec!["login".to_owned(), "hunter2".to_owned()],
        stdin: false,
        tty: false,
        tty_size: None,
    };
    for (frame, expected) in [
        (SupervisorFrame::Stdin(bytes.clone()), "Stdin(7 bytes)"),
        (SupervisorFrame::Log(bytes.clone()), "Log(7 bytes)"),
        (
            SupervisorFrame::Output {
                container: 1,
                stream: OutputStream::Stderr,
                bytes,
            },
            "Output(1, Stderr, 7 bytes)",
        ),
        (
            SupervisorFrame::Request(SupervisorRequest::Exec(exec)),
            "Request(Exec(ExecOptions { container: \"web\", command: (2), stdin: false, tty: false, tty_size: None }))",
        ),
    ] {
        assert_eq!(format!("{frame:?}"), expected);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut rest = bytes.as_slice();
        while let Ok(Some(_)) = block_on(read_frame(&mut rest)) {}
    }
}
