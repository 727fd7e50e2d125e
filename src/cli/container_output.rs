//! Writes containers' output to stdout and stderr.
//!
//! Output of a single container is written unchanged; with several, each whole line is prefixed with the container's
//! name.

use std::collections::HashMap;
use std::io::IsTerminal;

use tokio::io::{AsyncWriteExt, Stderr, Stdout};

use crate::pod::supervisor_protocol::OutputStream;

/// Longer lines are written in parts, so that a container cannot make this process buffer all its output.
const MAX_LINE_BYTES: usize = 64 << 10;

/// Writes the output of containers.
#[derive(Debug)]
pub struct ContainerOutput {
    names: Vec<String>,
    prefixed: bool,
    unfinished: HashMap<(u16, OutputStream), Vec<u8>>,
    stdout: Stdout,
    stderr: Stderr,
    colour: bool,
}

impl ContainerOutput {
    /// For containers with these names; with `prefixed` their names precede each line.
    pub fn new(names: Vec<String>, prefixed: bool) -> Self {
        Self {
            names,
            prefixed,
            unfinished: HashMap::new(),
            stdout: tokio::io::stdout(),
            stderr: tokio::io::stderr(),
            colour: std::io::stdout().is_terminal(),
        }
    }

    /// Writes a container's output; empty `bytes` mean that the stream has ended.
    pub async fn write(&mut self, container: u16, stream: OutputStream, bytes: &[u8]) -> std::io::Result<()> {
        let prefixed;
        let bytes = if self.prefixed {
            let prefix = prefix(
                self.names.get(usize::from(container)).map_or("?", String::as_str),
                container,
                self.colour,
            );
            let unfinished = self.unfinished.entry((container, stream)).or_default();
            prefixed = prefix_lines(&prefix, unfinished, bytes);
            prefixed.as_slice()
        } else {
            bytes
        };
        match stream {
            OutputStream::Stdout => write_flushed(&mut self.stdout, bytes).await,
            OutputStream::Stderr => write_flushed(&mut self.stderr, bytes).await,
        }
    }
}

async fn write_flushed(to: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

fn prefix(name: &str, container: u16, colour: bool) -> String {
    if colour {
        format!("\x1b[3{}m[{name}]\x1b[0m ", 1 + container % 6)
    } else {
        format!("[{name}] ")
    }
}

/// The complete lines of a stream, each with the prefix. The incomplete rest is kept for the next call. Empty `bytes`
/// complete the last line.
fn prefix_lines(prefix: &str, unfinished: &mut Vec<u8>, bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len() + prefix.len());
    let mut emit = |start: &[u8], rest: &[u8]| {
        lines.extend_from_slice(prefix.as_bytes());
        lines.extend_from_slice(start);
        lines.extend_from_slice(rest);
    };
    for part in bytes.split_inclusive(|byte| *byte == b'\n') {
        if part.last() == Some(&b'\n') {
            emit(unfinished, part);
            unfinished.clear();
        } else {
            unfinished.extend_from_slice(part);
        }
    }
    if unfinished.len() > MAX_LINE_BYTES || (bytes.is_empty() && !unfinished.is_empty()) {
        emit(unfinished, b"\n");
        unfinished.clear();
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(parts: &[&[u8]]) -> String {
        let mut unfinished = Vec::new();
        let mut text = Vec::new();
        for part in parts {
            text.extend(prefix_lines("[a] ", &mut unfinished, part));
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_line_gets_the_prefix_regardless_of_chunking() {
        assert_eq!(
            all(&[b"one\ntw", b"o\nthr", b"ee\n", b""]),
            "[a] one\n[a] two\n[a] three\n"
        );
    }

    #[test]
    fn the_last_line_is_finished_when_the_stream_ends() {
        assert_eq!(all(&[b"no newline", b""]), "[a] no newline\n");
        assert_eq!(all(&[b""]), "");
    }

    #[test]
    fn an_endless_line_is_shown_in_parts() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        assert_eq!(all(&[&long]).len(), "[a] \n".len() + long.len());
    }

    proptest! {
        #[test]
        fn no_byte_is_lost_or_reordered(text in "[ab\n]{0,80}", cut in 0_usize..80) {
            let cut = cut.min(text.len());
            let shown = all(&[&text.as_bytes()[..cut], &text.as_bytes()[cut..], b""]);
            let without: String = shown.lines().map(|line| format!("{}\n", line.strip_prefix("[a] ").unwrap())).collect();
            let expected: String = text.lines().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(without, expected);
        }
    }
}
