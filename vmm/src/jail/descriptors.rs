//! Closes inherited descriptors that the configuration does not name: a guest that takes over the process could read
//! and write any descriptor that the caller left open.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::RawFd;

use super::error::JailError;

/// The ranges of numbers from `first` on that are not in `kept`.
fn gaps(first: u32, kept: &[RawFd]) -> Vec<RangeInclusive<u32>> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|fd| u32::try_from(*fd).ok()).collect();
    kept.sort_unstable();
    let mut gaps = Vec::new();
    let mut start = first;
    for fd in kept.into_iter().filter(|fd| *fd >= first) {
        if fd > start {
            gaps.push(start..=fd - 1);
        }
        start = start.max(fd.saturating_add(1));
    }
    gaps.push(start..=u32::MAX);
    gaps
}

/// Closes all descriptors except the standard streams and `kept`. Must be called while there is one thread
/// and nothing else is open.
pub fn close_all_but(kept: &[RawFd]) -> Result<(), JailError> {
    for gap in gaps(3, kept) {
        // SAFETY: close_range(2) takes integers. No code in this process uses these descriptors, because the
        // configuration does not name them.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, *gap.start(), *gap.end(), 0) };
        if closed < 0 {
            return Err(JailError::Step {
                what: "close inherited descriptors (close_range(2) needs Linux 5.9 or newer)",
                source: io::Error::last_os_error(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn descriptors_between_the_kept_ones_are_closed() {
        assert_eq!(gaps(3, &[7, 1, 4, 5]), [3..=3, 6..=6, 8..=u32::MAX]);
        assert_eq!(gaps(3, &[3, -1]), [4..=u32::MAX]);
        assert_eq!(gaps(3, &[]), [3..=u32::MAX]);
    }

    #[test]
    fn unlisted_descriptors_are_closed_and_listed_ones_kept() {
        let (leaked, kept) = std::io::pipe().unwrap();
        let (leaked, kept) = (leaked.as_raw_fd(), kept.as_raw_fd());
        // SAFETY: the child only makes system calls, and exits without running any of the parent's code.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let closed = close_all_but(&[kept]).is_ok();
            // SAFETY: as above.
            unsafe {
                let as_said = closed && libc::fcntl(leaked, libc::F_GETFD) < 0 && libc::fcntl(kept, libc::F_GETFD) >= 0;
                libc::_exit(if as_said { 0 } else { 1 });
            }
        }
        let mut status = 0;
        // SAFETY: waits for our child and writes its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
    }
}
