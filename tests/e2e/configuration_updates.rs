//! Changes of ConfigMaps, Secrets and a Pod's labels while the Pod runs, as its containers see them.

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::detached_pod::Detached;
use crate::host::{alone, container, host, wait_until};
use crate::objects::{Stored, config_map, object, secret};

/// Prints a line for each file that is renamed into `/config`. The numbers are those of `inotify_init`,
/// `inotify_add_watch` and `IN_MOVED_TO`.
const WATCH: &str = r#"
$| = 1;
my $fd = syscall(253);
my $path = "/config";
syscall(254, $fd, $path, 0x80);
open(my $in, "<&=", $fd) or die;
print "watching\n";
while (sysread($in, my $events, 65536)) {
    while (length $events) {
        my (undef, undef, undef, $length) = unpack("iIII", $events);
        print "moved to ", unpack("Z*", substr($events, 16, $length)), "\n";
        $events = substr($events, 16 + $length);
    }
}
"#;

/// Prints each new value of two keys that always change together, and any state in which they differ.
const READ_BOTH: &str = "last=; while :; do \
    cd -P /config/..data && a=$(cat a 2> /dev/null) && b=$(cat b 2> /dev/null) && { \
    [ \"$a\" = \"$b\" ] || echo \"torn: $a $b\"; [ \"$a\" = \"$last\" ] || { last=$a; echo \"saw $a\"; }; }; \
    sleep 0.1; done";

struct Updated(Detached);

impl Updated {
    /// What a shell command prints in the container `main`; `None` if it fails.
    fn run(&self, command: &str) -> Option<String> {
        let finished = host().output(["exec", &self.0.0, "-c", "main", "--", "/bin/sh", "-c", command]);
        finished.status.success().then_some(finished.stdout)
    }

    #[track_caller]
    fn wait_for(&self, command: &str, expected: &str) {
        let mut found = None;
        let mut tries = 0;
        wait_until(&format!("{command:?} prints {expected:?}"), || {
            found = self.run(command);
            tries += 1;
            if tries % 20 == 0 {
                println!("{command}: {found:?}");
            }
            found.as_deref() == Some(expected)
        });
    }

    /// Waits until `..data` has been replaced this many times, and not more often.
    #[track_caller]
    fn wait_for_replacements(&self, expected: usize) {
        let mut log = String::new();
        wait_until("the files are replaced", || {
            log = self.0.logs("inotify");
            log.lines().count() > expected
        });
        assert_eq!(log, format!("watching\n{}", "moved to ..data\n".repeat(expected)));
    }
}

#[track_caller]
fn patch(kind: &str, name: &str, patch: &Value) {
    let patched = host().succeed(["patch", kind, name, "--type=merge", "-p", &patch.to_string()]);
    assert_eq!(patched, format!("{kind}/{name} patched\n"));
}

fn pod() -> Pod {
    let main = container(
        "main",
        "echo \"level $LEVEL $TOKEN\"; until [ -e /tmp/end ]; do sleep 0.1; done",
    )
    .env_of_config_map("LEVEL", "live", "a")
    .env_of_secret("TOKEN", "live-secret", "token")
    .mount("config", "/config")
    .mount("secret", "/secret")
    .mount("podinfo", "/podinfo")
    .mount("all", "/all")
    .mount("late", "/late")
    .mount("frozen", "/frozen")
    .volume_mount(json!({ "name": "config", "mountPath": "/etc/app.conf", "subPath": "a" }));
    let inotify = Container::new("inotify", "debian-tools:latest")
        .command(&["/usr/bin/perl", "-e", WATCH])
        .mount("config", "/config");
    let field = |path: &str| json!({ "path": path, "fieldRef": { "fieldPath": format!("metadata.{path}") } });
    Pod::named("updated")
        .restart_policy("Always")
        .label("app", "one")
        .set("metadata.annotations", json!({ "note": "first" }))
        .container(main)
        .container(inotify)
        .container(container("reader", READ_BOTH).mount("config", "/config"))
        .volume(json!({ "name": "config", "configMap": { "name": "live" } }))
        .volume(json!({ "name": "secret", "secret": { "secretName": "live-secret", "defaultMode": 0o400 } }))
        .volume(json!({ "name": "podinfo", "downwardAPI": { "items": [field("labels"), field("annotations")] } }))
        .volume(json!({ "name": "all", "projected": { "sources": [
            { "configMap": { "name": "live", "items": [{ "key": "a", "path": "config/a" }] } },
            { "secret": { "name": "live-secret", "items": [{ "key": "token", "path": "secret/token" }] } },
        ] } }))
        .volume(json!({ "name": "late", "configMap": { "name": "live-late", "optional": true } }))
        .volume(json!({ "name": "frozen", "configMap": { "name": "live-frozen" } }))
}

#[test]
fn volumes_follow_their_objects_while_the_pod_runs() {
    let _alone = alone();
    let live = |value: &str| config_map("live", &json!({ "a": value, "b": value }));
    let late = config_map("live-late", &json!({ "key": "late" }));
    let frozen = object(
        "ConfigMap",
        "live-frozen",
        &json!({ "immutable": true, "data": { "key": "frozen" } }),
    );
    let first = [live("1"), secret("live-secret", &json!({ "token": "t1" })), frozen];
    let _objects = Stored::apply("live-objects.yaml", &first);
    let late = Stored::later("live-late.yaml", &[late]);
    let pod = Updated(Detached::start(&pod()));
    pod.0.wait_ready();
    pod.0.wait_for_log("inotify", "watching");
    pod.0.wait_for_log("reader", "saw 1");
    assert_eq!(pod.0.logs("main"), "level 1 t1\n");
    assert_eq!(
        pod.run("cat /config/a /etc/app.conf /secret/token /all/config/a /all/secret/token /frozen/key; ls /late")
            .as_deref(),
        Some("11t11t1frozen")
    );

    // Two keys change together, and one is added.
    patch(
        "configmap",
        "live",
        &json!({ "data": { "a": "2", "b": "2", "added": "new" } }),
    );
    pod.0.wait_for_log("reader", "saw 2");
    pod.wait_for(
        "cat /config/a /config/added /all/config/a; ls /config",
        "2new2a\nadded\nb\n",
    );
    // A file mounted by subPath and the environment stay as they are.
    assert_eq!(pod.run("cat /etc/app.conf; echo $LEVEL").as_deref(), Some("11\n"));
    pod.wait_for_replacements(1);

    // A key is removed: its file disappears.
    patch(
        "configmap",
        "live",
        &json!({ "data": { "a": "3", "b": "3", "added": null } }),
    );
    pod.0.wait_for_log("reader", "saw 3");
    pod.wait_for("ls /config", "a\nb\n");
    pod.wait_for_replacements(2);

    // A change of an annotation changes no file. The supervisor handles it before the later change.
    host().succeed(["annotate", "configmap", "live", "example.org/note=x"]);
    patch("configmap", "live", &json!({ "data": { "a": "4", "b": "4" } }));
    pod.0.wait_for_log("reader", "saw 4");
    pod.wait_for_replacements(3);

    // A Secret, in its own volume and in a projected one.
    patch("secret", "live-secret", &json!({ "stringData": { "token": "t2" } }));
    pod.wait_for(
        "cat /secret/token /all/secret/token /all/config/a; stat -L -c %a /secret/token",
        "t2t24400\n",
    );

    // The Pod's labels and annotations.
    assert_eq!(
        host().succeed(["label", "pod", "updated", "app=two", "tier=front", "--overwrite"]),
        "pod/updated labeled\n"
    );
    host().succeed(["annotate", "pod", "updated", "note-"]);
    pod.wait_for(
        "cat /podinfo/labels; echo; grep -c ^note= /podinfo/annotations; true",
        "app=\"two\"\ntier=\"front\"\n0\n",
    );
    assert_eq!(pod.0.container("main")["restartCount"], 0);

    // An optional ConfigMap appears.
    host().succeed(["apply", "-f", late.path()]);
    pod.wait_for("cat /late/key", "late");

    // A ConfigMap that must exist is deleted: the files stay until there is a new one. The later change of the Secret
    // shows that the deletion was noticed.
    host().succeed(["delete", "configmap", "live"]);
    patch("secret", "live-secret", &json!({ "stringData": { "token": "t3" } }));
    pod.wait_for("cat /secret/token", "t3");
    assert_eq!(pod.run("cat /config/a").as_deref(), Some("4"));
    host().succeed([
        "apply",
        "-f",
        host().file("live-again.yaml", &live("5").to_string()).to_str().unwrap(),
    ]);
    pod.0.wait_for_log("reader", "saw 5");
    pod.wait_for("cat /all/config/a /all/secret/token", "5t3");

    // An immutable ConfigMap cannot be changed.
    let refused = host().output([
        "patch",
        "configmap",
        "live-frozen",
        "-p",
        r#"{"data":{"key":"thawed"}}"#,
    ]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("data: Forbidden: field is immutable when `immutable` is set"),
        "{refused:?}"
    );
    assert_eq!(pod.run("cat /frozen/key").as_deref(), Some("frozen"));

    // A container that starts again has the new values in its environment and by subPath.
    pod.run("touch /tmp/end");
    wait_until("it has been restarted", || pod.0.container("main")["restartCount"] == 1);
    pod.0.wait_for_log("main", "level 5 t3");
    pod.wait_for("cat /etc/app.conf", "5");

    let read = pod.0.logs("reader");
    assert!(!read.contains("torn"), "{read}");
}
