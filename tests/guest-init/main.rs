//! The smallest PID 1 for tests and benchmarks of the VMM.
//!
//! The kernel passes it the words of its command line that it does not know itself: with `then-off` it says that it runs and turns the
//! machine off, with `then-idle` it says so and stays. Without either it never says a word, as a guest that hangs in boot.

use std::io::Write;

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    if !has("then-off") && !has("then-idle") {
        stay();
    }
    // Written at once and as a whole: whoever measures waits for this line.
    let _ = std::io::stdout().write_all(b"hello from PID 1\n");
    if has("then-idle") {
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
