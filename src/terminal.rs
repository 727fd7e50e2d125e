//! The terminal of this process: puts it in raw mode while it controls a remote program, and always restores it. Used
//! for the emulated host, `exec` and `attach`.

use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use serde::{Deserialize, Serialize};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Number of lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// A terminal in raw mode. Dropping it restores the previous mode, even during a panic that unwinds. The holder must
/// turn signals that would end the process into a normal return.
#[derive(Debug)]
pub struct RawTerminal {
    terminal: OwnedFd,
    /// Not nix's type, which cannot be shared between threads.
    before: libc::termios,
}

impl RawTerminal {
    /// Puts standard input in raw mode. `None` unless standard input and output are both terminals.
    pub fn enter() -> Option<Self> {
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            return None;
        }
        Self::of(std::io::stdin().as_fd()).ok()
    }

    /// Puts this terminal in raw mode.
    ///
    /// # Errors
    /// The error from the kernel, `ENOTTY` if it is not a terminal.
    pub fn of(terminal: BorrowedFd<'_>) -> std::io::Result<Self> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = tcgetattr(&terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Self {
            terminal,
            before: before.into(),
        })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &Termios::from(self.before));
    }
}

/// Size of the terminal at standard output; the default size if it is not a terminal or its size is unknown.
pub fn terminal_size() -> TerminalSize {
    size_of(&std::io::stdout()).unwrap_or(TerminalSize { rows: 24, columns: 80 })
}

/// Size of a terminal, if it is one and its size is known.
pub fn size_of(terminal: &impl AsFd) -> Option<TerminalSize> {
    // SAFETY: all-zero bytes are a valid winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is valid for that.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result >= 0 && size.ws_row != 0 && size.ws_col != 0).then_some(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Sets the size of a terminal.
pub fn set_terminal_size(terminal: &impl AsFd, size: TerminalSize) -> std::io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize from the pointer, which is valid for that.
    match unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use nix::pty::openpty;
    use nix::sys::termios::LocalFlags;

    use super::*;

    fn is_raw(terminal: &OwnedFd) -> bool {
        let flags = tcgetattr(terminal).unwrap().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    #[test]
    fn a_terminal_is_raw_while_held_and_restored_afterwards() {
        let pty = openpty(None, None).unwrap();
        let before = tcgetattr(&pty.slave).unwrap();
        let raw = RawTerminal::of(pty.slave.as_fd()).unwrap();
        assert!(is_raw(&pty.slave));
        drop(raw);
        assert!(!is_raw(&pty.slave));
        assert_eq!(tcgetattr(&pty.slave).unwrap().local_flags, before.local_flags);
    }

    #[test]
    fn a_panic_restores_the_terminal() {
        let pty = openpty(None, None).unwrap();
        let slave = pty.slave.try_clone().unwrap();
        let result = std::thread::spawn(move || {
            let _raw = RawTerminal::of(slave.as_fd()).unwrap();
            assert!(is_raw(&slave));
            std::panic::resume_unwind(Box::new(()));
        })
        .join();
        assert!(result.is_err());
        assert!(!is_raw(&pty.slave));
    }

    #[test]
    fn a_non_terminal_cannot_be_made_raw_and_has_no_size() {
        let file = tempfile::tempfile().unwrap();
        assert!(RawTerminal::of(file.as_fd()).is_err());
        assert_eq!(size_of(&file), None);
    }

    #[test]
    fn a_terminal_size_survives_the_round_trip() {
        let pty = openpty(None, None).unwrap();
        let size = TerminalSize { rows: 7, columns: 300 };
        set_terminal_size(&pty.master, size).unwrap();
        assert_eq!(size_of(&pty.slave), Some(size));
    }
}
