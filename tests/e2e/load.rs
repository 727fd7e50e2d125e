//! Load: many Pods, many bytes, several processors.

use std::io::Read;
use std::process::Stdio;

use microkube_tests::manifest::Pod;

use crate::host::{Running, alone, container, host, shell_pod};

#[test]
fn ten_pods_run_at_once() {
    let _alone = alone();
    let before = host().leftovers();
    let mut pods: Vec<Running> = (0..10)
        .map(|n| {
            host().start(shell_pod(
                &format!("pod-{n}"),
                "echo ready; trap 'exit 0' TERM; while :; do sleep 0.2; done",
            ))
        })
        .collect();
    for pod in &mut pods {
        pod.wait_for("ready");
    }
    for pod in &pods {
        pod.signal(libc::SIGTERM);
    }
    for pod in pods {
        pod.finish().success();
    }
    host().assert_nothing_left_since(&before);
}

#[test]
fn both_cpus_of_a_pod_are_used() {
    let _alone = alone();
    // The emulated host has one processor, so no time is saved: the test only asserts that both were used.
    let script = "busy() { grep \"^cpu$1 \" /proc/stat | cut -d ' ' -f 2; }; first=$(busy 0); second=$(busy 1); nproc; \
        for n in 1 2; do (i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done) & done; wait; \
        for busier in $(($(busy 0) - first)) $(($(busy 1) - second)); do test $busier -gt 0 && echo worked; done";
    let main = container("main", script).limit("cpu", "2");
    let text = host().run(Pod::named("two-cpus").container(main)).success();
    assert_eq!(text, "2\nworked\nworked\n");
}

#[test]
fn a_container_writes_a_gigabyte_to_its_root() {
    let _alone = alone();
    let script = "dd if=/dev/zero of=/big bs=1M count=1024 2> /dev/null && sync && stat -c %s /big && rm /big";
    assert_eq!(host().run(shell_pod("writer", script)).success(), "1073741824\n");
}

#[test]
fn a_hundred_megabytes_of_output_arrive_complete_and_in_order() {
    const TOTAL: usize = 100 << 20;
    const SMALL: usize = 4 << 20;
    const LARGE: usize = 1 << 20;
    let _alone = alone();
    let line = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+\n";
    // Small writes at first, which each pass every process on the way, then large ones: with small ones only, the test
    // would measure context switches.
    let script = format!(
        "lines() {{ yes {} | head -c $1; }}; lines {SMALL}; lines {LARGE} > /large; \
            i={SMALL}; while [ $i -lt {TOTAL} ]; do cat /large; i=$((i+{LARGE})); done",
        String::from_utf8_lossy(line).trim_end()
    );
    let manifest = host().manifest(&shell_pod("output", &script));
    let mut command = host().microkube(["run", manifest.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
    let expected = line.repeat(buffer.len() / line.len() + 1);
    loop {
        let length = stdout.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        let (found, expected) = (&buffer[..length], &expected[total % line.len()..][..length]);
        // As a whole, because a byte-by-byte comparison would take longer than everything else.
        if found != expected {
            let wrong = found
                .iter()
                .zip(expected)
                .position(|(found, expected)| found != expected);
            panic!("byte {}", total + wrong.unwrap());
        }
        total += length;
    }
    assert_eq!(total, TOTAL);
    assert!(child.wait().unwrap().success());
}
