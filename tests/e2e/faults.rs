//! Anything may die at any moment, and nothing is left behind.

use crate::host::{Running, alone, container_with, host, image, pod, processes, shell_pod, wait_until};

/// A process of a running Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Cli,
    Supervisor,
    Vmm,
}

impl Victim {
    fn pid(self, cli: &Running) -> Option<i32> {
        match self {
            Self::Cli => i32::try_from(cli.child.id()).ok(),
            Self::Supervisor => processes(&["supervise"]).first().copied(),
            Self::Vmm => processes(&["microkube-vmm", "supervised"]).first().copied(),
        }
    }
}

/// How far a Pod has come when something is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// As soon as the victim exists.
    Early,
    /// The guest's kernel or agent has said something.
    Booting,
    /// The container runs.
    Running,
}

fn reach(moment: Moment, cli: &mut Running) {
    match moment {
        Moment::Early => {}
        Moment::Booting => wait_until("the VMM runs", || {
            !processes(&["microkube-vmm", "supervised"]).is_empty()
        }),
        Moment::Running => {
            cli.wait_for("ready");
        }
    }
}

#[test]
fn whatever_is_killed_at_whatever_moment_everything_is_released() {
    let _alone = alone();
    let before = host().leftovers();
    for victim in [Victim::Cli, Victim::Supervisor, Victim::Vmm] {
        for moment in [Moment::Early, Moment::Booting, Moment::Running] {
            let mut cli = host().start(&shell_pod("victim", "echo ready; while :; do sleep 0.1; done"));
            reach(moment, &mut cli);
            let mut pid = None;
            wait_until("the victim exists", || {
                pid = victim.pid(&cli);
                pid.is_some()
            });
            // SAFETY: kill(2) takes integers. The PID was found by the victim's command line a moment ago.
            unsafe { libc::kill(pid.unwrap(), libc::SIGKILL) };
            let finished = cli.finish();
            assert!(!finished.status.success(), "{victim:?} {moment:?}: {finished:?}");
            match victim {
                Victim::Cli => {}
                Victim::Supervisor => assert!(finished.stderr.contains("supervisor of the Pod died"), "{finished:?}"),
                Victim::Vmm => assert!(finished.stderr.contains("virtual machine monitor died"), "{finished:?}"),
            }
            host().assert_nothing_left_since(&before);
        }
    }
}

#[test]
fn a_guest_that_panics_is_reported_with_the_end_of_its_log() {
    let _alone = alone();
    let before = host().leftovers();
    // A privileged container owns its machine: it makes the kernel panic when memory runs out, and uses it up.
    let script = "echo 2 > /proc/sys/vm/panic_on_oom && echo armed && tail /dev/zero";
    let more = "    securityContext: {privileged: true}\n    resources: {limits: {memory: 32Mi}}\n";
    let finished = host().run(&pod(
        "panic",
        &[container_with("main", &image("busybox"), script, more)],
    ));
    assert_eq!(finished.code(), 137, "{finished:?}");
    assert!(finished.stdout.contains("armed"), "{finished:?}");
    assert!(finished.stderr.contains("Kernel panic - not syncing"), "{finished:?}");
    host().assert_nothing_left_since(&before);
}

#[test]
fn a_guest_that_hangs_in_boot_is_given_up() {
    let _alone = alone();
    let before = host().leftovers();
    let manifest = host().file("hang.yaml", &shell_pod("hang", "true"));
    let mut command = host().microkube(["run", manifest.to_str().unwrap()]);
    command
        .env("MICROKUBE_GUEST_DIR", hanging_guest())
        .env("MICROKUBE_BOOT_TIMEOUT_SECONDS", "5")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let finished = Running::start(command, None).finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(
        finished.stderr.contains("the guest has not come up within 5 s"),
        "{finished:?}"
    );
    host().assert_nothing_left_since(&before);
}

/// A directory with the guest's kernel and an initramfs whose init never says a word.
fn hanging_guest() -> std::path::PathBuf {
    let tree = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = host().state_dir.join("hanging-guest");
    std::fs::create_dir_all(&dir).unwrap();
    let _ = std::fs::remove_file(dir.join("vmlinux"));
    std::os::unix::fs::symlink(tree.join("build/guest/vmlinux"), dir.join("vmlinux")).unwrap();
    std::fs::copy(tree.join("build/guest/test-initramfs.cpio"), dir.join("initramfs.cpio")).unwrap();
    dir
}

#[test]
fn a_full_disk_is_an_error_that_leaves_nothing() {
    let _alone = alone();
    let before = host().leftovers();
    let small = host().state_dir.join("small-disk");
    std::fs::create_dir_all(&small).unwrap();
    let mount = |args: &[&str]| {
        assert!(
            std::process::Command::new("mount")
                .args(args)
                .status()
                .unwrap()
                .success()
        )
    };
    mount(&["-t", "tmpfs", "-o", "size=300k", "tmpfs", small.to_str().unwrap()]);
    let mut command = host().microkube(["image", "pull", &image("busybox")]);
    command
        .env("MICROKUBE_STATE_DIR", &small)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let finished = Running::start(command, None).finish();
    assert!(
        std::process::Command::new("umount")
            .arg(&small)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.to_lowercase().contains("no space left"), "{finished:?}");
    host().assert_nothing_left_since(&before);
}
