use microkube_protocol::encode_stream_header;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::pod::container_streams::STOPPED_LAG_BYTES;
use crate::pod::logs::{Limits, OutputReader, Positions};
use crate::pod::supervisor_protocol::Notice;

fn guest_streams() -> (tempfile::TempDir, Arc<GuestStreams>, mpsc::Receiver<SupervisorFrame>) {
    let dir = tempfile::tempdir().unwrap();
    let log = GuestLog::begin(dir.path().join("guest.log"));
    let (sender, receiver) = mpsc::channel(16);
    let guest_streams = GuestStreams::new(Some(sender), log, false);
    guest_streams.expect_machine();
    (dir, guest_streams, receiver)
}

fn container(id: &str, stdio: Stdio, position_bytes: u64) -> DataStream {
    DataStream::Container {
        id: id.to_owned(),
        stdio,
        position_bytes,
    }
}

async fn serve(guest_streams: &GuestStreams, mut stream: UnixStream) {
    if let Some(header) = guest_streams.header(&mut stream).await {
        guest_streams.serve(header, stream).await;
    }
}

fn no_stdin() -> Arc<ContainerStdin> {
    ContainerStdin::new(&Default::default(), "web-0", "/none".into())
}

fn log(directory: &tempfile::TempDir) -> LogWriter {
    LogWriter::open(directory.path().join("main"), 0, Limits::default())
}

/// The output in the log.
fn logged(directory: &tempfile::TempDir) -> Vec<u8> {
    let mut logged = Vec::new();
    let mut reader = OutputReader::open(&directory.path().join("main"), 0, Positions::default(), None).unwrap();
    while let Some((_, bytes)) = reader.next_chunk().unwrap() {
        logged.extend(bytes);
    }
    logged
}

/// Returns the host's answer.
async fn connect(guest_streams: &Arc<GuestStreams>, header: DataStream, bytes: &[u8]) -> Vec<u8> {
    let (mut guest, host) = UnixStream::pair().unwrap();
    guest.write_all(&encode_stream_header(&header).unwrap()).await.unwrap();
    guest.write_all(bytes).await.unwrap();
    guest.shutdown().await.unwrap();
    serve(guest_streams, host).await;
    let mut answer = Vec::new();
    // The connection is reset if the host did not read everything.
    let _ = guest.read_to_end(&mut answer).await;
    answer
}

fn bytes_of(frames: &mut mpsc::Receiver<SupervisorFrame>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(SupervisorFrame::Output { bytes, .. }) = frames.try_recv() {
        all.extend(bytes);
    }
    all
}

#[tokio::test]
async fn output_is_forwarded_confirmed_and_its_end_announced() {
    let (dir, guest_streams, mut frames) = guest_streams();
    let streams = guest_streams.expect_container(2, "web-0", no_stdin(), log(&dir));
    let answer = connect(&guest_streams, container("web-0", Stdio::Stderr, 0), b"oops").await;
    assert_eq!(answer, [0_u64.to_be_bytes(), 4_u64.to_be_bytes()].concat());
    connect(&guest_streams, container("web-0", Stdio::Stdout, 0), b"").await;
    streams.finished().await;
    let stream = OutputStream::Stderr;
    let expected = SupervisorFrame::Output {
        container: 2,
        stream,
        bytes: b"oops".to_vec(),
    };
    assert_eq!(frames.recv().await.unwrap(), expected);
}

/// A VMM that ends closes all connections, whether or not it has read the confirmations.
#[tokio::test]
async fn everything_that_a_vm_sent_before_it_ended_is_passed_on_and_logged() {
    let (dir, guest_streams, mut frames) = guest_streams();
    let streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    let (mut guest, host) = UnixStream::pair().unwrap();
    let header = encode_stream_header(&container("web-0", Stdio::Stdout, 0)).unwrap();
    guest.write_all(&header).await.unwrap();
    // More than is read at once.
    let mut text = vec![b'x'; CHUNK_BYTES];
    text.extend(b"\nthe last line, without a newline");
    let ending = async {
        assert_eq!(guest.read_u64().await.unwrap(), 0);
        // Write it into the socket's buffer at once, before anything is read.
        assert_eq!(guest.try_write(&text).unwrap(), text.len());
        drop(guest);
        guest_streams.drained(Instant::now() + Duration::from_secs(3600)).await;
        bytes_of(&mut frames)
    };
    let ((), passed_on) = tokio::join!(serve(&guest_streams, host), ending);
    assert!(passed_on == text);
    streams.end_unopened();
    streams.finished().await;
    assert!(logged(&dir) == text);
}

#[tokio::test]
async fn a_broken_connection_does_not_lose_an_unfinished_line() {
    let (dir, guest_streams, _frames) = guest_streams();
    let _streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    let (mut guest, host) = UnixStream::pair().unwrap();
    let header = encode_stream_header(&container("web-0", Stdio::Stdout, 0)).unwrap();
    guest.write_all(&header).await.unwrap();
    let ending = async {
        assert_eq!(guest.read_u64().await.unwrap(), 0);
        guest.write_all(b"line\nunfinished").await.unwrap();
        // Its confirmation stays unread, which resets the connection.
        guest.readable().await.unwrap();
        drop(guest);
    };
    tokio::join!(serve(&guest_streams, host), ending);
    let mut reader = OutputReader::open(&dir.path().join("main"), 0, Positions::default(), None).unwrap();
    assert_eq!(
        reader.next_chunk().unwrap(),
        Some((OutputStream::Stdout, b"line\nunfinished".to_vec()))
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_last_output_of_a_vm_ends_at_the_deadline() {
    let (dir, guest_streams, _frames) = guest_streams();
    let streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    assert!(streams.open(OutputStream::Stdout));
    let start = Instant::now();
    guest_streams.drained(start + Duration::from_secs(5)).await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
}

/// A terminal has only one output stream.
#[tokio::test]
async fn the_output_of_a_terminal_ends_with_its_lost_vm() {
    let (dir, guest_streams, mut frames) = guest_streams();
    let streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    connect(&guest_streams, container("web-0", Stdio::Stdout, 0), b"text").await;
    let an_hour = Duration::from_secs(3600);
    guest_streams.drained(Instant::now() + an_hour).await;
    tokio::time::pause();
    tokio::time::timeout(an_hour, streams.finished()).await.unwrap();
    assert_eq!(bytes_of(&mut frames), b"text");
}

#[tokio::test]
async fn the_output_of_a_terminal_of_a_lost_vm_ends_for_a_follower_that_reads_late() {
    let (dir, guest_streams, _frames) = guest_streams();
    let streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    let (follower, mut followed) = mpsc::channel(1);
    streams.follow(follower);
    let (mut guest, host) = UnixStream::pair().unwrap();
    let header = encode_stream_header(&container("web-0", Stdio::Stdout, 0)).unwrap();
    guest.write_all(&header).await.unwrap();
    guest.write_all(b"text\n").await.unwrap();
    let serving = Arc::clone(&guest_streams);
    tokio::spawn(async move { serve(&serving, host).await });
    assert_eq!(guest.read_u64().await.unwrap(), 0);
    assert_eq!(guest.read_u64().await.unwrap(), 5);
    drop(guest);
    tokio::time::pause();
    guest_streams.drained(Instant::now() + Duration::from_secs(5)).await;
    assert_eq!(bytes_of(&mut followed), b"text\n");
    let an_hour = Duration::from_secs(3600);
    tokio::time::timeout(an_hour, streams.finished()).await.unwrap();
}

#[tokio::test]
async fn a_follower_that_does_not_read_does_not_hold_up_the_log_of_a_container_that_must_end() {
    let dir = tempfile::tempdir().unwrap();
    let guest_streams = GuestStreams::new(None, GuestLog::begin(dir.path().join("guest.log")), false);
    guest_streams.expect_machine();
    let streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    let (follower, mut followed) = mpsc::channel(1);
    streams.follow(follower);
    let (mut guest, host) = UnixStream::pair().unwrap();
    let header = encode_stream_header(&container("web-0", Stdio::Stdout, 0)).unwrap();
    guest.write_all(&header).await.unwrap();
    let serving = Arc::clone(&guest_streams);
    tokio::spawn(async move { serve(&serving, host).await });
    let text: Vec<u8> = (0..=u8::MAX).cycle().take(2 << 20).collect();
    let (mut confirmations, mut output) = guest.into_split();
    let sent = text.clone();
    let sending = tokio::spawn(async move {
        output.write_all(&sent).await.unwrap();
        output.shutdown().await.unwrap();
    });
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        let _ = confirmations.read_to_end(&mut all).await;
    });

    // A running container waits for its follower, and one that must end if the follower lags too far behind.
    let a_while = Duration::from_millis(50);
    tokio::time::sleep(a_while).await;
    assert!(!sending.is_finished());
    streams.let_followers_lag(CHUNK_BYTES);
    tokio::time::sleep(a_while).await;
    assert!(!sending.is_finished());

    streams.let_followers_lag(STOPPED_LAG_BYTES);
    sending.await.unwrap();
    reading.await.unwrap();
    streams.end_unopened();
    streams.logged().await;
    assert!(logged(&dir) == text);

    // The end is not reported before the follower had some time.
    tokio::time::pause();
    let start = Instant::now();
    streams.delivered(Duration::from_secs(5)).await;
    assert_eq!(start.elapsed().as_secs(), 5);

    // Nothing is lost for a follower that reads again.
    let mut passed_on = Vec::new();
    let receiving = async {
        while let Some(SupervisorFrame::Output { bytes, .. }) = followed.recv().await
            && !bytes.is_empty()
        {
            passed_on.extend(bytes);
        }
    };
    tokio::join!(receiving, streams.finished());
    assert!(passed_on == text);
}

#[tokio::test]
async fn a_follower_gets_what_the_log_does_not_have_and_learns_where_that_begins() {
    let (dir, guest_streams, _frames) = guest_streams();
    let streams = guest_streams.expect_container(3, "web-0", no_stdin(), log(&dir));
    let (mut guest, host) = UnixStream::pair().unwrap();
    let header = encode_stream_header(&container("web-0", Stdio::Stdout, 0)).unwrap();
    guest.write_all(&header).await.unwrap();
    let (follower, mut followed) = mpsc::channel(16);
    let writing = async {
        assert_eq!(guest.read_u64().await.unwrap(), 0);
        guest.write_all(b"line\nunfin").await.unwrap();
        assert_eq!(guest.read_u64().await.unwrap(), 5);
        streams.follow_after_log(follower);
        guest.write_all(b"ished").await.unwrap();
        guest.shutdown().await.unwrap();
    };
    tokio::join!(serve(&guest_streams, host), writing);
    let at = Notice::AttachedAt {
        stdout_bytes: 5,
        stderr_bytes: 0,
    };
    assert_eq!(followed.recv().await.unwrap(), SupervisorFrame::Notice(at));
    assert_eq!(bytes_of(&mut followed), b"unfinished");
}

#[tokio::test]
async fn a_stream_is_accepted_once_and_only_if_expected() {
    let (dir, guest_streams, mut frames) = guest_streams();
    let _streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    connect(&guest_streams, container("other-0", Stdio::Stdout, 0), b"forged").await;
    connect(&guest_streams, container("web-0", Stdio::Stdout, 0), b"").await;
    connect(&guest_streams, container("web-0", Stdio::Stdout, 0), b"twice").await;
    connect(&guest_streams, container("web-0", Stdio::Stdin, 0), b"forged").await;
    let process = DataStream::Process {
        id: "p-1".to_owned(),
        stdio: Stdio::Stdout,
    };
    connect(&guest_streams, process, b"forged").await;
    assert_eq!(bytes_of(&mut frames), b"");
    assert!(guest_streams.container("web-0").unwrap().stdin.take().is_none());
}

#[tokio::test]
async fn streams_of_an_adopted_vm_wait_until_its_containers_are_known() {
    let (dir, guest_streams, mut frames) = guest_streams();
    guest_streams.expect_adopted_machine(["web-0".to_owned()].into());
    let (mut guest, host) = UnixStream::pair().unwrap();
    let header = encode_stream_header(&container("web-0", Stdio::Stdout, 7)).unwrap();
    guest.write_all(&header).await.unwrap();
    serve(&guest_streams, host).await;
    let streams = guest_streams.expect_container(0, "web-0", no_stdin(), log(&dir));
    guest_streams.unpark();
    // Bytes before position 7 were lost with the previous supervisor.
    assert_eq!(guest.read_u64().await.unwrap(), 7);
    guest.write_all(b"line\n").await.unwrap();
    assert_eq!(guest.read_u64().await.unwrap(), 12);
    guest.shutdown().await.unwrap();
    streams.end_unopened();
    streams.finished().await;
    assert_eq!(bytes_of(&mut frames), b"line\n");
}

#[tokio::test]
async fn during_adoption_only_expected_streams_wait_and_each_once() {
    let (_dir, guest_streams, _frames) = guest_streams();
    guest_streams.expect_adopted_machine(["web-0".to_owned()].into());
    let mut guests = Vec::new();
    for number in 0..100 {
        for id in ["web-0".to_owned(), format!("forged-{number}")] {
            let (mut guest, host) = UnixStream::pair().unwrap();
            let header = encode_stream_header(&container(&id, Stdio::Stdout, 0)).unwrap();
            guest.write_all(&header).await.unwrap();
            serve(&guest_streams, host).await;
            guests.push(guest);
        }
    }
    let (waiting, others) = guests.split_at_mut(1);
    assert_eq!(lock(&guest_streams.expected).parked.as_ref().unwrap().streams.len(), 1);
    for guest in others {
        assert!(
            matches!(guest.read(&mut [0]).await, Ok(0) | Err(_)),
            "it was refused immediately"
        );
    }
    waiting[0].write_all(b"still there").await.unwrap();
}

#[tokio::test]
async fn a_process_gets_its_streams() {
    let (_dir, guest_streams, _frames) = guest_streams();
    let expected = guest_streams.expect_process("p-1", Stdio::Stdout);
    let header = DataStream::Process {
        id: "p-1".to_owned(),
        stdio: Stdio::Stdout,
    };
    let (mut guest, host) = UnixStream::pair().unwrap();
    guest.write_all(&encode_stream_header(&header).unwrap()).await.unwrap();
    guest.write_all(b"hello").await.unwrap();
    drop(guest);
    serve(&guest_streams, host).await;
    let mut text = String::new();
    expected.await.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
}

#[tokio::test]
async fn the_guest_log_is_stored_once() {
    let (_dir, guest_streams, _frames) = guest_streams();
    connect(&guest_streams, DataStream::Log, b"[    0.1] hello\n").await;
    connect(&guest_streams, DataStream::Log, b"[    0.2] again\n").await;
    assert_eq!(guest_streams.guest_log(|log| log.last_lines(1)), ["[    0.1] hello"]);
}

#[tokio::test]
async fn an_overlong_header_ends_the_stream() {
    let (_dir, guest_streams, _frames) = guest_streams();
    let (mut guest, host) = UnixStream::pair().unwrap();
    guest.write_all(&[0xff, 0xff, 0, 0]).await.unwrap();
    serve(&guest_streams, host).await;
    // The connection is reset, not closed: not all of its data was read.
    assert!(guest.read_u8().await.is_err());
}

#[tokio::test]
async fn a_connection_to_a_port_is_accepted_once_and_only_if_it_is_expected() {
    let (_dir, guest_streams, _frames) = guest_streams();
    let port = |id: &str| DataStream::Port { id: id.to_owned() };
    let expected = guest_streams.expect_port("c-1");
    let forgotten = guest_streams.expect_port("c-2");
    guest_streams.forget_port("c-2");
    let take = async {
        let mut bytes = Vec::new();
        expected.await.unwrap().read_to_end(&mut bytes).await.unwrap();
        bytes
    };
    let (answer, bytes) = tokio::join!(connect(&guest_streams, port("c-1"), b"bytes"), take);
    assert_eq!((answer.as_slice(), bytes.as_slice()), (&b""[..], &b"bytes"[..]));
    for id in ["c-1", "c-2", "c-3"] {
        assert_eq!(connect(&guest_streams, port(id), b"bytes").await, b"");
    }
    assert!(forgotten.await.is_err());
}
