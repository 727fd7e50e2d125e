//! Image volumes: the files of images in Pods.

use microkube_tests::manifest::{Container, Pod};
use serde_json::{Value, json};

use crate::cases::Cases;
use crate::detached_pod::{Detached, status_of};
use crate::host::{alone, container, host, image, processes, wait_until};
use crate::layered_image::{append, layout_of};
use crate::recovery::{kill, kill_everything};

const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// An image without programs, in the store under a name; removed when the test ends.
struct Model(&'static str);

impl Model {
    /// Two layers. The second one hides a file of the first.
    #[track_caller]
    fn load(name: &'static str) -> Self {
        let layout = layout_of("model", |_, _| {
            let layers: [&[(&str, &str)]; 2] = [
                &[("data/a", "one\n"), ("data/removed", "never seen\n")],
                &[("data/b", "two\n"), ("data/.wh.removed", "")],
            ];
            let tar = |files: &[(&str, &str)]| {
                let mut tar = tar::Builder::new(Vec::new());
                for (path, content) in files {
                    append(&mut tar, path, content.as_bytes());
                }
                tar.into_inner().unwrap()
            };
            layers.map(tar).to_vec()
        });
        host().succeed(["image", "load", "--name", name, layout.to_str().unwrap()]);
        Self(name)
    }

    fn volume(&self) -> Value {
        volume("model", self.0, "IfNotPresent")
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = host().output(["image", "rm", "--force", self.0]);
    }
}

fn volume(name: &str, reference: &str, policy: &str) -> Value {
    json!({ "name": name, "image": { "reference": reference, "pullPolicy": policy } })
}

fn reader(name: &str, script: &str) -> Container {
    container(name, script).mount("model", "/model")
}

fn waits_with(pod: &Detached, reason: &str) -> bool {
    status_of(&pod.get(), "main").is_some_and(|status| status["state"]["waiting"]["reason"] == reason)
}

#[test]
fn containers_see_the_files_of_an_image_and_can_neither_change_nor_execute_them() {
    let _alone = alone();
    let model = Model::load("docker.io/library/model:v1");
    let whole = reader(
        "whole",
        "cat /model/data/*; ls /model/data; stat -c %u:%g /model/data/a; (echo x > /model/data/a) 2>&1 | grep -o 'Read-only file system'; \
         touch /model/new 2>&1 | grep -o 'Read-only file system'; rm /model/data/a 2> /dev/null || echo kept; \
         /tools/bin/busybox true 2> /dev/null || echo refused; cmp /tools/bin/busybox /bin/busybox && echo same",
    )
    .mount("tools", "/tools");
    let parts = container(
        "parts",
        "ls /part; cat /expanded/b; touch /part/x 2> /dev/null || echo refused",
    )
    .set("env", json!([{ "name": "DIRECTORY", "value": "data" }]))
    .volume_mount(json!({
        "name": "model", "mountPath": "/part", "subPath": "data", "readOnly": true, "recursiveReadOnly": "Enabled",
    }))
    .volume_mount(json!({ "name": "model", "mountPath": "/expanded", "subPathExpr": "$(DIRECTORY)" }));
    let user = reader("user", "cat /model/data/a").set("securityContext", json!({ "runAsUser": 1000 }));
    let cases = Cases::default()
        .expect(
            whole,
            &[
                "one",
                "two",
                "a",
                "b",
                "0:0",
                "Read-only file system",
                "Read-only file system",
                "kept",
                "refused",
                "same",
            ],
        )
        .expect(parts, &["a", "b", "two", "refused"])
        .expect(user, &["one"]);
    for host_users in [true, false] {
        let pod = Pod::named("image-files")
            .volume(model.volume())
            .volume(volume("tools", &image("busybox"), "IfNotPresent"))
            .set("spec.hostUsers", host_users);
        cases.assert_output(&host().run(cases.add_to(pod)).success());
    }
}

#[test]
fn a_sub_path_that_the_image_does_not_have_is_an_error() {
    let _alone = alone();
    let model = Model::load("docker.io/library/model:v1");
    for (path, problem) in [
        ("data/none", "openat data/none: no such file or directory"),
        ("data/a", "only directory subpath is supported"),
    ] {
        let mount = json!({ "name": "model", "mountPath": "/part", "subPath": path });
        let pod = Pod::named("no-such-part")
            .container(container("main", "true").volume_mount(mount))
            .volume(model.volume());
        let finished = host().run(pod);
        assert_eq!(finished.code(), 1, "{finished:?}");
        let expected = format!(
            "container \"main\": failed to mount image volume: ImageVolumeMountFailed: failed to ensure image subpath {path:?} in \
             \"model\": {problem}"
        );
        assert!(finished.stderr.contains(&expected), "{finished:?}");
    }
}

#[test]
fn a_pod_waits_for_the_image_of_its_volume_as_for_its_own() {
    let _alone = alone();
    let pod = Detached::start(
        &Pod::named("patient")
            .container(reader("main", "cat /model/data/a"))
            .volume(volume("model", "absent-model:v1", "Never")),
    );
    wait_until("it says why it waits", || waits_with(&pod, "ErrImageNeverPull"));
    let events = host().succeed(["events", "--for", "pod/patient"]);
    for text in [
        "Container image \"absent-model:v1\" is not present with pull policy of Never",
        "Error: ErrImageNeverPull",
    ] {
        assert!(events.contains(text), "{events}");
    }
    let described = host().succeed(["describe", "pod", "patient"]);
    let expected = "  model:\n    Type:        Image (a container image or OCI artifact)\n    Reference:   absent-model:v1\n    \
                    PullPolicy:  Never\n";
    assert!(described.contains(expected), "{described}");
    let _model = Model::load("docker.io/library/absent-model:v1");
    pod.wait_phase("Succeeded");
    assert_eq!(pod.logs("main"), "one\n");
    pod.delete();
}

#[test]
fn a_volume_whose_image_does_not_exist_is_an_error_that_names_both() {
    let _alone = alone();
    let pod = |name| {
        Pod::named(name)
            .container(reader("main", "true"))
            .volume(volume("model", &image("no-such-image"), "Always"))
    };
    let finished = host().run(pod("missing-model"));
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.contains("volume \"model\""), "{finished:?}");
    assert!(finished.stderr.contains("test/no-such-image"), "{finished:?}");
    let detached = Detached::start(&pod("backing-off"));
    wait_until("it backs off", || waits_with(&detached, "ImagePullBackOff"));
    let events = host().succeed(["events", "--for", "pod/backing-off"]);
    for text in ["Failed to pull image", "Error: ErrImagePull", "Back-off pulling image"] {
        assert!(events.contains(text), "{events}");
    }
    detached.delete();
}

#[test]
fn the_volume_outlives_its_supervisor_and_the_image_is_in_use() {
    let _alone = alone();
    let model = Model::load("docker.io/library/model:v1");
    let pod = Pod::named("keeps-model")
        .restart_policy("Always")
        .container(reader("main", WAIT))
        .volume(model.volume());
    let pod = Detached::start(&pod);
    pod.wait_ready();
    let read = || host().succeed(["exec", &pod.0, "--", "cat", "/model/data/b"]);
    assert_eq!(read(), "two\n");
    let refused = host().output(["image", "rm", model.0]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(
        refused.stderr.contains("used by Pod default/keeps-model"),
        "{refused:?}"
    );

    processes(&["supervise"]).into_iter().for_each(kill);
    host().succeed(["recover"]);
    pod.wait_ready();
    assert_eq!(read(), "two\n");
    assert_eq!(pod.container("main")["restartCount"], 0);

    kill_everything();
    host().succeed(["recover"]);
    wait_until("the container runs in another VM", || {
        let main = pod.container("main");
        main["restartCount"] == 1 && main["ready"] == true
    });
    assert_eq!(read(), "two\n");
    pod.delete();
}
