//! Values of Secrets appear in the containers that use them, in the store, and nowhere else.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use microkube_tests::manifest::{Container, Pod, exec_shell};
use serde_json::json;

use crate::detached_pod::{Detached, status_of};
use crate::host::{Finished, Running, alone, container, host, image, processes, wait_until};
use crate::objects::{Stored, documents, object, secret, secret_of_type};

const VALUE: &str = "pw-7391-never-to-be-seen";

/// The value in the form of the store and `-o yaml`.
const BASE64: &str = "cHctNzM5MS1uZXZlci10by1iZS1zZWVu";

/// The value after a byte that is not UTF-8.
const INVALID_BASE64: &str = "/3B3LTczOTEtbmV2ZXItdG8tYmUtc2Vlbg==";

const FORMS: [&str; 3] = [VALUE, BASE64, INVALID_BASE64];

/// How much of a file is read at once.
const CHUNK: u64 = 1 << 20;

fn is_shown_in(bytes: &[u8]) -> bool {
    FORMS.iter().any(|form| {
        // SAFETY: memmem(3) reads both slices within their lengths.
        let found = unsafe { libc::memmem(bytes.as_ptr().cast(), bytes.len(), form.as_ptr().cast(), form.len()) };
        !found.is_null()
    })
}

/// The part of a sparse file with data that begins at or after this place.
fn next_data(file: &File, from: u64) -> Option<(u64, u64)> {
    let seek = |offset: u64, whence: i32| {
        let offset = i64::try_from(offset).ok()?;
        // SAFETY: lseek(2) takes integers; the file is open.
        u64::try_from(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) }).ok()
    };
    let start = seek(from, libc::SEEK_DATA)?;
    Some((start, seek(start, libc::SEEK_HOLE)?))
}

fn file_shows_it(path: &Path) -> bool {
    // Files come and go while Pods run.
    let Ok(file) = File::open(path) else { return false };
    let overlap = FORMS.iter().map(|form| form.len() as u64).max().unwrap_or(0);
    let mut buffer = vec![0; usize::try_from(CHUNK + overlap).unwrap()];
    let mut place = 0;
    while let Some((mut start, end)) = next_data(&file, place) {
        while start < end {
            let Ok(count) = file.read_at(&mut buffer, start) else {
                return false;
            };
            if is_shown_in(&buffer[..count]) {
                return true;
            }
            start += CHUNK;
        }
        place = end;
    }
    false
}

/// The regular files below a directory that contain the value in any form.
fn files_that_show_it(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let kind = std::fs::symlink_metadata(&path).ok()?.file_type();
            Some(match (kind.is_dir(), kind.is_file()) {
                (true, _) => files_that_show_it(&path),
                (_, true) if file_shows_it(&path) => vec![path],
                _ => Vec::new(),
            })
        })
        .flatten()
        .collect()
}

/// The files that contain the value, those of the store and all others.
fn shown_on_disk() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let own = [host().state_dir.join("store"), host().run_dir.join("store")];
    let directories = [&host().state_dir, &host().run_dir];
    let all = directories.iter().flat_map(|directory| files_that_show_it(directory));
    all.partition(|path| own.iter().any(|own| path.starts_with(own)))
}

/// Whether users other than root can reach a file below the state or run directory.
fn others_can_read(path: &Path) -> bool {
    let mode = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    let base = [&host().state_dir, &host().run_dir];
    let mut parents = path
        .ancestors()
        .skip(1)
        .take_while(|parent| base.iter().any(|base| parent.starts_with(base)));
    mode(path) & 0o004 != 0 && parents.all(|parent| mode(parent) & 0o001 != 0)
}

/// Processes of the host whose command line or environment contains the value.
fn processes_that_show_it() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            path.file_name()?.to_str()?.parse::<u32>().ok()?;
            let shows = |file: &str| std::fs::read(path.join(file)).is_ok_and(|bytes| is_shown_in(&bytes));
            (shows("cmdline") || shows("environ")).then(|| path.display().to_string())
        })
        .collect()
}

/// The writable mappings of a process that the kernel may write to swap space, proc_pid_smaps(5). It cannot lock those of
/// devices.
fn swappable_mappings(pid: i32) -> Vec<String> {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut mapping = "";
    let mut swappable = Vec::new();
    for line in smaps.lines() {
        let Some(flags) = line.strip_prefix("VmFlags:") else {
            if line.split(' ').nth(1).is_some_and(|permissions| permissions.len() == 4) {
                mapping = line;
            }
            continue;
        };
        let has = |flag| flags.split_whitespace().any(|found| found == flag);
        if has("wr") && !["lo", "io", "pf", "de", "mm"].into_iter().any(has) {
            swappable.push(mapping.to_owned());
        }
    }
    assert!(!mapping.is_empty(), "{smaps}");
    swappable
}

#[track_caller]
fn assert_nothing_shown(what: &str, finished: &Finished) {
    let text = format!("{}{}", finished.stdout, finished.stderr);
    assert!(!is_shown_in(text.as_bytes()), "{what}: {text}");
}

fn pod() -> Pod {
    let key = json!({ "name": "INVALID", "valueFrom": { "secretKeyRef": { "name": "hidden", "key": "invalid" } } });
    let main = Container::new("main", &image("busybox"))
        .command(&[
            "/bin/sh",
            "-c",
            "echo ${#PASSWORD} ${#IMPORTED_password} ${#1} $(cat /secret/password /all/password /etc/password | wc -c); \
             trap 'exit 0' TERM; while :; do sleep 0.1; done",
            "--",
        ])
        .set("args", json!(["$(PASSWORD)"]))
        .env_of_secret("PASSWORD", "hidden", "password")
        .env_from(json!({ "prefix": "IMPORTED_", "secretRef": { "name": "hidden-import" } }))
        .env(json!({ "name": "URL", "value": "postgres://user:$(PASSWORD)@db" }))
        .mount("secret", "/secret")
        .mount("all", "/all")
        .volume_mount(json!({ "name": "secret", "mountPath": "/etc/password", "subPath": "password" }))
        .set("lifecycle.postStart", exec_shell("test -n \"$PASSWORD\""));
    // It exits repeatedly, to cause records of restarts.
    let crashing = container("crashing", "exit 3").env_of_secret("PASSWORD", "hidden", "password");
    Pod::named("secretive")
        .restart_policy("Always")
        .grace_period_seconds(2)
        .set("spec.imagePullSecrets", json!([{ "name": "hidden-registry" }]))
        .container(main)
        .container(crashing)
        .container(container("refused", "true").env(key))
        .volume(json!({ "name": "secret", "secret": { "secretName": "hidden" } }))
        .volume(json!({ "name": "all", "projected": { "sources": [{ "secret": { "name": "hidden-import" } }] } }))
}

#[test]
fn values_of_secrets_are_nowhere_but_in_containers_and_in_the_store() {
    let _alone = alone();
    let registry = json!({ "auths": { "registry.test": { "username": "user", "password": VALUE } } });
    let registry = secret_of_type(
        "kubernetes.io/dockerconfigjson",
        "hidden-registry",
        &json!({ ".dockerconfigjson": registry.to_string() }),
    );
    let objects = [
        object(
            "Secret",
            "hidden",
            &json!({ "stringData": { "password": VALUE }, "data": { "invalid": INVALID_BASE64 } }),
        ),
        secret("hidden-import", &json!({ "password": VALUE })),
        registry,
    ];
    // The Pod is in the file of its Secrets, as many users write it.
    let _objects = Stored::later("hidden.yaml", &objects);
    let text = format!("{}---\n{}", documents(&objects), pod());
    let file = host().file("hidden-and-pod.yaml", &text);
    let pod = Detached("secretive".to_owned());
    host().succeed(["apply", "-f", file.to_str().unwrap()]);
    let length = VALUE.len();
    pod.wait_for_log("main", &format!("{length} {length} {length} {}\n", 3 * length));
    wait_until("a container was restarted", || {
        status_of(&pod.get(), "crashing").is_some_and(|status| status["restartCount"].as_u64() > Some(0))
    });
    wait_until("a value that is no text is refused", || {
        status_of(&pod.get(), "refused").is_some_and(|status| {
            status["state"]["waiting"]["reason"] == "CreateContainerConfigError"
                && status["state"]["waiting"]["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("INVALID"))
        })
    });
    for words in [&["supervise"][..], &["microkube-vmm", "supervised"]] {
        let pids = processes(words);
        assert!(!pids.is_empty(), "{words:?}");
        for pid in pids {
            assert_eq!(swappable_mappings(pid), Vec::<String>::new(), "{words:?}");
        }
    }
    host().succeed([
        "exec",
        "secretive",
        "-c",
        "main",
        "--",
        "/bin/sh",
        "-c",
        "[ -n \"$URL\" ]",
    ]);

    // The value is found where it belongs, so the search works.
    assert!(is_shown_in(
        host().succeed(["get", "secret", "hidden", "-o", "yaml"]).as_bytes()
    ));
    let (in_store, elsewhere) = shown_on_disk();
    assert!(!in_store.is_empty());
    assert_eq!(elsewhere, Vec::<PathBuf>::new());
    let open: Vec<_> = in_store.iter().filter(|path| others_can_read(path)).collect();
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(processes_that_show_it(), Vec::<String>::new());

    // Faulty changes: their errors name fields, not values. Pass the values in files, to keep them out of command
    // lines.
    let wrong_kind = host().file(
        "hidden-wrong.yaml",
        &documents(&[object(
            "Secret",
            "hidden",
            &json!({ "data": { "password": format!("{VALUE}!") }, "stringData": { "more": [VALUE] } }),
        )]),
    );
    let wrong_type = host().file(
        "hidden-type.yaml",
        &documents(&[secret_of_type(
            "kubernetes.io/dockerconfigjson",
            "hidden-type",
            &json!({ ".dockerconfigjson": VALUE }),
        )]),
    );
    let changed = host().file(
        "hidden-changed.yaml",
        &documents(&[secret(
            "hidden-import",
            &json!({ "password": format!("{VALUE}-2"), "more": VALUE }),
        )]),
    );
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    for (line, succeeds) in [
        ("get pods -o yaml".to_owned(), true),
        ("get pod secretive -o json".to_owned(), true),
        ("describe pod secretive".to_owned(), true),
        ("describe secret hidden".to_owned(), true),
        ("describe secrets".to_owned(), true),
        ("get secrets".to_owned(), true),
        ("get secrets -o wide".to_owned(), true),
        ("get secret hidden -o name".to_owned(), true),
        ("events".to_owned(), true),
        ("events --for pod/secretive -o yaml".to_owned(), true),
        // One of its containers cannot start.
        ("logs secretive --all-containers".to_owned(), false),
        (format!("apply -f {}", path(&wrong_kind)), false),
        (format!("create -f {}", path(&wrong_type)), false),
        (format!("diff -f {}", path(&changed)), false),
        (format!("apply -f {} --dry-run=server", path(&changed)), true),
    ] {
        let finished = host().output(line.split(' '));
        assert_eq!(finished.status.success(), succeeds, "{line}: {}", finished.stderr);
        assert_nothing_shown(&line, &finished);
    }
    let described = host().succeed(["describe", "secret", "hidden"]);
    for line in ["Type:  Opaque", "password:  24 bytes", "invalid:   25 bytes"] {
        assert!(described.contains(line), "{described}");
    }

    pod.delete();
    let (_, left) = shown_on_disk();
    assert_eq!(left, Vec::<PathBuf>::new());
}

/// A supervisor has read Secrets, so it must leave no core, even if its command may.
#[test]
fn a_supervisor_leaves_no_core() {
    let _alone = alone();
    let _objects = Stored::apply("hidden-core.yaml", &[secret("hidden-core", &json!({ "key": VALUE }))]);
    // Without its image the Pod needs no virtual machine.
    let main = Container::new("main", &image("no-such-image")).env_of_secret("KEY", "hidden-core", "key");
    let manifest = host().manifest(&Pod::named("no-core").container(main));
    let pod = Detached("no-core".to_owned());
    let mut command = host().microkube(["run", "-d", manifest.to_str().unwrap()]);
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: setrlimit(2) is async-signal-safe and reads only `unlimited`.
    unsafe {
        command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_CORE, &raw const unlimited) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    Running::start(command, None).finish().success();
    pod.wait("jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff");
    let supervisors = processes(&["supervise"]);
    let [supervisor] = supervisors[..] else {
        panic!("{supervisors:?}")
    };
    let limits = std::fs::read_to_string(format!("/proc/{supervisor}/limits")).unwrap();
    let of_cores = limits.lines().find_map(|line| line.strip_prefix("Max core file size"));
    let soft = of_cores.unwrap().split_whitespace().next();
    assert_eq!(soft, Some("0"), "{limits}");
}
