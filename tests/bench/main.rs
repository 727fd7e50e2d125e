//! `make bench`: compares microkube-vmm with QEMU's microvm, with the same kernel, initramfs and memory, in one run on
//! one host.
//!
//! Measures the time from the start of the process to the first output of the guest's PID 1, and the memory of the VMM
//! beyond the guest's RAM (PSS). Runs alternate, so that other load on the host affects both alike.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 20;
const MEM_SIZE_MIB: u64 = 128;
/// microkube's kernel command line. Quiet, because every character on the serial console costs an exit.
const CMDLINE: &str = "console=ttyS0 quiet reboot=t panic=-1 8250.nr_uarts=1 tsc=reliable no_timer_check noreplace-smp \
    spec_rstack_overflow=off dummy.numdummies=0 ifb.numifbs=0";
const FIRST_WORD: &str = "hello from PID 1";

#[derive(Clone, Copy)]
enum Vmm {
    Microkube,
    QemuMicrovm,
}

impl Vmm {
    fn name(self) -> &'static str {
        match self {
            Self::Microkube => "microkube-vmm",
            Self::QemuMicrovm => "QEMU microvm",
        }
    }

    fn command(self, init_argument: &str) -> Command {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let kernel = tree.join("build/guest/vmlinux");
        let initramfs = tree.join("build/guest/test-initramfs.cpio");
        let cmdline = format!("{CMDLINE} {init_argument}");
        let mut command;
        match self {
            Self::Microkube => {
                command = Command::new(vmm_binary());
                command
                    .arg("run")
                    .arg("--kernel")
                    .arg(kernel)
                    .arg("--initramfs")
                    .arg(initramfs);
                command.args([
                    "--memory-mib",
                    &MEM_SIZE_MIB.to_string(),
                    "--vcpus",
                    "1",
                    "--cmdline",
                    &cmdline,
                ]);
            }
            Self::QemuMicrovm => {
                command = Command::new("qemu-system-x86_64");
                command.args([
                    "-M",
                    "microvm,x-option-roms=off,rtc=off,pit=off,pic=off,isa-serial=on,acpi=off",
                ]);
                command.args([
                    "-accel",
                    "kvm",
                    "-cpu",
                    "host",
                    "-smp",
                    "1",
                    "-m",
                    &format!("{MEM_SIZE_MIB}M"),
                ]);
                command.args([
                    "-nodefaults",
                    "-no-user-config",
                    "-nographic",
                    "-no-reboot",
                    "-serial",
                    "stdio",
                ]);
                command
                    .arg("-kernel")
                    .arg(kernel)
                    .arg("-initrd")
                    .arg(initramfs)
                    .args(["-append", &cmdline]);
            }
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a guest and waits for its first output.
    fn boot(self, init_argument: &str) -> (Child, BufReader<ChildStdout>, Duration) {
        let start = Instant::now();
        let mut child = self
            .command(init_argument)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.name()));
        let mut console = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut text = String::new();
        while !text.contains(FIRST_WORD) {
            if console.read_line(&mut text).expect("the console is text") == 0 {
                let output = child.wait_with_output().expect("it was started");
                panic!(
                    "{} did not boot: {text}\n{}",
                    self.name(),
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        let elapsed = start.elapsed();
        (child, console, elapsed)
    }

    fn boot_time(self) -> Duration {
        let (mut child, _console, elapsed) = self.boot("then-off");
        child.wait().expect("it was started");
        elapsed
    }

    /// Memory of the VMM beyond the guest's RAM while the guest is idle, in KiB (PSS).
    fn overhead_kib(self) -> u64 {
        let (mut child, _console, _) = self.boot("then-idle");
        let kib = pss_without_guest_ram_kib(child.id());
        child.kill().expect("it was started");
        child.wait().expect("it was started");
        kib
    }
}

fn vmm_binary() -> PathBuf {
    let here = std::env::current_exe().expect("/proc is mounted");
    let found = here
        .ancestors()
        .skip(1)
        .map(|dir| dir.join("microkube-vmm"))
        .find(|path| path.is_file());
    found.expect("microkube-vmm is built by `make bench`")
}

/// Adds up the proportional set sizes of all mappings except the guest's RAM, the only one at least that large.
fn pss_without_guest_ram_kib(pid: u32) -> u64 {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("the VMM runs");
    let mut total_kib = 0;
    let mut mapping_kib = 0;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let value = |words: &mut std::str::SplitAsciiWhitespace| words.next().and_then(|word| word.parse().ok());
        match words.next() {
            Some("Size:") => mapping_kib = value(&mut words).unwrap_or(0),
            Some("Pss:") if mapping_kib < MEM_SIZE_MIB * 1024 * 3 / 4 => {
                total_kib += value(&mut words).unwrap_or(0_u64)
            }
            _ => {}
        }
    }
    total_kib
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The median and the 99th percentile.
fn summary(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |percent: usize| times[((times.len() * percent).div_ceil(100)).clamp(1, times.len()) - 1];
    (milliseconds(at(50)), milliseconds(at(99)))
}

fn main() {
    // `cargo bench` and `cargo test` pass additional flags.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    if let Err(error) = microkube_vmm::probe::check_kvm(std::path::Path::new("/dev/kvm")) {
        panic!("the benchmark needs a KVM that can run guests; use `make bench`: {error}");
    }
    let mut times = [Vec::new(), Vec::new()];
    for vmm in [Vmm::Microkube, Vmm::QemuMicrovm] {
        vmm.boot_time();
    }
    for _ in 0..RUNS {
        times[0].push(Vmm::Microkube.boot_time());
        times[1].push(Vmm::QemuMicrovm.boot_time());
    }
    let [ours, theirs] = times.map(summary);
    let memory = [Vmm::Microkube.overhead_kib(), Vmm::QemuMicrovm.overhead_kib()];

    println!("process start -> first word of PID 1, {RUNS} runs each, alternating, {MEM_SIZE_MIB} MiB, 1 vCPU");
    println!("{:<16} {:>10} {:>10}", "", "median ms", "p99 ms");
    println!("{:<16} {:>10.1} {:>10.1}", Vmm::Microkube.name(), ours.0, ours.1);
    println!("{:<16} {:>10.1} {:>10.1}", Vmm::QemuMicrovm.name(), theirs.0, theirs.1);
    println!(
        "{:<16} {:>10.2} {:>10.2}",
        "QEMU/microkube",
        theirs.0 / ours.0,
        theirs.1 / ours.1
    );
    println!("\nmemory beyond the guest's RAM while the guest idles (PSS)");
    println!("{:<16} {:>10.2} MiB", Vmm::Microkube.name(), memory[0] as f64 / 1024.0);
    println!(
        "{:<16} {:>10.2} MiB",
        Vmm::QemuMicrovm.name(),
        memory[1] as f64 / 1024.0
    );
    println!("{:<16} {:>10.2}", "QEMU/microkube", memory[1] as f64 / memory[0] as f64);
}
