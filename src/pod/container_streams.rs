//! The streams of one attempt of a container: its output goes into the log and to all who follow it; its standard input is beside it.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use microkube_base::lock::lock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use super::logs::LogWriter;
use super::stdin::ContainerStdin;
use super::supervisor_protocol::{OutputStream, SupervisorFrame};

/// Bytes read from a stream at once.
pub const CHUNK_BYTES: usize = 128 << 10;

/// The streams of one attempt of a container.
#[derive(Debug)]
pub struct ContainerStreams {
    index: u16,
    log: Mutex<LogWriter>,
    /// Of stdout and stderr.
    progress: watch::Sender<[Progress; 2]>,
    followers: Mutex<Vec<mpsc::Sender<SupervisorFrame>>>,
    /// Its standard input.
    pub stdin: Arc<ContainerStdin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Expected,
    Open,
    Ended,
}

impl ContainerStreams {
    /// No stream is open yet. `followers` get all that the container writes.
    #[must_use]
    pub fn new(
        index: u16,
        stdin: Arc<ContainerStdin>,
        log: LogWriter,
        followers: Vec<mpsc::Sender<SupervisorFrame>>,
    ) -> Self {
        Self {
            index,
            log: Mutex::new(log),
            progress: watch::Sender::new([Progress::Expected; 2]),
            followers: Mutex::new(followers),
            stdin,
        }
    }

    /// Waits until everything the container wrote has been passed on.
    pub async fn finished(&self) {
        let mut progress = self.progress.subscribe();
        // The sender is this very object.
        let _ = progress
            .wait_for(|both| both.iter().all(|one| *one == Progress::Ended))
            .await;
    }

    /// The agent has sent everything: a stream that was never opened to this supervisor had ended before it started.
    pub fn end_unopened(&self) {
        self.progress.send_modify(|both| {
            for one in both {
                if *one == Progress::Expected {
                    *one = Progress::Ended;
                }
            }
        });
    }

    /// Passes what the container writes from now on to `follower` as well.
    pub fn follow(&self, follower: mpsc::Sender<SupervisorFrame>) {
        lock(&self.followers).push(follower);
    }

    /// Marks the stream as open; returns whether it was expected.
    pub fn open(&self, stream: OutputStream) -> bool {
        self.progress.send_if_modified(|both| {
            let one = &mut both[stream as usize];
            let expected = *one == Progress::Expected;
            if expected {
                *one = Progress::Open;
            }
            expected
        })
    }

    fn end(&self, stream: OutputStream) {
        self.progress
            .send_modify(|both| both[stream as usize] = Progress::Ended);
    }

    /// Receives an open stream to its end: into the log and to the followers, with confirmation (see `StreamHeader` in `agent.proto`).
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn receive(
        &self,
        stream: OutputStream,
        oldest_bytes: u64,
        mut connection: UnixStream,
    ) -> std::io::Result<()> {
        let result = self.receive_bytes(stream, oldest_bytes, &mut connection).await;
        // Nothing more can come: a broken connection is as much an end as a closed one.
        self.pass_on(self.frame(stream, Vec::new())).await;
        self.end(stream);
        result
    }

    async fn receive_bytes(
        &self,
        stream: OutputStream,
        oldest_bytes: u64,
        connection: &mut UnixStream,
    ) -> std::io::Result<()> {
        let mut position_bytes = lock(&self.log).position(stream).max(oldest_bytes);
        lock(&self.log).resume_at(stream, position_bytes);
        connection.write_all(&position_bytes.to_be_bytes()).await?;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = connection.read(&mut buffer).await?;
            let bytes = &buffer[..length];
            let durable_bytes = {
                let mut log = lock(&self.log);
                if bytes.is_empty() {
                    log.finish(stream, Timestamp::now());
                } else {
                    log.write(stream, bytes, Timestamp::now());
                    log.flush();
                }
                log.position(stream)
            };
            if !bytes.is_empty() {
                self.pass_on(self.frame(stream, bytes.to_vec())).await;
            }
            if durable_bytes != position_bytes {
                position_bytes = durable_bytes;
                let confirmed = connection.write_all(&position_bytes.to_be_bytes()).await;
                // A guest that has sent everything may be gone.
                confirmed.or_else(|error| if bytes.is_empty() { Ok(()) } else { Err(error) })?;
            }
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }

    fn frame(&self, stream: OutputStream, bytes: Vec<u8>) -> SupervisorFrame {
        SupervisorFrame::Output {
            container: self.index,
            stream,
            bytes,
        }
    }

    async fn pass_on(&self, frame: SupervisorFrame) {
        let followers = lock(&self.followers).clone();
        for follower in followers {
            // Waits for a slow follower, as a terminal makes a program wait; one that is gone is forgotten.
            if follower.send(frame.clone()).await.is_err() {
                lock(&self.followers).retain(|other| !other.same_channel(&follower));
            }
        }
    }
}
