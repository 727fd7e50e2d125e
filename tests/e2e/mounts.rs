//! The content of mount paths in containers, and the user and groups that containers run as.

use microkube_tests::manifest::{Container, Pod};
use serde_json::json;

use crate::cases::Cases;
use crate::detached_pod::Detached;
use crate::host::{alone, container, host, image, wait_until};
use crate::layered_image::{append, layout_of};

/// Adds a symbolic link to an archive.
fn append_link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    tar.append_link(&mut header, path, target).unwrap();
}

#[test]
fn volumes_at_etc_and_dev_hide_neither_pod_files_nor_image_groups() {
    let _alone = alone();
    let layout = layout_of("linked", |_, mut layers| {
        let mut tar = tar::Builder::new(Vec::new());
        append(
            &mut tar,
            "etc/passwd",
            b"root:x:0:0::/:\napp:x:1234:4321::/home/app:/bin/sh\n",
        );
        append(
            &mut tar,
            "etc/group",
            b"appg:x:4321:\nextra:x:777:app\nmore:x:778:app,root\n",
        );
        append_link(&mut tar, "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf");
        append_link(&mut tar, "etc/hosts", "/nowhere/hosts");
        layers.push(tar.into_inner().unwrap());
        layers
    });
    host().succeed(["image", "load", "--name", "linked:v1", layout.to_str().unwrap()]);
    let files = "grep -c alias.test /etc/hosts; cat /etc/hostname; grep -c nameserver /etc/resolv.conf; ";
    let etc = format!(
        "{files}stat -f -c %T /etc/inner/deeper; ls /etc/passwd; id -G | tr ' ' '\\n' | sort -nu | xargs; exit 0"
    );
    let dev = "ls /dev | xargs; echo said > /dev/termination-log && cat /etc/hosts; exit 0";
    let linked = |name: &str, script: &str| Container::new(name, "linked:v1").shell(script);
    let fill =
        Container::new("fill", "linked:v1")
            .pull_policy("Never")
            .command(&["sh", "-c", "echo mine > /new/hosts"]);
    let pod = Pod::named("at-etc")
        .set("spec.hostname", "given")
        .set(
            "spec.hostAliases",
            json!([{ "ip": "10.1.2.3", "hostnames": ["alias.test"] }]),
        )
        .set(
            "spec.securityContext",
            json!({ "runAsUser": 1234, "runAsGroup": 3000, "supplementalGroups": [4000] }),
        )
        .empty_dir("etc")
        .empty_dir("inner")
        .volume(json!({ "name": "deeper", "emptyDir": { "medium": "Memory" } }))
        .empty_dir("dev")
        .init_container(fill.mount("etc", "/new"))
        .container(
            linked("etc", &etc)
                .mount("deeper", "/etc/inner/deeper")
                .mount("inner", "/etc/inner")
                .mount("etc", "/etc"),
        )
        .container(
            linked("dev", dev)
                .mount("dev", "dev")
                .volume_mount(json!({ "name": "etc", "mountPath": "/etc/hosts", "subPath": "hosts" })),
        )
        .container(linked("links", &format!("{files}readlink /etc/hosts; exit 0")));
    let text = host().run(pod).success();
    let of = |name: &str| {
        let start = format!("[{name}] ");
        text.lines()
            .filter_map(|line| line.strip_prefix(&start))
            .collect::<Vec<_>>()
    };
    assert_eq!(of("etc"), ["1", "given", "1", "tmpfs", "777 778 3000 4000"], "{text}");
    assert_eq!(of("dev"), ["shm termination-log", "mine"], "{text}");
    assert_eq!(of("links"), ["1", "given", "1", "/nowhere/hosts"], "{text}");
    host().succeed(["image", "rm", "linked:v1"]);
}

#[test]
fn a_sub_path_outside_its_volume_blocks_only_its_container_until_fixed() {
    let _alone = alone();
    let other = "while [ ! -e /data/mend ]; do sleep 0.1; done; mkdir /data/inside; echo found > /data/inside/file; \
        ln -sfn inside /data/link; sleep 1000";
    let link = Container::new("link", &image("busybox"))
        .pull_policy("Always")
        .command(&["sh", "-c", "ln -s /etc /data/link"]);
    let part = json!({ "name": "data", "mountPath": "/part", "subPath": "link" });
    let pod = Detached::start(
        &Pod::named("sub-path")
            .set(
                "spec.securityContext",
                json!({ "runAsUser": 7, "runAsGroup": 8, "supplementalGroups": [9] }),
            )
            .empty_dir("data")
            .init_container(link.clone().mount("data", "/data"))
            .container(container("other", other).mount("data", "/data"))
            .container(container("main", "cat /part/file; sleep 1000").volume_mount(part.clone())),
    );
    let message = "failed to prepare subPath for volumeMount \"data\" of container \"main\"";
    wait_until("the container is refused", || {
        let waiting = &pod.get()["status"]["containerStatuses"][1]["state"]["waiting"];
        waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == message
    });
    wait_until("the other one runs", || {
        pod.get()["status"]["containerStatuses"][0]["state"]["running"].is_object()
    });
    let user = json!({"linux": {"uid": 7, "gid": 8, "supplementalGroups": [8, 9]}});
    assert_eq!(pod.container("other")["user"], user);
    let events = host().succeed(["events", "--for", "pod/sub-path"]);
    assert!(events.contains(&format!("Error: {message}")), "{events}");
    host().succeed(["exec", "sub-path", "-c", "other", "--", "touch", "/data/mend"]);
    pod.wait_ready();
    assert_eq!(pod.logs("main"), "found\n");
    assert_eq!(pod.container("main")["restartCount"], 0);
    pod.delete();

    // A foreground run fails: the user is waiting, and nothing will repair the link.
    let refused = Pod::named("refused")
        .empty_dir("data")
        .init_container(link.mount("data", "/data"))
        .container(container("main", "sleep 1000").volume_mount(part));
    let finished = host().run(&refused);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(
        finished.stderr.contains(&format!("container \"main\": {message}")),
        "{finished:?}"
    );
}

#[test]
fn mounts_reach_other_containers_as_their_mount_propagation_says() {
    let _alone = alone();
    let mount =
        |propagation: &str| json!({ "name": "shared", "mountPath": "/shared", "mountPropagation": propagation });
    // Only a privileged container may mount for others. It mounts when all containers have their mounts.
    let mounting = container(
        "mounting",
        "until [ $(ls /shared/ready | wc -l) = 2 ]; do sleep 0.1; done; mkdir /shared/inner && mount -t tmpfs none /shared/inner && \
         echo mounted > /shared/inner/file && touch /shared/mounted; until [ $(ls /shared/ready | wc -l) = 0 ]; do sleep 0.1; done",
    )
    .privileged()
    .volume_mount(mount("Bidirectional"));
    let looking = |name: &str, propagation: &str| {
        let script = format!(
            "touch /shared/ready/{name}; until [ -e /shared/mounted ]; do sleep 0.1; done; ls /shared/inner | wc -l; \
             rm /shared/ready/{name}"
        );
        container(name, &script).volume_mount(mount(propagation))
    };
    let cases = Cases::default()
        .expect::<&str>(mounting, &[])
        .expect(looking("receiving", "HostToContainer"), &["1"])
        .expect(looking("private", "None"), &["0"]);
    let prepare = container("prepare", "mkdir /shared/ready").mount("shared", "/shared");
    let pod = Pod::named("propagated")
        .restart_policy("Never")
        .empty_dir("shared")
        .init_container(prepare);
    let finished = host().run(cases.add_to(pod));
    assert_eq!(finished.code(), 0, "{finished:?}");
    cases.assert_output(&finished.stdout);
}
