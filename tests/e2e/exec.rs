//! Exec processes, terminals, and copying files in and out.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Stdio;

use microkube_tests::manifest::{Container, Pod};
use nix::pty::{Winsize, openpty};
use serde_json::json;

use crate::detached_pod::Detached;
use crate::host::{PATIENCE, Running, alone, container, host, image, shell_pod};

/// Ends on SIGTERM.
const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn sleeping(name: &str) -> Detached {
    let pod = Detached::start(&shell_pod(name, WAIT));
    pod.wait_ready();
    pod
}

#[test]
fn exec_forwards_input_output_and_exit_code() {
    let _alone = alone();
    let _pod = sleeping("exec");
    let script = "echo out; echo err >&2; exit 5";
    let finished = host().output(["exec", "exec", "--", "/bin/sh", "-c", script]);
    assert_eq!(finished.code(), 5, "{finished:?}");
    assert_eq!(finished.stdout, "out\n");
    assert!(finished.stderr.starts_with("err\n"), "{finished:?}");
    let command = host().microkube(["exec", "-i", "exec", "--", "wc", "-c"]);
    let counted = Running::start(command, Some(&"x".repeat(3 << 20))).finish();
    assert_eq!(counted.stdout.trim(), (3 << 20).to_string());
    let missing = host().output(["exec", "exec", "--", "no-such-command"]);
    assert_ne!(missing.code(), 0);
    assert!(
        missing
            .stderr
            .contains("exec: \"no-such-command\": executable file not found in $PATH"),
        "{missing:?}"
    );
    let nowhere = host().output(["exec", "exec", "-c", "other", "--", "true"]);
    assert_ne!(nowhere.code(), 0);
    assert!(
        nowhere.stderr.contains("container other not found in pod exec"),
        "{nowhere:?}"
    );
    let nobody = host().output(["exec", "nobody", "--", "true"]);
    assert_eq!(nobody.code(), 1);
    assert!(nobody.stderr.contains("pods \"nobody\" not found"), "{nobody:?}");
}

#[test]
fn an_exec_process_is_confined_like_its_container() {
    let _alone = alone();
    let main = container("main", WAIT)
        .set("securityContext.runAsUser", 1234)
        .set("securityContext.runAsGroup", 5678)
        .set("securityContext.capabilities.drop", json!(["ALL"]))
        .limit("memory", "64Mi");
    let pod = Detached::start(&Pod::named("confined").container(main));
    pod.wait_ready();
    assert_eq!(host().succeed(["exec", "confined", "--", "id", "-u"]), "1234\n");
    assert_eq!(host().succeed(["exec", "confined", "--", "id", "-g"]), "5678\n");
    let own = host().succeed([
        "exec",
        "confined",
        "--",
        "grep",
        "-E",
        "CapEff|CapBnd|Seccomp:|NoNewPrivs",
        "/proc/self/status",
    ]);
    let container = host().succeed([
        "exec",
        "confined",
        "--",
        "grep",
        "-E",
        "CapEff|CapBnd|Seccomp:|NoNewPrivs",
        "/proc/1/status",
    ]);
    assert_eq!(
        own,
        "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
    assert_eq!(own, container);
    // The agent itself has a higher priority (proc_pid_stat(5): the nice value).
    let nice = host().succeed([
        "exec",
        "confined",
        "--",
        "cut",
        "-d",
        " ",
        "-f",
        "19",
        "/proc/self/stat",
        "/proc/1/stat",
    ]);
    assert_eq!(nice, "0\n0\n");
    let groups = host().succeed(["exec", "confined", "--", "cat", "/proc/self/cgroup"]);
    assert_eq!(
        groups,
        host().succeed(["exec", "confined", "--", "cat", "/proc/1/cgroup"])
    );
}

#[test]
fn a_shell_in_a_terminal_sees_size_and_interrupts_and_ends_exec() {
    let _alone = alone();
    let _pod = sleeping("terminal");
    let size = Winsize {
        ws_row: 33,
        ws_col: 101,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).unwrap();
    let mut command = host().microkube(["exec", "-it", "terminal", "--", "/bin/sh"]);
    let end = || Stdio::from(pty.slave.as_fd().try_clone_to_owned().unwrap());
    command.stdin(end()).stdout(end()).stderr(end());
    let mut running = command.spawn().unwrap();
    drop(command);
    drop(pty.slave);
    let mut terminal = std::fs::File::from(pty.master);
    let mut seen = String::new();
    let mut read_until = |terminal: &mut std::fs::File, text: &str| {
        let start = std::time::Instant::now();
        let mut buffer = [0; 1024];
        while !seen.contains(text) {
            assert!(start.elapsed() < PATIENCE, "{seen}");
            let length = terminal.read(&mut buffer).unwrap_or(0);
            assert!(length > 0, "the terminal ended: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        seen.clear();
    };
    terminal.write_all(b"stty size; tty; echo end-$((1+1))\n").unwrap();
    read_until(&mut terminal, "33 101");
    read_until(&mut terminal, "end-2");
    // Ctrl-C goes to the program in the terminal, not to microkube.
    terminal.write_all(b"sh -c 'echo in-$((1+1)); sleep 1000'\n").unwrap();
    read_until(&mut terminal, "in-2");
    terminal.write_all(b"\x03").unwrap();
    terminal.write_all(b"echo still-$((1+1))\n").unwrap();
    read_until(&mut terminal, "still-2");
    terminal.write_all(b"exit 6\n").unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(6));
}

#[test]
fn files_are_copied_in_and_out() {
    let _alone = alone();
    let with_tar = Container::new("main", &image("debian-tools")).shell(WAIT);
    let pod = Detached::start(&Pod::named("copy").container(with_tar));
    pod.wait_ready();
    let directory = host().state_dir.join("copied");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(directory.join("in/deep")).unwrap();
    let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(directory.join("in/deep/bytes"), &content).unwrap();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    host().succeed(["cp", &path("in"), "copy:/tmp/there"]);
    host().succeed(["cp", "copy:/tmp/there", &path("out")]);
    assert_eq!(std::fs::read(directory.join("out/deep/bytes")).unwrap(), content);
    let missing = host().output(["cp", "copy:/no/such/file", &path("nothing")]);
    assert_ne!(missing.code(), 0, "{missing:?}");
    assert!(missing.stderr.contains("No such file or directory"), "{missing:?}");
}

#[test]
fn resource_usage_of_containers_is_shown() {
    let _alone = alone();
    let script = "head -c 8388608 /dev/zero > /dev/shm/used; echo used; while :; do :; done";
    let pod = Detached::start(&shell_pod("busy", script));
    pod.wait_for_log("main", "used");
    let table = host().succeed(["top", "pod", "busy"]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "CPU(cores)", "MEMORY(bytes)"]);
    assert_eq!(lines[1][0], "busy");
    let milli: u64 = lines[1][1].strip_suffix('m').unwrap().parse().unwrap();
    assert!(milli > 0, "{table}");
    let mebibytes: u64 = lines[1][2].strip_suffix("Mi").unwrap().parse().unwrap();
    assert!((8..32).contains(&mebibytes), "{table}");
}

#[test]
fn attach_forwards_output_and_input() {
    let _alone = alone();
    let main = "while read -r line; do echo got $line; done; echo end of input";
    let open = "while read -r line; do echo got $line; test $line = last && exit 0; done; echo end of input";
    let pod = Detached::start(
        &Pod::named("attached")
            .container(container("main", main).set("stdin", true).set("stdinOnce", true))
            .container(container("open", open).set("stdin", true)),
    );
    pod.wait_ready();
    let attach = |container: &str, input: &str| {
        let command = host().microkube(["attach", "-i", "attached", "-c", container]);
        Running::start(command, Some(input))
    };
    let mut child = attach("main", "one\ntwo\n");
    child.wait_for("end of input");
    let finished = child.finish();
    assert!(finished.stdout.contains("got one\ngot two\n"), "{finished:?}");
    // Without stdinOnce, the input stays open for the next client.
    for line in ["first\n", "last\n"] {
        let finished = attach("open", line).finish();
        assert_eq!(finished.code(), 0, "{finished:?}");
    }
    pod.wait_phase("Succeeded");
    assert_eq!(
        host().succeed(["logs", "attached", "-c", "open"]),
        "got first\ngot last\n"
    );
}

#[test]
fn run_removes_a_pod_that_cannot_start_and_reports_the_reason() {
    let _alone = alone();
    let before = host().leftovers();
    let run = |image: &str, more: &[&str]| {
        let image = format!("--image={image}");
        let common = ["run", "broken", &image, "--rm", "--restart=Never"];
        host().begin([&common[..], more].concat())
    };
    let absent = "docker.io/none/absent:v1";
    let finished = run(
        absent,
        &["--image-pull-policy=Never", "-i", "--pod-running-timeout=15s"],
    )
    .finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(
        finished.stderr.contains("timed out waiting for the condition: pod \"broken\": container \"broken\" is waiting to start: ErrImageNeverPull"),
        "{finished:?}"
    );
    host().assert_nothing_left_since(&before);

    let mut waiting = run(absent, &["--image-pull-policy=Never", "--attach"]);
    waiting.wait_for("ErrImageNeverPull");
    waiting.signal(libc::SIGINT);
    let finished = waiting.finish();
    assert_eq!(finished.code(), 130, "{finished:?}");
    host().assert_nothing_left_since(&before);

    let finished = run(&image("busybox"), &["--attach", "--command", "--", "no-such-command"]).finish();
    assert_eq!(finished.code(), 128, "{finished:?}");
    assert!(
        finished.stderr.contains("pod default/broken terminated (StartError)")
            && finished.stderr.contains("no-such-command"),
        "{finished:?}"
    );
    host().assert_nothing_left_since(&before);
}

#[test]
fn run_creates_a_pod_from_an_image_and_removes_it_at_its_end() {
    let _alone = alone();
    let before = host().leftovers();
    let image = format!("--image={}", image("busybox"));
    let run = |flags: &[&str], script: &[&str], input: Option<&str>| {
        let common = ["run", "quick", &image, "--rm", "--restart=Never"];
        let command = host().microkube([&common[..], flags, &["--"], script].concat());
        Running::start(command, input).finish()
    };
    let finished = run(
        &["-i", "--env=A=b"],
        &["/bin/sh", "-c", "cat; echo $A; exit 4"],
        Some("typed\n"),
    );
    assert_eq!(finished.code(), 4, "{finished:?}");
    assert!(finished.stdout.contains("typed\nb\n"), "{finished:?}");
    assert!(
        finished.stderr.contains("pod default/quick terminated (Error)"),
        "{finished:?}"
    );
    // The end of the typed text does not close a terminal's input: the shell ends on its own.
    let finished = run(
        &["-i", "-t"],
        &["/bin/sh"],
        Some("sleep 1; echo so $((20 + 3)); exit 3\n"),
    );
    assert_eq!(finished.code(), 3, "{finished:?}");
    // The container may end before the connection.
    let finished = run(&["--attach"], &["echo", "hello"], None);
    assert_eq!(
        (finished.code(), finished.stdout.as_str()),
        (0, "hello\n"),
        "{finished:?}"
    );
    host().assert_nothing_left_since(&before);
}
