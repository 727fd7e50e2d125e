//! Where a process's output comes from: a pipe or a terminal, until the process has ended and it is drained.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Bytes moved at once. A larger buffer makes no fewer exits: this is the most that one vsock packet carries.
pub const CHUNK_BYTES: usize = 64 << 10;

/// How long descendants that keep the output open may go on writing to it when the process has ended and what it wrote was
/// taken; a terminal's last bytes may also be on their way through the kernel for a moment.
const DESCENDANTS_TIME: Duration = Duration::from_millis(200);

/// The end of an output pipe or the master of a terminal.
#[derive(Debug)]
pub struct Source {
    pipe: Receiver,
    /// Resolves, or its sender is dropped, when the process has ended.
    ended: oneshot::Receiver<()>,
    draining: Option<Draining>,
}

#[derive(Debug)]
struct Draining {
    /// Bytes that were there when the process ended.
    left: usize,
    /// Set once they were taken.
    deadline: Option<Instant>,
}

impl Source {
    /// Reads `pipe` to its end, which comes at the latest a moment after `ended` and what the process wrote.
    pub fn new(pipe: Receiver, ended: oneshot::Receiver<()>) -> Self {
        Self {
            pipe,
            ended,
            draining: None,
        }
    }

    /// The next bytes; none at the end. Can be cancelled without loss.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.draining {
                None => tokio::select! {
                    biased;
                    _ = &mut self.ended => {
                        let left = bytes_waiting(&self.pipe)?;
                        self.draining = Some(Draining { left, deadline: None });
                        continue;
                    }
                    read = self.pipe.read(buffer) => read,
                },
                Some(Draining { left: 0, deadline }) => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + DESCENDANTS_TIME);
                    // Looked at first: somebody who never stops writing is always ready.
                    if Instant::now() >= deadline {
                        return Ok(0);
                    }
                    match timeout_at(deadline, self.pipe.read(buffer)).await {
                        Ok(read) => read,
                        Err(_) => return Ok(0),
                    }
                }
                Some(Draining { left, .. }) => {
                    let read = self.pipe.read(buffer).await;
                    *left = left.saturating_sub(*read.as_ref().unwrap_or(&0));
                    read
                }
            };
            return match read {
                // A terminal that no process has open any more.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
                other => other,
            };
        }
    }
}

fn bytes_waiting(pipe: &Receiver) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes an int.
    Errno::result(unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::stdio::output_pipe;

    async fn read_all(mut source: Source) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match source.read(&mut buffer).await.unwrap() {
                0 => return all,
                count => all.extend_from_slice(buffer.get(..count).unwrap()),
            }
        }
    }

    #[tokio::test]
    async fn everything_up_to_the_end_of_the_pipe_is_read() {
        let (pipe, write) = output_pipe().unwrap();
        let (_ended, ended) = oneshot::channel();
        let mut write = std::fs::File::from(write);
        write.write_all(b"all of it").unwrap();
        drop(write);
        assert_eq!(read_all(Source::new(pipe, ended)).await, b"all of it");
    }

    #[tokio::test]
    async fn a_descendant_that_keeps_the_output_open_does_not_hold_the_end_up() {
        let (pipe, write) = output_pipe().unwrap();
        let (end, ended) = oneshot::channel();
        let mut held = std::fs::File::from(write);
        held.write_all(&[7; 5000]).unwrap();
        end.send(()).unwrap();
        assert_eq!(read_all(Source::new(pipe, ended)).await, [7; 5000]);
        drop(held);
    }

    #[tokio::test]
    async fn a_descendant_that_never_stops_writing_does_not_either() {
        let (pipe, write) = output_pipe().unwrap();
        let (end, ended) = oneshot::channel();
        let mut write = std::fs::File::from(write);
        write.write_all(b"first").unwrap();
        // Ends when nobody reads any more.
        let writer = std::thread::spawn(move || while write.write_all(b"and more").is_ok() {});
        end.send(()).unwrap();
        let all = read_all(Source::new(pipe, ended)).await;
        assert!(all.starts_with(b"first"));
        writer.join().unwrap();
    }
}
