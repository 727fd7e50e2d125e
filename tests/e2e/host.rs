//! The test host: its directories, its registry, and running microkube on it like a user.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use microkube_tests::built::{microkube_program, source_tree};
use microkube_tests::manifest::{Container, Pod};

/// Longer than any successful operation takes, even in the emulated host.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// Port of the tests' registry, on loopback, so that plain http is allowed.
const REGISTRY_PORT: u16 = 5077;

/// The prepared host.
pub struct Host {
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    work_dir: PathBuf,
}

/// The host, prepared once for all tests of this process; with `MICROKUBE_TEST_RUN`, once for all processes with the
/// same value.
pub fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(Host::set_up)
}

/// The reference of an image in the tests' registry.
pub fn image(name: &str) -> String {
    format!("127.0.0.1:{REGISTRY_PORT}/test/{name}:latest")
}

/// Built by `make`: one OCI layout per image.
pub fn image_layout(name: &str) -> PathBuf {
    source_tree().join("build/images").join(name)
}

impl Host {
    fn set_up() -> Self {
        microkube_vmm::probe::check_kvm(std::path::Path::new("/dev/kvm"))
            .unwrap_or_else(|error| panic!("these tests need a KVM that can run guests; use `make test`: {error}"));
        let base = PathBuf::from("/var/lib/microkube/e2e");
        let host = Self {
            state_dir: base.join("state"),
            run_dir: "/run/microkube-e2e".into(),
            work_dir: base.join("work"),
        };
        let run = std::env::var("MICROKUBE_TEST_RUN").ok();
        let prepared_for = base.join("prepared-for");
        if run.is_some() && std::fs::read_to_string(&prepared_for).ok() == run {
            host.start_registry();
            return host;
        }
        let _ = std::fs::remove_dir_all(&base);
        let _ = std::fs::remove_dir_all(&host.run_dir);
        std::fs::create_dir_all(&host.work_dir).unwrap();
        host.start_registry();
        host.load_images();
        if let Some(run) = run {
            std::fs::write(prepared_for, run).unwrap();
        }
        host
    }

    /// Loads the images that are too large to be pulled in each test. If another process has converted them
    /// (`MICROKUBE_TEST_IMAGES` names its store), they are copied, which takes a fifth of the time in an emulated host.
    fn load_images(&self) {
        if let Some(converted) = std::env::var_os("MICROKUBE_TEST_IMAGES") {
            std::fs::create_dir_all(&self.state_dir).unwrap();
            let mut copy = Command::new("cp");
            copy.args(["--archive", "--sparse=never"])
                .arg(converted)
                .arg(self.state_dir.join("images"));
            assert!(copy.status().unwrap().success(), "{copy:?}");
        }
        for name in ["nginx", "debian-tools"] {
            let layout = image_layout(name);
            let reference = format!("{name}:latest");
            self.succeed(["image", "load", "--name", &reference, layout.to_str().unwrap()]);
        }
    }

    /// Serves what `make` pushed into `build/registry`. The registry dies with this process.
    fn start_registry(&self) {
        let config = self.work_dir.join("registry.yml");
        let root = source_tree().join("build/registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, maintenance: {{readonly: {{enabled: true}}}}}}\nhttp: {{addr: 127.0.0.1:{REGISTRY_PORT}}}\n",
                root.display()
            ),
        )
        .unwrap();
        let answers = || std::net::TcpStream::connect(("127.0.0.1", REGISTRY_PORT)).is_ok();
        wait_until("the port of the tests' registry is free", || !answers());
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        die_with_this_process(&mut command);
        // libtest runs every test in a separate thread, so the registry must not be started by a test's thread.
        std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || command.spawn().expect("docker-registry is installed by `make`").wait())
            .unwrap();
        wait_until("the tests' registry answers", answers);
    }

    /// Writes a file for a test.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.work_dir.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a Pod's manifest to a file.
    pub fn manifest(&self, pod: &Pod) -> PathBuf {
        self.file(&format!("{}.yaml", pod.name()), &pod.to_string())
    }

    /// A command that runs microkube with these arguments.
    pub fn microkube<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(microkube_program());
        command
            .args(args)
            // Do not read the host's configuration file.
            .env("MICROKUBE_CONFIG", "")
            .env("MICROKUBE_STATE_DIR", &self.state_dir)
            .env("MICROKUBE_RUN_DIR", &self.run_dir)
            .stdin(Stdio::null());
        command
    }

    pub fn begin<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        Running::start(self.microkube(args), None)
    }

    pub fn output<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Finished {
        self.begin(args).finish()
    }

    /// Runs microkube, which must succeed, and returns its stdout.
    pub fn succeed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let finished = self.output(args);
        assert!(finished.status.success(), "{finished:?}");
        finished.stdout
    }

    /// Starts `microkube run -` with this manifest.
    pub fn start(&self, manifest: impl Display) -> Running {
        self.start_with(manifest, &[])
    }

    /// Starts `microkube run FLAGS -` with this manifest.
    pub fn start_with(&self, manifest: impl Display, flags: &[&str]) -> Running {
        let command = self.microkube([&["run"][..], flags, &["-"][..]].concat());
        Running::start(command, Some(&manifest.to_string()))
    }

    /// Runs a Pod to its end.
    pub fn run(&self, manifest: impl Display) -> Finished {
        self.start(manifest).finish()
    }
}

/// Makes the kernel kill the process when the thread that starts it ends.
pub fn die_with_this_process(command: &mut Command) {
    // SAFETY: prctl(2) is async-signal-safe and touches no memory here.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// A Pod with one busybox container that runs a shell script.
pub fn shell_pod(name: &str, script: &str) -> Pod {
    Pod::named(name).container(container("main", script))
}

/// A busybox container that runs a shell script.
pub fn container(name: &str, script: &str) -> Container {
    Container::new(name, &image("busybox")).shell(script)
}

/// A process and its output.
pub struct Running {
    pub child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    stdout: Option<std::thread::JoinHandle<Vec<u8>>>,
    stderr: Option<std::thread::JoinHandle<Vec<u8>>>,
}

impl Drop for Running {
    /// A failed test must not disturb the next one.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a process ended, and its output.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// The exit code; panics if a signal killed the process.
    pub fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| panic!("killed by signal {:?}: {self:?}", self.status.signal()))
    }

    /// Asserts success and returns stdout.
    #[track_caller]
    pub fn success(self) -> String {
        assert_eq!(self.code(), 0, "{self:?}");
        self.stdout
    }
}

impl Running {
    /// Starts a command with this text as its standard input, or none.
    pub fn start(mut command: Command, stdin: Option<&str>) -> Self {
        command
            .stdin(stdin.map_or_else(Stdio::null, |_| Stdio::piped()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if let Some(text) = stdin {
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        }
        let (sender, lines) = channel();
        let stdout = read_lines(child.stdout.take().unwrap(), sender.clone());
        let stderr = read_lines(child.stderr.take().unwrap(), sender);
        Self {
            child,
            lines,
            seen: Vec::new(),
            stdout: Some(stdout),
            stderr: Some(stderr),
        }
    }

    /// Waits until a line with this text has been written to stdout or stderr.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{text:?} was not written in time: {:#?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => panic!("{text:?} was never written: {:#?}", self.seen),
            }
        }
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill(2) takes integers; the child has not been waited for, so the PID cannot have been reused.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0);
    }

    /// Waits for the end. A process that takes too long is killed, and the test fails.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let watchdog = Watchdog::start(self.child.id());
        let status = self.child.wait().unwrap();
        watchdog.stop();
        let text = |thread: Option<std::thread::JoinHandle<Vec<u8>>>| {
            String::from_utf8_lossy(&thread.unwrap().join().unwrap()).into_owned()
        };
        let finished = Finished {
            status,
            stdout: text(self.stdout.take()),
            stderr: text(self.stderr.take()),
        };
        assert_ne!(
            finished.status.signal(),
            Some(libc::SIGALRM),
            "took too long: {finished:?}"
        );
        finished
    }
}

/// Ends a process that takes too long, with a signal that nothing else sends.
struct Watchdog(std::sync::mpsc::Sender<()>);

impl Watchdog {
    fn start(pid: u32) -> Self {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            if receiver.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                // SAFETY: kill(2) takes integers; the process has not been waited for yet.
                unsafe { libc::kill(i32::try_from(pid).unwrap(), libc::SIGALRM) };
            }
        });
        Self(sender)
    }

    fn stop(self) {
        drop(self.0);
    }
}

fn read_lines(
    from: impl Read + Send + 'static,
    lines: std::sync::mpsc::Sender<String>,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut all = Vec::new();
        loop {
            let start = all.len();
            if from.read_until(b'\n', &mut all).unwrap_or(0) == 0 {
                return all;
            }
            let _ = lines.send(String::from_utf8_lossy(&all[start..]).trim_end().to_owned());
        }
    })
}

/// An HTTP GET from the host.
pub fn http_get(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = std::net::TcpStream::connect_timeout(
        &address.parse().map_err(std::io::Error::other)?,
        Duration::from_secs(20),
    )?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: pod\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Runs one test at a time, because they count objects on the host.
pub fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Polls a condition for at most [`PATIENCE`]. Pauses as long as each check takes: on one processor, constant polling
/// would keep the condition from becoming true.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    loop {
        let look = Instant::now();
        if condition() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        std::thread::sleep(look.elapsed().max(Duration::from_millis(2)));
    }
}

/// PIDs of processes whose command lines contain all of these words.
pub fn processes(words: &[&str]) -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
            let line: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            words
                .iter()
                .all(|word| line.iter().any(|part| part.ends_with(word)))
                .then_some(pid)
        })
        .collect()
}
