//! The environment of a container, and how its end is reported.

use std::time::{Duration, Instant};

use microkube_tests::manifest::{Container, Pod};
use serde_json::json;

use crate::host::{alone, container, host, image, shell_pod};

#[test]
fn run_returns_the_exit_code_of_the_first_failed_container() {
    let _alone = alone();
    let late = "while [ ! -e /dev/shm/failed ]; do sleep 0.1; done; sleep 1; exit 4";
    let pod = Pod::named("exit-codes")
        .container(container("late", late))
        .container(container("good", "exit 0"))
        .container(container("first", "touch /dev/shm/failed; exit 3"));
    let finished = host().run(pod);
    assert_eq!(finished.code(), 3, "{finished:?}");
}

#[test]
fn a_container_killed_by_a_signal_has_exit_code_128_plus_the_signal() {
    let _alone = alone();
    // The main process, PID 1, ignores all signals from inside the container. Only the kernel kills it, here after a
    // stack overflow.
    let finished = host().run(shell_pod("signalled", "call() { call; }; call"));
    assert_eq!(finished.code(), 128 + libc::SIGSEGV, "{finished:?}");
}

#[test]
fn stdout_and_stderr_are_separate_and_unchanged() {
    let _alone = alone();
    let finished = host().run(shell_pod(
        "streams",
        "printf 'out\\0\\n no newline'; printf 'err' >&2; exit 0",
    ));
    assert_eq!(
        (finished.stdout.as_str(), finished.stderr.as_str()),
        ("out\0\n no newline", "err")
    );
    finished.success();
}

#[test]
fn termination_sends_one_sigterm_to_every_container_and_sigkill_after_the_grace_period() {
    let _alone = alone();
    let polite = "trap 'echo got TERM; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let stubborn = "trap 'echo ignored TERM' TERM; echo ready; while :; do sleep 0.1; done";
    let pod = Pod::named("graceful")
        .grace_period_seconds(4)
        .container(container("polite", polite))
        .container(container("stubborn", stubborn));
    let mut running = host().start(pod);
    running.wait_for("ready");
    running.wait_for("ready");
    let asked = Instant::now();
    running.signal(libc::SIGINT);
    let finished = running.finish();
    assert!(asked.elapsed() >= Duration::from_secs(4), "{finished:?}");
    assert_eq!(finished.code(), 137, "{finished:?}");
    assert_eq!(finished.stdout.matches("got TERM").count(), 1, "{finished:?}");
    assert_eq!(finished.stdout.matches("ignored TERM").count(), 1, "{finished:?}");
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let _alone = alone();
    let stubborn = "trap 'echo ignored' TERM; echo ready; while :; do sleep 0.1; done";
    // Longer than this test waits, so the Pod can only end by the second signal.
    let pod = shell_pod("impatient", stubborn).grace_period_seconds(3600);
    let mut running = host().start(pod);
    running.wait_for("ready");
    running.signal(libc::SIGINT);
    running.wait_for("ignored");
    running.signal(libc::SIGINT);
    assert_eq!(running.finish().code(), 137);
}

#[test]
fn command_args_environment_and_working_directory_match_kubernetes() {
    let _alone = alone();
    let main = Container::new("main", &image("busybox"))
        .command(&["/bin/sh", "-c", "pwd; echo \"$GREETING|$1|$2|$POD\"", "--"])
        .set("args", json!(["$(GREETING) world", "$$(GREETING) $(MISSING)"]))
        .set("workingDir", "/made/for/it")
        .set(
            "env",
            json!([
                { "name": "WHO", "value": "hello" },
                { "name": "GREETING", "value": "$(WHO)" },
                { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            ]),
        );
    let text = host()
        .run(Pod::named("process").label("app", "demo").container(main))
        .success();
    assert_eq!(text, "/made/for/it\nhello|hello world|$(GREETING) $(MISSING)|process\n");
}

#[test]
fn the_images_command_runs_when_the_manifest_has_none() {
    let _alone = alone();
    // The image's ENTRYPOINT prints its arguments; the image also sets CMD, user and directory.
    let main = Container::new("main", &image("configured")).pull_policy("Always");
    let text = host().run(Pod::named("defaults").container(main)).success();
    assert_eq!(
        text,
        "cmd one two\n/srv/data\nuid=1234(worker) gid=2345(workers) groups=2345(workers)\n/home/worker\nfrom-image\n"
    );
}

#[test]
fn memory_and_semaphores_are_shared_between_containers_and_processes_are_not() {
    let _alone = alone();
    let tools = |name, script| Container::new(name, "debian-tools:latest").shell(script);
    let first = "ipcmk -S 1 > /dev/null; echo from-first > /dev/shm/message; \
        while [ ! -e /dev/shm/seen ]; do sleep 0.1; done; exit 0";
    let second = "until [ -s /dev/shm/message ]; do sleep 0.1; done; cat /dev/shm/message; \
        ipcs -s | grep -c '^0x'; ls -d /proc/[0-9]* | wc -l; readlink /proc/self/ns/net; touch /dev/shm/seen";
    let pod = Pod::named("shared-ipc")
        .container(tools("first", first))
        .container(tools("second", second));
    let text = host().run(pod).success();
    assert!(text.contains("[second] from-first\n[second] 1\n"), "{text}");
    let processes: usize = text
        .lines()
        .nth(2)
        .unwrap()
        .trim_start_matches("[second] ")
        .trim()
        .parse()
        .unwrap();
    assert!(processes <= 4, "the container sees only its own processes: {text}");
}

#[test]
fn an_empty_dir_is_shared_on_disk_and_in_memory() {
    let _alone = alone();
    let both = |name, script| {
        container(name, script)
            .mount("disk", "/disk")
            .mount("memory", "/memory")
    };
    let writer = "echo one > /disk/file; echo two > /memory/file; touch /disk/ready";
    let reader = "until [ -e /disk/ready ]; do sleep 0.1; done; cat /disk/file /memory/file; \
        grep ' /disk ' /proc/mounts | cut -d' ' -f3; grep ' /memory ' /proc/mounts | cut -d' ' -f3; stat -c %a /disk";
    let pod = Pod::named("volumes")
        .empty_dir("disk")
        .volume(json!({ "name": "memory", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } }))
        .container(both("writer", writer))
        .container(both("reader", reader));
    let text = host().run(pod).success();
    assert_eq!(
        text,
        "[reader] one\n[reader] two\n[reader] ext4\n[reader] tmpfs\n[reader] 777\n"
    );
}

#[test]
fn the_root_is_writable_and_a_read_only_one_is_not() {
    let _alone = alone();
    let fixed = container("fixed", "echo x 2> /dev/null > /file || echo refused");
    let pod = Pod::named("roots")
        .container(container("writable", "echo x > /file && cat /file"))
        .container(fixed.set("securityContext.readOnlyRootFilesystem", true));
    let text = host().run(pod).success();
    assert!(
        text.contains("[writable] x\n") && text.contains("[fixed] refused\n"),
        "{text}"
    );
}

#[test]
fn containers_are_confined_like_docker_containers() {
    let _alone = alone();
    let script = "grep -E '^(CapEff|Seccomp|NoNewPrivs):' /proc/self/status; \
        mount -t tmpfs none /mnt 2> /dev/null || echo no mount; \
        mknod /dev/sda b 8 0 && { head -c 1 /dev/sda > /dev/null 2>&1 || echo no device; }; \
        [ -s /proc/kcore ] || echo masked; \
        echo 1 2> /dev/null > /proc/sys/kernel/panic || echo read-only; \
        unshare -U true 2> /dev/null || echo no namespace; \
        echo null > /dev/null && echo devices";
    let text = host().run(shell_pod("confined", script)).success();
    assert_eq!(
        text,
        "CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\nno mount\nno device\nmasked\nread-only\nno namespace\ndevices\n"
    );
}

#[test]
fn limits_size_the_vm_and_constrain_the_container() {
    let _alone = alone();
    let script = "nproc; cat /sys/fs/cgroup/cpu.max /sys/fs/cgroup/memory.max; grep MemTotal /proc/meminfo | tr -s ' ' | cut -d' ' -f2";
    let main = container("main", script).limit("cpu", "1500m").limit("memory", "200Mi");
    let text = host().run(Pod::named("limits").container(main)).success();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["2", "150000 100000", "209715200"], "{text}");
    let total_kib: u64 = lines[3].parse().unwrap();
    assert!((200 << 10..300 << 10).contains(&total_kib), "{text}");
}

#[test]
fn a_container_over_its_memory_limit_is_killed_and_reported() {
    let _alone = alone();
    let eater = container("eater", "tail /dev/zero").limit("memory", "32Mi");
    let finished = host().run(Pod::named("hungry").container(eater));
    assert_eq!(finished.code(), 137, "{finished:?}");
    assert!(
        finished
            .stderr
            .contains("container \"eater\" ended with exit code 137 (OOMKilled)"),
        "{finished:?}"
    );
}

#[test]
fn orphans_are_reaped() {
    let _alone = alone();
    let script = r#"sh -c "for i in 1 2 3 4 5; do (sleep 0.2 &) ; done; sleep 1; ps -o stat | grep -c Z; exit 0""#;
    let text = host().run(shell_pod("orphans", script)).success();
    // The shell is PID 1 of its container and reaps orphans, as it would anywhere.
    assert_eq!(text, "0\n");
}

#[test]
fn a_missing_command_is_reported_with_exit_code_128() {
    let _alone = alone();
    let main = Container::new("main", &image("busybox")).command(&["no-such-program"]);
    let finished = host().run(Pod::named("typo").container(main));
    assert_eq!(finished.code(), 128, "{finished:?}");
    assert!(
        finished
            .stderr
            .contains("container \"main\" ended with exit code 128 (StartError)")
            && finished.stderr.contains("no-such-program")
            && finished.stderr.contains("executable file not found in $PATH"),
        "{finished:?}"
    );
}

#[test]
fn timings_show_every_stage_of_a_start() {
    let _alone = alone();
    let finished = host().start_with(shell_pod("timed", "exit 0"), &["--timings"]).finish();
    for stage in [
        "manifest",
        "image",
        "network",
        "vmm",
        "kernel",
        "agent",
        "container",
        "total",
    ] {
        assert!(
            finished.stderr.lines().any(|line| line.starts_with(stage)),
            "{stage}: {finished:?}"
        );
    }
    finished.success();
}

#[test]
fn debug_shows_the_guest_log() {
    let _alone = alone();
    let finished = host()
        .start_with(shell_pod("debugged", "exit 0"), &["--debug"])
        .finish();
    assert!(finished.stderr.contains("Linux version 6.12"), "{finished:?}");
    assert!(finished.stderr.contains("microkube-agent"), "{finished:?}");
    finished.success();
}
