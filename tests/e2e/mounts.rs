//! What containers find at the paths of mounts, and as which user and groups they look.

use crate::detached::Detached;
use crate::host::{alone, container_with, host, image, pod_with, wait_until};
use crate::images_store::{append, layout_of};

/// Adds a symbolic link to an archive.
fn append_link(tar: &mut tar::Builder<Vec<u8>>, path: &str, target: &str) {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    tar.append_link(&mut header, path, target).unwrap();
}

#[test]
fn volumes_at_etc_and_dev_hide_no_file_of_the_pod_and_no_group_of_the_image() {
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
    let at_etc = "    volumeMounts:\n    - {name: deeper, mountPath: /etc/inner/deeper}\n    - {name: inner, mountPath: /etc/inner}\n    - {name: etc, mountPath: /etc}\n";
    let at_dev =
        "    volumeMounts: [{name: dev, mountPath: dev}, {name: etc, mountPath: /etc/hosts, subPath: hosts}]\n";
    let text = host()
        .run(&pod_with(
            "at-etc",
            &[
                container_with(
                    "etc",
                    "linked:v1",
                    &format!("{files}stat -f -c %T /etc/inner/deeper; ls /etc/passwd; id -G | tr ' ' '\\n' | sort -nu | xargs; exit 0"),
                    at_etc,
                ),
                container_with(
                    "dev",
                    "linked:v1",
                    "ls /dev | xargs; echo said > /dev/termination-log && cat /etc/hosts; exit 0",
                    at_dev,
                ),
                container_with("links", "linked:v1", &format!("{files}readlink /etc/hosts; exit 0"), ""),
            ],
            "  hostname: given\n  hostAliases: [{ip: 10.1.2.3, hostnames: [alias.test]}]\n  \
             securityContext: {runAsUser: 1234, runAsGroup: 3000, supplementalGroups: [4000]}\n  \
             volumes: [{name: etc, emptyDir: {}}, {name: inner, emptyDir: {}}, {name: deeper, emptyDir: {medium: Memory}}, {name: dev, emptyDir: {}}]\n  \
             initContainers: [{name: fill, image: linked:v1, imagePullPolicy: Never, command: [sh, -c, 'echo mine > /new/hosts'], volumeMounts: [{name: etc, mountPath: /new}]}]\n",
        ))
        .success();
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
fn a_sub_path_that_leads_out_of_its_volume_keeps_only_its_container_from_starting_until_it_is_mended() {
    let _alone = alone();
    let busybox = image("busybox");
    let whole = "    volumeMounts: [{name: data, mountPath: /data}]\n";
    let part = "    volumeMounts: [{name: data, mountPath: /part, subPath: link}]\n";
    let pod = Detached::start(
        "sub-path",
        &pod_with(
            "sub-path",
            &[
                container_with(
                    "other",
                    &busybox,
                    "while [ ! -e /data/mend ]; do sleep 0.1; done; mkdir /data/inside; echo found > /data/inside/file; \
                     ln -sfn inside /data/link; sleep 1000",
                    whole,
                ),
                container_with("main", &busybox, "cat /part/file; sleep 1000", part),
            ],
            &format!(
                "  securityContext: {{runAsUser: 7, runAsGroup: 8, supplementalGroups: [9]}}\n  \
                 volumes: [{{name: data, emptyDir: {{}}}}]\n  \
                 initContainers: [{{name: link, image: \"{busybox}\", command: [sh, -c, 'ln -s /etc /data/link'], volumeMounts: [{{name: data, mountPath: /data}}]}}]\n"
            ),
        ),
    );
    let message = "failed to prepare subPath for volumeMount \"data\" of container \"main\"";
    wait_until("the container is refused", || {
        let waiting = &pod.get()["status"]["containerStatuses"][1]["state"]["waiting"];
        waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == message
    });
    wait_until("the other one runs", || {
        pod.get()["status"]["containerStatuses"][0]["state"]["running"].is_object()
    });
    let user = serde_json::json!({"linux": {"uid": 7, "gid": 8, "supplementalGroups": [8, 9]}});
    assert_eq!(pod.container("other")["user"], user);
    let events = host().succeed(["events", "--for", "pod/sub-path"]);
    assert!(events.contains(&format!("Error: {message}")), "{events}");
    host().succeed(["exec", "sub-path", "-c", "other", "--", "touch", "/data/mend"]);
    pod.wait_ready();
    assert_eq!(pod.logs("main"), "found\n");
    assert_eq!(pod.container("main")["restartCount"], 0);
    pod.delete();
}
