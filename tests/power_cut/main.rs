//! Power failures of the whole host at random moments: an emulated host is killed while Pods run, start, end and
//! recover in it. Only what had reached its disk remains.
//!
//! This runs outside the emulated host, on any machine: `make power-cut-test`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use microkube_tests::built::{microkube_program, source_tree};
use microkube_tests::database::{self, assert_found, last_committed};
use microkube_tests::log_lines::last_number;
use microkube_tests::manifest::{Container, Pod};
use microkube_tests::random_life::{Dice, assert_allowed, number};
use serde_json::{Value, json};

/// Number of power failures; `MICROKUBE_POWER_CUTS` overrides it.
const DEFAULT_CUTS: u64 = 3;

/// An emulated host that belongs to this test.
struct Machine {
    program: String,
    directory: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = std::fs::read(self.directory.path().join("run/machine/console.log")).unwrap_or_default();
            let tail = console.len().saturating_sub(4096);
            println!("the machine's console:\n{}", String::from_utf8_lossy(&console[tail..]));
        }
        let _ = self.outside(["machine", "stop"]).output();
    }
}

impl Machine {
    fn new() -> Self {
        // The files must not be in memory, where /tmp may be.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        let program = microkube_program().to_str().unwrap().to_owned();
        let machine = Self { program, directory };
        machine.start();
        machine
    }

    fn outside<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            // Do not read the host's configuration file.
            .env("MICROKUBE_CONFIG", "")
            .env("MICROKUBE_STATE_DIR", self.directory.path().join("state"))
            .env("MICROKUBE_RUN_DIR", self.directory.path().join("run"))
            .stdin(Stdio::null());
        command
    }

    fn start(&self) {
        let output = self.outside(["machine", "start"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A program in the emulated host, not started yet.
    fn inside<'a>(&self, argv: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.outside(["machine", "exec", "--"]);
        command.args(argv);
        command
    }

    /// Runs microkube in the emulated host to its end.
    fn output(&self, line: &str) -> Output {
        let argv = std::iter::once(self.program.as_str()).chain(line.split(' '));
        self.inside(argv).output().unwrap()
    }

    /// Like [`Self::output`], but must succeed without messages.
    #[track_caller]
    fn succeed(&self, line: &str) -> String {
        let output = self.output(line);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {output:?}");
        assert!(!complaint.contains("damaged"), "{line}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The log of a container that says what it found once it has looked.
    #[track_caller]
    fn begun_log(&self, pod: &str) -> String {
        let start = Instant::now();
        loop {
            let log = self.succeed(&format!("logs {pod}"));
            if log.contains("found ") {
                return log;
            }
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "{pod} does not begin: {log}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts microkube in the emulated host, in the background.
    fn begin(&self, line: &str) -> Child {
        let mut command = self.inside(std::iter::once(self.program.as_str()).chain(line.split(' ')));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Writes a Pod's manifest, which has the same path in the emulated host.
    fn manifest(&self, pod: &Pod) -> PathBuf {
        let path = self.directory.path().join(format!("{}.yaml", pod.name()));
        std::fs::write(&path, pod.to_string()).unwrap();
        path
    }

    /// Kills QEMU: data that the emulated host had not written to its disk is lost.
    fn cut_power(&self) {
        let directory = self.directory.path().to_str().unwrap();
        let pids = qemus_with(directory);
        assert_eq!(pids.len(), 1, "QEMU's processes for {directory}");
        // SAFETY: kill(2) takes integers. The PID was found by the process's command line a moment ago.
        assert_eq!(unsafe { libc::kill(pids[0], libc::SIGKILL) }, 0);
        // Its command line disappears long before its locks and its disk are released.
        let start = Instant::now();
        while Path::new(&format!("/proc/{}", pids[0])).exists() {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "QEMU does not end, or is not reaped"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// PIDs of QEMU processes with this in their command line.
fn qemus_with(text: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (line.contains("qemu-system") && line.contains(text)).then_some(pid)
    });
    pids.collect()
}

fn pod(name: &str, policy: &str, script: &str) -> Pod {
    let main = Container::new("main", "busybox").pull_policy("Never");
    Pod::named(name)
        .restart_policy(policy)
        .grace_period_seconds(2)
        .empty_dir("data")
        .container(main.shell(script).mount("data", "/data"))
}

/// A database on a claim.
fn database_pod() -> Pod {
    let main = Container::new("main", "database").pull_policy("Never");
    Pod::named("database")
        .restart_policy("Always")
        .grace_period_seconds(2)
        .volume(json!({ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }))
        .container(main.shell(database::WRITER).mount("data", "/data"))
}

fn claim_manifest() -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "64Mi" } } },
    })
}

/// Reports the numbers that its previous run left, and continues writing: it prints a number once it is on the disk.
const KEEPER: &str = "cd /data; mkdir -p kept; number=$(ls kept | sort -n | tail -n 1); number=${number:-0}; echo found $number; \
    while :; do number=$((number+1)); echo $number > kept/$number; sync kept/$number; echo kept $number; \
    rm -f kept/$((number-20)); sleep 0.05; done";

/// Asserts the invariants after this many power failures, once the emulated host is up again and has recovered
/// everything.
fn assert_recovered(machine: &Machine, cuts: u64, restarts: &mut u64) {
    let pods: Value = serde_json::from_str(&machine.succeed("get pods -o json")).unwrap();
    for pod in pods["items"].as_array().unwrap() {
        assert_allowed(pod);
    }
    machine.succeed("wait --for=condition=Ready pod/keeper pod/database --timeout=600s");
    let keeper: Value = serde_json::from_str(&machine.succeed("get pod keeper -o json")).unwrap();
    let status = &keeper["status"]["containerStatuses"][0];
    let count = status["restartCount"].as_u64().unwrap();
    assert!(count >= *restarts, "{count} after {restarts} restarts");
    *restarts = count;
    if cuts == 0 {
        return;
    }
    assert!(count > 0, "it is not the Pod that was there before");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status}");
    // Everything that the log reports as written is present; the log itself may have lost its end.
    let kept = last_number(&machine.succeed("logs keeper -p"), "kept ").unwrap_or(0);
    let found = last_number(&machine.succeed("logs keeper"), "found ").expect("the keeper says what it finds");
    assert!(found >= kept, "{kept} was on the disk, {found} is");
    assert_found(
        &machine.begun_log("database"),
        last_committed(&machine.succeed("logs database -p")),
    );
}

/// Runs a random verb on a Pod.
fn random_verb(machine: &Machine, dice: &mut Dice) -> Child {
    let name = *dice.pick(&["cut-a", "cut-b"]).unwrap();
    match dice.roll(5) {
        0..=2 => {
            let policy = *dice.pick(&["Always", "OnFailure", "Never"]).unwrap();
            let scripts = ["while :; do echo tick; sleep 0.2; done", "echo done", "sleep 1; exit 1"];
            let file = machine.manifest(&pod(name, policy, dice.pick(&scripts).unwrap()));
            machine.begin(&format!("apply -f {}", file.display()))
        }
        3 => machine.begin(&format!("delete pod {name}")),
        _ => machine.begin(&format!("delete pod {name} --now")),
    }
}

fn pause(dice: &mut Dice, most: Duration) {
    // This pause makes the moment of the power cut random.
    std::thread::sleep(most.mul_f64(dice.roll(1000) as f64 / 1000.0));
}

#[test]
fn every_pod_recovers_to_an_allowed_state_after_a_power_cut_at_any_time() {
    let mut dice = Dice::seeded_by("MICROKUBE_POWER_CUT_SEED");
    let machine = Machine::new();
    for image in ["busybox", "database"] {
        let layout = source_tree().join("build/images").join(image);
        machine.succeed(&format!("image load --name {image}:latest {}", layout.display()));
    }
    let claim = machine.directory.path().join("claim.json");
    std::fs::write(&claim, claim_manifest().to_string()).unwrap();
    machine.succeed(&format!("apply -f {}", claim.display()));
    for pod in [pod("keeper", "Always", KEEPER), database_pod()] {
        let file = machine.manifest(&pod);
        machine.succeed(&format!("apply -f {}", file.display()));
        machine.succeed(&format!("wait --for=condition=Ready pod/{} --timeout=120s", pod.name()));
    }
    let mut restarts = 0;
    let cuts = number("MICROKUBE_POWER_CUTS").unwrap_or(DEFAULT_CUTS);
    for cut in 1..=cuts {
        let mut begun = Vec::new();
        if cut > 1 && dice.roll(3) == 0 {
            println!("power cut {cut}: during the recovery");
            begun.push(machine.begin("recover"));
            pause(&mut dice, Duration::from_secs(4));
        } else {
            println!("power cut {cut}");
            machine.succeed("recover");
            assert_recovered(&machine, cut - 1, &mut restarts);
            for _ in 0..4 {
                begun.push(random_verb(&machine, &mut dice));
                pause(&mut dice, Duration::from_secs(2));
            }
        }
        machine.cut_power();
        for mut verb in begun {
            verb.wait().unwrap();
        }
        machine.start();
    }
    machine.succeed("recover");
    assert_recovered(&machine, cuts, &mut restarts);
    machine.succeed("delete pods --all --now");
    machine.succeed("delete pvc data");
    machine.succeed("recover");
    let look = "ls -A /var/lib/microkube/volumes/disks; ls -A /var/lib/microkube/pods /run/microkube/pods | grep -v :; ls /var/lib/microkube/network/leases | grep '^[0-9.]*$'; \
        ls /sys/class/net | grep '^mk'; true";
    let left = machine.inside(["sh", "-c", look]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "", "{left:?}");
    assert!(left.status.success(), "{left:?}");
}
