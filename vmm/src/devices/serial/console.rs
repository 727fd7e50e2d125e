//! Output of the serial port: a bounded buffer that a thread empties. A reader that stops reading neither blocks the
//! guest nor fills this process's memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::lock::{lock, unpoisoned};

/// Maximum number of bytes that wait for a slow reader; newer bytes are dropped.
const BUFFER_BYTES: usize = 256 << 10;
/// How long an unfinished line is held back before it is written.
const LINE_WAIT: Duration = Duration::from_millis(10);
const STACK_BYTES: usize = 128 << 10;

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<u8>,
    /// Bytes dropped since the buffer was last emptied.
    dropped: u64,
    /// Whether `pending` contains the end of a line.
    line_complete: bool,
    /// Whether the thread is writing what it took.
    writing: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The guest's side: never blocks, never fails.
#[derive(Debug, Clone)]
pub struct ConsoleWriter(Arc<Shared>);

impl Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut state = self.0.lock();
        let was_empty = state.pending.is_empty();
        let room = BUFFER_BYTES.saturating_sub(state.pending.len()).min(bytes.len());
        let (taken, lost) = bytes.split_at(room);
        state.pending.extend(taken);
        state.dropped += lost.len() as u64;
        let line_ends = !state.line_complete && taken.contains(&b'\n');
        state.line_complete |= line_ends;
        drop(state);
        if was_empty || line_ends {
            self.0.changed.notify_all();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The host's side.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Console {
    /// Starts the thread that writes to `output`; `enter` runs in it first.
    pub fn start(output: File, enter: impl FnOnce() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("console".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                enter();
                write_out(&for_thread, output);
            })?;
        Ok(Self { shared, thread })
    }

    #[must_use]
    pub fn writer(&self) -> ConsoleWriter {
        ConsoleWriter(Arc::clone(&self.shared))
    }

    /// Writes the remaining output, but waits at most `limit` for a reader that does not read.
    pub fn finish(self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        while !state.pending.is_empty() || state.writing {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            state = unpoisoned(self.shared.changed.wait_timeout(state, left)).0;
        }
        drop(state);
        let _ = self.thread.join();
    }
}

/// Takes whole lines where possible and writes them until the console is closed.
fn write_out(shared: &Shared, mut output: File) {
    loop {
        let mut state = shared.lock();
        state.writing = false;
        shared.changed.notify_all();
        while state.pending.is_empty() && !state.closed {
            state = unpoisoned(shared.changed.wait(state));
        }
        if !state.line_complete && !state.closed {
            let wait = shared
                .changed
                .wait_timeout_while(state, LINE_WAIT, |state| !state.line_complete && !state.closed);
            state = unpoisoned(wait).0;
        }
        if state.pending.is_empty() && state.closed {
            return;
        }
        let mut chunk: Vec<u8> = std::mem::take(&mut state.pending).into();
        let dropped = std::mem::take(&mut state.dropped);
        state.line_complete = false;
        state.writing = true;
        drop(state);
        if dropped > 0 {
            chunk.extend_from_slice(
                format!("\n[{dropped} bytes of console output lost: not read in time]\n").as_bytes(),
            );
        }
        // The guest continues without a reader; its output is then dropped.
        let _ = output.write_all(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;

    use super::*;

    fn console() -> (Console, std::io::PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        (
            Console::start(File::from(OwnedFd::from(writer)), || {}).unwrap(),
            reader,
        )
    }

    #[test]
    fn everything_written_arrives_in_order() {
        let (console, mut reader) = console();
        let mut writer = console.writer();
        for part in ["one\n", "tw", "o\nthree"] {
            writer.write_all(part.as_bytes()).unwrap();
        }
        console.finish(Duration::from_secs(10));
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        assert_eq!(all, "one\ntwo\nthree");
    }

    #[test]
    fn a_prompt_without_a_newline_arrives() {
        let (console, mut reader) = console();
        console.writer().write_all(b"login: ").unwrap();
        let mut bytes = [0; 7];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"login: ");
        console.finish(Duration::from_secs(10));
    }

    #[test]
    fn a_stalled_reader_neither_blocks_nor_uses_memory_and_dropped_bytes_are_reported() {
        let (console, mut reader) = console();
        let mut writer = console.writer();
        for _ in 0..1024 {
            writer.write_all(&[b'x'; 1024]).unwrap();
        }
        assert!(console.shared.lock().pending.len() <= BUFFER_BYTES);
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        console.finish(Duration::from_secs(10));
        let all = reading.join().unwrap();
        assert!(all.len() < 1 << 20);
        assert!(String::from_utf8_lossy(&all).contains("bytes of console output lost"));
    }

    #[test]
    fn without_a_reader_output_is_dropped_without_blocking() {
        let (console, reader) = console();
        drop(reader);
        let mut writer = console.writer();
        // More than the pipe and the buffer hold together: a thread stuck in a write would leave it pending.
        for _ in 0..1024 {
            writer.write_all(&[b'x'; 1024]).unwrap();
        }
        let mut state = console.shared.lock();
        while !state.pending.is_empty() || state.writing {
            state = console.shared.changed.wait(state).unwrap();
        }
        drop(state);
        console.finish(Duration::from_secs(10));
    }

    #[test]
    fn finishing_waits_for_a_reader_only_for_a_limited_time() {
        let (console, _reader) = console();
        console.writer().write_all(&[b'x'; BUFFER_BYTES]).unwrap();
        console.finish(Duration::from_millis(20));
    }
}
