//! QEMU's command line for the emulated host.
//!
//! The emulated host has an AMD processor with SVM and nested paging, which QEMU emulates well enough for the real
//! `kvm_amd`. Directories are shared over 9p: the emulated host's boot files, and the outer root several times. Linux
//! mounts each virtio 9p device only once, and every command gets a separate mount, so its caches are fresh and can be
//! used without revalidation.

use super::location::{Artefacts, Location};
use super::{EmulatedHostError, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Number of 9p devices that share the root: one for the emulated host itself, and one for each concurrent command
/// (additional commands share the emulated host's).
pub const ROOT_SHARES: usize = 10;
/// Port in the emulated host that receives commands.
pub const AGENT_PORT: u16 = 1024;
/// Emulated processors. With two, nested guests lost their registers and the emulated host's own kernel died of a stray
/// `int3` under load, both with one thread per processor and with one for both (QEMU 7.2).
const PROCESSORS: usize = 1;
const MAX_MEMORY_MIB: u64 = 8192;

/// Parameters of the emulated host.
#[derive(Debug)]
pub struct Settings {
    pub artefacts: Artefacts,
    pub location: Location,
    pub memory_mib: u64,
    /// Port on the outer loopback interface that is forwarded to [`AGENT_PORT`].
    pub port: u16,
}

/// Finds QEMU's system emulator.
pub fn find() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/bin")])
        .map(|dir| dir.join("qemu-system-x86_64"))
        .find(|file| file.is_file())
        .ok_or(EmulatedHostError::NoQemu)
}

/// Memory of the emulated host, in MiB: half of the outer host's, at most 8 GiB.
pub fn memory_mib() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    memory_for(total_mib(&meminfo).unwrap_or(2048))
}

fn total_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib / 1024)
}

fn memory_for(total_mib: u64) -> u64 {
    // With less than 1 GiB the emulated host cannot run a Pod. QEMU allocates memory only when it is used.
    (total_mib / 2).clamp(1024, MAX_MEMORY_MIB)
}

/// QEMU's arguments.
pub fn arguments(settings: &Settings) -> Vec<OsString> {
    let location = &settings.location;
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |values: &[&str]| args.extend(values.iter().map(OsString::from));
    add(&[
        "-name",
        "microkube-machine",
        "-M",
        "q35",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]);
    add(&["-accel", "tcg,thread=multi,tb-size=512"]);
    add(&[
        "-cpu",
        // Without XSAVE: a guest could set XCR0 without `kvm_amd` noticing, because QEMU does not emulate that
        // intercept.
        "EPYC,+svm,+npt,-xsave,-avx,-avx2,-fma,-f16c",
        "-smp",
        &PROCESSORS.to_string(),
        "-m",
        &settings.memory_mib.to_string(),
    ]);
    add(&[
        "-append",
        "console=ttyS0 panic=-1 quiet random.trust_cpu=on mitigations=off",
    ]);
    add(&["-serial", "stdio", "-monitor", "none"]);
    let network = format!("user,id=net0,hostfwd=tcp:127.0.0.1:{}-:{AGENT_PORT}", settings.port);
    add(&["-netdev", &network, "-device", "virtio-net-pci,netdev=net0,romfile="]);
    add(&[
        "-object",
        "rng-random,id=rng0,filename=/dev/urandom",
        "-device",
        "virtio-rng-pci,rng=rng0",
    ]);

    args.push("-kernel".into());
    args.push(settings.artefacts.kernel.clone().into());
    args.push("-initrd".into());
    args.push(settings.artefacts.initramfs.clone().into());
    args.push("-pidfile".into());
    args.push(location.qemu_pid().into());

    let mut shared = |id: &str, path: &Path| {
        let mut fsdev = OsString::from(format!(
            "local,id={id},security_model=none,readonly=on,multidevs=remap,path="
        ));
        fsdev.push(escaped(path));
        args.extend(["-fsdev".into(), fsdev, "-device".into()]);
        args.push(format!("virtio-9p-pci,fsdev={id},mount_tag={id}").into());
    };
    shared("control", &location.control());
    shared("modules", &settings.artefacts.modules);
    for number in 0..ROOT_SHARES {
        shared(&format!("host{number}"), Path::new("/"));
    }

    // If QEMU is killed, the outer page cache preserves the disk's content; flushes reach the outer disk.
    let mut drive =
        OsString::from("if=none,id=disk,format=raw,cache=writeback,discard=unmap,detect-zeroes=unmap,file=");
    drive.push(escaped(&location.disk()));
    args.extend([
        "-drive".into(),
        drive,
        "-device".into(),
        "virtio-blk-pci,drive=disk".into(),
    ]);
    args
}

/// Escapes a path in an option: QEMU separates at commas, and takes two as one.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = path.as_os_str().as_bytes().iter();
    OsString::from_vec(
        bytes
            .flat_map(|byte| std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_gets_half_of_the_memory_within_bounds() {
        assert_eq!(memory_for(16_000), 8000);
        assert_eq!(memory_for(512_000), 8192);
        assert_eq!(memory_for(600), 1024);
        assert_eq!(total_mib("MemFree: 1 kB\nMemTotal:       24586132 kB\n"), Some(24009));
        assert_eq!(total_mib("MemTotal: lots"), None);
    }

    #[test]
    fn a_comma_in_a_path_is_escaped() {
        assert_eq!(escaped(Path::new("/a,b/c")), OsString::from("/a,,b/c"));
    }
}
