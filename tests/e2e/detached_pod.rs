//! A detached Pod of a test, as the verbs show it.

use microkube_tests::manifest::Pod;
use serde_json::Value;

use crate::host::{Host, host, wait_until};

/// A detached Pod of a test; deleted when the test ends, even by a panic.
pub struct Detached(pub String);

impl Detached {
    #[track_caller]
    pub fn start(pod: &Pod) -> Self {
        let file = host().manifest(pod);
        host().succeed(["run", "-d", file.to_str().unwrap()]);
        Self(pod.name().to_owned())
    }

    /// The Pod as JSON.
    #[track_caller]
    pub fn get(&self) -> Value {
        let text = host().succeed(["get", "pod", &self.0, "-o", "json"]);
        serde_json::from_str(&text).unwrap()
    }

    /// The status of a container, init containers included.
    #[track_caller]
    pub fn container(&self, name: &str) -> Value {
        let pod = self.get();
        status_of(&pod, name).unwrap_or_else(|| panic!("no status of {name}: {pod}"))
    }

    /// The output of a container.
    #[track_caller]
    pub fn logs(&self, container: &str) -> String {
        host().succeed(["logs", &self.0, "-c", container])
    }

    #[track_caller]
    pub fn wait(&self, condition: &str) {
        let condition = format!("--for={condition}");
        host().succeed(["wait", &condition, &format!("pod/{}", self.0), "--timeout=120s"]);
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait("condition=Ready");
    }

    #[track_caller]
    pub fn wait_phase(&self, phase: &str) {
        self.wait(&format!("jsonpath={{.status.phase}}={phase}"));
    }

    #[track_caller]
    pub fn wait_for_log(&self, container: &str, text: &str) {
        wait_until(&format!("{container} writes {text:?}"), || {
            host().output(["logs", &self.0, "-c", container]).stdout.contains(text)
        });
    }

    #[track_caller]
    pub fn delete(&self) {
        host().succeed(["delete", "pod", &self.0, "--now"]);
    }
}

/// The status of a container in a Pod as JSON; `None` for a Pod that was only just created.
pub fn status_of(pod: &Value, name: &str) -> Option<Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let mut statuses = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    statuses.find(|status| status["name"] == name).cloned()
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = host().output(["delete", "pod", &self.0, "--now", "--ignore-not-found"]);
    }
}

impl Host {
    /// The reasons of a Pod's events.
    pub fn event_reasons(&self, pod: &str) -> Vec<String> {
        let text = self.succeed(["events", "--for", &format!("pod/{pod}"), "-o", "json"]);
        let events: Value = serde_json::from_str(&text).unwrap();
        let items = events["items"].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}
