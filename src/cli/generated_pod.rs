//! The Pod of `run NAME --image=IMAGE`, as `kubectl run` generates it.

use std::time::Duration;

use anyhow::Context as _;
use microkube_manifest::Input;
use serde_json::{Map, Value, json};

use super::failure::Failure;
use super::manifests::Loaded;
use super::namespace::NamespaceArg;
use super::stream::running::running_timeout;
use super::validate::ValidateArg;

/// Name of the generated manifest in messages.
const SOURCE: &str = "command line";

/// The options that describe the Pod.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Options for a Pod without a manifest")]
pub(super) struct ImageArgs {
    /// The image for the container to run; the argument is then the Pod's name
    #[arg(long)]
    pub(super) image: Option<String>,
    /// Arguments for the container, or its command with --command
    #[arg(last = true, value_name = "ARG", requires = "image")]
    pub(super) words: Vec<String>,
    /// Use the words after `--` as the command, not as its arguments
    #[arg(long, requires = "image")]
    command: bool,
    /// Environment variable to set in the container; may be repeated
    #[arg(long, value_name = "NAME=VALUE", requires = "image")]
    env: Vec<String>,
    /// The port that the container exposes
    #[arg(long, requires = "image")]
    port: Option<u16>,
    /// Comma-separated labels to apply to the Pod [default: run=NAME]
    #[arg(
        short = 'l',
        long,
        value_delimiter = ',',
        value_name = "KEY=VALUE,…",
        requires = "image"
    )]
    labels: Vec<String>,
    /// Annotation to apply to the Pod; may be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "image")]
    annotations: Vec<String>,
    /// The restart policy: Always, OnFailure or Never
    #[arg(long, default_value = "Always", value_name = "POLICY", requires = "image")]
    pub(super) restart: String,
    /// The image pull policy: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY", requires = "image")]
    image_pull_policy: Option<String>,
    /// Pass stdin to the container and stay attached
    #[arg(short = 'i', long, requires = "image")]
    pub(super) stdin: bool,
    /// Allocate a TTY for the container
    #[arg(short = 't', long, requires = "image")]
    pub(super) tty: bool,
    /// Leave the container's stdin open for a later `attach -i` when this command's stdin ends; the exit code is then
    /// always 0
    #[arg(long, requires = "stdin")]
    pub(super) leave_stdin_open: bool,
    /// Wait for the container to run and show its output; with --restart=Never, return its exit code
    #[arg(long, requires = "image")]
    pub(super) attach: bool,
    /// How long to wait for an attached container to run; with --restart=OnFailure, also for it to succeed after a
    /// failure
    #[arg(long, default_value = "1m", value_parser = running_timeout, allow_hyphen_values = true, value_name = "DURATION", requires = "image")]
    pub(super) pod_running_timeout: Duration,
    /// Delete the Pod when this command ends, even if it is interrupted; only for attached Pods
    #[arg(long, requires = "image")]
    pub(super) rm: bool,
}

impl ImageArgs {
    /// Whether the command stays attached to the Pod.
    pub(super) fn stays_attached(&self) -> bool {
        self.attach || self.stdin
    }

    /// The Pod, validated and defaulted like any other.
    pub(super) fn pod(&self, name: &str, image: &str, namespace: &NamespaceArg) -> Result<Loaded, Failure> {
        let manifest = self.manifest(name, image, namespace).map_err(Failure::from)?;
        let text = manifest.to_string();
        let input = Input {
            source: SOURCE,
            text: text.as_bytes(),
        };
        Ok(Loaded {
            manifests: microkube_manifest::load(&[input]).map_err(Failure::from)?,
            configurations: Vec::new(),
            validate: ValidateArg::default(),
            consumed_stdin: None,
        })
    }

    fn manifest(&self, name: &str, image: &str, namespace: &NamespaceArg) -> anyhow::Result<Value> {
        let mut container = json!({ "name": name, "image": image });
        let mut set = |field: &str, value: Value| container[field] = value;
        if !self.words.is_empty() {
            let field = if self.command { "command" } else { "args" };
            set(field, json!(self.words));
        }
        let env = self.env.iter().map(|variable| {
            let (name, value) = key_value(variable).context("--env")?;
            Ok(json!({ "name": name, "value": value }))
        });
        let env = env.collect::<anyhow::Result<Vec<_>>>()?;
        if !env.is_empty() {
            set("env", json!(env));
        }
        if let Some(port) = self.port {
            set("ports", json!([{ "containerPort": port }]));
        }
        if let Some(policy) = &self.image_pull_policy {
            set("imagePullPolicy", json!(policy));
        }
        if self.stdin {
            set("stdin", json!(true));
            set("stdinOnce", json!(!self.leave_stdin_open));
        }
        if self.tty {
            set("tty", json!(true));
        }
        let mut metadata = json!({ "name": name, "namespace": namespace.or_default(), "labels": { "run": name } });
        if !self.labels.is_empty() {
            metadata["labels"] = pairs(&self.labels).context("--labels")?;
        }
        if !self.annotations.is_empty() {
            metadata["annotations"] = pairs(&self.annotations).context("--annotations")?;
        }
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": { "containers": [container], "dnsPolicy": "ClusterFirst", "restartPolicy": self.restart },
        }))
    }
}

fn pairs(texts: &[String]) -> anyhow::Result<Value> {
    let mut map = Map::new();
    for text in texts {
        let (key, value) = key_value(text)?;
        map.insert(key.to_owned(), json!(value));
    }
    Ok(Value::Object(map))
}

fn key_value(text: &str) -> anyhow::Result<(&str, &str)> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .with_context(|| format!("{text:?} must have the form NAME=VALUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: ImageArgs,
    }

    fn args(words: &[&str]) -> ImageArgs {
        let words = ["run", "--image=nginx:1"].iter().chain(words);
        <Cli as clap::Parser>::try_parse_from(words).unwrap().args
    }

    fn in_namespace(namespace: &str) -> NamespaceArg {
        NamespaceArg {
            namespace: Some(namespace.to_owned()),
        }
    }

    #[test]
    fn stdin_once_is_set_unless_the_input_stays_open() {
        let container = |words: &[&str]| {
            let manifest = args(words).manifest("web", "nginx:1", &in_namespace("test")).unwrap();
            let container = &manifest["spec"]["containers"][0];
            (container["stdin"].clone(), container["stdinOnce"].clone())
        };
        assert_eq!(container(&["-i"]), (json!(true), json!(true)));
        assert_eq!(container(&["-i", "--leave-stdin-open"]), (json!(true), json!(false)));
        assert_eq!(container(&["--attach"]), (Value::Null, Value::Null));
    }

    #[test]
    fn the_pod_matches_kubectl_run() {
        let args = args(&[
            "--env=A=b=c",
            "--env=E=",
            "--port=80",
            "--labels=app=web,tier=front",
            "--annotations=note=x",
            "--image-pull-policy=Never",
            "--restart=Never",
            "--",
            "-g",
            "x y",
        ]);
        assert_eq!(
            args.manifest("web", "nginx:1", &in_namespace("test")).unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": "web", "namespace": "test",
                    "labels": { "app": "web", "tier": "front" }, "annotations": { "note": "x" },
                },
                "spec": {
                    "containers": [{
                        "name": "web", "image": "nginx:1", "args": ["-g", "x y"],
                        "env": [{ "name": "A", "value": "b=c" }, { "name": "E", "value": "" }],
                        "ports": [{ "containerPort": 80 }], "imagePullPolicy": "Never",
                    }],
                    "dnsPolicy": "ClusterFirst",
                    "restartPolicy": "Never",
                },
            })
        );
        let pod = args
            .pod("web", "nginx:1", &in_namespace("test"))
            .unwrap()
            .manifests
            .pods
            .remove(0);
        assert_eq!(
            pod.spec.unwrap().termination_grace_period_seconds,
            Some(30),
            "defaulted"
        );
    }

    #[test]
    fn the_default_label_is_the_name_and_a_command_overrides_the_image() {
        let args = args(&["--command", "-it", "--", "sh"]);
        let manifest = args.manifest("web", "nginx:1", &in_namespace("default")).unwrap();
        assert_eq!(manifest["metadata"]["labels"], json!({ "run": "web" }));
        assert_eq!(manifest["spec"]["restartPolicy"], "Always");
        let container = &manifest["spec"]["containers"][0];
        assert_eq!(container["command"], json!(["sh"]));
        assert_eq!(
            (&container["stdin"], &container["stdinOnce"], &container["tty"]),
            (&json!(true), &json!(true), &json!(true))
        );
        assert!(args.stays_attached());
    }

    #[test]
    fn invalid_pods_are_refused() {
        let bad = args(&["--restart=Never"]).pod("Web_1", "nginx:1", &in_namespace("default"));
        let message = bad.unwrap_err().error.to_string();
        assert!(
            message.starts_with("command line:") && message.contains("metadata.name"),
            "{message}"
        );
        let error = args(&["--env", "x"])
            .manifest("a", "b", &in_namespace("default"))
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "--env: \"x\" must have the form NAME=VALUE");
        for flag in ["--env=A=b", "--restart=Never", "-l=a=b", "--rm"] {
            let parsed = <Cli as clap::Parser>::try_parse_from(["run", flag]);
            assert!(parsed.is_err(), "{flag} needs an image");
        }
        assert!(
            <Cli as clap::Parser>::try_parse_from(["run"]).is_ok(),
            "defaults need no image"
        );
    }
}
