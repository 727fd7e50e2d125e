//! Whichever process dies, the next command brings every detached Pod to a state that Kubernetes allows.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use microkube_tests::log_lines::last_number;
use microkube_tests::manifest::Pod;

use crate::detached_pod::Detached;
use crate::host::{PATIENCE, alone, container, host, processes, shell_pod, wait_until};

pub fn kill(pid: i32) {
    // SAFETY: kill(2) takes integers. The PID was found by the victim's command line a moment ago.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Kills all processes of Pods, and waits until their VMs are gone.
pub fn kill_everything() {
    const VM: &[&str] = &["microkube-vmm", "supervised"];
    for words in [&["supervise"][..], VM, &["microkube-file-server"]] {
        processes(words).into_iter().for_each(kill);
    }
    wait_until("the VMs are gone", || processes(VM).is_empty());
}

fn kill_only(words: &[&str]) {
    let found = processes(words);
    assert_eq!(found.len(), 1, "{words:?}");
    kill(found[0]);
    wait_until("it is gone", || !processes(words).contains(&found[0]));
}

/// Asserts that the log counts from 0 without gaps or repetitions.
fn assert_counts(log: &str) {
    for (number, line) in log.lines().enumerate() {
        assert_eq!(line, number.to_string(), "in {log}");
    }
}

/// A script that counts, and runs `pause` after each number.
fn count(pause: &str) -> String {
    format!("n=0; trap 'exit 0' TERM; while :; do echo $n; {pause}; n=$((n+1)); done")
}

#[test]
fn a_pod_whose_supervisor_was_killed_recovers_without_restarts_and_with_exact_output() {
    let _alone = alone();
    let before = host().leftovers();
    // Faster than a terminal could show it, and long enough for a log rotation.
    let script = count("test $((n % 500)) != 0 || sleep 0.1");
    let pod = Detached::start(&shell_pod("survivor", &script));
    pod.wait_ready();
    for _ in 0..3 {
        pod.wait_for_log("main", "\n1000\n");
        kill_only(&["supervise"]);
        host().succeed(["recover"]);
        pod.wait_ready();
        let count = pod.logs("main").lines().count();
        wait_until("it keeps counting", || pod.logs("main").lines().count() > count + 100);
    }
    assert_counts(&pod.logs("main"));
    let status = pod.container("main");
    assert_eq!(status["restartCount"], 0, "{status}");
    assert!(
        status["lastState"].as_object().is_none_or(serde_json::Map::is_empty),
        "{status}"
    );
    assert_eq!(
        host().succeed(["exec", "survivor", "--", "echo", "reached"]),
        "reached\n"
    );
    pod.delete();
    host().assert_nothing_left_since(&before);
}

/// Connects to a port of the Pod once a process listens there.
fn connect(pod: &Detached, port: u16) -> TcpStream {
    let address = format!("{}:{port}", pod.get()["status"]["podIP"].as_str().unwrap());
    let mut stream = None;
    wait_until(&format!("{address} can be connected to"), || {
        stream = TcpStream::connect(&address).ok();
        stream.is_some()
    });
    stream.unwrap()
}

#[test]
fn a_pod_that_ended_without_a_supervisor_keeps_its_exit_code_and_all_output() {
    let _alone = alone();
    // Closing one connection ends the container, and the other connection shows that it has ended, because nothing else
    // reaches it without a supervisor. The kernel closes the descendant's connection when the container's main process
    // is gone.
    let script = "sleep 100000 | nc -l -p 7001 & echo before; nc -l -p 7000 < /dev/null; echo after; exit 9";
    let pod = Detached::start(&shell_pod("unheard", script));
    pod.wait_for_log("main", "before");
    let mut lives = connect(&pod, 7001);
    let end = connect(&pod, 7000);
    kill_only(&["supervise"]);
    drop(end);
    lives.set_read_timeout(Some(PATIENCE)).unwrap();
    match lives.read(&mut [0]) {
        Ok(count) => assert_eq!(count, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    host().succeed(["recover"]);
    pod.wait_phase("Failed");
    assert_eq!(pod.logs("main"), "before\nafter\n");
    assert_eq!(pod.container("main")["state"]["terminated"]["exitCode"], 9);
}

#[test]
fn a_pod_whose_vm_was_killed_restarts_its_lost_containers() {
    let _alone = alone();
    let before = host().leftovers();
    let pod = Detached::start(&shell_pod("reborn", &count("sleep 0.1")).restart_policy("Always"));
    pod.wait_ready();
    let address = pod.get()["status"]["podIP"].clone();
    kill_only(&["microkube-vmm", "supervised", "--pod"]);
    pod.wait("jsonpath={.status.containerStatuses[0].restartCount}=1");
    pod.wait_ready();
    let status = pod.container("main");
    let lost = &status["lastState"]["terminated"];
    assert_eq!(
        (&lost["exitCode"], &lost["reason"]),
        (&137.into(), &"ContainerStatusUnknown".into()),
        "{status}"
    );
    assert_eq!(pod.get()["status"]["podIP"], address);
    // Both at once, as in a power failure of the host.
    for pid in [processes(&["supervise"]), processes(&["microkube-vmm", "supervised"])].concat() {
        kill(pid);
    }
    host().succeed(["recover"]);
    pod.wait("jsonpath={.status.containerStatuses[0].restartCount}=2");
    pod.wait_ready();
    pod.delete();
    host().assert_nothing_left_since(&before);
}

#[test]
fn a_detached_pod_whose_guest_panicked_is_restarted_with_its_volumes() {
    let _alone = alone();
    let before = host().leftovers();
    // A privileged container controls its VM, agent included: it makes the kernel panic when memory runs out, and then
    // exhausts it.
    let script = "if test -e /data/panicked; then echo back; exec sleep 100000; fi; \
        touch /data/panicked; sync; echo 2 > /proc/sys/vm/panic_on_oom; tail /dev/zero";
    let main = container("main", script).privileged().limit("memory", "32Mi");
    let pod = Detached::start(
        &Pod::named("panicking")
            .restart_policy("Always")
            .empty_dir("data")
            .container(main.mount("data", "/data")),
    );
    pod.wait_for_log("main", "back");
    let status = pod.container("main");
    assert_eq!(status["restartCount"], 1, "{status}");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status}");
    pod.delete();
    host().assert_nothing_left_since(&before);
}

#[test]
fn an_interrupted_termination_is_restarted_and_completed() {
    let _alone = alone();
    let before = host().leftovers();
    let script = "trap 'echo term' TERM; echo ready; while :; do sleep 0.1; done";
    let pod = Detached::start(&shell_pod("stubborn", script).grace_period_seconds(4));
    pod.wait_ready();
    let mut follow = host().begin(["logs", "-f", "stubborn"]);
    host().succeed(["delete", "pod", "stubborn", "--wait=false"]);
    follow.wait_for("term");
    let table = host().succeed(["get", "pod", "stubborn"]);
    assert!(table.contains("Terminating"), "{table}");
    kill_only(&["supervise"]);
    let begun_again = Instant::now();
    host().succeed(["recover"]);
    host().succeed(["wait", "--for=delete", "pod/stubborn", "--timeout=60s"]);
    // The stop signal is sent again, with the whole grace period.
    assert!(begun_again.elapsed() >= Duration::from_secs(4));
    assert_eq!(follow.finish().success(), "ready\nterm\nterm\n");
    host().assert_nothing_left_since(&before);
}

/// Writes numbered, synced files whose lines are the file's name, with many other changes to files and directories in
/// between. First it reports the files of a previous VM: `found ALL damaged COUNT last NUMBER`.
const WRITER: &str = r#"
cd /data; mkdir -p kept churn
all=0; damaged=0
for file in kept/* churn/*/*; do
    [ -f "$file" ] || continue
    all=$((all+1)); name=${file##*/}; foreign=$(grep -vxc "$name" "$file")
    # What was not synced may be cut off anywhere.
    case $file in
        kept/*) [ "$foreign $(wc -l < "$file")" = "0 500" ] ;;
        *) [ "$foreign" = 0 ] || { [ "$foreign" = 1 ] && [ "$(tail -c 1 "$file")" != "" ]; } ;;
    esac || { damaged=$((damaged+1)); echo "damaged: $file"; }
done
last=$(ls kept | sort -n | tail -n 1)
echo "found $all damaged $damaged last ${last:-10000}"
rm -rf churn/*
(i=0; while :; do
    i=$((i+1)); dir=churn/$((i%20)); rm -rf $dir; mkdir $dir
    for file in 1 2 3; do yes $i-$file | head -n $((i%9*200+10)) > $dir/$i-$file; done
done) &
number=${last:-10000}
while :; do
    number=$((number+1)); yes $number | head -n 500 > kept/$number; sync kept/$number; echo "kept $number"
done
"#;

fn scratch_disk() -> PathBuf {
    let pods = std::fs::read_dir(host().state_dir.join("pods")).unwrap();
    let disks: Vec<PathBuf> = pods
        .map(|pod| pod.unwrap().path().join("scratch.img"))
        .filter(|disk| disk.exists())
        .collect();
    assert_eq!(disks.len(), 1, "{disks:?}");
    disks[0].clone()
}

/// Runs e2fsck; returns its exit code and output.
fn e2fsck(flags: &str, disk: &Path) -> (i32, String) {
    let output = Command::new("/sbin/e2fsck").arg(flags).arg(disk).output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn volumes_are_intact_with_all_synced_data_after_the_vm_died_while_writing() {
    let _alone = alone();
    let before = host().leftovers();
    let pod = Detached::start(
        &Pod::named("writing")
            .restart_policy("Always")
            .empty_dir("data")
            .container(container("main", WRITER).mount("data", "/data")),
    );
    pod.wait_for_log("main", "kept 10040");
    // Both at once, and for the first time in the Pod's life, as in a power failure of the host.
    for pid in [processes(&["supervise"]), processes(&["microkube-vmm", "supervised"])].concat() {
        kill(pid);
    }
    wait_until("the VM is gone", || {
        processes(&["microkube-vmm", "supervised"]).is_empty()
    });
    // The disk as the guest kernel will find it: a file system that needs only its journal replayed.
    let copy = host().state_dir.join("copy.img");
    let copied = Command::new("cp")
        .arg("--sparse=always")
        .arg(scratch_disk())
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let (code, said) = e2fsck("-p", &copy);
    assert!(code <= 1, "{code}: {said}");
    let (code, said) = e2fsck("-fn", &copy);
    assert_eq!(code, 0, "{said}");
    std::fs::remove_file(&copy).unwrap();

    host().succeed(["recover"]);
    pod.wait("jsonpath={.status.containerStatuses[0].restartCount}=1");
    pod.wait_ready();
    pod.wait_for_log("main", "found ");
    let log = pod.logs("main");
    let found = log.lines().find(|line| line.starts_with("found ")).unwrap();
    assert!(found.contains(" damaged 0 "), "{log}");
    let kept = last_number(&host().succeed(["logs", "writing", "-p"]), "kept ").expect("it kept something");
    let (_, last) = found.rsplit_once(' ').unwrap();
    assert!(last.parse::<u64>().unwrap() >= kept, "{kept} was synced: {found}");
    let reasons = host().event_reasons("writing");
    assert!(
        !reasons.contains(&"FailedCreatePodSandBox".to_owned()),
        "one other VM is enough: {reasons:?}"
    );
    pod.delete();
    host().assert_nothing_left_since(&before);
}
