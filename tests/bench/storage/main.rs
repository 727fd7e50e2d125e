//! `make bench`: files on the scratch disk, a claim and a hostPath of a Pod, compared with the host's own file system, a
//! podman container with a directory of it, and a disk of QEMU's microvm, in one run on one host.
//!
//! Each runs `storage.pl` on Debian's perl, which measures itself. Runs alternate. `MICROKUBE_BENCH_RUNS` and
//! `MICROKUBE_BENCH_MIB` set the number of runs and the size of the large file, `MICROKUBE_BENCH_PLACES` chooses among
//! the places. Where the clock of the (emulated) host counts instructions, as with `make bench-counted`, a microsecond is
//! 1,000 instructions of the whole host.

mod requests;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const IMAGE: &str = "debian-tools:latest";

/// Microseconds by operation.
type Times = BTreeMap<String, f64>;

struct Bench {
    work: PathBuf,
    tree: PathBuf,
    /// Size of the large file.
    mib: String,
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    fn layout(&self) -> PathBuf {
        self.tree.join("build/images/debian-tools")
    }

    fn microkube<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let found = std::env::var_os("MICROKUBE_PROGRAM").expect("tests/on-kvm.sh sets MICROKUBE_PROGRAM");
        let mut command = Command::new(found);
        command
            .args(args)
            .env("MICROKUBE_CONFIG", "")
            .env("MICROKUBE_STATE_DIR", self.path("state"))
            .env("MICROKUBE_RUN_DIR", self.path("run"));
        command
    }

    fn host(&self) -> Times {
        let mut command = Command::new("perl");
        command
            .arg(self.path("storage.pl"))
            .arg(self.path("shared"))
            .arg(&self.mib);
        times(command)
    }

    fn podman(&self) -> Times {
        let mut command = Command::new("podman");
        let volume = |from: &str, to: &str| format!("--volume={}:{to}", self.path(from).display());
        command.arg(format!("--root={}", self.path("podman").display()));
        command.arg(format!("--runroot={}", self.path("podman-run").display()));
        command.args(["run", "--rm", "--quiet", "--network=none", "--cgroups=disabled"]);
        command.args([volume("shared", "/data"), volume("storage.pl", "/storage.pl")]);
        command.arg(format!("oci:{}:latest", self.layout().display()));
        command.args(["perl", "/storage.pl", "/data", &self.mib]);
        times(command)
    }

    fn pod(&self, volume: &str) -> Times {
        let command = format!(r#""perl", "/storage.pl", "/data", "{}""#, self.mib);
        let manifest = self.manifest(volume, &command);
        times(self.microkube([OsStr::new("run"), manifest.as_os_str()]))
    }

    /// Writes the manifest of a Pod with this volume, which runs this command; both are JSON.
    fn manifest(&self, volume: &str, command: &str) -> PathBuf {
        let script = format!(
            "{{ \"name\": \"script\", \"hostPath\": {{ \"path\": {:?} }} }}",
            self.path("storage.pl")
        );
        let pod = format!(
            "{{ \"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {{ \"name\": \"bench\" }}, \"spec\": {{ \
             \"restartPolicy\": \"Never\", \"volumes\": [{{ \"name\": \"data\", {volume} }}, {script}], \
             \"containers\": [{{ \"name\": \"main\", \"image\": \"{IMAGE}\", \"imagePullPolicy\": \"Never\", \
             \"command\": [{command}], \
             \"resources\": {{ \"limits\": {{ \"memory\": \"256Mi\" }} }}, \"volumeMounts\": [ \
             {{ \"name\": \"data\", \"mountPath\": \"/data\" }}, {{ \"name\": \"script\", \"mountPath\": \"/storage.pl\" }} \
             ] }}] }} }}"
        );
        let manifest = self.path("pod.json");
        std::fs::write(&manifest, pod).expect("the work directory is writable");
        manifest
    }

    /// A guest with the same kernel, whose disk is an ext4 file system with the files of the image.
    fn qemu(&self) -> Times {
        let disk = self.path("qemu.ext4");
        let files = self.path("qemu-files");
        if !files.exists() {
            succeed(
                Command::new("fsck.erofs")
                    .arg(format!("--extract={}", files.display()))
                    .arg(self.layer()),
            );
            std::fs::copy(self.path("storage.pl"), files.join("storage.pl")).expect("the script is there");
            // The end of init is a panic of the kernel, and that one a reset, which ends QEMU.
            let go = format!("export PATH=/usr/bin:/bin\nperl /storage.pl /tmp {}\n", self.mib);
            std::fs::write(files.join("go"), go).expect("the work directory is writable");
        }
        let mut made = Command::new("mke2fs");
        made.args(["-q", "-F", "-t", "ext4", "-d"]).arg(&files);
        succeed(made.arg(&disk).arg("1G"));
        // QEMU appends the address of the disk, so the argument of init must not end the line.
        let cmdline = "console=ttyS0 quiet reboot=t panic=-1 8250.nr_uarts=1 tsc=reliable no_timer_check root=/dev/vda rw init=/bin/sh /go";
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-M",
                "microvm,x-option-roms=off,rtc=off,pit=off,pic=off,isa-serial=on,acpi=off",
            ])
            .args(["-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", "256M"])
            .args([
                "-nodefaults",
                "-no-user-config",
                "-nographic",
                "-no-reboot",
                "-serial",
                "stdio",
            ])
            .arg("-drive")
            .arg(format!(
                "id=disk,file={},format=raw,if=none,cache=writeback",
                disk.display()
            ))
            .args(["-device", "virtio-blk-device,drive=disk"])
            .arg("-kernel")
            .arg(self.tree.join("build/guest/vmlinux"))
            .args(["-append", cmdline]);
        times(command)
    }

    /// The EROFS file of the image's only layer.
    fn layer(&self) -> PathBuf {
        let layers = self.path("state").join("images/layers/sha256");
        let mut files = std::fs::read_dir(layers).expect("the image is loaded");
        files.next().expect("it has a layer").expect("it is readable").path()
    }
}

/// Runs a command to its end and reads the lines `NAME MICROSECONDS`.
fn times(mut command: Command) -> Times {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let times: Times = text
        .lines()
        .filter_map(|line| {
            let (name, time) = line.trim().split_once(' ')?;
            Some((name.to_owned(), time.parse().ok()?))
        })
        .collect();
    assert_eq!(times.len(), 9, "{command:?}: {output:?}");
    times
}

fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // `cargo bench` and `cargo test` pass additional flags.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    if let Err(error) = microkube_vmm::probe::check_kvm(Path::new("/dev/kvm")) {
        panic!("the benchmark needs a KVM that can run guests; use `make bench`: {error}");
    }
    // In the emulated host only this directory is on a disk.
    let base = Path::new("/var/lib/microkube");
    std::fs::create_dir_all(base).expect("this program runs as root");
    let directory = tempfile::tempdir_in(base).expect("this program runs as root");
    let bench = Bench {
        work: directory.path().to_owned(),
        tree: PathBuf::from(env!("CARGO_MANIFEST_DIR")),
        mib: setting("MICROKUBE_BENCH_MIB", 32).to_string(),
    };
    let rounds = setting("MICROKUBE_BENCH_RUNS", 3);
    std::fs::create_dir(bench.path("shared")).expect("the work directory is writable");
    std::fs::write(bench.path("storage.pl"), include_str!("storage.pl")).expect("the work directory is writable");
    std::fs::write(
        bench.path("claim.json"),
        r#"{ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "bench" },
             "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "256Mi" } } } }"#,
    )
    .expect("the work directory is writable");
    let layout = bench.layout();
    succeed(
        bench
            .microkube([
                OsStr::new("image"),
                OsStr::new("load"),
                OsStr::new("--name"),
                OsStr::new(IMAGE),
            ])
            .arg(layout),
    );
    succeed(bench.microkube(["apply", "-f"]).arg(bench.path("claim.json")));

    let host_path = format!("\"hostPath\": {{ \"path\": {:?} }}", bench.path("shared"));
    let claim = "\"persistentVolumeClaim\": { \"claimName\": \"bench\" }";
    let places: [(&str, &dyn Fn() -> Times); 6] = [
        ("host", &|| bench.host()),
        ("podman", &|| bench.podman()),
        ("hostPath", &|| bench.pod(&host_path)),
        ("claim", &|| bench.pod(claim)),
        ("scratch", &|| bench.pod("\"emptyDir\": {}")),
        ("QEMU microvm", &|| bench.qemu()),
    ];
    let chosen = std::env::var("MICROKUBE_BENCH_PLACES").unwrap_or_default();
    let mut places = places.to_vec();
    places.retain(|(name, _)| chosen.is_empty() || chosen.split(',').any(|chosen| chosen == *name));
    let mut results: Vec<Vec<Times>> = places.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for ((_, measure), runs) in places.iter().zip(&mut results) {
            runs.push(measure());
        }
    }
    succeed(&mut bench.microkube(["delete", "pvc", "bench"]));
    let mib = &bench.mib;
    println!("{mib} MiB in a file, 300 small files; medians of {rounds} runs, alternating, in milliseconds");
    print!("{:<18}", "");
    places.iter().for_each(|(place, _)| print!(" {place:>13}"));
    println!();
    for operation in results[0][0].keys() {
        print!("{operation:<18}");
        for runs in &results {
            let values = runs.iter().map(|run| run[operation] / 1000.0).collect();
            print!(" {:>13.1}", median(values));
        }
        println!();
    }
    requests::print(&bench);
}

/// A number from the environment.
fn setting(name: &str, default: usize) -> usize {
    let value = std::env::var(name).unwrap_or_default();
    if value.is_empty() {
        default
    } else {
        value.parse().expect("the settings of the benchmark are numbers")
    }
}
