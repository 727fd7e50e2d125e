//! Timeouts and retries for registries.

use std::time::Duration;

/// Timeouts and retries.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Timeout of TCP and TLS connection setup together.
    pub connect_timeout: Duration,
    /// How long a registry may send almost nothing.
    pub stall_timeout: Duration,
    /// How long a whole small document may take.
    pub document_timeout: Duration,
    /// Maximum number of attempts at an operation that fails for a temporary reason.
    pub attempts: u32,
    /// The first wait between attempts; each later wait is twice as long as the one before, up to the longest.
    pub first_wait: Duration,
    pub longest_wait: Duration,
    /// The longest wait that a registry may ask for. Longer ones are left to the caller (the kubelet's image back-off).
    pub longest_retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            document_timeout: Duration::from_secs(60),
            attempts: 5,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(8),
            longest_retry_after: Duration::from_secs(60),
        }
    }
}
