//! The part of an output stream that the agent keeps until the host has confirmed it. Bookkeeping only, no I/O.

use std::collections::VecDeque;

use microkube_protocol::OUTPUT_WINDOW_BYTES;

/// Bytes of memory that are kept between bursts of output.
const IDLE_BYTES: usize = 16 << 10;

/// An impossible position from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("position {position} is not between {first} and {last}")]
pub struct PositionError {
    position: u64,
    first: u64,
    last: u64,
}

/// The bytes of a stream from the first unconfirmed one on.
#[derive(Debug, Default)]
pub struct Window {
    /// Position in the stream of the first byte in `bytes`; everything before it was confirmed.
    first: u64,
    bytes: VecDeque<u8>,
    /// How many of `bytes` were sent on the current connection.
    sent: usize,
    ended: bool,
}

impl Window {
    /// How many more bytes fit.
    pub fn room(&self) -> usize {
        if self.ended {
            0
        } else {
            OUTPUT_WINDOW_BYTES.saturating_sub(self.bytes.len())
        }
    }

    /// Adds bytes, at most as many as there is room for.
    pub fn add(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.room());
        self.bytes.extend(bytes);
    }

    /// Records that no more bytes will be added.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Position of the oldest byte that is kept.
    pub fn first_position(&self) -> u64 {
        self.first
    }

    /// Starts on a new connection, on which the host requests the bytes from `position`; it has everything before that.
    pub fn resume(&mut self, position: u64) -> Result<(), PositionError> {
        self.forget_until(position, self.bytes.len())?;
        self.sent = 0;
        Ok(())
    }

    /// Records that the host has everything up to `position`.
    pub fn confirm(&mut self, position: u64) -> Result<(), PositionError> {
        let forgotten = self.forget_until(position, self.sent)?;
        self.sent -= forgotten;
        Ok(())
    }

    fn forget_until(&mut self, position: u64, at_most: usize) -> Result<usize, PositionError> {
        let count = position
            .checked_sub(self.first)
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| *count <= at_most)
            .ok_or_else(|| PositionError {
                position,
                first: self.first,
                last: self.first.saturating_add(at_most as u64),
            })?;
        self.bytes.drain(..count);
        if self.bytes.is_empty() {
            self.bytes.shrink_to(IDLE_BYTES);
        }
        self.first = position;
        Ok(count)
    }

    /// Bytes that were not sent on this connection yet, or the first part of them.
    pub fn unsent(&self) -> &[u8] {
        let (front, back) = self.bytes.as_slices();
        match self.sent.checked_sub(front.len()) {
            Some(sent) => back.get(sent..).unwrap_or_default(),
            None => front.get(self.sent..).unwrap_or_default(),
        }
    }

    /// Records that the connection took the first bytes of [`Self::unsent`].
    pub fn sent(&mut self, count: usize) {
        self.sent = self.bytes.len().min(self.sent.saturating_add(count));
    }

    /// Whether the stream has ended and all of it was sent on this connection.
    pub fn is_sent(&self) -> bool {
        self.ended && self.sent == self.bytes.len()
    }

    /// Whether the stream has ended and the host has confirmed all of it.
    pub fn is_confirmed(&self) -> bool {
        self.ended && self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_more_bytes_are_kept_than_the_window() {
        let mut window = Window::default();
        window.add(&vec![1; OUTPUT_WINDOW_BYTES]);
        assert_eq!(window.room(), 0);
        window.sent(10);
        window.confirm(10).unwrap();
        assert_eq!(window.room(), 10);
    }

    #[test]
    fn only_sent_bytes_can_be_confirmed_and_confirmations_never_go_back() {
        let mut window = Window::default();
        window.add(b"abcdef");
        window.sent(3);
        assert!(window.confirm(4).is_err());
        assert!(window.confirm(u64::MAX).is_err());
        window.confirm(2).unwrap();
        window.confirm(2).unwrap();
        assert!(window.confirm(1).is_err());
        assert_eq!(window.unsent(), b"def");
    }

    #[test]
    fn a_host_can_resume_anywhere_within_the_kept_bytes() {
        let mut window = Window::default();
        window.add(b"abcdef");
        window.sent(6);
        window.confirm(2).unwrap();
        assert!(window.resume(1).is_err());
        assert!(window.resume(7).is_err());
        window.resume(4).unwrap();
        assert_eq!(window.unsent(), b"ef");
        window.end();
        assert!(!window.is_sent());
        // The next connection loses nothing because the last host did not confirm.
        window.resume(6).unwrap();
        assert!(window.is_sent() && window.is_confirmed());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(usize),
        Send(usize),
        /// The host makes durable what it has received and confirms it; the confirmation is lost if the flag is set.
        Confirm(bool),
        /// The host dies; the next one has what was durable.
        Die,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1usize..5000).prop_map(Step::Write),
            (1usize..5000).prop_map(Step::Send),
            any::<bool>().prop_map(Step::Confirm),
            Just(Step::Die),
        ]
    }

    proptest! {
        #[test]
        fn any_interleaving_delivers_exactly_the_bytes(steps in proptest::collection::vec(step(), 0..300)) {
            let mut window = Window::default();
            let mut written = Vec::new();
            let (mut durable, mut received) = (Vec::new(), Vec::new());
            let mut next = 0u8;
            for step in steps {
                match step {
                    Step::Write(count) => {
                        let bytes: Vec<u8> = (0..count.min(window.room())).map(|_| { next = next.wrapping_add(1); next }).collect();
                        window.add(&bytes);
                        written.extend(bytes);
                    }
                    Step::Send(count) => {
                        let bytes = window.unsent();
                        let count = count.min(bytes.len());
                        received.extend_from_slice(bytes.get(..count).unwrap());
                        window.sent(count);
                    }
                    Step::Confirm(lost) => {
                        durable.append(&mut received);
                        if !lost {
                            window.confirm(durable.len() as u64).unwrap();
                        }
                    }
                    Step::Die => {
                        received.clear();
                        prop_assert!(window.first_position() <= durable.len() as u64);
                        window.resume(durable.len() as u64).unwrap();
                    }
                }
            }
            window.end();
            while !window.is_sent() {
                let bytes = window.unsent().to_vec();
                received.extend_from_slice(&bytes);
                window.sent(bytes.len());
            }
            durable.append(&mut received);
            window.confirm(durable.len() as u64).unwrap();
            prop_assert!(window.is_confirmed());
            prop_assert_eq!(durable, written);
        }
    }
}
