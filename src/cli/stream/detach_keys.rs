//! Ctrl-P Ctrl-Q, typed on a terminal attached to a container's, detaches and leaves the container running.

const CTRL_P: u8 = 0x10;
const CTRL_Q: u8 = 0x11;

/// Detects the keys in the input.
#[derive(Debug, Default)]
pub(in crate::cli) struct DetachKeys {
    /// Ctrl-P was typed; it is passed on with the next key unless that is Ctrl-Q.
    has_first: bool,
}

impl DetachKeys {
    /// Returns the input for the container, and whether to detach.
    pub(in crate::cli) fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(input.len() + 1);
        for byte in input {
            match (std::mem::take(&mut self.has_first), *byte) {
                (true, CTRL_Q) => return (passed, true),
                (true, CTRL_P) => {
                    passed.push(CTRL_P);
                    self.has_first = true;
                }
                (true, other) => passed.extend([CTRL_P, other]),
                (false, CTRL_P) => self.has_first = true,
                (false, other) => passed.push(other),
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_work_in_any_chunks_and_other_input_is_forwarded() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ab\x10c"), (b"ab\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (vec![], false));
        assert_eq!(keys.filter(b"d"), (b"\x10d".to_vec(), false));
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11never sent"), (vec![], true));
    }
}
