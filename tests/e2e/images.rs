//! Images: from the registry, from a file, by policy.

use microkube_tests::manifest::{Container, Pod};

use crate::host::{alone, host, image, image_layout};

#[test]
fn images_are_pulled_listed_and_removed() {
    let _alone = alone();
    let reference = image("small");
    host().succeed(["image", "pull", &reference]);
    let listed = host().succeed(["image", "ls"]);
    assert!(listed.lines().next().unwrap().starts_with("REPOSITORY"), "{listed}");
    assert!(listed.contains(reference.rsplit_once(':').unwrap().0), "{listed}");
    host().succeed(["image", "rm", &reference]);
    let listed = host().succeed(["image", "ls"]);
    assert!(!listed.contains("test/small"), "{listed}");
    let finished = host().output(["image", "rm", &reference]);
    assert_eq!(finished.code(), 1, "{finished:?}");
}

#[test]
fn pull_policy_never_runs_only_present_images() {
    let _alone = alone();
    let main = Container::new("main", &image("small")).pull_policy("Never");
    let pod = Pod::named("never").container(main.shell("echo ran"));
    let _ = host().output(["image", "rm", &image("small")]);
    let finished = host().run(&pod);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(
        finished.stderr.contains("is not present with pull policy of Never"),
        "{finished:?}"
    );
    host().succeed(["image", "pull", &image("small")]);
    assert_eq!(host().run(&pod).success(), "ran\n");
}

#[test]
fn an_image_is_loaded_from_an_archive() {
    let _alone = alone();
    let archive = image_layout("busybox").with_extension("oci.tar");
    host().succeed(["image", "load", "--name", "loaded:v1", archive.to_str().unwrap()]);
    let main = Container::new("main", "loaded:v1").shell("echo loaded");
    let pod = Pod::named("from-archive").container(main);
    assert_eq!(host().run(pod).success(), "loaded\n");
}

#[test]
fn an_image_of_500_megabytes_is_pulled_and_read_back_unchanged() {
    let _alone = alone();
    let script = "cd /data && du -sm . | cut -f 1 && md5sum -c MD5SUMS";
    let main = Container::new("main", &image("large")).shell(script);
    let text = host().run(Pod::named("large").container(main)).success();
    let mut lines = text.lines();
    let mebibytes: u64 = lines.next().unwrap().parse().unwrap();
    assert!(mebibytes >= 470, "{text}");
    let files: Vec<_> = lines.collect();
    assert!(
        !files.is_empty() && files.iter().all(|line| line.ends_with(": OK")),
        "{text}"
    );
}

#[test]
fn a_missing_image_is_an_error_that_names_it() {
    let _alone = alone();
    let before = host().leftovers();
    let main = Container::new("main", &image("no-such-image")).shell("true");
    let finished = host().run(Pod::named("missing").container(main));
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("test/no-such-image"), "{finished:?}");
    assert!(finished.stderr.contains("does not have this image"), "{finished:?}");
    host().assert_nothing_left_since(&before);
}

#[test]
fn an_unreachable_registry_is_an_error_that_names_it() {
    let _alone = alone();
    let finished = host().output(["image", "pull", "127.0.0.1:1/test/busybox:latest"]);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("127.0.0.1:1"), "{finished:?}");
}
