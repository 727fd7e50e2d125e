//! The terminal of the outer side: raw while a command runs inside, and as it was before afterwards, whatever happens.

use super::protocol::WindowSize;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::os::fd::{AsFd, AsRawFd};

/// Standard input in raw mode; dropping it restores the mode.
#[derive(Debug)]
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Switches to raw mode. `None` unless standard input and output are both a terminal.
    pub fn enter() -> Option<Self> {
        let is_terminal = std::io::IsTerminal::is_terminal;
        if !is_terminal(&std::io::stdin()) || !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            return None;
        }
        let before = tcgetattr(std::io::stdin().as_fd()).ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &self.before);
    }
}

/// Size of the terminal that is standard output.
pub fn window_size() -> WindowSize {
    // SAFETY: all-zero bytes are a valid winsize.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one winsize to the pointer, which is valid for it.
    let result = unsafe { libc::ioctl(std::io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    if result < 0 || size.ws_row == 0 || size.ws_col == 0 {
        return WindowSize { rows: 24, columns: 80 };
    }
    WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    }
}

/// Gives a terminal a size.
pub fn set_window_size(terminal: &impl AsFd, size: WindowSize) -> std::io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize from the pointer, which is valid for it.
    match unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
