//! Builds Pod manifests field by field. Fields without a method are set by their path, as JSON. Tests about the text of
//! manifests write that text themselves.

use std::fmt::{self, Display, Formatter};

use serde_json::{Value, json};

/// A Pod's manifest; its `Display` is the text that microkube reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod(Value);

impl Pod {
    /// A Pod without containers and with `restartPolicy: Never`.
    pub fn named(name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name },
            "spec": { "restartPolicy": "Never" },
        }))
    }

    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().expect("a Pod has a name")
    }

    pub fn container(self, container: Container) -> Self {
        self.add("spec.containers", container.0)
    }

    /// Adds an init container, or a sidecar if its own restart policy is `Always`.
    pub fn init_container(self, container: Container) -> Self {
        self.add("spec.initContainers", container.0)
    }

    pub fn restart_policy(self, policy: &str) -> Self {
        self.set("spec.restartPolicy", policy)
    }

    pub fn grace_period_seconds(self, seconds: u32) -> Self {
        self.set("spec.terminationGracePeriodSeconds", seconds)
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }

    /// Adds an emptyDir on the disk.
    pub fn empty_dir(self, name: &str) -> Self {
        self.volume(json!({ "name": name, "emptyDir": {} }))
    }

    pub fn volume(self, volume: Value) -> Self {
        self.add("spec.volumes", volume)
    }

    /// Sets a field by its path in the document, such as `spec.hostname`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        *at(&mut self.0, path) = value.into();
        self
    }

    fn add(mut self, path: &str, item: Value) -> Self {
        add(&mut self.0, path, item);
        self
    }
}

impl Display for Pod {
    fn fmt(&self, formatter: &mut Formatter) -> fmt::Result {
        writeln!(formatter, "{:#}", self.0)
    }
}

/// The text of several Pods, as documents of one file.
pub fn documents(pods: &[Pod]) -> String {
    let texts: Vec<String> = pods.iter().map(Pod::to_string).collect();
    texts.join("---\n")
}

#[derive(Debug, Clone, PartialEq)]
pub struct Container(Value);

impl Container {
    /// A container that runs the image's command. The image is only pulled if it is not in the store.
    pub fn new(name: &str, image: &str) -> Self {
        Self(json!({ "name": name, "image": image, "imagePullPolicy": "IfNotPresent" }))
    }

    pub fn name(&self) -> &str {
        self.0["name"].as_str().expect("a container has a name")
    }

    pub fn pull_policy(self, policy: &str) -> Self {
        self.set("imagePullPolicy", policy)
    }

    pub fn command(self, command: &[&str]) -> Self {
        self.set("command", command)
    }

    /// Sets the command to a shell that runs this script.
    pub fn shell(self, script: &str) -> Self {
        self.command(&["/bin/sh", "-c", script])
    }

    pub fn mount(self, volume: &str, path: &str) -> Self {
        self.volume_mount(json!({ "name": volume, "mountPath": path }))
    }

    pub fn volume_mount(mut self, mount: Value) -> Self {
        add(&mut self.0, "volumeMounts", mount);
        self
    }

    pub fn limit(self, resource: &str, quantity: &str) -> Self {
        self.set(&format!("resources.limits.{resource}"), quantity)
    }

    pub fn restart_policy(self, policy: &str) -> Self {
        self.set("restartPolicy", policy)
    }

    /// Adds an entry of `env`.
    pub fn env(mut self, variable: Value) -> Self {
        add(&mut self.0, "env", variable);
        self
    }

    /// Adds an entry of `envFrom`.
    pub fn env_from(mut self, source: Value) -> Self {
        add(&mut self.0, "envFrom", source);
        self
    }

    /// Adds a variable with the value of a ConfigMap's key.
    pub fn env_of_config_map(self, variable: &str, name: &str, key: &str) -> Self {
        let key = json!({ "name": name, "key": key });
        self.env(json!({ "name": variable, "valueFrom": { "configMapKeyRef": key } }))
    }

    /// Adds a variable with the value of a Secret's key.
    pub fn env_of_secret(self, variable: &str, name: &str, key: &str) -> Self {
        let key = json!({ "name": name, "key": key });
        self.env(json!({ "name": variable, "valueFrom": { "secretKeyRef": key } }))
    }

    /// Adds a variable with the value of one of the Pod's fields.
    pub fn env_of_field(self, variable: &str, path: &str) -> Self {
        let source = json!({ "fieldRef": { "fieldPath": path } });
        self.env(json!({ "name": variable, "valueFrom": source }))
    }

    pub fn privileged(self) -> Self {
        self.set("securityContext.privileged", true)
    }

    /// Sets a field by its path in the container, such as `lifecycle.preStop`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        *at(&mut self.0, path) = value.into();
        self
    }
}

/// A probe or hook handler that runs a command.
pub fn exec(command: &[&str]) -> Value {
    json!({ "exec": { "command": command } })
}

/// A probe or hook handler that runs a shell script.
pub fn exec_shell(script: &str) -> Value {
    exec(&["/bin/sh", "-c", script])
}

/// A probe with a handler and timing fields.
pub fn probe(handler: Value, timing: Value) -> Value {
    let mut probe = handler;
    for (field, value) in timing.as_object().expect("fields of a probe") {
        probe[field] = value.clone();
    }
    probe
}

/// A field by its path; missing objects on the way are created.
fn at<'a>(object: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(object, |place, field| &mut place[field])
}

fn add(object: &mut Value, path: &str, item: Value) {
    let list = at(object, path);
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().expect("a list").push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pod: &Pod) -> Value {
        serde_json::from_str(&pod.to_string()).unwrap()
    }

    #[test]
    fn a_pod_has_its_added_parts_in_order() {
        let pod = Pod::named("web")
            .label("example.org/app", "demo")
            .grace_period_seconds(2)
            .restart_policy("Always")
            .empty_dir("data")
            .volume(json!({ "name": "fast", "emptyDir": { "medium": "Memory" } }))
            .init_container(Container::new("log", "logger").restart_policy("Always"))
            .container(
                Container::new("main", "nginx:1")
                    .shell("echo \"one\"\n")
                    .mount("data", "/data")
                    .mount("fast", "/fast")
                    .limit("cpu", "1")
                    .limit("memory", "64Mi")
                    .privileged(),
            )
            .container(Container::new("other", "busybox").pull_policy("Never"))
            .set("spec.securityContext.runAsUser", 7);
        assert_eq!(pod.name(), "web");
        let expected = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "web", "labels": { "example.org/app": "demo" } },
            "spec": {
                "restartPolicy": "Always",
                "terminationGracePeriodSeconds": 2,
                "securityContext": { "runAsUser": 7 },
                "volumes": [{ "name": "data", "emptyDir": {} }, { "name": "fast", "emptyDir": { "medium": "Memory" } }],
                "initContainers": [
                    { "name": "log", "image": "logger", "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always" },
                ],
                "containers": [
                    {
                        "name": "main", "image": "nginx:1", "imagePullPolicy": "IfNotPresent",
                        "command": ["/bin/sh", "-c", "echo \"one\"\n"],
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }, { "name": "fast", "mountPath": "/fast" }],
                        "resources": { "limits": { "cpu": "1", "memory": "64Mi" } },
                        "securityContext": { "privileged": true },
                    },
                    { "name": "other", "image": "busybox", "imagePullPolicy": "Never" },
                ],
            },
        });
        assert_eq!(read(&pod), expected);
    }

    #[test]
    fn setting_a_field_again_replaces_only_that_field() {
        let set = Pod::named("web")
            .set("spec.a.b", 1)
            .set("spec.a.c", 2)
            .set("spec.a.b", json!([3]));
        assert_eq!(
            read(&set)["spec"],
            json!({ "restartPolicy": "Never", "a": { "b": [3], "c": 2 } })
        );
        let container = Container::new("main", "one").set("image", "two");
        assert_eq!(container.0["image"], "two");
    }

    #[test]
    fn a_probe_combines_handler_and_timing() {
        assert_eq!(
            probe(exec(&["true"]), json!({ "periodSeconds": 1 })),
            json!({ "exec": { "command": ["true"] }, "periodSeconds": 1 })
        );
        assert_eq!(exec_shell("a b"), exec(&["/bin/sh", "-c", "a b"]));
    }

    #[test]
    fn documents_are_separated_by_markers() {
        let pods = [Pod::named("a"), Pod::named("b")];
        let text = documents(&pods);
        let read: Vec<Value> = text
            .split("---\n")
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        assert_eq!(read, pods.map(|pod| pod.0));
    }
}
