//! The source of a process's output: a pipe or a terminal, read until the process has ended and the source is drained.

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// Maximum bytes moved at once. A larger buffer would not save exits, because this is the most that
/// one vsock packet carries.
pub const CHUNK_BYTES: usize = 64 << 10;

/// How long descendants that keep the output open may keep writing to it after the process has ended and its output has
/// been read. A terminal's last bytes may also take a moment to pass through the kernel.
const DESCENDANTS_TIME: Duration = Duration::from_millis(200);

/// How many bytes are read after that time, if they are already there. A terminal's are not all counted when the process
/// ends (the kernel keeps up to 8 KiB on their way, `tty_buffer_set_limit` in drivers/tty/pty.c), and this task may be
/// late.
const LATE_BYTES: usize = CHUNK_BYTES;

/// The reading end of an output pipe, or the master of a terminal.
#[derive(Debug)]
pub struct Source {
    pipe: Receiver,
    /// Resolves, or fails because its sender is dropped, when the process has ended.
    ended: oneshot::Receiver<()>,
    draining: Option<Draining>,
}

#[derive(Debug)]
struct Draining {
    /// Number of unread bytes when the process ended.
    left: usize,
    /// Set once they have been read.
    deadline: Option<Instant>,
    /// How many bytes may still be read after the deadline.
    late: usize,
}

impl Source {
    /// Reads `pipe` to its end, which comes at the latest shortly after the process has ended and its output was read.
    pub fn new(pipe: Receiver, ended: oneshot::Receiver<()>) -> Self {
        Self {
            pipe,
            ended,
            draining: None,
        }
    }

    /// Reads the next bytes; returns zero at the end. Cancel-safe.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.draining {
                None => tokio::select! {
                    biased;
                    _ = &mut self.ended => {
                        let left = bytes_waiting(&self.pipe)?;
                        self.draining = Some(Draining { left, deadline: None, late: LATE_BYTES });
                        continue;
                    }
                    read = self.pipe.read(buffer) => read,
                },
                Some(Draining {
                    left: 0,
                    deadline,
                    late,
                }) => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + DESCENDANTS_TIME);
                    // Check the deadline first, because a writer that never stops is always ready.
                    if Instant::now() >= deadline {
                        let room = buffer.len().min(*late);
                        let read = read_now(&self.pipe, buffer.get_mut(..room).unwrap_or_default());
                        *late -= *read.as_ref().unwrap_or(&0);
                        read
                    } else {
                        match timeout_at(deadline, self.pipe.read(buffer)).await {
                            Ok(read) => read,
                            Err(_) => continue,
                        }
                    }
                }
                Some(Draining { left, .. }) => {
                    let read = self.pipe.read(buffer).await;
                    *left = left.saturating_sub(*read.as_ref().unwrap_or(&0));
                    read
                }
            };
            return match read {
                // No process has the terminal open any more.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
                other => other,
            };
        }
    }
}

/// Reads without waiting; zero if there is nothing.
fn read_now(pipe: &Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // Do not use tokio here, which may not have noticed new data yet.
        match nix::unistd::read(pipe, buffer) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(0),
            result => return result.map_err(io::Error::from),
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
    async fn a_descendant_that_keeps_the_output_open_does_not_delay_its_end() {
        let (pipe, write) = output_pipe().unwrap();
        let (end, ended) = oneshot::channel();
        let mut held = std::fs::File::from(write);
        held.write_all(&[7; 5000]).unwrap();
        end.send(()).unwrap();
        assert_eq!(read_all(Source::new(pipe, ended)).await, [7; 5000]);
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_is_there_when_a_late_task_continues_is_read() {
        let (pipe, write) = output_pipe().unwrap();
        let (end, ended) = oneshot::channel();
        let mut source = Source::new(pipe, ended);
        let mut held = std::fs::File::from(write);
        end.send(()).unwrap();
        let mut buffer = [0; 100];
        {
            // Nothing is there yet, and the time starts.
            let mut read = std::pin::pin!(source.read(&mut buffer));
            std::future::poll_fn(|context| {
                assert!(read.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
        }
        held.write_all(b"on its way").unwrap();
        tokio::time::advance(DESCENDANTS_TIME * 2).await;
        assert_eq!(read_all(source).await, b"on its way");
        drop(held);
    }

    #[tokio::test]
    async fn a_descendant_that_never_stops_writing_does_not_delay_the_end() {
        let (pipe, write) = output_pipe().unwrap();
        let (end, ended) = oneshot::channel();
        let mut write = std::fs::File::from(write);
        write.write_all(b"first").unwrap();
        // Ends when the reader is closed.
        let writer = std::thread::spawn(move || while write.write_all(b"and more").is_ok() {});
        end.send(()).unwrap();
        let all = read_all(Source::new(pipe, ended)).await;
        assert!(all.starts_with(b"first"));
        writer.join().unwrap();
    }
}
