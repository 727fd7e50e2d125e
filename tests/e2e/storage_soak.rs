//! What takes minutes: `make soak` runs these, with the image `storage-tools`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use microkube_tests::built::source_tree;
use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::claims::Claim;
use crate::detached_pod::Detached;
use crate::host::{alone, image};
use crate::host_paths::Directory;

/// Longer than any script takes, even in the emulated host.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Runs a script in a container with a volume at /data and the programs of `tests/pjdfstest.sh` at /tools; returns its
/// output.
#[track_caller]
fn run(name: &str, volume: Value, script: &str) -> String {
    let main = Container::new("main", &image("storage-tools"))
        .shell(script)
        .limit("memory", "512Mi")
        .mount("data", "/data")
        .mount("tools", "/tools");
    let tools = json!({ "name": "tools", "hostPath": { "path": tools(), "type": "DirectoryOrCreate" } });
    let pod = Detached::start(&Pod::named(name).container(main).volume(volume).volume(tools));
    let start = Instant::now();
    let phase = loop {
        let phase = pod.get()["status"]["phase"].clone();
        if phase == "Succeeded" || phase == "Failed" {
            break phase;
        }
        assert!(start.elapsed() < PATIENCE, "{name} does not end");
        std::thread::sleep(Duration::from_secs(1));
    };
    let output = pod.logs("main");
    assert_eq!(phase, "Succeeded", "{output}");
    pod.delete();
    output
}

/// Where `tests/pjdfstest.sh` builds pjdfstest.
fn tools() -> PathBuf {
    source_tree().join("build/pjdfstest")
}

const FIO: &str = "set -e
check() { fio --directory=/data --bssplit=4k/60:64k/30:128k/10 --size=8m --numjobs=2 --verify=crc32c --verify_fatal=1 \
    --randrepeat=0 --group_reporting --minimal \"$@\" > /tmp/result || { cat /tmp/result; exit 1; }; rm /data/*.0; }
check --name=buffered --rw=randwrite --fsync=64
check --name=direct --rw=randwrite --direct=1
check --name=mapped --rw=randwrite --ioengine=mmap --bs=4k
check --name=mixed --rw=randrw --ioengine=sync --fdatasync=16
echo verified";

#[test]
#[ignore = "takes minutes: make soak"]
fn fio_reads_what_it_wrote_on_scratch_claims_and_directories_of_the_host() {
    let _alone = alone();
    let shared = Directory::new();
    let claim = Claim::new("verified", "ReadWriteOnce", "512Mi");
    for (name, volume) in [
        ("fio-scratch", json!({ "name": "data", "emptyDir": {} })),
        ("fio-claim", claim.volume()),
        ("fio-directory", shared.volume("data", "", "")),
    ] {
        assert_eq!(run(name, volume, FIO), "verified\n");
    }
}

const BUILD: &str = "set -e
cd /data
git init --quiet source
cd source
git config user.name test
git config user.email test@example.org
for n in $(seq 1 100); do echo \"int f$n(void) { return $n; }\" > f$n.c; done
{
    for n in $(seq 1 100); do echo \"int f$n(void);\"; done
    echo '#include <stdio.h>'
    echo 'int main(void) { int sum = 0;'
    for n in $(seq 1 100); do echo \"sum += f$n();\"; done
    printf '%s\\n' 'printf(\"%d\\n\", sum); return 0; }'
} > main.c
printf 'objects := $(patsubst %%.c,%%.o,$(wildcard *.c))\\nsum: $(objects)\\n\\t$(CC) -o $@ $^\\n' > Makefile
printf '*.o\\nsum\\n' > .gitignore
git add .
git commit --quiet --message sources
git clone --quiet . ../clone
cd ../clone
# Times of files are the host's, and its clock may be ahead by some milliseconds, about which make warns.
make --silent --jobs=2 2> /dev/null
./sum
git status --porcelain
git fsck --strict --no-progress
git gc --quiet
touch f1.c
make --silent sum 2> /dev/null
make --question sum 2> /dev/null
echo built";

#[test]
#[ignore = "takes minutes: make soak"]
fn a_repository_is_cloned_and_built_on_a_directory_of_the_host() {
    let _alone = alone();
    let shared = Directory::new();
    let output = run("build", shared.volume("data", "", ""), BUILD);
    assert_eq!(output, "5050\nbuilt\n");
}

/// Runs pjdfstest; returns the names of the tests that failed, and how many passed.
fn pjdfstest(name: &str, volume: Value) -> (BTreeSet<String>, usize) {
    let script = "cd /data; /tools/bin/pjdfstest -c /tools/config.toml -p /data || true";
    let output = run(name, volume, script);
    let with = |result: &str| {
        let lines = output.lines().filter_map(|line| line.strip_suffix(result));
        lines.map(|line| line.trim().to_owned()).collect::<BTreeSet<_>>()
    };
    (with("FAILED"), with("ok").len())
}

#[test]
#[ignore = "takes minutes: make soak"]
fn shares_behave_as_posix_and_the_guests_own_file_system_do() {
    let _alone = alone();
    let shared = Directory::new();
    let claim = Claim::new("posix", "ReadWriteOnce", "64Mi");
    let (own_failed, own_passed) = pjdfstest("posix-scratch", json!({ "name": "data", "emptyDir": {} }));
    assert!(own_passed > 200, "{own_passed} passed");
    for (name, volume) in [
        ("posix-directory", shared.volume("data", "", "")),
        ("posix-claim", claim.volume()),
    ] {
        let (failed, passed) = pjdfstest(name, volume);
        // Shares have no device nodes.
        let of_devices = |test: &str| test.ends_with("::block") || test.ends_with("::char");
        let differences: Vec<_> = failed
            .difference(&own_failed)
            .filter(|test| !of_devices(test))
            .collect();
        assert!(
            differences.is_empty(),
            "{name}: {passed} passed, different from ext4: {differences:#?}"
        );
        assert!(passed > 200, "{name}: {passed} passed");
    }
}
