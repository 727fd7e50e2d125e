//! Random verbs and kills of random processes: afterwards every Pod is in an allowed state, and nothing is left over.

use std::time::{Duration, Instant};

use microkube_tests::random_life::{Dice, assert_allowed, number};
use serde_json::Value;

use crate::host::{alone, host, processes, shell_pod, wait_until};

/// How long the test runs; `MICROKUBE_CHAOS_SECONDS` overrides it.
const DEFAULT_SECONDS: u64 = 45;

const NAMES: [&str; 3] = ["chaos-a", "chaos-b", "chaos-c"];

#[test]
fn random_verbs_and_kills_leave_every_pod_in_an_allowed_state() {
    let _alone = alone();
    let before = host().leftovers();
    let mut dice = Dice::seeded_by("MICROKUBE_CHAOS_SEED");
    let end = Instant::now() + Duration::from_secs(number("MICROKUBE_CHAOS_SECONDS").unwrap_or(DEFAULT_SECONDS));
    let _guard = RemainingPodsGuard;
    let mut background = Vec::new();
    while Instant::now() < end {
        let name = *dice.pick(&NAMES).unwrap();
        match dice.roll(10) {
            0..=2 => {
                let policy = *dice.pick(&["Always", "OnFailure", "Never"]).unwrap();
                let script = *dice
                    .pick(&["while :; do echo tick; sleep 0.2; done", "echo done", "sleep 1; exit 1"])
                    .unwrap();
                let pod = shell_pod(name, script).restart_policy(policy).grace_period_seconds(2);
                let file = host().manifest(&pod);
                // Runs in the background, so that the next action happens while it runs.
                background.push(quietly(["apply", "-f", file.to_str().unwrap()]));
            }
            3 => background.push(quietly(["delete", "pod", name, "--wait=false"])),
            4 => background.push(quietly(["delete", "pod", name, "--now"])),
            5 => background.push(quietly(["exec", name, "--", "sleep", "1"])),
            6 => background.push(quietly(["logs", name])),
            7 => kill(dice.pick(&processes(&["supervise"]))),
            8 => kill(dice.pick(&processes(&["microkube-vmm", "supervised"]))),
            _ => {
                let victim = dice.roll(background.len().max(1));
                if let Some(child) = background.get_mut(victim) {
                    let _ = child.kill();
                }
            }
        }
        background.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        std::thread::sleep(Duration::from_millis(u64::try_from(dice.roll(400)).unwrap()));
    }
    for mut child in background {
        let _ = child.kill();
        child.wait().unwrap();
    }
    host().succeed(["recover"]);
    let text = host().succeed(["get", "pods", "-o", "json"]);
    let pods: Value = serde_json::from_str(&text).unwrap();
    for pod in pods["items"].as_array().unwrap() {
        assert_allowed(pod);
        let name = pod["metadata"]["name"].as_str().unwrap();
        // A deletion whose command line was killed may take effect only now.
        let described = host().output(["describe", "pod", name]);
        let is_gone = described.stderr.contains("NotFound");
        assert!(described.status.success() || is_gone, "{described:?}");
        host().output(["logs", name]);
    }
    host().succeed(["delete", "pods", "--all", "--now"]);
    assert_eq!(host().succeed(["get", "pods", "-o", "name"]), "");
    wait_until("supervisors have ended", || processes(&["supervise"]).is_empty());
    host().assert_nothing_left_since(&before);
}

/// Deletes remaining Pods when the test ends, even by a panic: other tests count Pods.
struct RemainingPodsGuard;

impl Drop for RemainingPodsGuard {
    fn drop(&mut self) {
        let _ = host().output(["delete", "pods", "--all", "--now"]);
    }
}

fn quietly<'a>(args: impl IntoIterator<Item = &'a str>) -> std::process::Child {
    let mut command = host().microkube(args);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command.spawn().unwrap()
}

fn kill(pid: Option<&i32>) {
    if let Some(pid) = pid {
        // SAFETY: kill(2) takes integers. The PID was found by its command line a moment ago.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
}
