//! Text that an execution produces, with a bound.

/// Maximum length of all text that an execution produces, for its output and in between.
pub(crate) const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// A text whose length is bounded. What is too much is dropped.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) text: String,
    left: usize,
    is_full: bool,
}

impl Output {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            text: String::new(),
            left: limit,
            is_full: false,
        }
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        match self.left.checked_sub(text.len()) {
            Some(left) if !self.is_full => {
                self.left = left;
                self.text.push_str(text);
            }
            _ => self.is_full = true,
        }
    }

    pub(crate) fn push(&mut self, character: char) {
        self.push_str(character.encode_utf8(&mut [0; 4]));
    }

    pub(crate) fn repeat(&mut self, character: char, times: usize) {
        for _ in 0..times {
            if self.is_full {
                return;
            }
            self.push(character);
        }
    }

    /// Uses up some of the limit for text that is elsewhere.
    pub(crate) fn reserve(&mut self, length: usize) {
        match self.left.checked_sub(length) {
            Some(left) => self.left = left,
            None => self.is_full = true,
        }
    }

    pub(crate) fn left(&self) -> usize {
        self.left
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }
}
