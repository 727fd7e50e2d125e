//! What containers of tests report in their logs.

/// The number after the last line that starts with this.
#[must_use]
pub fn last_number(log: &str, start: &str) -> Option<u64> {
    log.lines()
        .rev()
        .find_map(|line| line.strip_prefix(start)?.parse().ok())
}
