//! The terminal of a container or of an exec process. The helper creates it in the container's own
//! devpts, the agent uses it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Weak;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use nix::sys::stat::{SFlag, fstat, major, minor};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::rootfs;
use super::spec::Size;

/// Device number of /dev/ptmx (admin-guide/devices.txt).
const PTMX: (u64, u64) = (5, 2);

/// Major numbers of the slave sides of pseudo-terminals.
const SLAVE_MAJORS: std::ops::RangeInclusive<u64> = 136..=143;

/// `TIOCGPTPEER` and `TIOCGPTN`, asm-generic/ioctls.h; the libc crate lacks them on some targets.
const TIOCGPTPEER: libc::Ioctl = 0x5441;
const TIOCGPTN: libc::Ioctl = 0x8004_5430_u32 as libc::Ioctl;
const TIOCSPTLCK: libc::Ioctl = 0x4004_5431;

/// The terminal of a process, while the process runs.
#[derive(Debug)]
pub struct Terminal(Option<Weak<OwnedFd>>);

impl Terminal {
    /// `None` for a process without a terminal.
    pub fn new(terminal: Option<Weak<OwnedFd>>) -> Self {
        Self(terminal)
    }

    /// Sets the size; returns false if there never was a terminal. A terminal that is gone is not an error.
    pub fn resize(&self, size: Size) -> io::Result<bool> {
        let Some(terminal) = &self.0 else { return Ok(false) };
        if let Some(terminal) = terminal.upgrade() {
            resize(terminal.as_fd(), size)?;
        }
        Ok(true)
    }
}

/// Sets the size; the kernel tells the terminal's foreground processes with SIGWINCH.
fn resize(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// Opens the slave side of a master without using a path.
pub fn open_slave(master: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor or an error.
    let slave = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel has just created this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(slave) })
}

/// Whether this is a terminal's slave side.
pub fn is_slave(status: &libc::stat) -> bool {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR
        && SLAVE_MAJORS.contains(&major(status.st_rdev))
}

/// Makes a terminal the helper's stdio and the controlling terminal of its session, and sends
/// its master through `agent`.
///
/// In a running container, the container controls the file at /dev/pts/ptmx. With `console` the terminal also becomes a
/// new container's /dev/console.
pub fn enter(agent: &File, size: Size, console: bool) -> Result<()> {
    let master = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
        .open("/dev/pts/ptmx")
        .context("cannot open /dev/pts/ptmx")?;
    let status = fstat(&master).context("cannot examine /dev/pts/ptmx")?;
    let device = (major(status.st_rdev), minor(status.st_rdev));
    let character = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    ensure!(
        character && device == PTMX,
        "/dev/pts/ptmx is not a terminal multiplexer"
    );
    let master = OwnedFd::from(master);
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), TIOCSPTLCK, &raw const unlocked) })
        .context("cannot unlock the terminal")?;
    let slave = open_slave(&master).context("cannot open the terminal")?;
    if console {
        let mut number: libc::c_uint = 0;
        // SAFETY: TIOCGPTN writes an unsigned int.
        Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), TIOCGPTN, &raw mut number) })
            .context("cannot find the terminal's name")?;
        rootfs::bind_console(number)?;
    }
    resize(master.as_fd(), size).context("cannot set the terminal's size")?;
    send(agent, &master).context("cannot hand the terminal over")?;
    drop(master);
    // SAFETY: TIOCSCTTY takes an integer; zero does not take a terminal away from another session.
    Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })
        .context("cannot make the terminal the controlling one")?;
    dup2_stdin(&slave)
        .and_then(|()| dup2_stdout(&slave))
        .and_then(|()| dup2_stderr(&slave))
        .context("cannot make the terminal the standard streams")
}

/// The agent's and the helper's end of the socket that transfers the master.
pub fn sockets() -> io::Result<(UnixStream, OwnedFd)> {
    let (agent, helper) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
    let agent = std::os::unix::net::UnixStream::from(agent);
    agent.set_nonblocking(true)?;
    Ok((UnixStream::from_std(agent)?, helper))
}

fn send(socket: &File, master: &OwnedFd) -> io::Result<()> {
    let fds = [master.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"t")],
        &control,
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// Receives the master; `None` if the helper ended before it had one.
pub async fn receive(socket: UnixStream) -> io::Result<Option<OwnedFd>> {
    socket
        .async_io(Interest::READABLE, || {
            let mut byte = [0];
            let mut control = nix::cmsg_space!([std::os::fd::RawFd; 1]);
            let mut slices = [IoSliceMut::new(&mut byte)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
            let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
            let mut received = None;
            for part in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(fds) = part {
                    for fd in fds {
                        // SAFETY: the kernel has just installed this descriptor for us, and nothing else owns it.
                        received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
            }
            Ok(received)
        })
        .await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// A terminal of the machine that the test runs on.
    fn terminal() -> OwnedFd {
        let master = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
        let unlocked: libc::c_int = 0;
        // SAFETY: as in `enter`.
        Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), TIOCSPTLCK, &raw const unlocked) }).unwrap();
        master.into()
    }

    #[tokio::test]
    async fn a_terminal_is_passed_over_the_socket_with_its_size() {
        let (agent, helper) = sockets().unwrap();
        let helper = File::from(helper);
        send(&helper, &terminal()).unwrap();
        let master = receive(agent).await.unwrap().unwrap();
        resize(master.as_fd(), Size { rows: 24, columns: 80 }).unwrap();
        let slave = open_slave(&master).unwrap();
        assert!(is_slave(&fstat(&slave).unwrap()));
        // SAFETY: an all-zero winsize is valid.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: TIOCGWINSZ writes a winsize.
        Errno::result(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) }).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (24, 80));
        File::from(slave).write_all(b"hi\n").unwrap();
        let mut echoed = [0; 4];
        File::from(master).read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"hi\r\n");
    }

    #[tokio::test]
    async fn a_helper_that_exits_early_sends_no_terminal() {
        let (agent, helper) = sockets().unwrap();
        drop(helper);
        assert!(receive(agent).await.unwrap().is_none());
    }
}
