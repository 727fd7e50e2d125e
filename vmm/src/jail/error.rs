//! Errors from confining the process.

use std::io;

/// Why the process could not be confined. It must then not run a guest.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("the supervisor has ended")]
    Orphaned,
    #[error("cannot {what}")]
    Step {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// The threads that exist already would escape the jail.
    #[error("cannot jail a process with {0} threads")]
    Threads(usize),
    /// Building a filter failed, which is a bug.
    #[error("cannot build the system call filter of a {0} thread")]
    Filter(&'static str, #[source] seccompiler::BackendError),
}

/// Turns the result of a system call into a `Result` that names the step.
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
