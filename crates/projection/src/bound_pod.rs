//! A Pod together with its node's values.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use microkube_manifest::downward::PodStatusFields;

/// A validated and defaulted Pod on its node.
#[derive(Debug, Clone, Copy)]
pub struct BoundPod<'p> {
    pub pod: &'p Pod,
    pub status: &'p PodStatusFields,
    /// The limits of containers that have none.
    pub allocatable: Allocatable,
}

/// The resources that a node offers to Pods (`status.allocatable` of a Node). The downward API shows it for a container
/// without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allocatable {
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub ephemeral_storage_bytes: i64,
}

impl<'p> BoundPod<'p> {
    pub(crate) fn namespace(&self) -> &'p str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    pub(crate) fn spec(&self) -> Option<&'p PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn containers(&self) -> &'p [Container] {
        self.spec().map(|spec| spec.containers.as_slice()).unwrap_or_default()
    }

    pub(crate) fn init_containers(&self) -> &'p [Container] {
        self.spec()
            .and_then(|spec| spec.init_containers.as_deref())
            .unwrap_or_default()
    }

    pub(crate) fn fs_group(&self) -> Option<i64> {
        self.spec()?.security_context.as_ref()?.fs_group
    }

    /// The user of all containers, if it is the same one (`FsUserFrom` in `pkg/volume/util/util.go`).
    pub(crate) fn user(&self) -> Option<i64> {
        let of_pod = self.spec()?.security_context.as_ref().and_then(|own| own.run_as_user);
        let user_of = |container: &Container| {
            let own = container.security_context.as_ref().and_then(|own| own.run_as_user);
            own.or(of_pod)
        };
        let mut users = self.init_containers().iter().chain(self.containers()).map(user_of);
        let first = users.next()??;
        users.all(|user| user == Some(first)).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn user(spec: &Value) -> Option<i64> {
        let pod: Pod = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})).unwrap();
        let status = PodStatusFields::default();
        let bound = BoundPod {
            pod: &pod,
            status: &status,
            allocatable: Allocatable::default(),
        };
        bound.user()
    }

    #[test]
    fn the_user_of_a_pod_is_the_one_that_all_its_containers_share() {
        let container = |user: Option<i64>| json!({"name": "c", "securityContext": {"runAsUser": user}});
        for (spec, expected) in [
            (json!({"containers": [container(None)]}), None),
            (json!({"containers": [container(Some(7)), container(Some(7))]}), Some(7)),
            (json!({"containers": [container(Some(7)), container(Some(8))]}), None),
            (json!({"containers": [container(Some(7)), container(None)]}), None),
            (
                json!({"containers": [container(Some(7)), container(None)], "securityContext": {"runAsUser": 7}}),
                Some(7),
            ),
            (
                json!({"containers": [container(Some(7))], "initContainers": [container(Some(8))]}),
                None,
            ),
            (json!({"containers": []}), None),
        ] {
            assert_eq!(user(&spec), expected, "{spec}");
        }
    }
}
