//! For tests: a process that cannot be told from the VMM of a Pod.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Starts it, with a file in `dir`. It runs until it is killed.
pub(crate) fn fake_vmm(uid: &str, dir: &Path) -> Child {
    let script = dir.join("supervised");
    // Never written again: another may be reading it.
    if !script.exists() {
        std::fs::write(&script, "read line\n").unwrap();
    }
    Command::new("sh")
        .args(["supervised", "--pod", uid])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap()
}
