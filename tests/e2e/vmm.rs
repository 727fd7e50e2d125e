//! `microkube-vmm run`: the VMM by itself.

use std::process::Command;

use crate::built::{microkube_program, source_tree};
use crate::host::{Running, alone};

fn vmm(args: &[&str]) -> Running {
    let tree = source_tree();
    let program = microkube_program().with_file_name("microkube-vmm");
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--kernel")
        .arg(tree.join("build/guest/vmlinux"))
        .arg("--initramfs")
        .arg(tree.join("build/guest/test-initramfs.cpio"))
        .args(args)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    Running::start(command, None)
}

#[test]
fn a_kernel_boots_by_itself_with_its_console_on_stdout() {
    let _alone = alone();
    let text = vmm(&[
        "--memory-mib",
        "128",
        "--vcpus",
        "2",
        "--cmdline",
        "console=ttyS0 reboot=k panic=-1 then-off",
    ])
    .finish()
    .success();
    assert!(text.contains("Linux version 6.12"), "{text}");
    assert!(text.contains("hello from PID 1"), "{text}");
}

#[test]
fn a_kernel_that_does_not_exist_is_an_error_that_names_it() {
    let _alone = alone();
    let finished = vmm(&["--kernel", "/no/such/vmlinux"]).finish();
    assert_ne!(finished.code(), 0);
    assert!(
        finished.stderr.contains("vmlinux") || finished.stderr.contains("--kernel"),
        "{finished:?}"
    );
}
