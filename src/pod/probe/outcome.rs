//! What comes of a probe, and what is shown of an answer.

/// Most bytes of a command's output or of a response that are read or shown.
pub const OUTPUT_MAX_BYTES: usize = 10 << 10;

/// The version of Kubernetes whose kubelet this is like; servers see it.
pub const KUBERNETES_VERSION: &str = "1.36";

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is well.
    Success,
    /// It counts as a success, but its author should know this (an event `ProbeWarning`).
    Warning(String),
    /// It is not, because of this (an event `Unhealthy`: `Liveness probe failed: …`).
    Failure(String),
    /// The probe could not be made, which says nothing about the container (`Liveness probe errored …`).
    Unknown(String),
}

/// Output for a message: so much at most, and text whatever it is.
pub fn shown(output: &[u8]) -> String {
    let end = output.len().min(OUTPUT_MAX_BYTES);
    String::from_utf8_lossy(&output[..end]).into_owned()
}
