//! Pods with their own user namespace (`hostUsers: false`), and `procMount: Unmasked`, which Kubernetes allows only there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::cases::Cases;
use crate::detached_pod::Detached;
use crate::host::{alone, container, host, image, wait_until};
use crate::objects::{Stored, config_map};

const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn with_context(name: &str, script: &str, context: Value) -> Container {
    container(name, script).set("securityContext", context)
}

/// The output of a script in an ephemeral container that joins the processes of the container `main`.
#[track_caller]
fn debug(pod: &str, script: &str) -> String {
    let image = image("busybox");
    let flags = [
        "--quiet", "--attach", "--image", &image, "-c", "tools", "--target", "main",
    ];
    let command = ["--", "sh", "-c", script];
    host()
        .output([&["debug", pod][..], &flags, &command].concat())
        .success()
}

/// Mounts procfs in a namespace of the container's own, as nested container engines do.
const NESTED: &str =
    "mkdir /tmp/proc && unshare -r -m -p -f mount -t proc proc /tmp/proc 2> /dev/null && echo nested || echo refused";

#[test]
fn containers_have_users_of_their_own_and_no_rights_over_the_virtual_machine() {
    let _alone = alone();
    let _objects = Stored::apply(
        "user-namespace-objects.yaml",
        &[config_map("mapped", &json!({ "key": "value" }))],
    );
    let root = container(
        "root",
        "xargs < /proc/self/uid_map; xargs < /proc/self/gid_map; id -u; stat -c %u:%g / /bin/busybox /etc/hosts /dev /dev/null; \
         touch /new && chown 5:65535 /new && stat -c %u:%g /new; echo 10.0.0.1 added >> /etc/hosts && tail -n 1 /etc/hosts; \
         chown 5:65536 /new 2> /dev/null || echo unmapped; hostname; echo done > /dev/termination-log",
    );
    let user = with_context(
        "user",
        "id -u; id -g; echo x > /disk/file; echo x > /memory/file; stat -c %u:%g:%a /disk/file /memory/file /disk; \
         stat -L -c %u:%g /config/key; cat /config/key; echo; echo x > /dev/shm/x && echo shared; cat > /dev/null < /dev/zero & kill $!; \
         echo x > /proc/self/fd/1; touch /new 2> /dev/null || echo refused",
        json!({ "runAsUser": 1000, "runAsGroup": 3000 }),
    )
    .mount("disk", "/disk")
    .mount("memory", "/memory")
    .mount("config", "/config");
    let network = with_context(
        "network",
        "httpd -p 127.0.0.1:80 -h /etc && wget -q -O - http://127.0.0.1/hostname; ip addr add 10.9.9.9/32 dev lo && echo added; \
         ping -c 1 -W 20 $(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p') > /dev/null && echo reached",
        json!({ "capabilities": { "add": ["NET_ADMIN"] } }),
    );
    let privileged = with_context(
        "privileged",
        "mkdir /sys/fs/cgroup/own && echo cgroup; mkdir /mnt && mount -t tmpfs none /mnt && echo mounted; [ -b /dev/vda ] && stat -c %u:%g /dev/vda /dev/null; \
         for attempt in 'mknod /tmp/disk b 8 0' 'dd if=/dev/vda of=/tmp/block count=1' 'dmesg -n 1'; do \
             $attempt > /dev/null 2>&1 && echo $attempt; done; \
         date -s 2020.01.01-00:00 > /dev/null 2>&1; [ $(date +%Y) = 2020 ] && echo clock; \
         (echo 1 > /proc/sys/kernel/panic) 2> /dev/null || echo protected; unshare -n true && echo namespaces",
        json!({ "privileged": true }),
    );
    let masked = with_context(
        "masked",
        &format!(
            "{NESTED}; grep -c ' /proc/sys ' /proc/mounts; (echo 1 > /proc/sys/net/ipv4/ip_forward) 2> /dev/null || echo read-only"
        ),
        json!({ "seccompProfile": { "type": "Unconfined" }, "capabilities": { "add": ["NET_ADMIN"] } }),
    );
    let unmasked = with_context(
        "unmasked",
        &format!(
            "{NESTED}; grep -c -E ' /(proc|sys)/(sys|bus|firmware) ' /proc/mounts; echo 1 > /proc/sys/net/ipv4/ip_forward && cat /proc/sys/net/ipv4/ip_forward"
        ),
        json!({ "procMount": "Unmasked", "seccompProfile": { "type": "Unconfined" }, "capabilities": { "add": ["NET_ADMIN"] } }),
    );
    let read_only = with_context(
        "read-only",
        "touch /new 2> /dev/null || echo refused; touch /part/new 2> /dev/null || echo refused; cat /part/file",
        json!({ "readOnlyRootFilesystem": true }),
    )
    .set(
        "volumeMounts",
        json!([{ "name": "prepared", "mountPath": "/part", "subPath": "part", "readOnly": true }]),
    );
    let cases = Cases::default()
        .expect(
            root,
            &[
                "0 65536 65536",
                "0 65536 65536",
                "0",
                "0:0",
                "0:0",
                "0:0",
                "0:0",
                "0:0",
                "5:65535",
                "10.0.0.1 added",
                "unmapped",
                "mapped",
            ],
        )
        .expect(
            user,
            &[
                "1000",
                "3000",
                "1000:2000:644",
                "1000:2000:644",
                "0:2000:2777",
                "0:2000",
                "value",
                "shared",
                "x",
                "refused",
            ],
        )
        .expect(network, &["mapped", "added", "reached"])
        .expect(
            privileged,
            &["cgroup", "mounted", "65534:65534", "0:0", "protected", "namespaces"],
        )
        .expect(masked, &["refused", "1", "read-only"])
        .expect(unmasked, &["nested", "0", "1"])
        .expect(read_only, &["refused", "refused", "prepared"]);
    let prepare = container("prepare", "mkdir /prepared/part && echo prepared > /prepared/part/file")
        .mount("prepared", "/prepared");
    let pod = cases
        .add_to(Pod::named("mapped"))
        .init_container(prepare)
        .empty_dir("disk")
        .empty_dir("prepared")
        .volume(json!({ "name": "memory", "emptyDir": { "medium": "Memory" } }))
        .volume(json!({ "name": "config", "configMap": { "name": "mapped" } }))
        .set("spec.hostUsers", false)
        .set(
            "spec.securityContext",
            json!({ "fsGroup": 2000, "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "1024" }] }),
        );
    let output = host().run(pod).success();
    cases.assert_output(&output);
}

#[test]
fn files_of_the_host_and_of_claims_belong_to_the_users_of_the_namespace() {
    let _alone = alone();
    let shared = tempfile::tempdir().unwrap();
    let path = |name: &str| shared.path().join(name);
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(path("from-host"), "of the host\n").unwrap();
    chown(path("from-host"), Some(1234), Some(5678)).unwrap();
    fs::create_dir(path("second")).unwrap();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "mapped-users" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "64Mi" } } },
    });
    let _objects = Stored::apply("user-namespace-claim.yaml", &[claim]);
    let root = container(
        "root",
        "stat -c %u:%g /host/from-host; cat /host/from-host; echo written > /host/by-root; echo moved > /host/by-7; chown 7:8 /host/by-7; \
         mkdir /host/directory; ln -s x /host/link; mv /host/by-root /host/renamed; stat -c %u:%g /host/renamed /host/by-7 /host/directory; \
         echo kept > /claim/file; stat -c %u:%g /claim/file; cat /host/renamed; \
         chown 5:65536 /host/renamed 2> /dev/null || echo unmapped; [ /host/second -ef /second ] || echo apart; echo x > /second/x; sync",
    )
    .mount("host", "/host")
    .mount("second", "/second")
    .mount("claim", "/claim");
    let user = with_context(
        "user",
        "echo mine > /host/by-1000; stat -c %u:%g /host/by-1000; (echo x > /host/from-host) 2> /dev/null || echo refused; \
         cat /part/from-host; touch /part/new 2> /dev/null || echo read-only",
        json!({ "runAsUser": 1000, "runAsGroup": 3000 }),
    )
    .set(
        "volumeMounts",
        json!([
            { "name": "host", "mountPath": "/host" },
            { "name": "host", "mountPath": "/part", "readOnly": true },
        ]),
    );
    let cases = Cases::default()
        .expect(
            root,
            &[
                "1234:5678",
                "of the host",
                "0:0",
                "7:8",
                "0:0",
                "0:0",
                "written",
                "unmapped",
                "apart",
            ],
        )
        .expect(user, &["1000:3000", "refused", "of the host", "read-only"]);
    let host_path = |path: &Path| json!({ "path": path, "type": "Directory" });
    let pod = cases
        .add_to(Pod::named("mapped-shares"))
        .volume(json!({ "name": "host", "hostPath": host_path(shared.path()) }))
        .volume(json!({ "name": "second", "hostPath": host_path(&path("second")) }))
        .volume(json!({ "name": "claim", "persistentVolumeClaim": { "claimName": "mapped-users" } }))
        .set("spec.hostUsers", false);
    let output = host().run(pod).success();
    cases.assert_output(&output);
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(path(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    for (name, expected) in [
        ("renamed", (0, 0)),
        ("directory", (0, 0)),
        ("link", (0, 0)),
        ("by-7", (7, 8)),
        ("by-1000", (1000, 3000)),
        ("from-host", (1234, 5678)),
        ("second/x", (0, 0)),
    ] {
        assert_eq!(owner(name), expected, "{name}");
    }
}

#[test]
fn processes_join_a_user_namespace_whose_containers_share_their_processes() {
    let _alone = alone();
    let limited = container(
        "limited",
        "echo started; head -c 200m /dev/zero | tail > /dev/null; sleep 1000",
    )
    .set("resources", json!({ "limits": { "memory": "32Mi" } }))
    .set("restartPolicy", "Never");
    let pod = Detached::start(
        &Pod::named("mapped-shared")
            .container(container("main", WAIT))
            .container(limited)
            .set("spec.hostUsers", false)
            .set("spec.shareProcessNamespace", true),
    );
    wait_until("the container ran out of memory", || {
        pod.get()["status"]["containerStatuses"][1]["state"]["terminated"]["reason"] == "OOMKilled"
    });
    let exec = |script: &str| host().succeed(["exec", "mapped-shared", "-c", "main", "--", "sh", "-c", script]);
    assert_eq!(
        exec("xargs < /proc/self/uid_map; id -u; echo x > /dev/stdout"),
        "0 65536 65536\n0\nx\n"
    );
    assert_eq!(
        exec("tr '\\0' ' ' < /proc/1/cmdline; stat -c %u /proc/1"),
        "/pause 65535\n"
    );
    // The one with the trap.
    let other =
        "for process in /proc/[0-9]*; do grep -q 't[r]ap' $process/cmdline && readlink $process/root; done | sort -u";
    let seen = debug("mapped-shared", &format!("xargs < /proc/self/uid_map; {other}"));
    assert_eq!(seen, "0 65536 65536\n/\n");
    pod.delete();

    let joined = Detached::start(
        &Pod::named("mapped-target")
            .container(container("main", WAIT))
            .set("spec.hostUsers", false),
    );
    joined.wait_ready();
    let seen = debug(
        "mapped-target",
        "tr '\\0' ' ' < /proc/1/cmdline | grep -c trap; xargs < /proc/1/uid_map",
    );
    assert_eq!(seen, "1\n0 65536 65536\n");
    joined.delete();
}

#[test]
fn a_user_outside_of_the_namespace_is_an_error_of_the_container() {
    let _alone = alone();
    let pod = Detached::start(
        &Pod::named("unmapped")
            .container(with_context("main", "true", json!({ "runAsUser": 65536 })))
            .restart_policy("Never")
            .set("spec.hostUsers", false),
    );
    pod.wait_phase("Failed");
    let message = pod.container("main")["state"]["terminated"]["message"].clone();
    assert!(
        message.as_str().is_some_and(|message| message.ends_with(
            "a container of a Pod with hostUsers: false has only the users and groups 0 to 65535, not 65536"
        )),
        "{message}"
    );
}
