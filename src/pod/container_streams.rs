//! The streams of one container attempt: output goes to the log and to all followers; standard input is in `stdin`.

mod backlog;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use microkube_base::lock::lock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use self::backlog::Backlog;
use super::logs::{LogWriter, Positions};
use super::stdin::ContainerStdin;
use super::supervisor_protocol::{Notice, OutputStream, SupervisorFrame};

/// Size of the read buffer.
pub const CHUNK_BYTES: usize = 128 << 10;

/// How many bytes of each stream the followers of a container that must end may lag behind its log: more output than a
/// guest and its VMM can hold.
pub const STOPPED_LAG_BYTES: usize = 8 << 20;

/// The same for a container that is killed: output since its stop signal may have used up the first lag.
pub const KILLED_LAG_BYTES: usize = 2 * STOPPED_LAG_BYTES;

/// The streams of one attempt of a container.
#[derive(Debug)]
pub struct ContainerStreams {
    index: u16,
    log: Mutex<LogWriter>,
    /// The progress of stdout and stderr.
    progress: watch::Sender<[Progress; 2]>,
    /// How many bytes of each stream the followers may be behind the log.
    lag_bytes: watch::Sender<usize>,
    followers: Mutex<Vec<mpsc::Sender<SupervisorFrame>>>,
    pub stdin: Arc<ContainerStdin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Expected,
    Open,
    /// Everything is in the log, but not all followers have it.
    Logged,
    Ended,
}

impl ContainerStreams {
    /// Creates the streams, none of them open yet. `followers` receive everything that the container writes.
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
            lag_bytes: watch::Sender::new(0),
            followers: Mutex::new(followers),
            stdin,
        }
    }

    /// Waits until all output of the container was passed on.
    pub async fn finished(&self) {
        self.both(|one| one == Progress::Ended).await;
    }

    /// Waits until all output of the container is in the log.
    pub async fn logged(&self) {
        self.both(|one| matches!(one, Progress::Logged | Progress::Ended)).await;
    }

    /// Waits until no stream is open, so all received output was passed on.
    pub async fn closed(&self) {
        self.both(|one| matches!(one, Progress::Expected | Progress::Ended))
            .await;
    }

    async fn both(&self, is_wanted: impl Fn(Progress) -> bool) {
        let mut progress = self.progress.subscribe();
        // This object holds the sender, so the wait cannot fail.
        let _ = progress.wait_for(|both| both.iter().all(|one| is_wanted(*one))).await;
    }

    /// Waits until all output of the container is in the log, and its followers have it too. Followers of a container
    /// that must end get only `patience` for that.
    pub async fn delivered(&self, patience: Duration) {
        self.logged().await;
        let mut lag_bytes = self.lag_bytes.subscribe();
        let too_slow = async {
            // As above.
            let _ = lag_bytes.wait_for(|bytes| *bytes > 0).await;
            tokio::time::sleep(patience).await;
        };
        tokio::select! {
            biased;
            () = self.finished() => {}
            () = too_slow => tracing::warn!("a container's last output is read too slowly to wait for it"),
        }
    }

    /// The container must end, so its output no longer waits for its followers until they are this far behind.
    pub fn let_followers_lag(&self, bytes: usize) {
        self.lag_bytes.send_modify(|lag| *lag = bytes.max(*lag));
    }

    /// The agent has sent everything: a stream that was never opened to this supervisor ended before it started.
    pub fn end_unopened(&self) {
        self.progress.send_modify(|both| {
            for one in both {
                if *one == Progress::Expected {
                    *one = Progress::Ended;
                }
            }
        });
    }

    /// Also sends the container's output to `follower` from now on.
    pub fn follow(&self, follower: mpsc::Sender<SupervisorFrame>) {
        lock(&self.followers).push(follower);
    }

    /// Also sends the container's output from the end of the log on to `follower`, a new queue. Sends it the positions
    /// of that end first.
    pub fn follow_after_log(&self, follower: mpsc::Sender<SupervisorFrame>) {
        // The log stays locked, so every byte is either before these positions or sent to the follower.
        let mut log = lock(&self.log);
        log.flush();
        let Positions { stdout, stderr } = log.positions();
        let attached = Notice::AttachedAt {
            stdout_bytes: stdout,
            stderr_bytes: stderr,
        };
        let unfinished = [OutputStream::Stdout, OutputStream::Stderr]
            .into_iter()
            .filter(|stream| !log.unfinished_line(*stream).is_empty())
            .map(|stream| self.frame(stream, log.unfinished_line(stream).to_vec()));
        for frame in std::iter::once(SupervisorFrame::Notice(attached)).chain(unfinished) {
            // A new queue has room for these frames. If its receiver is gone, nothing is lost.
            let _ = follower.try_send(frame);
        }
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

    fn advance(&self, stream: OutputStream, to: Progress) {
        self.progress.send_modify(|both| both[stream as usize] = to);
    }

    /// Receives an open stream to its end, for the log and the followers, and confirms what was received (see
    /// `StreamHeader` in `agent.proto`).
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn receive(
        &self,
        stream: OutputStream,
        oldest_bytes: u64,
        mut connection: UnixStream,
    ) -> std::io::Result<()> {
        let mut backlog = Backlog::default();
        let received = self.receive_bytes(stream, oldest_bytes, &mut connection, &mut backlog);
        let result = received.await;
        // The guest does not wait for slow followers.
        drop(connection);
        // Nothing more can arrive, so a broken connection also ends the stream.
        let followers = {
            let mut log = lock(&self.log);
            log.finish(stream, Timestamp::now());
            lock(&self.followers).clone()
        };
        backlog.add(self.frame(stream, Vec::new()), 0, followers);
        self.advance(stream, Progress::Logged);
        while !backlog.is_empty() {
            self.send_next(&mut backlog).await;
        }
        self.advance(stream, Progress::Ended);
        result
    }

    async fn receive_bytes(
        &self,
        stream: OutputStream,
        oldest_bytes: u64,
        connection: &mut UnixStream,
        backlog: &mut Backlog,
    ) -> std::io::Result<()> {
        let mut position_bytes = lock(&self.log).position(stream).max(oldest_bytes);
        lock(&self.log).resume_at(stream, position_bytes);
        connection.write_all(&position_bytes.to_be_bytes()).await?;
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut confirms = true;
        loop {
            let length = connection.read(&mut buffer).await?;
            let bytes = &buffer[..length];
            let (durable_bytes, followers) = {
                let mut log = lock(&self.log);
                if bytes.is_empty() {
                    log.finish(stream, Timestamp::now());
                } else {
                    log.write(stream, bytes, Timestamp::now());
                    log.flush();
                }
                // With the log locked: a follower that is added later finds these bytes in the log.
                (log.position(stream), lock(&self.followers).clone())
            };
            if !bytes.is_empty() {
                backlog.add(self.frame(stream, bytes.to_vec()), length, followers);
                self.pass_on(backlog).await;
            }
            if confirms && durable_bytes != position_bytes {
                position_bytes = durable_bytes;
                // A guest may disappear once it has sent everything. Read all of it nevertheless.
                confirms = connection.write_all(&position_bytes.to_be_bytes()).await.is_ok();
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

    /// Sends the backlog to its followers. Waits for a slow follower, as a program waits for its terminal, until the
    /// backlog is small enough for the followers to lag.
    async fn pass_on(&self, backlog: &mut Backlog) {
        let mut lag_bytes = self.lag_bytes.subscribe();
        while !backlog.is_empty() {
            let bytes = backlog.bytes();
            let may_lag = async {
                // This object holds the sender, so the wait cannot fail.
                let _ = lag_bytes.wait_for(|lag| bytes <= *lag).await;
            };
            tokio::select! {
                biased;
                () = self.send_next(backlog) => {}
                () = may_lag => return,
            }
        }
    }

    /// Sends the oldest frame of the backlog to one of its followers. Cancel-safe. A closed follower is removed.
    async fn send_next(&self, backlog: &mut Backlog) {
        let Some(follower) = backlog.next_follower() else {
            return;
        };
        let permit = follower.reserve().await;
        let Some(frame) = backlog.take() else { return };
        match permit {
            Ok(permit) => permit.send(frame),
            Err(_) => lock(&self.followers).retain(|other| !other.same_channel(&follower)),
        }
    }
}
