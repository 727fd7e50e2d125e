//! Errors from confining the process.

use rustix::io::Errno;

/// Why the process cannot be confined. It must then not serve anything.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    #[error("descriptor {0} is not the socket that it must be")]
    Socket(i32),
    /// The threads that exist already would not be confined.
    #[error("cannot confine a process with {0} threads")]
    Threads(usize),
    #[error("a limit of {0} descriptors (RLIMIT_NOFILE) is too low")]
    Descriptors(u64),
    #[error("cannot {what}")]
    Step {
        what: &'static str,
        #[source]
        source: Errno,
    },
    /// A bug.
    #[error("cannot build the system call filter")]
    Filter(#[source] seccompiler::BackendError),
    #[error("cannot install the system call filter (CONFIG_SECCOMP_FILTER is needed)")]
    Install(#[source] seccompiler::Error),
}

/// Names the step that fails.
pub(super) trait Step<T> {
    fn step(self, what: &'static str) -> Result<T, ConfinementError>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, what: &'static str) -> Result<T, ConfinementError> {
        self.map_err(|source| ConfinementError::Step { what, source })
    }
}
