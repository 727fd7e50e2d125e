//! For tests: a process that looks like the VMM of a Pod.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts the process, with its script in `dir`. It runs until it is killed.
pub(crate) fn fake_vmm(uid: &str, dir: &Path) -> Child {
    let script = dir.join("supervised");
    // Do not rewrite the script: another process may be reading it.
    if !script.exists() {
        std::fs::write(&script, "echo started; read line\n").unwrap();
    }
    let mut vmm = Command::new("sh")
        .args(["supervised", "--pod", uid])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // `spawn` returns while execve(2) is still running, when /proc/PID/cmdline is empty.
    let mut line = String::new();
    BufReader::new(vmm.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    vmm
}
