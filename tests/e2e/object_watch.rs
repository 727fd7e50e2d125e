//! `get -w` and `wait` for objects of all kinds, Pods included, and the deletion of dependents, as in kubectl.

use serde_json::json;

use crate::detached_pod::Detached;
use crate::host::{alone, host, shell_pod};
use crate::objects::{Temporary, config_map, file_of, get, says};

#[test]
fn a_watch_shows_pods_and_other_objects_in_the_order_of_their_changes() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/watched"]);
    let watched = |value: &str| file_of("watched.json", &[config_map("watched", &json!({ "key": value }))]);
    host().succeed(["apply", "-f", &watched("first")]);
    let template = "jsonpath={.kind}/{.metadata.name} {.status.phase}{.data.key} {.metadata.resourceVersion}{\"\\n\"}";
    let mut watch = host().begin(["get", "cm,pods", "-w", "-o", template]);
    let version = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let mut last = version(&watch.wait_for("ConfigMap/watched first"));
    let mut next = |text: &str| {
        let line = watch.wait_for(text);
        assert!(version(&line) > last, "{line} after {last}");
        last = version(&line);
    };
    let pod = Detached::start(&shell_pod("watched", "exec sleep 1000").restart_policy("Always"));
    next("Pod/watched Pending");
    next("Pod/watched Running");
    host().succeed(["apply", "-f", &watched("second")]);
    next("ConfigMap/watched second");
    host().succeed(["label", "pod", "watched", "tier=front"]);
    next("Pod/watched Running");
    pod.delete();
    host().succeed(["delete", "cm", "watched"]);
    next("ConfigMap/watched second");
    watch.signal(libc::SIGTERM);
    watch.finish();
}

#[test]
fn a_forced_deletion_is_seen_at_once() {
    let _alone = alone();
    let pod = Detached::start(&shell_pod("forced", "trap '' TERM; while :; do sleep 1; done"));
    pod.wait_ready();
    let waiting = host().begin(["wait", "--for=delete", "pod/forced", "--timeout=60s"]);
    host().succeed(["delete", "pod", "forced", "--force", "--grace-period=0"]);
    let finished = waiting.finish();
    // The wait may begin after the deletion. kubectl prints nothing then.
    assert!(
        finished.code() == 0 && ["", "pod/forced condition met\n"].contains(&&*finished.stdout),
        "{finished:?}"
    );
}

#[test]
fn objects_of_all_kinds_are_waited_for_with_kubectls_words() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/awaited", "configmap/kept"]);
    let mut created = host().begin(["wait", "--for=create", "cm/awaited", "--timeout=60s"]);
    let mut kept = config_map("kept", &json!({}));
    kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let objects = [config_map("awaited", &json!({ "key": "value" })), kept];
    host().succeed(["apply", "-f", &file_of("awaited.json", &objects)]);
    created.wait_for("configmap/awaited condition met");
    assert_eq!(created.finish().code(), 0);
    says(
        "wait --for=jsonpath={.data.key}=value cm/awaited",
        0,
        "configmap/awaited condition met\n",
    );
    says(
        "wait --for=jsonpath={.status.phase}=Active ns default",
        0,
        "namespace/default condition met\n",
    );
    let error = says("wait --for=jsonpath={.data.key}=other cm/awaited --timeout=0", 1, "");
    assert!(
        error.contains("timed out waiting for the condition on configmaps/awaited"),
        "{error}"
    );
    let error = says("wait --for=condition=Ready secret/none", 1, "");
    assert!(error.contains("secrets \"none\" not found"), "{error}");
    let error = says("wait --for=condition=Ready pv --all", 1, "");
    assert!(error.contains("no matching resources found"), "{error}");
    says("wait --for=delete secret/none", 0, "");
    host().succeed(["delete", "cm", "kept", "--wait=false"]);
    let deleted = host().begin(["wait", "--for=delete", "cm/kept", "--timeout=60s"]);
    host().succeed([
        "patch",
        "cm",
        "kept",
        "--type=json",
        "-p",
        r#"[{"op": "remove", "path": "/metadata/finalizers"}]"#,
    ]);
    let finished = deleted.finish();
    // The wait may begin after the object is gone.
    assert!(
        finished.code() == 0 && ["", "configmap/kept condition met\n"].contains(&&*finished.stdout),
        "{finished:?}"
    );
    let nothing = says("events --for cm/awaited", 0, "");
    assert!(nothing.contains("No events found in default namespace."), "{nothing}");
}

#[test]
fn a_pod_goes_with_the_object_that_owns_it() {
    let _alone = alone();
    let _temporary = Temporary(&["configmap/owner", "configmap/owned"]);
    let owned_by = |uid: &str| json!([{ "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid }]);
    for (cascade, stays) in [("orphan", true), ("background", false), ("foreground", false)] {
        host().succeed([
            "apply",
            "-f",
            &file_of("owner.json", &[config_map("owner", &json!({}))]),
        ]);
        let uid = get("cm", "owner")["metadata"]["uid"].as_str().unwrap().to_owned();
        let mut owned = config_map("owned", &json!({}));
        owned["metadata"]["ownerReferences"] = owned_by(&uid);
        host().succeed(["apply", "-f", &file_of("owned.json", &[owned])]);
        let pod = Detached::start(&shell_pod("owned", "exec sleep 1000"));
        pod.wait_ready();
        let patch = json!({ "metadata": { "ownerReferences": owned_by(&uid) } }).to_string();
        host().succeed(["patch", "pod", "owned", "-p", &patch]);
        says(
            &format!("delete cm owner --cascade={cascade}"),
            0,
            "configmap \"owner\" deleted from default namespace\n",
        );
        if stays {
            for kind in ["cm", "pod"] {
                assert!(
                    get(kind, "owned")["metadata"].get("ownerReferences").is_none(),
                    "{kind}"
                );
            }
            pod.delete();
            host().succeed(["delete", "cm", "owned"]);
        } else {
            host().succeed(["wait", "--for=delete", "pod/owned", "cm/owned", "--timeout=60s"]);
        }
    }
}
