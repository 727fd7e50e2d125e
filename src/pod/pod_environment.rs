//! Command line and environment of a container's process, and the paths of its mounts that contain variables. They are
//! computed for each attempt, because they can contain values of ConfigMaps and Secrets, which change. They are not
//! stored on the host.

use std::collections::HashMap;
use std::fmt;

use k8s_openapi::api::core::v1::Container;
use microkube_manifest::process::{self, ImageProcess, ProcessError};
use microkube_manifest::sub_path_expr::{self, SubPathExprError};
use microkube_projection::{self as projection, BoundPod, Objects, ProjectionError, SkippedKeys};
use microkube_protocol::MAX_MESSAGE_BYTES;

use super::resolved_pod::hostname;

/// Bytes of a request to the agent that are left for everything else.
const RESERVED_BYTES: usize = 256 << 10;
/// Maximum size of command line and environment together: both are in one request.
const MAX_BYTES: usize = MAX_MESSAGE_BYTES - RESERVED_BYTES;
/// Bytes of a string's tag and length in a request.
const STRING_OVERHEAD_BYTES: usize = 6;

/// The values for one attempt. `Debug` shows none of them.
pub struct ProcessValues {
    pub args: Vec<String>,
    /// Each `NAME=value`.
    pub env: Vec<String>,
    /// For each mount, its `subPathExpr` with the values of the variables, if it has one.
    pub sub_paths: Vec<Option<String>>,
    /// Keys of objects that are not valid names of variables.
    pub skipped: Vec<SkippedKeys>,
}

impl fmt::Debug for ProcessValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} arguments, {} variables)", self.args.len(), self.env.len())
    }
}

/// Why a container's environment cannot be computed. The messages are the kubelet's where it has one, and contain no
/// values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error(transparent)]
    Projection(#[from] ProjectionError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    SubPath(#[from] SubPathExprError),
    #[error("command and environment are too large: at most {MAX_BYTES} bytes together")]
    TooLarge,
}

/// Computes the values. Lookups of objects may block.
///
/// # Errors
/// If something that is not optional is missing, or the values are too long.
pub fn process_values(
    pod: &BoundPod<'_>,
    container: &Container,
    image: &ImageProcess,
    objects: &dyn Objects,
) -> Result<ProcessValues, EnvironmentError> {
    let projection::Environment { variables, skipped } = projection::environment(pod, container, objects)?;
    let own = variables
        .iter()
        .map(|variable| (variable.name.as_str(), variable.value.as_str()));
    let env = process::environment(&hostname(pod.pod), image, own);
    let by_name: HashMap<String, String> = variables
        .into_iter()
        .map(|variable| (variable.name, variable.value))
        .collect();
    let args = process::arguments(container, image, &by_name)?;
    let bytes = args.iter().chain(&env).fold(0_usize, |sum, text| {
        sum.saturating_add(text.len()).saturating_add(STRING_OVERHEAD_BYTES)
    });
    if bytes > MAX_BYTES {
        return Err(EnvironmentError::TooLarge);
    }
    Ok(ProcessValues {
        args,
        env,
        sub_paths: sub_paths(container, &by_name)?,
        skipped,
    })
}

fn sub_paths(
    container: &Container,
    variables: &HashMap<String, String>,
) -> Result<Vec<Option<String>>, SubPathExprError> {
    let mounts = container.volume_mounts.iter().flatten();
    let expressions = mounts.map(|mount| {
        mount
            .sub_path_expr
            .as_deref()
            .filter(|expression| !expression.is_empty())
    });
    expressions
        .map(|expression| expression.map(|own| sub_path_expr::expand(own, variables)).transpose())
        .collect()
}

/// Whether the container takes variables from objects, so a change of objects can fix an error.
#[must_use]
pub fn depends_on_objects(container: &Container) -> bool {
    let sources = container.env.iter().flatten().filter_map(|own| own.value_from.as_ref());
    let mut objects = sources.filter(|source| {
        source.config_map_key_ref.is_some() || source.secret_key_ref.is_some() || source.file_key_ref.is_some()
    });
    objects.next().is_some() || container.env_from.as_ref().is_some_and(|sources| !sources.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use microkube_projection::{Content, LookupError};
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::pod_on_node::PodOnNode;
    use crate::state::PodRecord;

    /// One ConfigMap and one Secret in the namespace `shop`.
    struct TestObjects;

    impl Objects for TestObjects {
        fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, LookupError> {
            let found = json!({ "data": { "greeting": "hello $(NAME)", "1 bad": "x" } });
            let is_known = (namespace, name) == ("shop", "texts");
            Ok(is_known.then(|| Arc::new(serde_json::from_value(found).unwrap())))
        }

        fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, LookupError> {
            let found = json!({ "data": { "password": "aHVudGVyMg==" } });
            let is_known = (namespace, name) == ("shop", "credentials");
            Ok(is_known.then(|| Arc::new(serde_json::from_value(found).unwrap())))
        }

        fn token(&self, _: Option<&str>, _: i64) -> Result<Content, LookupError> {
            unreachable!("variables need no tokens")
        }

        fn env_file(&self, _: &str, _: &str) -> Result<Option<Content>, LookupError> {
            Ok(None)
        }
    }

    fn record(container: &Value) -> PodRecord {
        serde_json::from_value(json!({
            "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" },
                "spec": { "containers": [container] },
            },
        }))
        .unwrap()
    }

    fn values(container: &Value) -> Result<ProcessValues, EnvironmentError> {
        let record = record(container);
        let on_node = PodOnNode::new("u-1", &record.pod, Some([10, 88, 0, 2].into()), None);
        let image = ImageProcess {
            entrypoint: vec!["/run".to_owned()],
            env: vec!["PATH=/bin".to_owned(), "GREETING=image".to_owned()],
            ..Default::default()
        };
        let container = &record.pod.spec.as_ref().unwrap().containers[0];
        process_values(&on_node.bound(), container, &image, &TestObjects)
    }

    #[test]
    fn variables_come_from_objects_and_fields_and_replace_those_of_the_image() {
        let found = values(&json!({
            "name": "c", "args": ["$(PASSWORD)", "$(IP)", "$(PATH)"],
            "envFrom": [{ "configMapRef": { "name": "texts" }, "prefix": "T_" }],
            "env": [
                { "name": "GREETING", "valueFrom": { "configMapKeyRef": { "name": "texts", "key": "greeting" } } },
                { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "credentials", "key": "password" } } },
                { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                { "name": "BOTH", "value": "$(PASSWORD)@$(IP)" },
                { "name": "NONE", "valueFrom": { "configMapKeyRef": { "name": "no", "key": "k", "optional": true } } },
            ],
        }))
        .unwrap();
        assert_eq!(
            found.env,
            [
                "PATH=/bin",
                "HOSTNAME=web",
                "GREETING=hello $(NAME)",
                "T_1 bad=x",
                "T_greeting=hello $(NAME)",
                "PASSWORD=hunter2",
                "IP=10.88.0.2",
                "BOTH=hunter2@10.88.0.2",
            ]
        );
        assert_eq!(found.args, ["/run", "hunter2", "10.88.0.2", "$(PATH)"]);
        assert_eq!(format!("{found:?}"), "(4 arguments, 8 variables)");
    }

    #[test]
    fn paths_of_mounts_use_the_variables_of_the_manifest() {
        let with = |expression: &str| {
            values(&json!({
                "name": "c", "env": [{ "name": "POD", "value": "web" }],
                "volumeMounts": [
                    { "name": "v", "mountPath": "/a", "subPath": "$(POD)" },
                    { "name": "v", "mountPath": "/b", "subPathExpr": expression },
                ],
            }))
        };
        assert_eq!(
            with("logs/$(POD)").unwrap().sub_paths,
            [None, Some("logs/web".to_owned())]
        );
        let error = with("$(GREETING)/$(PATH)").unwrap_err();
        assert_eq!(error.to_string(), "missing value for GREETING, PATH");
    }

    #[test]
    fn what_is_missing_is_named_as_by_the_kubelet() {
        for (source, expected) in [
            (
                json!({ "configMapKeyRef": { "name": "no", "key": "k" } }),
                "configmap \"no\" not found",
            ),
            (
                json!({ "configMapKeyRef": { "name": "texts", "key": "k" } }),
                "couldn't find key k in ConfigMap shop/texts",
            ),
            (
                json!({ "secretKeyRef": { "name": "no", "key": "k" } }),
                "secret \"no\" not found",
            ),
            (
                json!({ "secretKeyRef": { "name": "credentials", "key": "k" } }),
                "couldn't find key k in Secret shop/credentials",
            ),
        ] {
            let container = json!({ "name": "c", "env": [{ "name": "A", "valueFrom": source }] });
            assert_eq!(values(&container).unwrap_err().to_string(), expected);
            assert!(depends_on_objects(&record(&container).pod.spec.unwrap().containers[0]));
        }
    }

    #[test]
    fn command_and_environment_fit_into_a_request() {
        let env: Vec<Value> = (0..40)
            .map(|number| json!({ "name": format!("V{number}"), "value": "x".repeat(100_000) }))
            .collect();
        let container = json!({ "name": "c", "env": env });
        assert_eq!(values(&container).unwrap_err(), EnvironmentError::TooLarge);
        assert!(!depends_on_objects(&record(&container).pod.spec.unwrap().containers[0]));
    }
}
