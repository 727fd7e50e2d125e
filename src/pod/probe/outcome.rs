//! The outcome of a probe, and the part of an answer that is shown.

/// Maximum number of bytes of a command's output or a response that are read and shown.
pub const OUTPUT_MAX_BYTES: usize = 10 << 10;

/// The Kubernetes version of the kubelet that this code imitates. Servers see it.
pub const KUBERNETES_VERSION: &str = "1.36";

/// The outcome of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// The probe succeeded with a warning for its author (an event `ProbeWarning`).
    Warning(String),
    /// The probe failed, for this reason (an event `Unhealthy`: `Liveness probe failed: …`).
    Failure(String),
    /// The probe could not be executed, which says nothing about the container (`Liveness probe errored …`).
    Unknown(String),
}

/// Cuts output to its maximum length and converts it to text, for a message.
pub fn shown(output: &[u8]) -> String {
    let end = output.len().min(OUTPUT_MAX_BYTES);
    String::from_utf8_lossy(&output[..end]).into_owned()
}
