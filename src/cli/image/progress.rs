//! Progress of layers on the terminal.

use std::collections::HashMap;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::image::Progress;

/// A bar a layer on the terminal.
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
        let mut layers = self.layers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bar = layers.entry(digest.to_owned()).or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {bytes:>10}/{total_bytes:<10} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let short: String = digest.chars().skip("sha256:".len()).take(12).collect();
            self.all
                .add(ProgressBar::new(total_bytes))
                .with_style(style)
                .with_prefix(short)
        });
        bar.clone()
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        // Finished bars stay, and the cursor at the end of the last one.
        let layers = self.layers.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        if layers.values().any(ProgressBar::is_finished) {
            eprintln!();
        }
    }
}

impl Progress for Bars {
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64) {
        self.layer(digest, total_bytes).set_position(received_bytes);
    }

    fn layer_done(&self, digest: &str, present: bool) {
        let bar = self.layer(digest, 0);
        bar.finish_with_message(if present { "already here" } else { "done" });
    }
}
