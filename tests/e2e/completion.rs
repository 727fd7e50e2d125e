//! Completion of the command line, invoked like bash does.

use std::process::Command;

use microkube_tests::built::microkube_program;
use microkube_tests::manifest::{Container, Pod, documents};
use serde_json::json;

use crate::host::{alone, host};
use crate::objects::{Temporary, config_map, file_of, secret};

/// Loads the script, and calls its function with the words after the program's directory.
const BASH: &str = r#"
PATH=$1:$PATH
shift
eval "$(microkube completion bash)"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
"$(complete -p microkube | sed 's/.* -F \([^ ]*\).*/\1/')" microkube "${COMP_WORDS[COMP_CWORD]}"
[ ${#COMPREPLY[@]} = 0 ] || printf '%s\n' "${COMPREPLY[@]}"
"#;

/// The completions that bash offers for the last word.
fn offered(line: &str) -> Vec<String> {
    let program = microkube_program();
    let output = Command::new("bash")
        .args(["--norc", "-c", BASH, "bash"])
        .arg(program.parent().unwrap())
        .args(line.split(' '))
        // Do not read the host's configuration file.
        .env("MICROKUBE_CONFIG", "")
        .env("MICROKUBE_STATE_DIR", &host().state_dir)
        .env("MICROKUBE_RUN_DIR", &host().run_dir)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_names_of_all_kinds_after_their_types() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/complete-a", "configmap/complete-b", "secret/complete-c"]);
    let objects = [
        config_map("complete-a", &json!({})),
        config_map("complete-b", &json!({})),
        secret("complete-c", &json!({})),
    ];
    host().succeed(["apply", "-f", &file_of("completed.json", &objects)]);
    for (line, expected) in [
        ("microkube get configm", &["configmaps"][..]),
        ("microkube get configmaps complete-", &["complete-a", "complete-b"]),
        (
            "microkube describe cm,secrets complete-",
            &["complete-a", "complete-b", "complete-c"],
        ),
        ("microkube delete secret/compl", &["secret/complete-c"]),
        ("microkube get cm -n nowhere complete-", &[]),
        ("microkube get pods -n defau", &["default"]),
    ] {
        assert_eq!(offered(line), expected, "{line}");
    }
}

#[test]
fn bash_completes_pods_and_the_containers_of_the_named_pod() {
    let _alone = alone();
    // Without its image the Pod needs no virtual machine.
    let container = |name: &str| Container::new(name, "nowhere").pull_policy("Never");
    let pod = |name: &str| Pod::named(name).restart_policy("Always");
    let pods = [
        pod("complete-a")
            .container(container("main"))
            .container(container("sidecar")),
        pod("complete-b").container(container("other")),
    ];
    let path = host().file("completed.yaml", &documents(&pods));
    let path = path.to_str().unwrap();
    host().succeed(["apply", "-f", path]);
    let lines = [
        "microkube logs compl",
        "microkube exec pod/complete-b",
        "microkube logs complete-a -c ",
        "microkube attach complete-b -c ",
        "microkube exec complete-a -c s",
        "microkube cp complete-a",
        "microkube top pod complete-b",
    ];
    let found = lines.map(offered);
    host().succeed(["delete", "-f", path, "--now"]);
    let expected: [&[&str]; 7] = [
        &["complete-a", "complete-b"],
        &["pod/complete-b"],
        &["main", "sidecar"],
        &["other"],
        &["sidecar"],
        &["complete-a:"],
        &["complete-b"],
    ];
    assert_eq!(found, expected);
}
