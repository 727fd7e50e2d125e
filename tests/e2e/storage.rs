//! Files under load: a database, many small files, and files that Pods and the host change at the same time.

use std::fs;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;

use microkube_tests::database::{self, assert_found, last_committed};
use microkube_tests::manifest::{Container, Pod};
use microkube_tests::random_life::{Dice, number};

use crate::claims::Claim;
use crate::detached_pod::Detached;
use crate::host::{alone, host, image, wait_until};
use crate::host_paths::Directory;
use crate::recovery::kill_everything;

/// `make soak` sets a larger one.
fn scale() -> u64 {
    number("MICROKUBE_STORAGE_SCALE").unwrap_or(1)
}

#[track_caller]
fn wait_succeeded(pod: &Detached) {
    let pod = format!("pod/{}", pod.0);
    let timeout = format!("--timeout={}s", 120 * scale());
    host().succeed(["wait", "--for=jsonpath={.status.phase}=Succeeded", &pod, &timeout]);
}

fn database(name: &str, claim: &Claim) -> Detached {
    let main = Container::new("main", &image("database")).shell(database::WRITER);
    Detached::start(
        &Pod::named(name)
            .restart_policy("Always")
            .container(main.mount("data", "/data"))
            .volume(claim.volume()),
    )
}

#[test]
fn a_database_on_a_claim_keeps_what_it_committed_through_kills_and_in_the_next_pod() {
    let _alone = alone();
    let claim = Claim::new("numbers", "ReadWriteOncePod", "64Mi");
    let first = database("first-database", &claim);
    for round in 1..=scale().min(20) {
        // There is no log while its VM starts.
        let log = || host().output(["logs", "first-database"]).stdout;
        wait_until("it has committed some numbers", || last_committed(&log()) >= 10 * round);
        kill_everything();
        host().succeed(["recover"]);
        wait_until("it runs in another VM", || {
            let main = first.container("main");
            main["restartCount"].as_u64() >= Some(round) && main["state"]["running"].is_object()
        });
        first.wait_for_log("main", "committed ");
        let before = host().succeed(["logs", "first-database", "-p"]);
        assert_found(&first.logs("main"), last_committed(&before));
    }

    // The next Pod waits until the first one has ended, and goes on with the same database.
    let second = database("second-database", &claim);
    let committed = last_committed(&first.logs("main"));
    first.delete();
    second.wait_for_log("main", "committed ");
    assert_found(&second.logs("main"), committed);
    second.delete();
}

/// Moves files between two directories and counts under a lock, as many times as its argument says.
const STORM: &str = r#"use strict; use Fcntl ':flock'; use Errno;
chdir '/data' or die;
for my $round (1..$ARGV[0]) {
    my $file = int(rand 8);
    my @ends = ("left/$file", "right/$file");
    @ends = reverse @ends if rand() < 0.5;
    rename($ends[0], $ends[1]) or $!{ENOENT} or die "rename: $!";
    open my $counter, '+<', 'counter' or die "open: $!";
    flock $counter, LOCK_EX or die "flock: $!";
    my $count = <$counter>;
    seek $counter, 0, 0;
    printf $counter "%08d\n", $count + 1;
    close $counter or die "close: $!";
}
print "storm is over\n";"#;

#[test]
fn files_that_two_pods_and_the_host_rename_and_lock_are_neither_lost_nor_doubled() {
    let _alone = alone();
    let rounds = 300 * scale();
    let shared = Directory::new();
    shared.write("counter", "00000000\n");
    for side in ["left", "right"] {
        fs::create_dir(shared.path(side)).unwrap();
    }
    for file in 0..8 {
        shared.write(&format!("left/{file}"), &format!("{file}\n"));
    }
    let pod = |name: &str| {
        let arguments = rounds.to_string();
        let main = Container::new("main", &image("debian-tools"))
            .command(&["perl", "-e", STORM, &arguments])
            .mount("data", "/data");
        Detached::start(&Pod::named(name).container(main).volume(shared.volume("data", "", "")))
    };
    let pods = [pod("first-storm"), pod("second-storm")];
    let mut dice = Dice::seeded_by("MICROKUBE_STORM_SEED");
    let mut counter = fs::File::options()
        .read(true)
        .write(true)
        .open(shared.path("counter"))
        .unwrap();
    for _ in 0..rounds {
        let file = dice.roll(8);
        let mut ends = [
            shared.path(&format!("left/{file}")),
            shared.path(&format!("right/{file}")),
        ];
        if dice.roll(2) == 0 {
            ends.reverse();
        }
        if let Err(error) = fs::rename(&ends[0], &ends[1]) {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        }
        counter.lock().unwrap();
        counter.rewind().unwrap();
        let mut text = String::new();
        counter.read_to_string(&mut text).unwrap();
        let count: u64 = text.trim().parse().unwrap();
        counter.rewind().unwrap();
        counter.write_all(format!("{:08}\n", count + 1).as_bytes()).unwrap();
        counter.unlock().unwrap();
    }
    for pod in &pods {
        wait_succeeded(pod);
        assert_eq!(pod.logs("main"), "storm is over\n");
    }
    assert_eq!(shared.read("counter"), format!("{:08}\n", 3 * rounds));
    for file in 0..8 {
        let found: Vec<String> = ["left", "right"]
            .iter()
            .filter_map(|side| fs::read_to_string(shared.path(&format!("{side}/{file}"))).ok())
            .collect();
        assert_eq!(found, [format!("{file}\n")]);
    }
    pods.iter().for_each(Detached::delete);
}

/// Creates as many files as its argument says, 500 in a directory, and checks what it finds.
const SMALL_FILES: &str = r#"use strict;
chdir '/data' or die;
my $files = $ARGV[0];
for my $file (0..$files - 1) {
    my $directory = int($file / 500);
    mkdir $directory unless $file % 500;
    open my $out, '>', "$directory/$file" or die "open $file: $!";
    print $out "content of $file\n";
    close $out or die "close: $!";
}
my $found = 0;
for my $directory (glob '*') {
    opendir my $list, $directory or die "opendir: $!";
    for my $file (grep { !/^\./ } readdir $list) {
        open my $in, '<', "$directory/$file" or die "open: $!";
        <$in> eq "content of $file\n" or die "$file has other content";
        $found++;
    }
}
print "found $found\n";"#;

#[test]
fn many_small_files_have_the_same_names_and_content_on_both_sides() {
    let _alone = alone();
    let files = 1000 * scale();
    let shared = Directory::new();
    let arguments = files.to_string();
    let main = Container::new("main", &image("debian-tools"))
        .command(&["perl", "-e", SMALL_FILES, &arguments])
        .mount("data", "/data");
    let pod = Pod::named("small-files")
        .container(main)
        .volume(shared.volume("data", "", ""));
    let pod = Detached::start(&pod);
    wait_succeeded(&pod);
    assert_eq!(pod.logs("main"), format!("found {files}\n"));
    let mut found = 0;
    for directory in fs::read_dir(shared.path("")).unwrap() {
        for file in fs::read_dir(directory.unwrap().path()).unwrap() {
            let file = file.unwrap();
            let expected = [b"content of ", file.file_name().as_bytes(), b"\n"].concat();
            assert_eq!(fs::read(file.path()).unwrap(), expected, "{file:?}");
            found += 1;
        }
    }
    assert_eq!(found, files);
    pod.delete();
}
