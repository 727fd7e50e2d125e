//! The monitored connection to an agent: every incoming frame must answer an outstanding call, and each call is
//! answered once.
//!
//! The client of ttrpc 0.10 queues all other frames without a limit, such as data frames for a call that cannot be sent
//! because the guest does not read. A guest must not be able to exhaust its supervisor's memory, so the connection is
//! closed if the guest sends such frames, stops reading, or leaves too many calls unanswered.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use microkube_protocol::MAX_MESSAGE_BYTES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

/// Length of a frame header: length and stream as big-endian u32, type, flags (ttrpc's PROTOCOL.md).
const HEADER_BYTES: usize = 10;

/// Frame types.
const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;

/// Maximum number of unanswered calls, including those whose callers have given up: their stream ids are kept. A Pod
/// has a few dozen containers, each with a few probes, and at most 256 sessions.
const MAX_UNANSWERED: usize = 2048;

/// Maximum total size of the requests of unanswered calls, in bytes, which are kept until the answer arrives.
/// `pod::guest_process` has a lower limit for its processes; the rest is more than the containers of a manifest can
/// need.
const MAX_UNANSWERED_BYTES: usize = 64 << 20;

/// How long the agent may take to read one frame. The agent reads continuously, and a frame is at most 4 MiB long.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// The connection to an agent was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// When the connection was lost.
    pub at: Instant,
    /// A predicate with the subject "its agent".
    pub why: String,
}

/// Notifies the users of a connection when it is lost.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    lost: watch::Sender<Option<Lost>>,
}

impl Watch {
    fn mark_lost(&self, why: &str) {
        self.lost.send_if_modified(|lost| {
            let is_first = lost.is_none();
            if is_first {
                *lost = Some(Lost {
                    at: Instant::now(),
                    why: why.to_owned(),
                });
            }
            is_first
        });
    }

    /// Waits until the agent is lost.
    pub async fn lost(&self) -> Lost {
        let mut lost = self.lost.subscribe();
        // This object holds the sender, so the wait cannot fail.
        match lost.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(lost)) => lost.clone(),
            _ => std::future::pending().await,
        }
    }
}

/// Frame parser for one direction.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    payload_bytes_left: usize,
}

/// The header of a frame.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    length: usize,
    stream: u32,
    kind: u8,
}

impl Frames {
    /// Bytes left in the current header or payload.
    fn until_next(&self) -> usize {
        match self.payload_bytes_left {
            0 => HEADER_BYTES - self.header_bytes,
            left => left,
        }
    }

    fn is_between_frames(&self) -> bool {
        self.header_bytes == 0 && self.payload_bytes_left == 0
    }

    /// Consumes at most [`Self::until_next`] bytes; returns the header if they complete one.
    fn take(&mut self, bytes: &[u8]) -> Option<Header> {
        if self.payload_bytes_left > 0 {
            self.payload_bytes_left = self.payload_bytes_left.saturating_sub(bytes.len());
            return None;
        }
        for (to, from) in self.header.iter_mut().skip(self.header_bytes).zip(bytes) {
            *to = *from;
        }
        self.header_bytes = (self.header_bytes + bytes.len()).min(HEADER_BYTES);
        if self.header_bytes < HEADER_BYTES {
            return None;
        }
        self.header_bytes = 0;
        let [a, b, c, d, e, f, g, h, kind, _flags] = self.header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        self.payload_bytes_left = length;
        Some(Header {
            length,
            stream: u32::from_be_bytes([e, f, g, h]),
            kind,
        })
    }
}

/// The supervisor's end of the connection.
#[derive(Debug)]
pub struct AgentConnection<S> {
    stream: S,
    incoming: Frames,
    outgoing: Frames,
    /// Lengths of the requests of unanswered calls, by stream id.
    waiting: HashMap<u32, usize>,
    waiting_bytes: usize,
    /// When the agent must have read the frame that is being written.
    read_deadline: Option<Pin<Box<Sleep>>>,
    watch: Watch,
}

impl<S> AgentConnection<S> {
    /// Wraps a connection on which no data was sent yet.
    #[must_use]
    pub fn new(stream: S, watch: Watch) -> Self {
        Self {
            stream,
            incoming: Frames::default(),
            outgoing: Frames::default(),
            waiting: HashMap::new(),
            waiting_bytes: 0,
            read_deadline: None,
            watch,
        }
    }

    /// Records an answer; returns whether there was such a call.
    fn answered(&mut self, stream: u32) -> bool {
        let length = self.waiting.remove(&stream);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(length.unwrap_or_default());
        length.is_some()
    }

    /// Records written bytes.
    fn sent(&mut self, mut written: &[u8]) {
        while !written.is_empty() {
            let (part, rest) = written.split_at(self.outgoing.until_next().min(written.len()));
            if let Some(header) = self.outgoing.take(part).filter(|header| header.kind == REQUEST) {
                self.waiting.insert(header.stream, header.length);
                self.waiting_bytes = self.waiting_bytes.saturating_add(header.length);
            }
            written = rest;
            if self.outgoing.is_between_frames() {
                self.read_deadline = None;
            }
        }
    }

    /// Polls the deadline by which the agent must read.
    fn poll_read_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.read_deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(READ_PATIENCE)))
            .as_mut()
            .poll(context)
    }

    /// Why a frame from the guest is refused, if it is.
    fn refusal_reason(&mut self, header: &Header) -> Option<&'static str> {
        if header.kind != RESPONSE {
            Some("sent a frame that is not an answer")
        } else if header.length > MAX_MESSAGE_BYTES {
            Some("sent an answer that is too long")
        } else if !self.answered(header.stream) {
            Some("answered an unknown request")
        } else {
            None
        }
    }
}

impl<S> Drop for AgentConnection<S> {
    fn drop(&mut self) {
        self.watch.mark_lost("has ended");
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AgentConnection<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Never read past a header, because it must be checked before the payload is passed on.
        let length = this.incoming.until_next().min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(length));
        match ready!(Pin::new(&mut this.stream).poll_read(context, &mut part)) {
            Ok(()) => {}
            Err(error) => {
                this.watch.mark_lost("lost its connection");
                return Poll::Ready(Err(error));
            }
        }
        let count = part.filled().len();
        if count == 0 && length > 0 {
            this.watch.mark_lost("has closed its connection");
        }
        if let Some(header) = this.incoming.take(part.filled())
            && let Some(reason) = this.refusal_reason(&header)
        {
            this.watch.mark_lost(reason);
            return Poll::Ready(Err(io::Error::other(reason)));
        }
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AgentConnection<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Poll::Ready(count) = Pin::new(&mut this.stream).poll_write(context, bytes) else {
            ready!(this.poll_read_deadline(context));
            this.watch.mark_lost("does not read requests");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        };
        let count = count?;
        this.sent(&bytes[..count]);
        if this.waiting.len() > MAX_UNANSWERED || this.waiting_bytes > MAX_UNANSWERED_BYTES {
            this.watch.mark_lost("does not answer");
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap();
        [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
    }

    fn connection() -> (DuplexStream, AgentConnection<DuplexStream>, Watch) {
        let (guest, host) = tokio::io::duplex(64 << 10);
        let watch = Watch::default();
        (guest, AgentConnection::new(host, watch.clone()), watch)
    }

    /// Makes call 1, and returns what the host reads when the guest sends these bytes.
    async fn read_after_call(sent: &[u8]) -> (io::Result<Vec<u8>>, Watch) {
        let (mut guest, mut host, watch) = connection();
        let mut call = frame(REQUEST, 1, b"call");
        host.write_all(&call).await.unwrap();
        // If the guest closes with unread data, the connection is reset.
        guest.read_exact(&mut call).await.unwrap();
        let sent = sent.to_vec();
        let guest = tokio::spawn(async move {
            let _ = guest.write_all(&sent).await;
        });
        let mut read = Vec::new();
        let result = host.read_to_end(&mut read).await;
        drop(host);
        guest.await.unwrap();
        (result.map(|_| read), watch)
    }

    #[tokio::test]
    async fn an_answer_to_a_call_is_passed_unchanged() {
        let answer = frame(RESPONSE, 1, &[7; 300_000]);
        let (read, watch) = read_after_call(&answer).await;
        assert!(read.unwrap() == answer);
        assert_eq!(watch.lost().await.why, "has closed its connection");
    }

    #[tokio::test]
    async fn anything_but_an_answer_ends_the_connection_before_it_is_buffered() {
        let too_long = [&u32::MAX.to_be_bytes()[..], &1_u32.to_be_bytes(), &[RESPONSE, 0]].concat();
        for (sent, why) in [
            (
                frame(3, 1, &[0; 1000]).repeat(100),
                "sent a frame that is not an answer",
            ),
            (frame(REQUEST, 1, b""), "sent a frame that is not an answer"),
            (frame(RESPONSE, 3, b""), "answered an unknown request"),
            (frame(RESPONSE, 1, b"x").repeat(2), "answered an unknown request"),
            (too_long, "sent an answer that is too long"),
        ] {
            let (read, watch) = read_after_call(&sent).await;
            assert_eq!(read.unwrap_err().to_string(), why);
            assert_eq!(watch.lost().await.why, why);
        }
    }

    #[tokio::test]
    async fn an_agent_with_too_many_unanswered_calls_is_lost() {
        let (mut guest, mut host, watch) = connection();
        let drain = tokio::spawn(async move { tokio::io::copy(&mut guest, &mut tokio::io::sink()).await });
        let mut calls = 0;
        while host.write_all(&frame(REQUEST, calls, b"call")).await.is_ok() {
            calls += 1;
        }
        assert_eq!(usize::try_from(calls).unwrap(), MAX_UNANSWERED);
        assert_eq!(watch.lost().await.why, "does not answer");
        drop(host);
        drain.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_agent_with_too_many_unanswered_bytes_is_lost() {
        let (mut guest, mut host, watch) = connection();
        let drain = tokio::spawn(async move { tokio::io::copy(&mut guest, &mut tokio::io::sink()).await });
        let mut calls = 0;
        while host.write_all(&frame(REQUEST, calls, &[0; 1 << 20])).await.is_ok() {
            calls += 1;
        }
        assert_eq!(usize::try_from(calls).unwrap() << 20, MAX_UNANSWERED_BYTES);
        assert_eq!(watch.lost().await.why, "does not answer");
        drop(host);
        drain.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_stops_reading_is_lost_even_within_a_frame() {
        let (mut guest, mut host, watch) = connection();
        // The guest reads a few bytes from time to time.
        let read = tokio::spawn(async move {
            let mut some = [0; 100];
            while guest.read_exact(&mut some).await.is_ok() {
                tokio::time::sleep(READ_PATIENCE / 3).await;
            }
        });
        let begun = Instant::now();
        let error = host.write_all(&frame(REQUEST, 1, &[0; 4 << 20])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(watch.lost().await.why, "does not read requests");
        assert!(begun.elapsed() <= 2 * READ_PATIENCE);
        drop(host);
        read.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_reads_whole_frames_slowly_is_not_lost() {
        let (mut guest, mut host, _watch) = connection();
        let payload = vec![0; 1 << 20];
        let length = frame(REQUEST, 1, &payload).len();
        let read = tokio::spawn(async move {
            let mut whole = vec![0; length];
            for _ in 0..5 {
                tokio::time::sleep(READ_PATIENCE / 2).await;
                guest.read_exact(&mut whole).await.unwrap();
            }
        });
        for call in 0..5 {
            host.write_all(&frame(REQUEST, call, &payload)).await.unwrap();
        }
        read.await.unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_are_frames_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1_usize..40) {
            let mut frames = Frames::default();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (part, after) = rest.split_at(frames.until_next().min(piece).min(rest.len()));
                prop_assert!(!part.is_empty());
                frames.take(part);
                rest = after;
            }
        }
    }
}
