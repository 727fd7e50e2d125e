//! The first steps of PID 1 (mounting file systems, a root directory that can be pivoted) and its
//! last: ending the VM.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::stat::{Mode, umask};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{chdir, chroot};

use crate::log;

/// Where the cgroup v2 hierarchy is mounted.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Nanoseconds since the kernel started.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
        i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())
    });
    u64::try_from(now).unwrap_or(0)
}

/// Mounts the kernel's file systems on a tmpfs and makes that the root directory.
///
/// pivot_root(2) cannot leave the initial RAM file system, but every container has to pivot.
pub fn mount_file_systems() -> Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fs::create_dir_all("/root").context("cannot create /root")?;
    mount_at(
        "tmpfs",
        "/root",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755"),
    )?;
    for directory in ["proc", "sys", "dev", "run", "tmp"] {
        let path = Path::new("/root").join(directory);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    mount_at("proc", "/root/proc", plain, None)?;
    mount_at("sysfs", "/root/sys", plain, None)?;
    mount_at(
        "devtmpfs",
        "/root/dev",
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("mode=0755"),
    )?;
    chdir("/root").context("cannot enter the new root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("cannot move the new root to /")?;
    chroot(".").context("cannot change the root directory")?;
    chdir("/").context("cannot enter /")?;
    log::open();

    // Without favordynmods, the first writes to cgroup.procs and subtree_control wait for RCU grace periods.
    match mount_at("cgroup2", CGROUP_ROOT, plain, Some("favordynmods")) {
        Ok(()) => {}
        Err(_) => mount_at("cgroup2", CGROUP_ROOT, plain, None)?,
    }
    Ok(())
}

fn mount_at(fs_type: &str, target: &str, flags: MsFlags, options: Option<&str>) -> Result<()> {
    mount(Some(fs_type), target, Some(fs_type), flags, options)
        .with_context(|| format!("cannot mount {fs_type} on {target}"))
}

/// Opens the agent's own program, to start it again as the helper that becomes a container. Its original path
/// disappears when the root directory changes.
pub fn open_own_executable() -> Result<OwnedFd> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    open("/proc/self/exe", flags, Mode::empty()).context("cannot open /proc/self/exe")
}

/// Makes a panic write to the kernel's log and end the VM. If PID 1 simply died, only the kernel's own panic message
/// would remain.
pub fn power_off_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        log::write(log::Level::Critical, panic);
        power_off();
    }));
}

/// Ends the virtual machine by resetting it: without ACPI the guest has no other way, and the VMM
/// treats a reset as the end.
pub fn power_off() -> ! {
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    log::write(log::Level::Critical, &format_args!("cannot reset the VM: {error}"));
    // This happens only if the process lacks CAP_SYS_BOOT, which PID 1 of a VM has. Exiting makes the kernel panic,
    // which ends the VM.
    std::process::exit(match error {
        Errno::EPERM => 1,
        _ => 2,
    })
}
