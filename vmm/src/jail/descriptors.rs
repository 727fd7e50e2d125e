//! Closing what the process inherited and nobody named: a descriptor that its caller left open is one that a guest who takes the
//! process over could read and write.

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::RawFd;

use super::error::JailError;

/// The numbers from `first` on that are not among `kept`.
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

/// Closes all descriptors but the standard streams and `kept`. While there is one thread, and nothing open that is not named.
pub fn close_all_but(kept: &[RawFd]) -> Result<(), JailError> {
    for gap in gaps(3, kept) {
        // SAFETY: close_range(2) takes integers. Nobody in this process uses these descriptors: they are not known to it.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, *gap.start(), *gap.end(), 0) };
        if closed < 0 {
            return Err(JailError::Step {
                what: "close inherited descriptors (close_range(2): Linux 5.9 or newer has it)",
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
    fn what_lies_between_the_kept_descriptors_is_closed() {
        assert_eq!(gaps(3, &[7, 1, 4, 5]), [3..=3, 6..=6, 8..=u32::MAX]);
        assert_eq!(gaps(3, &[3, -1]), [4..=u32::MAX]);
        assert_eq!(gaps(3, &[]), [3..=u32::MAX]);
    }

    #[test]
    fn a_descriptor_that_nobody_named_is_closed_and_a_named_one_stays() {
        let (leaked, kept) = std::io::pipe().unwrap();
        let (leaked, kept) = (leaked.as_raw_fd(), kept.as_raw_fd());
        // SAFETY: the child makes system calls only, and ends without running anything of the parent's.
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
