//! Why the process could not be confined.

use std::io;

/// Why the process could not be confined. It must not run a guest then.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The supervisor ended meanwhile.
    #[error("the supervisor has ended")]
    Orphaned,
    /// A step was refused.
    #[error("cannot {what}")]
    Step {
        /// The step.
        what: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// There are threads that would escape.
    #[error("cannot jail a process that has {0} threads already")]
    Threads(usize),
    /// A filter could not be made, which is a bug.
    #[error("cannot build the system call filter of a {0} thread")]
    Filter(&'static str, #[source] seccompiler::BackendError),
}

/// Turns the result of a system call into one with the step's name.
pub(super) fn check(returned: libc::c_int, what: &'static str) -> Result<(), JailError> {
    if returned < 0 {
        Err(JailError::Step {
            what,
            source: io::Error::last_os_error(),
        })
    } else {
        Ok(())
    }
}
