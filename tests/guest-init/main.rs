//! A minimal PID 1 for tests and benchmarks of the VMM.
//!
//! The kernel passes it the words of the command line that are not kernel parameters. With `then-off` it prints a line
//! and turns the VM off, with `then-idle` it prints a line and stays. Without either it prints nothing, like a guest
//! that hangs during boot.

use std::io::Write;

fn main() {
    let has = |word: &str| std::env::args().any(|argument| argument == word);
    if !has("then-off") && !has("then-idle") {
        stay();
    }
    // Written immediately and in a single write, because the benchmark waits for this line.
    let _ = std::io::stdout().write_all(b"hello from PID 1\n");
    if has("then-idle") {
        stay();
    }
    // SAFETY: reboot(2) takes integers; there is nothing to lose in this VM.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    stay();
}

/// PID 1 must not end, because the kernel would panic.
fn stay() -> ! {
    loop {
        // SAFETY: pause(2) has no arguments.
        unsafe { libc::pause() };
    }
}
