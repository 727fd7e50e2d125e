//! `make bench`: pulls an image of 500 MB from a registry on the loopback interface and makes it ready to use, compared
//! with podman, in one run on one host.
//!
//! Measures the time from the start of the process to its end, and its peak memory (of the largest process if it starts
//! others). Each run begins with an empty store on the same file system. Runs alternate.

use std::ffi::OsString;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const IMAGE: &str = "test/large:latest";

#[derive(Clone, Copy)]
enum Tool {
    Microkube,
    Podman,
}

/// The measurements of one run.
struct Run {
    elapsed: Duration,
    peak_kib: u64,
    stored_mib: u64,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Microkube => "microkube",
            Self::Podman => "podman",
        }
    }

    fn command(self, store: &Path, image: &str) -> Command {
        let mut command;
        match self {
            Self::Microkube => {
                command = Command::new(env!("CARGO_BIN_EXE_microkube"));
                command.args(["image", "pull", "--on-this-host", "--quiet", image]);
                command
                    .env("MICROKUBE_STATE_DIR", store)
                    .env("MICROKUBE_RUN_DIR", store.join("run"));
            }
            Self::Podman => {
                command = Command::new("podman");
                let option = |name: &str, directory: &str| {
                    let mut option = OsString::from(name);
                    option.push(store.join(directory));
                    option
                };
                command.arg(option("--root=", "root")).arg(option("--runroot=", "run"));
                command.args([
                    "--storage-driver=overlay",
                    "pull",
                    "--quiet",
                    "--tls-verify=false",
                    image,
                ]);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    #[expect(
        clippy::zombie_processes,
        reason = "waited for with wait4(2), which also reports the memory"
    )]
    fn pull(self, work: &Path, image: &str) -> Run {
        let store = work.join(self.name());
        std::fs::create_dir_all(&store).expect("the work directory is writable");
        // Writes that the previous run left pending must not count for this one.
        nix::unistd::sync();
        let start = Instant::now();
        let child = self.command(&store, image).spawn();
        let child = child.unwrap_or_else(|error| panic!("{} (installed by `make bench`): {error}", self.name()));
        let peak_kib = wait(&child, self.name());
        let elapsed = start.elapsed();
        let stored_mib = allocated_bytes(&store) >> 20;
        std::fs::remove_dir_all(&store).expect("this program created it");
        Run {
            elapsed,
            peak_kib,
            stored_mib,
        }
    }
}

/// Waits for a successful end; returns the peak resident memory.
fn wait(child: &Child, name: &str) -> u64 {
    let pid = libc::pid_t::try_from(child.id()).expect("PIDs fit");
    let mut status = 0;
    // SAFETY: all zeros are valid for a structure of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to variables of the right types that outlive the call.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    assert!(waited == pid && status == 0, "{name} failed with wait status {status}");
    u64::try_from(usage.ru_maxrss).unwrap_or(0)
}

fn allocated_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return 0;
    };
    let below = match std::fs::read_dir(path) {
        Ok(entries) if metadata.is_dir() => entries.flatten().map(|entry| allocated_bytes(&entry.path())).sum(),
        _ => 0,
    };
    metadata.blocks() * 512 + below
}

/// A registry that serves what `make` pushed into `build/registry`; killed when dropped.
struct Registry(Child);

impl Registry {
    fn start(work: &Path) -> (Self, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/registry");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = format!("127.0.0.1:{}", port.expect("there is a free port").port());
        let config = work.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}, \
             maintenance: {{readonly: {{enabled: true}}}}}}\nhttp: {{addr: {address}}}\n",
            root.display()
        );
        std::fs::write(&config, text).expect("the work directory is writable");
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Self(command.spawn().expect("docker-registry is installed by `make bench`"));
        let start = Instant::now();
        while TcpStream::connect(&address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        (registry, address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    // The files must not be in /tmp, which may be in memory.
    let directory = tempfile::tempdir_in(PathBuf::from("/var/tmp")).expect("/var/tmp is writable");
    let (registry, address) = Registry::start(directory.path());
    let image = format!("{address}/{IMAGE}");
    for tool in [Tool::Microkube, Tool::Podman] {
        tool.pull(directory.path(), &image);
    }
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        runs[0].push(Tool::Microkube.pull(directory.path(), &image));
        runs[1].push(Tool::Podman.pull(directory.path(), &image));
    }
    drop(registry);
    println!("pull and convert {IMAGE} from a registry on loopback, {RUNS} runs each, alternating, medians");
    println!(
        "{:<18} {:>9} {:>9} {:>9} {:>10} {:>11}",
        "", "median s", "min s", "max s", "peak MiB", "stored MiB"
    );
    let mut medians = Vec::new();
    for (tool, runs) in [Tool::Microkube, Tool::Podman].into_iter().zip(runs) {
        let seconds: Vec<_> = runs.iter().map(|run| run.elapsed.as_secs_f64()).collect();
        let peak = median(runs.iter().map(|run| run.peak_kib as f64 / 1024.0).collect());
        let stored = runs.last().map_or(0, |run| run.stored_mib);
        let (min, max) = seconds
            .iter()
            .fold((f64::MAX, 0.0_f64), |(min, max), s| (min.min(*s), max.max(*s)));
        let middle = median(seconds);
        println!(
            "{:<18} {middle:>9.2} {min:>9.2} {max:>9.2} {peak:>10.1} {stored:>11}",
            tool.name()
        );
        medians.push((middle, peak));
    }
    println!(
        "{:<18} {:>9.2} {:>9} {:>9} {:>10.2}",
        "podman/microkube",
        medians[1].0 / medians[0].0,
        "",
        "",
        medians[1].1 / medians[0].1
    );
}
