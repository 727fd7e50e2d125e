//! Several Pods from one command line.

use microkube_tests::manifest::documents;

use crate::host::{alone, host, shell_pod, wait_until};

const UNTIL_TERMINATED: &str = "trap 'echo ended; exit 3' TERM; echo up; while :; do sleep 0.1; done";

#[test]
fn several_pods_run_under_their_names_and_the_first_failure_counts() {
    let _alone = alone();
    let before = host().leftovers();
    let pods = [
        shell_pod("one", "echo first; until [ -e /tmp/end ]; do sleep 0.1; done; exit 4"),
        shell_pod("two", "echo second >&2; exit 7"),
    ];
    let mut running = host().start(documents(&pods));
    running.wait_for("[two/main] second");
    wait_until("only the first Pod remains", || {
        host().output(["get", "pods", "-o", "name"]).stdout == "pod/one\n"
    });
    wait_until("the first Pod gets the file that ends it", || {
        host().output(["exec", "one", "--", "touch", "/tmp/end"]).code() == 0
    });
    let finished = running.finish();
    assert_eq!(finished.code(), 7, "{finished:?}");
    assert!(finished.stdout.contains("[one/main] first\n"), "{finished:?}");
    assert!(finished.stderr.contains("[two/main] second\n"), "{finished:?}");
    host().assert_nothing_left_since(&before);
}

#[test]
fn an_interrupt_ends_all_pods() {
    let _alone = alone();
    let before = host().leftovers();
    let pods = [shell_pod("one", UNTIL_TERMINATED), shell_pod("two", UNTIL_TERMINATED)];
    let mut running = host().start(documents(&pods));
    // Whichever container is first.
    running.wait_for("/main] up");
    running.wait_for("/main] up");
    running.signal(libc::SIGINT);
    let finished = running.finish();
    assert_eq!(finished.code(), 3, "{finished:?}");
    for name in ["one", "two"] {
        assert!(
            finished.stdout.contains(&format!("[{name}/main] ended\n")),
            "{finished:?}"
        );
    }
    host().assert_nothing_left_since(&before);
}

#[test]
fn the_pods_of_a_directory_are_run() {
    let _alone = alone();
    let before = host().leftovers();
    let dir = tempfile::tempdir_in(&host().state_dir).unwrap();
    std::fs::write(dir.path().join("a.yaml"), shell_pod("one", "echo first").to_string()).unwrap();
    std::fs::write(dir.path().join("b.yml"), shell_pod("two", "echo second").to_string()).unwrap();
    std::fs::write(dir.path().join("notes.txt"), "no manifest").unwrap();
    let stdout = host().output(["run".as_ref(), dir.path().as_os_str()]).success();
    assert!(
        stdout.contains("[one/main] first\n") && stdout.contains("[two/main] second\n"),
        "{stdout}"
    );
    drop(dir);
    host().assert_nothing_left_since(&before);
}
