//! Security contexts of Pods and containers, as the containers see them.

use microkube_tests::manifest::{Container, Pod};
use serde_json::json;

use crate::cases::Cases;
use crate::detached_pod::Detached;
use crate::host::{Finished, Running, alone, container, host, wait_until};
use crate::layered_image::{append, layout_of};
use crate::objects::{Stored, config_map, secret};

#[test]
fn groups_sysctls_and_the_process_namespace_are_those_of_the_pods_security_context() {
    let _alone = alone();
    let layout = layout_of("grouped", |_, mut layers| {
        let mut tar = tar::Builder::new(Vec::new());
        append(
            &mut tar,
            "etc/passwd",
            b"root:x:0:0::/:\napp:x:1000:4321::/home/app:/bin/sh\n",
        );
        append(&mut tar, "etc/group", b"app:x:4321:\nextra:x:777:app\n");
        layers.push(tar.into_inner().unwrap());
        layers
    });
    host().succeed(["image", "load", "--name", "grouped:v1", layout.to_str().unwrap()]);
    let _objects = Stored::apply(
        "secured-objects.yaml",
        &[
            config_map("secured", &json!({ "public": "p", "private": "s" })),
            secret("secured", &json!({ "key": "k" })),
        ],
    );
    let groups = Container::new("groups", "grouped:v1")
        .shell("id -u; id -g; id -G | tr ' ' '\\n' | sort -nu | xargs; echo x > /disk/of-groups && stat -c %g /disk/of-groups")
        .mount("disk", "/disk");
    let empty_dirs = container(
        "empty-dirs",
        "for dir in /disk /memory; do cd $dir; stat -c '%a %u %g' .; echo x > file; mkdir directory; \
         stat -c '%a %u %g' file directory; done",
    )
    .mount("disk", "/disk")
    .mount("memory", "/memory");
    let files = container(
        "files",
        "cd /config; stat -L -c '%a %u %g %n' private public; cat private public; echo; stat -L -c '%a %u %g' /secret/key; \
         cat /secret/key; echo; stat -L -c '%a %u %g' /token/token; wc -c < /token/token | grep -c '[1-9]'",
    )
    .mount("config", "/config")
    .mount("secret", "/secret")
    .mount("token", "/token");
    let other_user = container(
        "other-user",
        "id -u; id -G | tr ' ' '\\n' | sort -nu | xargs; cat /config/private; echo",
    )
    .set("securityContext", json!({ "runAsUser": 1001, "runAsGroup": 1001 }))
    .mount("config", "/config");
    let sysctls = container(
        "sysctls",
        "cd /proc/sys; cat kernel/shm_rmid_forced net/ipv4/ip_unprivileged_port_start net/ipv4/ip_local_port_range \
         net/ipv4/tcp_keepalive_time | xargs; httpd -p 127.0.0.1:80 -h /etc && wget -q -O - http://127.0.0.1/hostname",
    );
    // The file says that the handler is set.
    let signalled = container(
        "signalled",
        "trap 'echo hung up; exit 0' HUP; touch /disk/armed; while :; do sleep 0.1; done",
    )
    .mount("disk", "/disk");
    let signalling = container(
        "signalling",
        "until [ -e /disk/armed ]; do sleep 0.1; done; for directory in /proc/[0-9]*; do \
         tr '\\0' ' ' 2> /dev/null < $directory/cmdline | grep -q 'h[u]ng up' && pid=${directory#/proc/}; done; \
         [ \"$pid\" -gt 1 ] && kill -HUP $pid && echo sent",
    )
    .mount("disk", "/disk");
    let cases = Cases::default()
        .expect(groups, &["1000", "3000", "2000 3000 4000", "2000"])
        .expect(
            empty_dirs,
            &[
                "2777 0 2000",
                "644 1000 2000",
                "2755 1000 2000",
                "2777 0 2000",
                "644 1000 2000",
                "2755 1000 2000",
            ],
        )
        .expect(
            files,
            &[
                "440 0 2000 private",
                "644 0 2000 public",
                "sp",
                "440 0 2000",
                "k",
                // The containers have different users, so none of them owns the token.
                "640 0 2000",
                "1",
            ],
        )
        .expect(other_user, &["1001", "1001 2000 4000", "s"])
        .expect(sysctls, &["1 80 20000 30000 600", "secured"])
        .expect(signalled, &["hung up"])
        .expect(signalling, &["sent"]);
    let pod = cases
        .add_to(Pod::named("secured"))
        .empty_dir("disk")
        .volume(json!({ "name": "memory", "emptyDir": { "medium": "Memory" } }))
        .volume(json!({ "name": "config", "configMap": {
            "name": "secured", "items": [{ "key": "public", "path": "public" }, { "key": "private", "path": "private", "mode": 0o400 }],
        } }))
        .volume(json!({ "name": "secret", "secret": { "secretName": "secured", "defaultMode": 0o400 } }))
        .volume(json!({ "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "path": "token" } }] } }))
        .set("spec.shareProcessNamespace", true)
        .set(
            "spec.securityContext",
            json!({
                "runAsUser": 1000, "runAsGroup": 3000, "runAsNonRoot": true, "fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch",
                "supplementalGroups": [4000], "supplementalGroupsPolicy": "Strict", "appArmorProfile": { "type": "Unconfined" },
                "sysctls": [
                    { "name": "kernel.shm_rmid_forced", "value": "1" },
                    { "name": "net.ipv4.ip_unprivileged_port_start", "value": "80" },
                    { "name": "net.ipv4.ip_local_port_range", "value": "20000 30000" },
                    { "name": "net.ipv4.tcp_keepalive_time", "value": "600" },
                ],
            }),
        );
    let output = host().run(pod).success();
    cases.assert_output(&output);
    host().succeed(["image", "rm", "grouped:v1"]);
}

/// Starts a Pod in the foreground with this configuration.
fn run_with_config(config: &str, pod: &Pod) -> Finished {
    let config = host().file("security.yaml", config);
    let mut command = host().microkube(["run", "-"]);
    command.env("MICROKUBE_CONFIG", &config);
    Running::start(command, Some(&pod.to_string())).finish()
}

#[test]
fn the_hosts_seccomp_profiles_and_allowed_sysctls_apply() {
    let _alone = alone();
    // This error differs from that of the default profile.
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSPC }],
    });
    let profiles = host().file("no-mkdir.json", &profile.to_string());
    let directory = profiles.parent().unwrap().display();
    let config = format!("security:\n  seccompProfiles: {directory}\n  allowedUnsafeSysctls: [\"net.core.*\"]\n");
    let with_profile = |name: &str, profile: &serde_json::Value| {
        let script = "mkdir /tmp/new 2>&1 | sed 's/.*: //'; [ -d /tmp/new ] && echo made; grep ^Seccomp: /proc/self/status; exit 0";
        container(name, script).set("securityContext", json!({ "seccompProfile": profile }))
    };
    let cases = Cases::default()
        .expect(
            with_profile(
                "local",
                &json!({ "type": "Localhost", "localhostProfile": "no-mkdir.json" }),
            ),
            &["No space left on device", "Seccomp:\t2"],
        )
        .expect(
            with_profile("default", &json!({ "type": "RuntimeDefault" })),
            &["made", "Seccomp:\t2"],
        )
        .expect(
            with_profile("none", &json!({ "type": "Unconfined" })),
            &["made", "Seccomp:\t0"],
        )
        .expect(container("sysctl", "cat /proc/sys/net/core/somaxconn"), &["777"]);
    let pod = cases.add_to(Pod::named("profiles")).set(
        "spec.securityContext.sysctls",
        json!([{ "name": "net.core.somaxconn", "value": "777" }]),
    );
    cases.assert_output(&run_with_config(&config, &pod).success());
}

#[test]
fn what_the_node_does_not_allow_is_refused_with_kubernetes_words() {
    let _alone = alone();
    let main = || container("main", "echo started");
    let of_container = |context: serde_json::Value| main().set("securityContext", context);
    let sysctls = json!([{ "name": "kernel.sem", "value": "250 32000 32 128" }]);
    for (config, pod, message) in [
        (
            "security:\n  allowPrivileged: false\n",
            Pod::named("refused").container(main().privileged()),
            "spec.containers[0].securityContext.privileged: Forbidden: disallowed by cluster policy",
        ),
        (
            "",
            Pod::named("refused")
                .container(main())
                .set("spec.securityContext.sysctls", sysctls),
            "forbidden sysctl: \"kernel.sem\" not allowlisted",
        ),
        (
            "",
            Pod::named("refused").container(of_container(json!({ "procMount": "Unmasked" }))),
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            "",
            Pod::named("refused").container(of_container(json!({ "seLinuxOptions": { "level": "s0" } }))),
            "spec.containers[0].securityContext.seLinuxOptions",
        ),
    ] {
        let finished = run_with_config(config, &pod);
        assert_eq!(finished.code(), 1, "{finished:?}");
        assert_eq!(finished.stdout, "", "{finished:?}");
        assert!(finished.stderr.contains(message), "{message}: {finished:?}");
    }
}

#[test]
fn a_pod_that_the_node_ignores_is_pending_without_containers() {
    let _alone = alone();
    let config = host().file("unprivileged.yaml", "security:\n  allowPrivileged: false\n");
    let privileged = Pod::named("ignored").container(container("main", "echo started").privileged());
    let mut command = host().microkube(["run", "-d", "-"]);
    command.env("MICROKUBE_CONFIG", &config);
    let pod = Detached("ignored".to_owned());
    Running::start(command, Some(&privileged.to_string()))
        .finish()
        .success();
    wait_until("the Pod has its event", || {
        let events = host().succeed(["events", "--for", "pod/ignored"]);
        events.contains("FailedValidation")
            && events.contains("Error validating pod \"ignored\".\"default\" from api, ignoring")
    });
    let status = pod.get()["status"].clone();
    assert_eq!(status["phase"], "Pending", "{status}");
    assert!(status["containerStatuses"].is_null(), "{status}");
    let conditions = status["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|one| one["type"] == "PodScheduled"), "{status}");
    let table = host().succeed(["get", "pods", "ignored"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row.get(1..4), Some(&["0/1", "Pending", "0"][..]), "{table}");
}
