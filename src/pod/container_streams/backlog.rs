//! Output that is in the log, but not yet sent to its followers.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::pod::supervisor_protocol::SupervisorFrame;

/// Memory of an entry besides its data. It counts, because a guest may send its output byte by byte.
const ENTRY_BYTES: usize = 256;

/// Frames of one stream in order, each with the followers that do not have it yet. An entry has at least one follower.
#[derive(Debug, Default)]
pub struct Backlog {
    entries: VecDeque<Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    frame: SupervisorFrame,
    bytes: usize,
    followers: Vec<mpsc::Sender<SupervisorFrame>>,
}

impl Backlog {
    /// Adds a frame with this many bytes of output for these followers.
    pub fn add(&mut self, frame: SupervisorFrame, output_bytes: usize, followers: Vec<mpsc::Sender<SupervisorFrame>>) {
        if followers.is_empty() {
            return;
        }
        let bytes = output_bytes.saturating_add(ENTRY_BYTES);
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries.push_back(Entry {
            frame,
            bytes,
            followers,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Its approximate size in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The follower that gets the next frame.
    pub fn next_follower(&self) -> Option<mpsc::Sender<SupervisorFrame>> {
        self.entries.front()?.followers.last().cloned()
    }

    /// Takes the frame for [`Self::next_follower`].
    pub fn take(&mut self) -> Option<SupervisorFrame> {
        let entry = self.entries.front_mut()?;
        entry.followers.pop();
        if !entry.followers.is_empty() {
            return Some(entry.frame.clone());
        }
        let entry = self.entries.pop_front()?;
        self.bytes = self.bytes.saturating_sub(entry.bytes);
        Some(entry.frame)
    }
}
