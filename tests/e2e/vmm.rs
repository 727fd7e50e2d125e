//! `microkube-vmm run`: the VMM without the rest of microkube.

use std::path::Path;
use std::process::Command;

use microkube_tests::built::{microkube_program, source_tree};

use crate::host::{Running, alone};

/// `microkube-vmm run` with this kernel and the tests' init.
fn vmm(kernel: &Path, args: &[&str]) -> Running {
    let program = microkube_program().with_file_name("microkube-vmm");
    let mut command = Command::new(program);
    command
        .arg("run")
        .arg("--kernel")
        .arg(kernel)
        .arg("--initramfs")
        .arg(source_tree().join("build/guest/test-initramfs.cpio"))
        .args(args);
    Running::start(command, None)
}

#[test]
fn a_bare_kernel_boots_with_its_console_on_stdout() {
    let _alone = alone();
    let kernel = source_tree().join("build/guest/vmlinux");
    let cmdline = "console=ttyS0 reboot=k panic=-1 then-off";
    let args = ["--memory-mib", "128", "--vcpus", "2", "--cmdline", cmdline];
    let text = vmm(&kernel, &args).finish().success();
    assert!(text.contains("Linux version 6.12"), "{text}");
    assert!(text.contains("hello from PID 1"), "{text}");
}

#[test]
fn a_missing_kernel_is_an_error_that_names_it() {
    let _alone = alone();
    let finished = vmm(Path::new("/no/such/vmlinux"), &[]).finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert_eq!(
        finished.stderr,
        "microkube-vmm: cannot open /no/such/vmlinux: No such file or directory (os error 2)\n"
    );
}
