//! Progress of layers: bars on a terminal, otherwise a line per event.

use std::collections::{HashMap, HashSet};
use std::io::{IsTerminal, Write};
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use microkube_base::lock::{lock, unpoisoned};
use microkube_image::{Progress, Quiet};

use super::table::size;
use crate::stderr::{report, say};

/// The kind of progress that suits standard error.
pub(super) fn for_stderr(quiet: bool) -> Box<dyn Progress> {
    match (quiet, std::io::stderr().is_terminal()) {
        (true, _) => Box::new(Quiet),
        (false, true) => Box::new(Bars::new()),
        (false, false) => Box::new(Lines::new(std::io::stderr())),
    }
}

fn short(digest: &str) -> String {
    digest.chars().skip("sha256:".len()).take(12).collect()
}

/// A bar per layer on the terminal.
#[derive(Debug)]
pub(super) struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    pub fn new() -> Self {
        Self {
            all: MultiProgress::new(),
            layers: Mutex::default(),
        }
    }

    fn layer(&self, digest: &str, total_bytes: u64) -> ProgressBar {
        let mut layers = lock(&self.layers);
        let bar = layers.entry(digest.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes:>10}/{total_bytes:<10} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            self.all
                .add(ProgressBar::new(total_bytes))
                .with_style(style)
                .with_prefix(short(digest))
        });
        if bar.length() == Some(0) && total_bytes > 0 {
            bar.set_length(total_bytes);
        }
        bar.clone()
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // Finished bars stay, with the cursor at the end of the last one.
        let layers = unpoisoned(self.layers.get_mut());
        if layers.values().any(ProgressBar::is_finished) {
            say!();
        }
    }
}

impl Progress for Bars {
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64) {
        let bar = self.layer(digest, total_bytes);
        bar.set_message("");
        bar.set_position(received_bytes);
    }

    fn layer_waiting(&self, digest: &str) {
        self.layer(digest, 0).set_message("another process is fetching it");
    }

    fn layer_done(&self, digest: &str, present: bool) {
        let bar = self.layer(digest, 0);
        bar.finish_with_message(if present { "already here" } else { "done" });
    }

    fn named_after_tag(&self, tag: &str, reference: &str) {
        self.all.suspend(|| Notes.named_after_tag(tag, reference));
    }
}

/// Shows no progress, only messages that the user must see.
#[derive(Debug)]
pub(super) struct Notes;

impl Progress for Notes {
    fn layer_bytes(&self, _digest: &str, _received_bytes: u64, _total_bytes: u64) {}
    fn layer_done(&self, _digest: &str, _present: bool) {}
    fn named_after_tag(&self, tag: &str, reference: &str) {
        report!(
            "the image has no name, only the tag {tag}; loading it as {reference} (`microkube image tag` adds another name)"
        );
    }
}

/// Lines for logs: one when a layer starts, one when it is done.
#[derive(Debug)]
pub(super) struct Lines<W> {
    state: Mutex<(W, HashSet<String>)>,
}

impl<W: Write> Lines<W> {
    pub fn new(to: W) -> Self {
        Self {
            state: Mutex::new((to, HashSet::new())),
        }
    }

    /// Writes a line. A layer's start is written only once.
    fn line(&self, digest: &str, is_start: bool, text: &str) {
        let mut state = lock(&self.state);
        let (to, started) = &mut *state;
        if !is_start || started.insert(digest.to_owned()) {
            // Continue if the output is closed.
            let _ = writeln!(to, "{}: {text}", short(digest));
        }
    }
}

impl<W: Write + Send> Progress for Lines<W> {
    fn layer_bytes(&self, digest: &str, _received_bytes: u64, total_bytes: u64) {
        self.line(digest, true, &format!("fetching {}", size(total_bytes)));
    }

    fn layer_waiting(&self, digest: &str) {
        self.line(digest, false, "another process is fetching it");
    }

    fn layer_done(&self, digest: &str, present: bool) {
        self.line(digest, false, if present { "already here" } else { "done" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_and_end_of_each_layer_are_printed_once() {
        let lines = Lines::new(Vec::new());
        let (one, two) = ("sha256:0123456789abcdef", "sha256:fedcba9876543210");
        lines.layer_done(two, true);
        for received in [1, 2, 3] {
            lines.layer_bytes(one, received, 4_096);
        }
        lines.layer_done(one, false);
        let text = String::from_utf8(lines.state.into_inner().unwrap().0).unwrap();
        assert_eq!(
            text,
            "fedcba987654: already here\n0123456789ab: fetching 4.1kB\n0123456789ab: done\n"
        );
    }
}
