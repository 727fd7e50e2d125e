//! The copy of a Pod for debugging (`generatePodCopyWithDebugContainer` in `pkg/cmd/debug/debug.go`).

use anyhow::anyhow;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::profile::Profile;

/// What to change in the copy.
#[derive(Debug, Clone)]
pub(super) struct CopyOptions {
    /// Name of the copy.
    pub(super) name: String,
    /// The container to change or to add.
    pub(super) container: Option<String>,
    pub(super) image: Option<String>,
    /// Container and image; `*` stands for all containers.
    pub(super) images: Vec<(String, String)>,
    pub(super) words: Vec<String>,
    /// Whether the words are only the arguments.
    pub(super) arguments_only: bool,
    pub(super) env: Vec<EnvVar>,
    pub(super) image_pull_policy: Option<String>,
    pub(super) stdin: bool,
    pub(super) tty: bool,
    pub(super) same_node: bool,
    /// Whether the containers share a process namespace, if that was specified.
    pub(super) share_processes: Option<bool>,
    pub(super) profile: Profile,
}

/// The copy, and its debug container if one was changed or added. `new_name` names a container that is added.
pub(super) fn copy(
    pod: &Pod,
    options: &CopyOptions,
    new_name: impl FnOnce(&Pod) -> String,
) -> anyhow::Result<(Pod, Option<String>)> {
    let metadata = &pod.metadata;
    let mut copied = Pod {
        metadata: ObjectMeta {
            name: Some(options.name.clone()),
            namespace: metadata.namespace.clone(),
            labels: metadata.labels.clone(),
            annotations: metadata.annotations.clone(),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: None,
    };
    let spec = copied.spec.get_or_insert_default();
    spec.ephemeral_containers = None;
    if options.share_processes.is_some() {
        spec.share_process_namespace = options.share_processes;
    }
    if !options.same_node {
        spec.node_name = None;
    }
    let all = spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten());
    for container in all {
        let image_of = |name: &str| options.images.iter().find(|(container, _)| container == name);
        if let Some((_, image)) = image_of(&container.name).or_else(|| image_of("*")) {
            container.image = Some(image.clone());
        }
    }
    let is_wanted = |container: &Container| Some(&container.name) == options.container.as_ref();
    let index = match spec.containers.iter().position(is_wanted) {
        Some(index) => index,
        None if options.image.is_none() && !options.images.is_empty() => return Ok((copied, None)),
        None if options.image.is_none() => return Err(anyhow!("you must specify image when creating new container")),
        None => {
            let name = match &options.container {
                Some(name) => name.clone(),
                None => new_name(&copied),
            };
            let containers = &mut copied.spec.get_or_insert_default().containers;
            containers.push(Container {
                name,
                ..Container::default()
            });
            containers.len().saturating_sub(1)
        }
    };
    let containers = &mut copied.spec.get_or_insert_default().containers;
    let Some(container) = containers.get_mut(index) else {
        return Err(anyhow!("the Pod has no container"));
    };
    change(container, options);
    let name = container.name.clone();
    options.profile.change_copy(&mut copied);
    Ok((copied, Some(name)))
}

fn change(container: &mut Container, options: &CopyOptions) {
    if !options.words.is_empty() {
        if options.arguments_only {
            container.args = Some(options.words.clone());
        } else {
            container.command = Some(options.words.clone());
            container.args = None;
        }
    }
    if !options.env.is_empty() {
        container.env = Some(options.env.clone());
    }
    if let Some(image) = &options.image {
        container.image = Some(image.clone());
    }
    if let Some(policy) = &options.image_pull_policy {
        container.image_pull_policy = Some(policy.clone());
    }
    container.stdin = Some(options.stdin);
    container.tty = Some(options.tty);
    container.security_context = options.profile.security_context(container.security_context.take());
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"app": "web"}, "generation": 1},
            "spec": {
                "nodeName": "host",
                "containers": [
                    {"name": "main", "image": "nginx:1", "args": ["-g"], "livenessProbe": {"tcpSocket": {"port": 1}}},
                    {"name": "log", "image": "log:1"},
                ],
                "ephemeralContainers": [{"name": "debugger-1", "image": "busybox"}],
            },
            "status": {"phase": "Running"},
        }))
        .unwrap()
    }

    fn options() -> CopyOptions {
        CopyOptions {
            name: "web-debug".to_owned(),
            container: None,
            image: None,
            images: Vec::new(),
            words: Vec::new(),
            arguments_only: false,
            env: Vec::new(),
            image_pull_policy: None,
            stdin: false,
            tty: false,
            same_node: false,
            share_processes: None,
            profile: Profile::General,
        }
    }

    fn copied(options: &CopyOptions) -> (Value, Option<String>) {
        let (copy, name) = copy(&pod(), options, |_| "debugger-x".to_owned()).unwrap();
        (serde_json::to_value(copy).unwrap(), name)
    }

    #[test]
    fn a_debug_container_is_added_to_the_copy() {
        let (copy, name) = copied(&CopyOptions {
            image: Some("busybox".to_owned()),
            stdin: true,
            tty: true,
            ..options()
        });
        assert_eq!(name.as_deref(), Some("debugger-x"));
        assert_eq!(copy["metadata"], json!({"name": "web-debug", "namespace": "shop"}));
        assert_eq!(copy["status"], Value::Null);
        let spec = &copy["spec"];
        assert_eq!(
            (&spec["nodeName"], &spec["ephemeralContainers"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(spec["shareProcessNamespace"], true);
        assert_eq!(spec["containers"][0]["livenessProbe"], Value::Null);
        assert_eq!(
            spec["containers"][2],
            json!({
                "name": "debugger-x", "image": "busybox", "stdin": true, "tty": true,
                "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
            })
        );
    }

    #[test]
    fn an_existing_container_gets_another_command() {
        let (copy, name) = copied(&CopyOptions {
            container: Some("main".to_owned()),
            words: vec!["sh".to_owned()],
            same_node: true,
            share_processes: Some(false),
            profile: Profile::Legacy,
            ..options()
        });
        assert_eq!(name.as_deref(), Some("main"));
        assert_eq!(
            copy["metadata"]["labels"],
            json!({"app": "web"}),
            "the profile legacy keeps them"
        );
        let spec = &copy["spec"];
        assert_eq!(
            (&spec["nodeName"], &spec["shareProcessNamespace"]),
            (&json!("host"), &json!(false))
        );
        let main = &spec["containers"][0];
        assert_eq!((&main["command"], &main["args"]), (&json!(["sh"]), &Value::Null));
        assert_eq!(main["image"], "nginx:1");
    }

    #[test]
    fn images_are_replaced_by_container_or_for_all() {
        let image = |container: &str, image: &str| (container.to_owned(), image.to_owned());
        let (copy, name) = copied(&CopyOptions {
            images: vec![image("*", "busybox"), image("log", "log:2")],
            ..options()
        });
        assert_eq!(name, None);
        let containers = &copy["spec"]["containers"];
        assert_eq!(
            (&containers[0]["image"], &containers[1]["image"]),
            (&json!("busybox"), &json!("log:2"))
        );
        assert_eq!(containers[2], Value::Null);
    }

    #[test]
    fn a_new_container_needs_an_image() {
        let error = copy(
            &pod(),
            &CopyOptions {
                words: vec!["sh".to_owned()],
                ..options()
            },
            |_| String::new(),
        );
        assert_eq!(
            error.unwrap_err().to_string(),
            "you must specify image when creating new container"
        );
    }
}
