//! Any process may die at any moment, and nothing is left behind.

use microkube_tests::built::source_tree;
use microkube_tests::manifest::Pod;

use crate::host::{Finished, Running, alone, container, host, image, processes, shell_pod, wait_until};

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

/// The progress of a Pod at the time of the kill.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// As soon as the victim exists.
    Early,
    /// The guest kernel or agent has printed something.
    Booting,
    /// The container is running.
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
fn everything_is_released_after_a_kill_at_any_time() {
    let _alone = alone();
    let before = host().leftovers();
    for victim in [Victim::Cli, Victim::Supervisor, Victim::Vmm] {
        for moment in [Moment::Early, Moment::Booting, Moment::Running] {
            let mut cli = host().start(shell_pod("victim", "echo ready; while :; do sleep 0.1; done"));
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
                Victim::Supervisor => assert!(finished.stderr.contains("the Pod's supervisor died"), "{finished:?}"),
                Victim::Vmm => assert!(finished.stderr.contains("VMM died"), "{finished:?}"),
            }
            host().assert_nothing_left_since(&before);
        }
    }
}

#[test]
fn a_guest_that_panics_is_reported_with_the_end_of_its_log() {
    let _alone = alone();
    let before = host().leftovers();
    // A privileged container controls its VM: it makes the kernel panic when memory runs out, and then exhausts it.
    let script = "echo 2 > /proc/sys/vm/panic_on_oom && echo armed && tail /dev/zero";
    let main = container("main", script).privileged().limit("memory", "32Mi");
    let finished = host().run(Pod::named("panic").container(main));
    assert_eq!(finished.code(), 137, "{finished:?}");
    assert!(finished.stdout.contains("armed"), "{finished:?}");
    assert!(finished.stderr.contains("Kernel panic - not syncing"), "{finished:?}");
    host().assert_nothing_left_since(&before);
}

#[test]
fn a_guest_that_hangs_in_boot_times_out() {
    let _alone = alone();
    let before = host().leftovers();
    let manifest = host().manifest(&shell_pod("hang", "true"));
    let mut command = host().microkube(["run", manifest.to_str().unwrap()]);
    // The supervisor has the settings of the file that its command has read.
    let config = host().file("hang-config.yaml", "vm: { bootTimeoutSeconds: 5 }\n");
    command
        .env("MICROKUBE_GUEST_DIR", hanging_guest())
        .env("MICROKUBE_CONFIG", config);
    let finished = Running::start(command, None).finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(
        finished.stderr.contains("the guest did not boot within 5 s"),
        "{finished:?}"
    );
    host().assert_nothing_left_since(&before);
}

/// A directory with the guest kernel and an initramfs whose init never prints anything.
fn hanging_guest() -> std::path::PathBuf {
    let tree = source_tree();
    let dir = host().state_dir.join("hanging-guest");
    std::fs::create_dir_all(&dir).unwrap();
    let _ = std::fs::remove_file(dir.join("vmlinux"));
    std::os::unix::fs::symlink(tree.join("build/guest/vmlinux"), dir.join("vmlinux")).unwrap();
    std::fs::copy(tree.join("build/guest/test-initramfs.cpio"), dir.join("initramfs.cpio")).unwrap();
    dir
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing_behind() {
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
    command.env("MICROKUBE_STATE_DIR", &small);
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

/// A separate file system for microkube's state, with a copy of the images.
struct TightDisk(std::path::PathBuf);

impl TightDisk {
    fn mount(size: &str) -> Self {
        let path = host().state_dir.join("tight-disk");
        std::fs::create_dir_all(&path).unwrap();
        let mount = |args: &[&str]| {
            let status = std::process::Command::new("mount").args(args).status().unwrap();
            assert!(status.success(), "mount {args:?}");
        };
        mount(&[
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size}"),
            "tmpfs",
            path.to_str().unwrap(),
        ]);
        let disk = Self(path);
        let images = disk.0.join("images");
        std::fs::create_dir(&images).unwrap();
        let theirs = host().state_dir.join("images");
        mount(&["--bind", theirs.to_str().unwrap(), images.to_str().unwrap()]);
        disk
    }

    /// Runs microkube with its state on this disk.
    fn microkube(&self, args: &[&str]) -> Finished {
        let mut command = host().microkube(args);
        command
            .env("MICROKUBE_STATE_DIR", &self.0)
            .env("MICROKUBE_RUN_DIR", "/run/microkube-e2e-tight");
        Running::start(command, None).finish()
    }
}

impl Drop for TightDisk {
    fn drop(&mut self) {
        self.microkube(&["delete", "pods", "--all", "--now"]);
        for path in [self.0.join("images"), self.0.clone()] {
            let _ = std::process::Command::new("umount").arg("-l").arg(path).status();
        }
    }
}

#[test]
fn a_pod_with_a_failed_host_disk_reports_it_and_is_restarted() {
    let _alone = alone();
    let before = host().leftovers();
    host().succeed(["image", "pull", &image("busybox")]);
    let disk = TightDisk::mount("40m");
    let filler = disk.0.join("filler");
    std::fs::write(&filler, vec![1; 16 << 20]).unwrap();
    let script = "if [ -e /data/began ]; then echo again; exec sleep 1000; fi; touch /data/began; sync; \
        while :; do dd if=/dev/zero of=/data/fill bs=1M count=64; sync; done";
    let pod = Pod::named("tight")
        .restart_policy("Always")
        .empty_dir("data")
        .container(container("main", script).mount("data", "/data"));
    let file = host().manifest(&pod);
    disk.microkube(&["run", "-d", file.to_str().unwrap()]).success();
    let vmms = || processes(&["microkube-vmm", "supervised"]);
    wait_until("the VM runs", || !vmms().is_empty());
    let (first, supervisors) = (vmms(), processes(&["supervise"]));

    wait_until("the VM ends", || first.iter().all(|pid| !vmms().contains(pid)));
    std::fs::remove_file(&filler).unwrap();
    wait_until("the container runs again", || {
        disk.microkube(&["logs", "tight"]).stdout.contains("again")
    });

    let events = disk.microkube(&["events", "-o", "json"]).success();
    let events: serde_json::Value = serde_json::from_str(&events).unwrap();
    let said = |text: &str| {
        let mut items = events["items"].as_array().unwrap().iter();
        items.any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "FailedSync" && message.contains(text) && message.contains("No space left on device")
        })
    };
    assert!(said("scratch disk in "), "{events:#}");
    assert!(said("Pod sandbox is gone"), "{events:#}");
    assert_eq!(processes(&["supervise"]), supervisors, "the supervisor keeps running");
    drop(disk);
    host().assert_nothing_left_since(&before);
}
