//! `cp` from containers whose `tar` sends something other than requested.

use std::path::Path;

use tar::{EntryType, Header};

use crate::detached_pod::Detached;
use crate::host::{Finished, alone, host, shell_pod};

/// An archive of entries: kind, name, link target, content.
fn archive(entries: &[(EntryType, &str, &str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link, content) in entries {
        let mut header = Header::new_ustar();
        // The crate's methods refuse names like these.
        let fields = header.as_ustar_mut().unwrap();
        fields.name[..name.len()].copy_from_slice(name.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn copying_with_a_missing_pod_reports_one_error() {
    let file = host().file("to-copy", "content");
    let (file, remote) = (file.to_str().unwrap(), "nowhere:/tmp/file");
    for sides in [[file, remote], [remote, "/tmp/from-nowhere"]] {
        let finished = host().output(["cp", sides[0], sides[1]]);
        assert_eq!(finished.code(), 1, "{finished:?}");
        let messages: Vec<&str> = finished.stderr.lines().collect();
        assert!(
            matches!(messages.as_slice(), [message] if message.contains("\"nowhere\" not found")),
            "{finished:?}"
        );
    }
}

#[test]
fn archives_from_a_hostile_container_change_nothing_outside_the_target() {
    let _alone = alone();
    let script = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let pod = Detached::start(&shell_pod("hostile", script));
    pod.wait_ready();
    let base = host().state_dir.join("hostile");
    let _ = std::fs::remove_dir_all(&base);
    let outside = base.join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    std::fs::write(outside.join("kept"), "kept").unwrap();
    let outside_text = outside.to_str().unwrap();
    let (through, absolute, kept) = (
        format!("through/link -> {outside_text}"),
        format!("{outside_text}/absolute"),
        format!("{outside_text}/kept"),
    );
    let (file, dir) = (EntryType::Regular, EntryType::Directory);
    let mut lying = archive(&[(file, "lying", "", "short")]);
    let mut header = Header::from_byte_slice(&lying[..512]).clone();
    header.set_size(1 << 30);
    header.set_cksum();
    lying[..512].copy_from_slice(header.as_bytes());
    // The archive, and the message about it. Without a message `cp` succeeds but leaves out the forbidden entries.
    let cases: [(&str, Vec<u8>, Option<&str>); 5] = [
        (
            "escape",
            archive(&[(file, "escape/../../outside/escaped", "", "x")]),
            Some("tar contents corrupted"),
        ),
        (
            "absolute",
            archive(&[(file, &absolute, "", "x")]),
            Some("tar contents corrupted"),
        ),
        (
            "hard",
            archive(&[(dir, "hard", "", ""), (EntryType::Link, "hard/kept", &kept, "")]),
            Some("tar contents corrupted"),
        ),
        (
            "through",
            archive(&[
                (dir, "through", "", ""),
                (EntryType::Symlink, "through/link", outside_text, ""),
                (file, "through/link/written", "", "x"),
                (EntryType::Symlink, "through/up", "../../outside", ""),
                (EntryType::Block, "through/disk", "", ""),
                (EntryType::Char, "through/memory", "", ""),
            ]),
            None,
        ),
        ("lying", lying, Some("unexpected end of file")),
    ];
    let script = "#!/bin/sh\nfor last; do :; done\ncase $last in\n*endless) cat /sent/endless; exec cat /dev/zero;;\n*flood) exec yes;;\n*) exec cat /sent/${last#./};;\nesac\n";
    // Copied there by the tool that it then replaces.
    let sent = base.join("sent");
    std::fs::create_dir(&sent).unwrap();
    for (name, archive, _) in &cases {
        std::fs::write(sent.join(name), archive).unwrap();
    }
    std::fs::write(sent.join("endless"), archive(&[(file, "endless", "", "x")])).unwrap();
    std::fs::write(sent.join("tar"), script).unwrap();
    host().succeed(["cp", sent.to_str().unwrap(), "hostile:/sent"]);
    std::fs::remove_dir_all(&sent).unwrap();
    let replace = "chmod 755 /sent/tar; mv /sent/tar $(which tar)";
    host().succeed(["exec", "hostile", "--", "sh", "-c", replace]);
    let copy = |name: &str| -> Finished {
        let target = base.join("target").join(name);
        std::fs::create_dir_all(base.join("target")).unwrap();
        host().output(["cp", &format!("hostile:/any/{name}"), target.to_str().unwrap()])
    };
    for (name, _, message) in &cases {
        let finished = copy(name);
        match message {
            Some(message) => {
                assert_eq!(finished.code(), 1, "{name}: {finished:?}");
                assert!(finished.stderr.contains(message), "{name}: {finished:?}");
            }
            None => {
                assert_eq!(finished.code(), 0, "{name}: {finished:?}");
                for skipped in ["through/link", "through/up", "through/disk", "through/memory"] {
                    assert!(finished.stderr.contains(skipped), "{skipped}: {finished:?}");
                }
            }
        }
        assert_eq!(names(&outside), ["kept"], "{name} {through}");
        assert_eq!(std::fs::read_to_string(outside.join("kept")).unwrap(), "kept", "{name}");
    }
    // The file went into a directory with that name instead.
    assert_eq!(names(&base.join("target/through")), ["link"]);
    assert_eq!(names(&base.join("target/through/link")), ["written"]);
    for (name, message) in [
        ("endless", "copying failed"),
        ("flood", "the container did not send a tar archive"),
    ] {
        let finished = copy(name);
        assert_eq!(finished.code(), 1, "{name}: {finished:?}");
        assert!(finished.stderr.contains(message), "{name}: {finished:?}");
    }
    assert_eq!(names(&base), ["outside", "target"]);
}
