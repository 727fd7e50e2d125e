//! The first steps of PID 1: file systems, a root that can be pivoted, and the last one: power off.

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
/// The initial RAM file system cannot be pivoted away from (pivot_root(2)), which every container has to do.
pub fn mount_file_systems() -> Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    fs::create_dir_all("/root").context("cannot make /root")?;
    mount_at(
        "tmpfs",
        "/root",
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some("mode=0755"),
    )?;
    for directory in ["proc", "sys", "dev", "run", "tmp"] {
        let path = Path::new("/root").join(directory);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
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

    // Without favordynmods the first writes to cgroup.procs and subtree_control wait for RCU grace periods.
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

/// The agent's own program, to start again as the helper that becomes a container. The path it was started from is gone
/// once the root directory changes.
pub fn open_own_executable() -> Result<OwnedFd> {
    use nix::fcntl::{OFlag, open};
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    open("/proc/self/exe", flags, Mode::empty()).context("cannot open /proc/self/exe")
}

/// Makes every panic visible in the kernel's log and the end of the VM: a PID 1 that dies otherwise leaves only the
/// kernel's own panic message.
pub fn power_off_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        log::write(log::Level::Critical, panic);
        power_off();
    }));
}

/// Ends the virtual machine. A reset is what the VMM takes for the end; the guest has no other way without ACPI.
pub fn power_off() -> ! {
    let Err(error) = reboot(RebootMode::RB_AUTOBOOT);
    log::write(log::Level::Critical, &format_args!("cannot reset the machine: {error}"));
    // Only when the process lacks CAP_SYS_BOOT, which PID 1 of a VM has. Exiting makes the kernel panic, which ends the VM.
    std::process::exit(match error {
        Errno::EPERM => 1,
        _ => 2,
    })
}
