//! Sanitizes text from a guest. It may be of any length, consist of control characters only, and arrive at any rate, so
//! it passes through here first.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// Longest text that is accepted from a guest (an error, a termination message), in bytes: the kubelet's limit for
/// termination messages (`MaxContainerTerminationMessageLength`).
pub const MAX_TEXT_BYTES: usize = 4096;

/// Longest complaint about a guest, in bytes.
const MAX_COMPLAINT_BYTES: usize = 1024;

/// Maximum number of complaints about one VM.
const MAX_COMPLAINTS: u32 = 32;

/// Shortens a text to [`MAX_TEXT_BYTES`].
#[must_use]
pub fn bounded(text: String) -> String {
    cut(text, MAX_TEXT_BYTES)
}

fn cut(mut text: String, max_bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(max_bytes));
    text
}

/// Turns a line into text that cannot control a terminal or look like several lines.
#[must_use]
pub fn printable(line: &str) -> String {
    line.trim_end()
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

/// The supervisor's complaints about its guest. A guest may break rules any number of times, but cannot fill the log
/// that way.
#[derive(Debug)]
pub struct Complaints {
    left: AtomicU32,
}

impl Default for Complaints {
    fn default() -> Self {
        Self {
            left: AtomicU32::new(MAX_COMPLAINTS),
        }
    }
}

impl Complaints {
    /// Logs what the guest did, unless its VM's limit is reached.
    pub fn say(&self, what: fmt::Arguments<'_>) {
        if let Some(text) = self.next(what) {
            tracing::warn!("{text}");
        }
    }

    /// Resets the limit, for a new VM.
    pub fn renew(&self) {
        self.left.store(MAX_COMPLAINTS, Ordering::Relaxed);
    }

    fn next(&self, what: fmt::Arguments<'_>) -> Option<String> {
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let is_last = left.ok()? == 1;
        let mut text = cut(printable(&what.to_string()), MAX_COMPLAINT_BYTES);
        if is_last {
            text.push_str(" (further messages of this VM are not logged)");
        }
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_truncated_at_a_character_boundary(text in "\\PC{0,3000}") {
            let cut = bounded(text.clone());
            prop_assert!(cut.len() <= MAX_TEXT_BYTES && text.starts_with(&cut));
            prop_assert!(text.len() <= MAX_TEXT_BYTES || cut.len() + 4 > MAX_TEXT_BYTES);
        }

        #[test]
        fn complaints_about_a_guest_are_limited_in_number_and_length(texts in proptest::collection::vec("(?s).{0,2000}", 1..80)) {
            let complaints = Complaints::default();
            let said: Vec<String> = texts.iter().filter_map(|text| complaints.next(format_args!("{text}"))).collect();
            prop_assert_eq!(said.len(), texts.len().min(MAX_COMPLAINTS as usize));
            for line in &said {
                prop_assert!(line.len() <= MAX_COMPLAINT_BYTES + 64);
                prop_assert!(line.chars().all(|c| c == '\t' || !c.is_control()));
            }
        }
    }

    #[test]
    fn complaints_are_reset_for_the_next_vm() {
        let complaints = Complaints::default();
        while complaints.next(format_args!("it floods")).is_some() {}
        complaints.renew();
        assert_eq!(complaints.next(format_args!("again\n")).unwrap(), "again");
    }
}
