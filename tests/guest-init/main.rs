//! The smallest PID 1 for tests and benchmarks of the VMM: says that it runs, and turns the machine off.
//!
//! The kernel passes it the words of its command line that it does not know itself: `idle` stays up afterwards, `hang` never says
//! a word.

use std::io::Write;

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    if has("hang") {
        stay();
    }
    // Written at once and as a whole: whoever measures waits for this line.
    let _ = std::io::stdout().write_all(b"hello from PID 1\n");
    if has("idle") {
        stay();
    }
    // SAFETY: reboot(2) takes integers; there is nothing in this machine to lose.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    stay();
}

/// PID 1 must not end: the kernel would panic.
fn stay() -> ! {
    loop {
        // SAFETY: pause(2) has no arguments.
        unsafe { libc::pause() };
    }
}
