//! Starts a command: creates a view of the outer host's current files, writable in memory, and then calls `exec`.
//!
//! Each command gets a separate mount of the shared root. Linux caches such a mount without revalidation, which is
//! fast, and correct for the life of a command. A mount shared by all commands would either show a rebuilt binary's old
//! content, or cost a round trip for every access.

use crate::emulated_host::qemu::ROOT_SHARES;
use crate::emulated_host::{ENV_INSIDE, INSIDE_DIR};
use crate::stderr::say;
use microkube_base::child;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;

/// Directories shared with the emulated host and all other commands.
const SHARED: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/var/lib/microkube", "/lib/modules"];
/// Where the command's root is assembled; private to the command.
const ROOT_ASSEMBLY_DIR: &str = "/tmp";

/// Executes `argv` in `cwd`; returns only on failure, with the exit code that a shell would report.
pub fn session(cwd: &Path, argv: &[OsString]) -> ExitCode {
    let Some((program, arguments)) = argv.split_first() else {
        say!("microkube machine: no command given");
        return ExitCode::from(125);
    };
    if let Err(error) = enter_root() {
        say!("microkube machine: cannot set up the command's file systems: {error}");
        return ExitCode::from(125);
    }
    if let Err(error) = std::env::set_current_dir(cwd) {
        say!("microkube machine: {}: {error}", cwd.display());
        return ExitCode::from(125);
    }
    let error = child::command(program).args(arguments).env(ENV_INSIDE, "1").exec();
    say!("microkube machine: {}: {error}", program.display());
    ExitCode::from(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    })
}

fn enter_root() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let at = |name: &str| format!("{ROOT_ASSEMBLY_DIR}/{name}");
    mount(
        Some("tmpfs"),
        ROOT_ASSEMBLY_DIR,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )?;
    for dir in ["lower", "upper", "work", "root"] {
        std::fs::create_dir(at(dir))?;
    }
    let lower = if mount_fresh_share(&at("lower"))? {
        at("lower")
    } else {
        format!("{INSIDE_DIR}/host")
    };
    let etc = at("upper/etc");
    std::fs::create_dir(&etc)?;
    for dir in [&at("upper"), &etc] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::copy(format!("{INSIDE_DIR}/resolv.conf"), at("upper/etc/resolv.conf"))?;
    std::fs::copy("/proc/sys/kernel/hostname", at("upper/etc/hostname"))?;

    let root = at("root");
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={},xino=off",
        at("upper"),
        at("work")
    );
    mount(
        Some("overlay"),
        root.as_str(),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    for dir in SHARED {
        let target = format!("{root}{dir}");
        std::fs::create_dir_all(&target)?;
        mount(
            Some(dir),
            target.as_str(),
            None::<&str>,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            None::<&str>,
        )?;
    }
    // pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one and is then unmounted. It must
    // have slave propagation first, or the unmount would propagate to everything shared below it.
    let old_root = std::fs::File::open("/")?;
    std::env::set_current_dir(&root)?;
    nix::unistd::pivot_root(".", ".")?;
    nix::unistd::fchdir(&old_root)?;
    mount(
        None::<&str>,
        ".",
        None::<&str>,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        None::<&str>,
    )?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

/// Mounts an unused share; returns false if concurrent commands use all of them.
fn mount_fresh_share(target: &str) -> io::Result<bool> {
    const OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=524288,cache=loose";
    for number in 1..ROOT_SHARES {
        let tag = format!("host{number}");
        match mount(
            Some(tag.as_str()),
            target,
            Some("9p"),
            MsFlags::MS_RDONLY,
            Some(OPTIONS),
        ) {
            Ok(()) => return Ok(true),
            Err(nix::errno::Errno::EBUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}
