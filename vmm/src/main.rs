//! The command `microkube-vmm`.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use kvm_ioctls::Kvm;
use microkube_vmm::config::MAX_VCPU_COUNT;
use microkube_vmm::devices::blk::disk::{BLOCK_BYTES, Disk, file_length};
use microkube_vmm::devices::net::tap::Tap;
use microkube_vmm::probe;
use microkube_vmm::report::report_end;
use microkube_vmm::supervised;
use microkube_vmm::vm::{Vm, VmParts};

/// The virtual machine monitor (VMM) of microkube
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a kernel with its console on standard output, for diagnosis and benchmarks
    ///
    /// Exits with 0 when the guest resets its VM (with the default command line, a reboot or panic does this too), and
    /// with 1 if the VM cannot be set up or fails.
    #[command(
        after_help = "Example:\n  microkube-vmm run --kernel build/guest/vmlinux --initramfs build/guest/initramfs.cpio \\\n    \
                            --disk root.erofs,ro --disk scratch.ext4 --tap tap0 --memory-mib 256 --vcpus 2"
    )]
    Run(RunArgs),
    /// Run a VM for a supervisor, which opens all files (used by microkube itself)
    ///
    /// The configuration is JSON, read until end of file. It refers to other inherited descriptors.
    #[command(after_help = "Example:\n  microkube-vmm supervised --config-fd 3 3<config.json")]
    Supervised {
        /// Descriptor to read the configuration from
        #[arg(long, value_name = "N")]
        config_fd: i32,
        /// UID of the Pod, used to find the process if its supervisor dies before recording it
        #[arg(long, value_name = "UID")]
        pod: Option<String>,
    },
    /// Check whether KVM can run a guest here, by running one
    #[command(after_help = "Example:\n  microkube-vmm probe && echo usable")]
    Probe,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Guest kernel, an uncompressed ELF vmlinux
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initial RAM file system (cpio)
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Disk image or block device, read-only with `,ro`; may be repeated: vda, vdb, …
    #[arg(long = "disk", value_name = "FILE[,ro]")]
    disks: Vec<String>,
    /// Host TAP to attach to, created if it does not exist
    #[arg(long, value_name = "NAME")]
    tap: Option<String>,
    /// Guest memory in MiB
    #[arg(long, value_name = "N", default_value_t = 256)]
    memory_mib: u32,
    /// Number of virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_VCPU_COUNT)))]
    vcpus: u8,
    /// Kernel command line; device parameters are appended
    #[arg(long, value_name = "S", default_value = "console=ttyS0 reboot=k panic=-1")]
    cmdline: String,
}

fn main() -> ExitCode {
    end_process_on_panic();
    // One heap for all threads: they allocate little, and every additional heap costs memory. SAFETY: called before
    // there is another thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let result = match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Probe => probe::check_kvm(Path::new("/dev/kvm")).map_err(Into::into),
        Command::Supervised { config_fd, pod: _ } => supervised::run(config_fd).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_end(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Makes a panic in any thread end the process: the VM must not continue without that thread.
fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    let kvm =
        Kvm::new().context("cannot open /dev/kvm: it must exist, and this user must be able to read and write it")?;
    let disks = args
        .disks
        .iter()
        .map(|disk| open_disk(disk))
        .collect::<anyhow::Result<_>>()?;
    let net = args.tap.as_deref().map(attach_tap).transpose()?;
    let console = File::from(
        std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("cannot use standard output")?,
    );
    let parts = VmParts {
        kvm,
        mem_size_mib: args.memory_mib,
        vcpu_count: args.vcpus,
        kernel: open(&args.kernel)?,
        initramfs: args.initramfs.as_deref().map(open).transpose()?,
        cmdline: args.cmdline,
        disks,
        net,
        vsock: None,
        fs: None,
        console,
        confined: false,
    };
    Vm::new(parts)?.run()?;
    Ok(())
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn open_disk(argument: &str) -> anyhow::Result<Disk> {
    let (path, read_only) = match argument.rsplit_once(',') {
        Some((path, "ro")) => (path, true),
        Some((_, option)) if !Path::new(argument).exists() => {
            bail!("--disk {argument}: unknown option {option:?}; the only one is \"ro\"")
        }
        _ => (argument, false),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .open(path)
        .with_context(|| format!("cannot open disk {path}{}", if read_only { "" } else { " for writing" }))?;
    let length = file_length(&file)
        .with_context(|| format!("cannot examine disk {path}"))?
        .with_context(|| format!("disk {path} is neither a regular file nor a block device"))?;
    let whole_blocks = length - length % BLOCK_BYTES;
    Disk::new(vec![(file, whole_blocks)], read_only).with_context(|| format!("cannot use disk {path}"))
}

/// Attaches to a TAP and chooses a random, locally administered address for the guest.
fn attach_tap(name: &str) -> anyhow::Result<(Tap, [u8; 6])> {
    let tap = Tap::attach(name).with_context(|| format!("cannot use TAP {name}"))?;
    let mut mac = [0u8; 6];
    // SAFETY: fills the six bytes given.
    if unsafe { libc::getrandom(mac.as_mut_ptr().cast(), mac.len(), 0) } != 6 {
        bail!(
            "cannot get random bytes for a MAC address: {}",
            std::io::Error::last_os_error()
        );
    }
    mac[0] = (mac[0] & 0xfc) | 2;
    Ok((tap, mac))
}
