//! The pump against simulated hosts: socket pairs instead of vsock, and hosts that die at any point.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use microkube_protocol::{OUTPUT_WINDOW_BYTES, decode_stream_header, encode_stream_header};
use proptest::prelude::*;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::stdio::output_pipe;

/// Supervisors arrive through a channel; each takes the next connection or refuses it.
#[derive(Debug)]
struct TestHost {
    next: Arc<Mutex<VecDeque<Option<UnixStream>>>>,
    arrivals: mpsc::UnboundedReceiver<()>,
}

impl Host for TestHost {
    type Connection = UnixStream;

    async fn open(&mut self, stream: &DataStream) -> io::Result<UnixStream> {
        let next = self.next.lock().unwrap().pop_front().flatten();
        let mut connection = next.ok_or(io::ErrorKind::ConnectionRefused)?;
        connection.write_all(&encode_stream_header(stream).unwrap()).await?;
        Ok(connection)
    }

    async fn taken_over(&mut self) {
        if self.arrivals.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// A container's output, its pump, and the supervisors that will arrive.
struct Pump {
    next: Arc<Mutex<VecDeque<Option<UnixStream>>>>,
    arrive: mpsc::UnboundedSender<()>,
    task: JoinHandle<()>,
    _ended: tokio::sync::oneshot::Sender<()>,
}

impl Pump {
    async fn start() -> (Self, Supervisor, File) {
        let (arrive, arrivals) = mpsc::unbounded_channel();
        let next = Arc::new(Mutex::new(VecDeque::new()));
        let (theirs, ours) = UnixStream::pair().unwrap();
        next.lock().unwrap().push_back(Some(theirs));
        let host = TestHost {
            next: Arc::clone(&next),
            arrivals,
        };
        let output = ContainerOutput::open("web-0", Stdio::Stdout, host).await.unwrap();
        let (pipe, write) = output_pipe().unwrap();
        let (ended, told) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(output.carry(Source::new(pipe, told)));
        let pump = Self {
            next,
            arrive,
            task,
            _ended: ended,
        };
        (pump, Supervisor::new(ours).await, File::from(write))
    }

    /// Makes another supervisor take over.
    async fn take_over(&self) -> Supervisor {
        let (theirs, ours) = UnixStream::pair().unwrap();
        self.next.lock().unwrap().push_back(Some(theirs));
        self.arrive.send(()).unwrap();
        Supervisor::new(ours).await
    }

    /// Makes another supervisor take over, which has stored nothing and gets all output.
    async fn next_supervisor_gets_all(self, output: &[u8]) {
        let mut host = self.take_over().await;
        assert_eq!(host.position, 0);
        host.say(0).await;
        assert_eq!(host.finish(0).await, output);
        self.task.await.unwrap();
    }
}

struct Supervisor {
    stream: UnixStream,
    position: u64,
}

impl Supervisor {
    async fn new(mut stream: UnixStream) -> Self {
        let length = stream.read_u16().await.unwrap();
        let mut body = vec![0; length.into()];
        stream.read_exact(&mut body).await.unwrap();
        let DataStream::Container {
            id,
            stdio: Stdio::Stdout,
            position_bytes,
        } = decode_stream_header(&body).unwrap()
        else {
            panic!("not the container's output")
        };
        assert_eq!(id, "web-0");
        Self {
            stream,
            position: position_bytes,
        }
    }

    /// Requests the bytes from this position, or confirms them up to it.
    async fn say(&mut self, position: u64) {
        self.stream.write_u64(position).await.unwrap();
    }

    async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// Reads to the end of the stream and confirms all of it.
    async fn finish(mut self, mut position: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut bytes = vec![0; 10_000];
            let count = self.stream.read(&mut bytes).await.unwrap();
            if count == 0 {
                return all;
            }
            all.extend_from_slice(bytes.get(..count).unwrap());
            position += count as u64;
            // The pump is gone once everything was confirmed.
            let _ = self.stream.write_u64(position).await;
        }
    }
}

#[tokio::test]
async fn output_ends_when_all_of_it_is_confirmed() {
    let (pump, mut host, mut pipe) = Pump::start().await;
    host.say(0).await;
    pipe.write_all(b"hello").unwrap();
    drop(pipe);
    assert_eq!(host.read(5).await, b"hello");
    assert_eq!(host.stream.read(&mut [0]).await.unwrap(), 0);
    assert!(!pump.task.is_finished());
    host.say(4).await;
    assert!(!pump.task.is_finished());
    host.say(5).await;
    pump.task.await.unwrap();
}

#[tokio::test]
async fn output_of_a_container_that_exits_without_a_supervisor_is_kept() {
    let (pump, host, mut pipe) = Pump::start().await;
    drop(host);
    pipe.write_all(b"last words").unwrap();
    drop(pipe);
    pump.next_supervisor_gets_all(b"last words").await;
}

#[tokio::test]
async fn output_already_stored_is_not_resent_to_the_next_supervisor() {
    let (pump, mut host, mut pipe) = Pump::start().await;
    host.say(0).await;
    pipe.write_all(b"abcdef").unwrap();
    assert_eq!(host.read(6).await, b"abcdef");
    host.say(2).await;
    // Four bytes were durable, but only two were confirmed.
    drop(host);
    let mut host = pump.take_over().await;
    assert!(host.position <= 4);
    host.say(4).await;
    pipe.write_all(b"gh").unwrap();
    drop(pipe);
    assert_eq!(host.finish(4).await, b"efgh");
    pump.task.await.unwrap();
}

#[tokio::test]
async fn output_waits_for_the_next_supervisor_if_one_refuses_the_stream() {
    let (pump, host, mut pipe) = Pump::start().await;
    drop(host);
    pipe.write_all(b"kept").unwrap();
    drop(pipe);
    pump.next.lock().unwrap().push_back(None);
    pump.arrive.send(()).unwrap();
    pump.next_supervisor_gets_all(b"kept").await;
}

#[tokio::test]
async fn a_host_that_confirms_nothing_is_sent_one_window_only() {
    let (pump, mut host, mut pipe) = Pump::start().await;
    host.say(0).await;
    let writer = std::thread::spawn(move || pipe.write_all(&vec![b'x'; 4 * OUTPUT_WINDOW_BYTES]).unwrap());
    host.read(OUTPUT_WINDOW_BYTES).await;
    assert!(host.stream.try_read(&mut [0]).is_err());
    host.say(10).await;
    host.read(10).await;
    host.say(OUTPUT_WINDOW_BYTES as u64 + 10).await;
    let rest = host.finish(OUTPUT_WINDOW_BYTES as u64 + 10).await;
    assert_eq!(rest.len(), 3 * OUTPUT_WINDOW_BYTES - 10);
    writer.join().unwrap();
    pump.task.await.unwrap();
}

#[tokio::test]
async fn a_host_that_confirms_unsent_bytes_is_disconnected() {
    let (pump, mut host, mut pipe) = Pump::start().await;
    host.say(0).await;
    pipe.write_all(b"abc").unwrap();
    host.read(3).await;
    host.say(1000).await;
    assert_eq!(host.stream.read(&mut [0]).await.unwrap(), 0);
    drop(pipe);
    pump.next_supervisor_gets_all(b"abc").await;
}

/// The actions of one supervisor before it dies.
#[derive(Debug, Clone)]
struct Life {
    /// Whether it sends the position from which to resume.
    speaks: bool,
    /// The portions of bytes that it reads.
    reads: Vec<usize>,
    /// Whether it confirms each portion, which is then durable.
    confirms: bool,
    /// Number of bytes that the container writes meanwhile.
    written: usize,
}

fn life() -> impl Strategy<Value = Life> {
    (
        any::<bool>(),
        proptest::collection::vec(1usize..3000, 0..5),
        any::<bool>(),
        0usize..20_000,
    )
        .prop_map(|(speaks, reads, confirms, written)| Life {
            speaks,
            reads,
            confirms,
            written,
        })
}

async fn live(lives: Vec<Life>) {
    let (pump, mut host, mut pipe) = Pump::start().await;
    let (mut written, mut durable) = (Vec::<u8>::new(), Vec::new());
    for life in lives {
        // Less than the pipe can hold while it is not read.
        let bytes: Vec<u8> = (0..life.written)
            .map(|n| (written.len() + n) as u8 ^ (n >> 8) as u8)
            .collect();
        pipe.write_all(&bytes).unwrap();
        written.extend(bytes);
        if life.speaks {
            host.say(durable.len() as u64).await;
            let mut got = durable.len();
            for count in life.reads {
                let count = count.min(written.len() - got);
                let portion = host.read(count).await;
                got += count;
                durable.extend(portion);
                if life.confirms {
                    host.say(got as u64).await;
                }
            }
        }
        drop(host);
        host = pump.take_over().await;
        assert!(host.position <= durable.len() as u64);
    }
    drop(pipe);
    host.say(durable.len() as u64).await;
    let rest = host.finish(durable.len() as u64).await;
    durable.extend(rest);
    assert!(durable == written);
    pump.task.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_byte_arrives_once_across_host_deaths(lives in proptest::collection::vec(life(), 0..8)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(live(lives));
    }
}
