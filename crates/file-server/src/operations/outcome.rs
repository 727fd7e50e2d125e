//! What has become of a request.

use rustix::io::Errno;

/// The end of an operation.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply's body is complete, or the request failed.
    Done(Result<(), Errno>),
    /// Another thread replies.
    Later,
    /// The request has no reply.
    Silent,
}

/// Replaces errors of the host that mean something else to the guest's kernel: after `ENOSYS` it does not request an
/// operation again (`fs/fuse/file.c`), and `EINTR` of a process without a signal reaches the process as an unknown
/// error (`fuse_setlk`).
pub fn without_special_meaning(error: Errno) -> Errno {
    match error {
        Errno::NOSYS => Errno::OPNOTSUPP,
        Errno::INTR => Errno::IO,
        // The server's limit is not the one of the process in the guest.
        Errno::MFILE => Errno::NFILE,
        error => error,
    }
}
