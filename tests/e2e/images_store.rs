//! User operations on a host's images while Pods use them.

use std::io::Write;
use std::process::Stdio;

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::host::{Running, alone, host, image};
use crate::layered_image::{append, layout_of};

#[test]
fn an_image_in_use_is_neither_removed_nor_pruned() {
    let _alone = alone();
    // Older than all others, so that pruning can be limited to it.
    let layout = layout_of("antique", |config, layers| {
        config["created"] = json!("1970-01-02T00:00:00Z");
        layers
    });
    let reference = "docker.io/library/antique:v1";
    let load = || host().succeed(["image", "load", "--name", reference, layout.to_str().unwrap()]);
    let prune = || host().succeed(["image", "prune", "--all", "--filter", "until=1971-01-01"]);
    let is_listed = || host().succeed(["image", "ls"]).contains("antique");
    load();
    let main = Container::new("main", reference).shell("trap 'exit 0' TERM; echo started; while :; do sleep 0.1; done");
    let mut pod = host().start(Pod::named("user").container(main));
    pod.wait_for("started");
    let listed: Value = serde_json::from_str(&host().succeed(["image", "ls", "--format", "json"])).unwrap();
    let antique = listed
        .as_array()
        .unwrap()
        .iter()
        .find(|entry| entry["name"] == reference)
        .unwrap();
    assert_eq!(antique["usedBy"], json!(["default/user"]), "{antique}");
    let refused = host().output(["image", "rm", reference]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("used by Pod default/user"), "{refused:?}");
    let pruned = prune();
    assert!(!pruned.contains("removed"), "{pruned}");
    assert!(is_listed());
    // With force it is removed, and the Pod stays.
    host().succeed(["image", "rm", "--force", reference]);
    assert!(!is_listed());
    assert!(pod.child.try_wait().unwrap().is_none());
    pod.signal(libc::SIGTERM);
    pod.finish().success();
    // Without the Pod, no force is needed.
    load();
    let pruned = prune();
    assert!(pruned.starts_with(&format!("removed {reference}\nfreed ")), "{pruned}");
    assert!(!is_listed());
}

#[test]
fn images_are_saved_and_loaded_through_pipes() {
    let _alone = alone();
    let reference = image("small");
    host().succeed(["image", "pull", &reference]);
    host().succeed(["image", "tag", &reference, "piped:v1"]);
    let inspect = |name: &str| -> Value { serde_json::from_str(&host().succeed(["image", "inspect", name])).unwrap() };
    let before = inspect("piped:v1");
    assert_eq!(before[0]["RepoTags"].as_array().unwrap().len(), 2);
    let mut save = host().microkube(["image", "save", "piped:v1"]);
    let archive = save.stderr(Stdio::inherit()).output().unwrap();
    assert!(archive.status.success());
    host().succeed(["image", "rm", "--force", before[0]["Id"].as_str().unwrap()]);
    let mut load = host().microkube(["image", "load", "-"]);
    load.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = load.spawn().unwrap();
    running.stdin.take().unwrap().write_all(&archive.stdout).unwrap();
    let loaded = running.wait_with_output().unwrap();
    assert!(loaded.status.success(), "{loaded:?}");
    let after = inspect("piped:v1");
    assert_eq!(
        (&before[0]["Digest"], &before[0]["Id"]),
        (&after[0]["Digest"], &after[0]["Id"])
    );
    assert!(host().succeed(["image", "verify", "piped:v1"]).contains("intact"));
    host().succeed(["image", "rm", "piped:v1"]);
}

#[test]
fn damage_is_found_and_repaired() {
    let _alone = alone();
    host().succeed(["image", "pull", &image("small")]);
    host().succeed(["image", "tag", &image("small"), "damaged:v1"]);
    let inspected: Value = serde_json::from_str(&host().succeed(["image", "inspect", "damaged:v1"])).unwrap();
    let path = inspected[0]["Layers"][0]["Path"].as_str().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, &bytes).unwrap();
    let found = host().output(["image", "verify", "damaged:v1"]);
    assert_eq!(found.code(), 1, "{found:?}");
    assert!(found.stdout.contains("content has changed"), "{found:?}");
    assert!(
        host()
            .succeed(["image", "verify", "--repair", "damaged:v1"])
            .contains("rebuilt")
    );
    assert!(host().succeed(["image", "verify", "damaged:v1"]).contains("intact"));
    host().succeed(["image", "rm", "damaged:v1"]);
}

#[test]
fn an_image_of_thirty_layers_runs_like_one_with_a_single_layer() {
    let _alone = alone();
    let layout = layout_of("many", |_, mut layers| {
        for number in 0..29 {
            let mut tar = tar::Builder::new(Vec::new());
            for path in [format!("own/{number}"), "own/last".to_owned()] {
                append(&mut tar, &path, format!("{number}\n").as_bytes());
            }
            layers.push(tar.into_inner().unwrap());
        }
        layers
    });
    host().succeed(["image", "load", "--name", "many:v1", layout.to_str().unwrap()]);
    let script = "ls /own | wc -l; cat /own/last; cat /own/0 /own/28";
    let main = Container::new("main", "many:v1").shell(script);
    let text = host().run(Pod::named("many").container(main)).success();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["30", "28", "0", "28"]);
    host().succeed(["image", "rm", "many:v1"]);
}

#[test]
fn a_pod_runs_from_a_compressed_image_with_unchanged_content() {
    let _alone = alone();
    let text: String = (0..100_000).map(|line| format!("line {line} of some text\n")).collect();
    let noise: Vec<u8> = (0u32..5000)
        .flat_map(|number| Sha256::digest(number.to_le_bytes()).to_vec())
        .collect();
    let mixed = [text.as_bytes(), &[0; 3_000_000], &noise, b"the end"].concat();
    let layout = layout_of("compressed", |_, layers| {
        // Everything in one layer that no other image has, programs included.
        let mut tar = tar::Builder::new(Vec::new());
        for layer in layers {
            for entry in tar::Archive::new(layer.as_slice()).entries().unwrap().raw(true) {
                let mut entry = entry.unwrap();
                tar.append(&entry.header().clone(), &mut entry).unwrap();
            }
        }
        append(&mut tar, "own/text", text.as_bytes());
        append(&mut tar, "own/mixed", &mixed);
        vec![tar.into_inner().unwrap()]
    });
    let mut load = host().microkube(["image", "load", "--name", "compressed:v1", layout.to_str().unwrap()]);
    load.env("MICROKUBE_LAYER_COMPRESSION", "lz4");
    let loaded = Running::start(load, None).finish();
    assert_eq!(loaded.code(), 0, "{loaded:?}");
    let inspected: Value = serde_json::from_str(&host().succeed(["image", "inspect", "compressed:v1"])).unwrap();
    let layer = std::fs::metadata(inspected[0]["Layers"][0]["Path"].as_str().unwrap()).unwrap();
    assert!(layer.len() < mixed.len() as u64, "{layer:?}");
    let script =
        "sha256sum /own/text /own/mixed; tail -c 7 /own/mixed; dd if=/own/mixed bs=1 skip=5500000 count=9 | wc -c";
    let main = Container::new("main", "compressed:v1").shell(script);
    let text_out = host().run(Pod::named("compressed").container(main)).success();
    let hex = |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
    for expected in [hex(text.as_bytes()), hex(&mixed), "the end9".to_owned()] {
        assert!(text_out.contains(&expected), "{expected}: {text_out}");
    }
    host().succeed(["image", "rm", "compressed:v1"]);
}

#[test]
fn a_pod_may_have_more_layers_than_a_disk_has_partitions() {
    let _alone = alone();
    let empty = || tar::Builder::new(Vec::new()).into_inner().unwrap();
    let images = [("layers-300", 300), ("layers-100-a", 100), ("layers-100-b", 100)];
    let mut pod = Pod::named("layers");
    for (name, count) in images {
        let layout = layout_of(name, |_, mut layers| {
            // Like instructions that change nothing: the same layer again and again.
            layers.push(empty());
            for number in layers.len() + 1..count {
                let mut tar = tar::Builder::new(Vec::new());
                append(&mut tar, &format!("many/{name}-{number}"), b"");
                append(&mut tar, "many/last", number.to_string().as_bytes());
                layers.push(tar.into_inner().unwrap());
            }
            layers.push(empty());
            layers
        });
        let reference = format!("{name}:v1");
        host().succeed(["image", "load", "--name", &reference, layout.to_str().unwrap()]);
        let script =
            "echo $(ls /many | wc -l) $(cat /many/last); echo shown; trap 'exit 0' TERM; while :; do sleep 0.1; done";
        pod = pod.container(Container::new(name, &reference).shell(script));
    }
    let mut running = host().start(pod);
    for _ in images {
        running.wait_for("shown");
    }
    let path = "jsonpath={.status.containerStatuses[0].imageID}";
    let image_id = host().succeed(["get", "pod", "layers", "-o", path]);
    assert!(
        image_id.starts_with("docker.io/library/layers-300@sha256:"),
        "the manifest's digest: {image_id}"
    );
    running.signal(libc::SIGTERM);
    let output = running.finish().stdout;
    // busybox has one layer; of the others, two are empty.
    for (name, count) in images {
        let expected = format!("[{name}] {} {}\n", count - 2, count - 1);
        assert!(output.contains(&expected), "{expected}{output}");
        host().succeed(["image", "rm", &format!("{name}:v1")]);
    }
}

/// Loads an archive that must be refused, and returns the reason.
fn refusal(name: &str, archive: &[u8]) -> String {
    let path = host().file(name, "");
    std::fs::write(&path, archive).unwrap();
    let finished = host().output(["image", "load", "--name", "hostile:v1", path.to_str().unwrap()]);
    assert_eq!(finished.code(), 1, "{finished:?}");
    finished.stderr
}

#[test]
fn malformed_archives_are_refused_without_raw_control_characters() {
    let _alone = alone();
    for (name, archive) in [
        ("garbage", b"no archive at all \x1b[2J".repeat(100)),
        ("empty", Vec::new()),
        ("gzip", b"\x1f\x8b\x08\x00 and then nothing".to_vec()),
    ] {
        let stderr = refusal(name, &archive);
        assert!(stderr.starts_with("microkube: failed to load images from"), "{stderr}");
        assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
    }
}
