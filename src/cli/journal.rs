//! Writes log lines to systemd's journal, in its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
//!
//! `tracing-journald` sends on a blocking socket: a journald that does not read would block a supervisor, and with it
//! the Pod's probes and deadlines. This module drops a line that it cannot send immediately.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The socket of journald.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Longer lines are cut: a datagram must fit into the socket's buffer.
const MAX_LINE_BYTES: usize = 32 << 10;

/// A connection to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    /// Fields of each entry, encoded.
    fields: Vec<u8>,
}

impl Journal {
    /// Fails if no journal receives on the socket. With a Pod, each entry has its UID as a field.
    pub(super) fn open(path: &Path, pod: Option<&str>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        // An empty entry, which journald ignores. A full queue also shows that there is a journal.
        if let Err(error) = socket.send_to(&[], path)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error);
        }
        let mut fields = Vec::new();
        field(&mut fields, "SYSLOG_IDENTIFIER", b"microkube");
        if let Some(uid) = pod {
            field(&mut fields, "MICROKUBE_POD_UID", uid.as_bytes());
        }
        Ok(Self {
            socket,
            path: path.to_owned(),
            fields,
        })
    }
}

/// Adds a field in the form for arbitrary bytes: name, length, value.
fn field(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// The line, truncated to the maximum length of an entry.
fn shortened(line: &[u8]) -> &[u8] {
    let Some(start) = line.get(..MAX_LINE_BYTES) else {
        return line;
    };
    let whole = match std::str::from_utf8(start) {
        // Drop an incomplete character: journalctl would show the entry as binary data.
        Err(error) if error.error_len().is_none() => start.get(..error.valid_up_to()),
        _ => None,
    };
    whole.unwrap_or(start)
}

impl<'j> MakeWriter<'j> for Journal {
    type Writer = Entry<'j>;

    fn make_writer(&'j self) -> Entry<'j> {
        Entry {
            journal: self,
            priority: 6,
        }
    }

    fn make_writer_for(&'j self, metadata: &Metadata<'_>) -> Entry<'j> {
        // The priorities of syslog(3): LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG.
        let priority = match *metadata.level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        Entry {
            journal: self,
            priority,
        }
    }
}

/// Sends what is written as one entry. Writing never fails, because `tracing` would report that on standard error.
#[derive(Debug)]
pub(super) struct Entry<'j> {
    journal: &'j Journal,
    priority: u8,
}

impl Write for Entry<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let message = line.strip_suffix(b"\n").unwrap_or(line);
        let mut entry = self.journal.fields.clone();
        field(&mut entry, "PRIORITY", self.priority.to_string().as_bytes());
        field(&mut entry, "MESSAGE", shortened(message));
        let _ = self.journal.socket.send_to(&entry, &self.journal.path);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_entry_with_its_priority_and_its_pod() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path, Some("uid-1")).unwrap();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .with_writer(journal)
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(code = 7, "two\nlines"));
        let mut buffer = [0; 1024];
        assert_eq!(journald.recv(&mut buffer).unwrap(), 0, "the first entry is empty");
        let length = journald.recv(&mut buffer).unwrap();
        let mut expected = Vec::new();
        for (name, value) in [
            ("SYSLOG_IDENTIFIER", "microkube"),
            ("MICROKUBE_POD_UID", "uid-1"),
            ("PRIORITY", "4"),
            ("MESSAGE", "two\nlines code=7"),
        ] {
            field(&mut expected, name, value.as_bytes());
        }
        let shown = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert_eq!(shown, String::from_utf8_lossy(&expected));
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        for (line, kept) in [
            ("a".repeat(MAX_LINE_BYTES), MAX_LINE_BYTES),
            ("a".repeat(MAX_LINE_BYTES + 1), MAX_LINE_BYTES),
            ("a".repeat(MAX_LINE_BYTES - 1) + "\u{e4}", MAX_LINE_BYTES - 1),
            ("a".repeat(MAX_LINE_BYTES - 2) + "\u{1f600}b", MAX_LINE_BYTES - 2),
            ("\u{e4}".repeat(MAX_LINE_BYTES), MAX_LINE_BYTES),
            ("short \u{e4}".to_owned(), 8),
        ] {
            assert!(shortened(line.as_bytes()) == &line.as_bytes()[..kept], "{kept}");
        }
        // Other bytes are left as they are.
        let bytes = vec![0xff; MAX_LINE_BYTES + 1];
        assert_eq!(shortened(&bytes).len(), MAX_LINE_BYTES);
    }

    #[test]
    fn a_journal_that_is_busy_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let mut queued = 0;
        while other.send_to(b"other", &path).is_ok() {
            queued += 1;
        }
        let journal = Journal::open(&path, None).unwrap();
        let mut buffer = [0; 1024];
        for _ in 0..queued {
            assert_eq!(journald.recv(&mut buffer).unwrap(), 5);
        }
        journal.make_writer().write_all(b"later\n").unwrap();
        let length = journald.recv(&mut buffer).unwrap();
        assert!(String::from_utf8_lossy(&buffer[..length]).contains("later"));
    }

    #[test]
    fn a_journal_that_does_not_read_or_goes_away_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert!(Journal::open(&path, None).is_err(), "no journal listens");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::open(&path, None).unwrap();
        let line = vec![b'x'; 1 << 20];
        // More than any queue of datagrams takes.
        for _ in 0..2000 {
            journal.make_writer().write_all(&line).unwrap();
        }
        drop(journald);
        journal.make_writer().write_all(b"lost\n").unwrap();
    }
}
