//! Which fields of a Pod microkube honours, which mean nothing on one machine, and which it refuses for now. One table, checked by a
//! test against the fields that Kubernetes has.

use serde_json::Value;

use super::error::{FieldPath, Problem};

/// What microkube does with a field that is written.
#[derive(Debug, Clone, Copy)]
pub enum Support {
    /// What Kubernetes does.
    Supported,
    /// Nothing, and it makes no difference on a single node; says why.
    Ignored(&'static str),
    /// Nothing yet, so it is an error to write it; says what is missing.
    Refused(&'static str),
    /// Some values are supported, the others (where the function is true) are refused.
    RefusedIf(fn(&Value) -> bool, &'static str),
}

use Support::{Ignored, Refused, RefusedIf, Supported};

/// The support of a field by its path, list indices as `[]`.
pub fn support_of(path: &str) -> Option<Support> {
    // Init containers are refused as a whole, so there is only one kind of container.
    TABLE
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, support)| *support)
}

/// All fields with their support, in the order of the documentation.
pub fn table() -> &'static [(&'static str, Support)] {
    TABLE
}

/// What a manifest cannot have, and what is ignored in it (field and reason).
pub fn check(pod: &Value) -> (Vec<Problem>, Vec<(FieldPath, &'static str)>) {
    let mut walk = Walk {
        problems: Vec::new(),
        ignored: Vec::new(),
    };
    walk.value(pod, "", &FieldPath::default());
    (walk.problems, walk.ignored)
}

struct Walk {
    problems: Vec<Problem>,
    ignored: Vec<(FieldPath, &'static str)>,
}

impl Walk {
    fn value(&mut self, value: &Value, pattern: &str, path: &FieldPath) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let pattern = if pattern.is_empty() {
                        key.clone()
                    } else {
                        format!("{pattern}.{key}")
                    };
                    self.field(value, &pattern, &path.field(key));
                }
            }
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    self.value(element, &format!("{pattern}[]"), &path.index(index));
                }
            }
            _ => {}
        }
    }

    fn field(&mut self, value: &Value, pattern: &str, path: &FieldPath) {
        // null and an empty list say the same as leaving the field out.
        let absent = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        match support_of(pattern) {
            _ if absent => {}
            Some(Refused(reason)) => self.refuse(path, "", reason),
            Some(RefusedIf(refused, reason)) if refused(value) => {
                let shown = if value.is_object() || value.is_array() {
                    String::new()
                } else {
                    format!("{value} is ")
                };
                self.refuse(path, &shown, reason);
            }
            Some(Ignored(reason)) => self.ignored.push((path.clone(), reason)),
            // What the table does not know, the strict types refuse; maps of the user's own keys are not looked into.
            Some(Supported) => self.value(value, pattern, path),
            Some(RefusedIf(..)) | None => {}
        }
    }

    fn refuse(&mut self, path: &FieldPath, shown: &str, reason: &str) {
        self.problems.push(Problem::at(
            path,
            format!("{shown}not supported by microkube yet: {reason}"),
        ));
    }
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn is_restart(value: &Value) -> bool {
    *value == "Always" || *value == "OnFailure"
}

fn is_not_zero(value: &Value) -> bool {
    *value != 0
}

fn is_not_none(value: &Value) -> bool {
    *value != "None"
}

fn is_not_default(value: &Value) -> bool {
    *value != "Default"
}

fn is_not_disabled(value: &Value) -> bool {
    *value != "Disabled"
}

fn is_localhost_profile(value: &Value) -> bool {
    *value == "Localhost"
}

fn is_huge_pages(value: &Value) -> bool {
    value.as_str().is_some_and(|medium| medium.starts_with("HugePages"))
}

fn is_not_linux(value: &Value) -> bool {
    *value != "linux"
}

const ONE_NODE: &str = "there is one node, and the Pod runs on it";
const NO_CLUSTER: &str = "there is no API server that it could be used with";
const SERVER: &str = "the API server fills it in";
const RESTARTS: &str = "containers are not restarted; leave it out, or write Never";
const PROBES: &str = "containers are not probed";
const IN_VM: &str = "every Pod is a virtual machine of its own, which shares nothing with the host";
const VOLUME: &str = "emptyDir is the only kind of volume so far";
const OLD_VOLUME: &str = "Kubernetes itself has dropped or is dropping this kind of volume";
const NO_OBJECTS: &str = "manifests with several objects come later; write the value itself";
const WINDOWS: &str = "containers run on Linux";
const NO_LSM: &str = "the guest kernel has no such security module";

const TABLE: &[(&str, Support)] = &[
    ("apiVersion", Supported),
    ("kind", Supported),
    ("metadata", Supported),
    ("status", Ignored(SERVER)),
    ("spec", Supported),
    // ObjectMeta
    ("metadata.annotations", Supported),
    ("metadata.creationTimestamp", Ignored(SERVER)),
    ("metadata.deletionGracePeriodSeconds", Ignored(SERVER)),
    ("metadata.deletionTimestamp", Ignored(SERVER)),
    ("metadata.finalizers", Refused("nothing would ever remove a finalizer")),
    ("metadata.generateName", Supported),
    ("metadata.generation", Ignored(SERVER)),
    ("metadata.labels", Supported),
    ("metadata.managedFields", Ignored(SERVER)),
    ("metadata.name", Supported),
    ("metadata.namespace", Supported),
    ("metadata.ownerReferences", Ignored("there are no other objects")),
    ("metadata.resourceVersion", Ignored(SERVER)),
    ("metadata.selfLink", Ignored(SERVER)),
    (
        "metadata.uid",
        Ignored("every run of a manifest is a new Pod with a uid of its own"),
    ),
    // PodSpec
    (
        "spec.activeDeadlineSeconds",
        Refused("Pods run until their containers end; use timeout(1) in the container"),
    ),
    ("spec.affinity", Ignored(ONE_NODE)),
    ("spec.automountServiceAccountToken", Ignored(NO_CLUSTER)),
    ("spec.containers", Supported),
    ("spec.dnsConfig", Supported),
    ("spec.dnsPolicy", Supported),
    ("spec.enableServiceLinks", Ignored("there are no Services")),
    (
        "spec.ephemeralContainers",
        Refused("containers cannot be added to a Pod; Kubernetes does not take them from a manifest either"),
    ),
    ("spec.hostAliases", Supported),
    ("spec.hostIPC", RefusedIf(is_true, IN_VM)),
    ("spec.hostNetwork", RefusedIf(is_true, IN_VM)),
    ("spec.hostPID", RefusedIf(is_true, IN_VM)),
    ("spec.hostUsers", Ignored(IN_VM)),
    ("spec.hostname", Supported),
    ("spec.hostnameOverride", Refused("use spec.hostname")),
    (
        "spec.imagePullSecrets",
        Refused("images are pulled without credentials"),
    ),
    (
        "spec.initContainers",
        Refused("init containers and sidecars come with the Pod's lifecycle"),
    ),
    ("spec.nodeName", Ignored(ONE_NODE)),
    ("spec.nodeSelector", Ignored(ONE_NODE)),
    ("spec.os", Supported),
    (
        "spec.overhead",
        Ignored("it depends on a RuntimeClass; microkube adds its own"),
    ),
    ("spec.preemptionPolicy", Ignored(ONE_NODE)),
    ("spec.priority", Ignored(ONE_NODE)),
    ("spec.priorityClassName", Ignored(ONE_NODE)),
    ("spec.readinessGates", Refused("nothing could set the condition")),
    ("spec.resourceClaims", Refused("there are no devices to claim")),
    ("spec.resources", Refused("set the resources of the containers")),
    ("spec.restartPolicy", RefusedIf(is_restart, RESTARTS)),
    (
        "spec.runtimeClassName",
        Refused("microkube is the only runtime; leave it out"),
    ),
    ("spec.schedulerName", Ignored(ONE_NODE)),
    ("spec.schedulingGates", Refused("nothing could remove the gate")),
    ("spec.schedulingGroup", Refused("a Pod is started by itself")),
    ("spec.securityContext", Supported),
    ("spec.serviceAccount", Ignored(NO_CLUSTER)),
    ("spec.serviceAccountName", Ignored(NO_CLUSTER)),
    ("spec.setHostnameAsFQDN", RefusedIf(is_true, "the Pod has no domain")),
    (
        "spec.shareProcessNamespace",
        RefusedIf(is_true, "every container has a process namespace of its own"),
    ),
    ("spec.subdomain", Refused("the Pod has no domain")),
    ("spec.terminationGracePeriodSeconds", Supported),
    ("spec.tolerations", Ignored(ONE_NODE)),
    ("spec.topologySpreadConstraints", Ignored(ONE_NODE)),
    ("spec.volumes", Supported),
    ("spec.os.name", RefusedIf(is_not_linux, WINDOWS)),
    // PodDNSConfig, HostAlias
    ("spec.dnsConfig.nameservers", Supported),
    ("spec.dnsConfig.options", Supported),
    ("spec.dnsConfig.searches", Supported),
    ("spec.hostAliases[].hostnames", Supported),
    ("spec.hostAliases[].ip", Supported),
    // PodSecurityContext
    ("spec.securityContext.appArmorProfile", Refused(NO_LSM)),
    ("spec.securityContext.fsGroup", Refused("volumes keep their owner")),
    (
        "spec.securityContext.fsGroupChangePolicy",
        Refused("volumes keep their owner"),
    ),
    ("spec.securityContext.runAsGroup", Supported),
    ("spec.securityContext.runAsNonRoot", Supported),
    ("spec.securityContext.runAsUser", Supported),
    ("spec.securityContext.seLinuxChangePolicy", Refused(NO_LSM)),
    ("spec.securityContext.seLinuxOptions", Refused(NO_LSM)),
    ("spec.securityContext.seccompProfile", Supported),
    (
        "spec.securityContext.seccompProfile.localhostProfile",
        Refused("only the profiles RuntimeDefault and Unconfined exist"),
    ),
    (
        "spec.securityContext.seccompProfile.type",
        RefusedIf(
            is_localhost_profile,
            "only the profiles RuntimeDefault and Unconfined exist",
        ),
    ),
    ("spec.securityContext.supplementalGroups", Supported),
    (
        "spec.securityContext.supplementalGroupsPolicy",
        Refused("groups of the image are always added"),
    ),
    (
        "spec.securityContext.sysctls",
        Refused("the Pod's kernel has its default settings"),
    ),
    ("spec.securityContext.windowsOptions", Refused(WINDOWS)),
    // Container
    ("spec.containers[].args", Supported),
    ("spec.containers[].command", Supported),
    ("spec.containers[].env", Supported),
    ("spec.containers[].envFrom", Refused(NO_OBJECTS)),
    ("spec.containers[].image", Supported),
    ("spec.containers[].imagePullPolicy", Supported),
    ("spec.containers[].lifecycle", Refused("hooks are not run")),
    ("spec.containers[].livenessProbe", Refused(PROBES)),
    ("spec.containers[].name", Supported),
    ("spec.containers[].ports", Supported),
    ("spec.containers[].readinessProbe", Refused(PROBES)),
    (
        "spec.containers[].resizePolicy",
        Ignored("a running Pod is not resized"),
    ),
    ("spec.containers[].resources", Supported),
    ("spec.containers[].restartPolicy", RefusedIf(is_restart, RESTARTS)),
    ("spec.containers[].restartPolicyRules", Refused(RESTARTS)),
    ("spec.containers[].securityContext", Supported),
    ("spec.containers[].startupProbe", Refused(PROBES)),
    ("spec.containers[].stdin", RefusedIf(is_true, "standard input is empty")),
    (
        "spec.containers[].stdinOnce",
        RefusedIf(is_true, "standard input is empty"),
    ),
    (
        "spec.containers[].terminationMessagePath",
        Ignored("termination messages are not read yet"),
    ),
    (
        "spec.containers[].terminationMessagePolicy",
        Ignored("termination messages are not read yet"),
    ),
    (
        "spec.containers[].tty",
        RefusedIf(is_true, "containers have no terminal"),
    ),
    ("spec.containers[].volumeDevices", Refused(VOLUME)),
    ("spec.containers[].volumeMounts", Supported),
    ("spec.containers[].workingDir", Supported),
    // ContainerPort
    ("spec.containers[].ports[].containerPort", Supported),
    (
        "spec.containers[].ports[].hostIP",
        Refused("ports are not published on the host; the Pod has an address of its own"),
    ),
    (
        "spec.containers[].ports[].hostPort",
        RefusedIf(
            is_not_zero,
            "ports are not published on the host; the Pod has an address of its own",
        ),
    ),
    ("spec.containers[].ports[].name", Supported),
    ("spec.containers[].ports[].protocol", Supported),
    // EnvVar, EnvVarSource, ObjectFieldSelector
    ("spec.containers[].env[].name", Supported),
    ("spec.containers[].env[].value", Supported),
    ("spec.containers[].env[].valueFrom", Supported),
    ("spec.containers[].env[].valueFrom.configMapKeyRef", Refused(NO_OBJECTS)),
    ("spec.containers[].env[].valueFrom.fieldRef", Supported),
    (
        "spec.containers[].env[].valueFrom.fileKeyRef",
        Refused("variables are not read from files"),
    ),
    (
        "spec.containers[].env[].valueFrom.resourceFieldRef",
        Refused("write the value itself"),
    ),
    ("spec.containers[].env[].valueFrom.secretKeyRef", Refused(NO_OBJECTS)),
    ("spec.containers[].env[].valueFrom.fieldRef.apiVersion", Supported),
    ("spec.containers[].env[].valueFrom.fieldRef.fieldPath", Supported),
    // ResourceRequirements
    (
        "spec.containers[].resources.claims",
        Refused("there are no devices to claim"),
    ),
    ("spec.containers[].resources.limits", Supported),
    ("spec.containers[].resources.requests", Supported),
    // SecurityContext, Capabilities
    ("spec.containers[].securityContext.allowPrivilegeEscalation", Supported),
    ("spec.containers[].securityContext.appArmorProfile", Refused(NO_LSM)),
    ("spec.containers[].securityContext.capabilities", Supported),
    ("spec.containers[].securityContext.capabilities.add", Supported),
    ("spec.containers[].securityContext.capabilities.drop", Supported),
    ("spec.containers[].securityContext.privileged", Supported),
    (
        "spec.containers[].securityContext.procMount",
        RefusedIf(is_not_default, "/proc is always masked; use privileged"),
    ),
    ("spec.containers[].securityContext.readOnlyRootFilesystem", Supported),
    ("spec.containers[].securityContext.runAsGroup", Supported),
    ("spec.containers[].securityContext.runAsNonRoot", Supported),
    ("spec.containers[].securityContext.runAsUser", Supported),
    ("spec.containers[].securityContext.seLinuxOptions", Refused(NO_LSM)),
    ("spec.containers[].securityContext.seccompProfile", Supported),
    (
        "spec.containers[].securityContext.seccompProfile.localhostProfile",
        Refused("only the profiles RuntimeDefault and Unconfined exist"),
    ),
    (
        "spec.containers[].securityContext.seccompProfile.type",
        RefusedIf(
            is_localhost_profile,
            "only the profiles RuntimeDefault and Unconfined exist",
        ),
    ),
    ("spec.containers[].securityContext.windowsOptions", Refused(WINDOWS)),
    // VolumeMount
    ("spec.containers[].volumeMounts[].mountPath", Supported),
    (
        "spec.containers[].volumeMounts[].mountPropagation",
        RefusedIf(is_not_none, "mounts do not propagate"),
    ),
    ("spec.containers[].volumeMounts[].name", Supported),
    ("spec.containers[].volumeMounts[].readOnly", Supported),
    (
        "spec.containers[].volumeMounts[].recursiveReadOnly",
        RefusedIf(is_not_disabled, "use readOnly; nothing is mounted below a volume"),
    ),
    ("spec.containers[].volumeMounts[].subPath", Supported),
    ("spec.containers[].volumeMounts[].subPathExpr", Refused("use subPath")),
    // Volume, EmptyDirVolumeSource
    ("spec.volumes[].awsElasticBlockStore", Refused(OLD_VOLUME)),
    ("spec.volumes[].azureDisk", Refused(OLD_VOLUME)),
    ("spec.volumes[].azureFile", Refused(OLD_VOLUME)),
    ("spec.volumes[].cephfs", Refused(OLD_VOLUME)),
    ("spec.volumes[].cinder", Refused(OLD_VOLUME)),
    ("spec.volumes[].configMap", Refused(VOLUME)),
    ("spec.volumes[].csi", Refused(VOLUME)),
    ("spec.volumes[].downwardAPI", Refused(VOLUME)),
    ("spec.volumes[].emptyDir", Supported),
    (
        "spec.volumes[].emptyDir.medium",
        RefusedIf(is_huge_pages, "the guest has no huge pages of its own"),
    ),
    ("spec.volumes[].emptyDir.sizeLimit", Supported),
    ("spec.volumes[].ephemeral", Refused(VOLUME)),
    ("spec.volumes[].fc", Refused(VOLUME)),
    ("spec.volumes[].flexVolume", Refused(OLD_VOLUME)),
    ("spec.volumes[].flocker", Refused(OLD_VOLUME)),
    ("spec.volumes[].gcePersistentDisk", Refused(OLD_VOLUME)),
    ("spec.volumes[].gitRepo", Refused(OLD_VOLUME)),
    ("spec.volumes[].glusterfs", Refused(OLD_VOLUME)),
    ("spec.volumes[].hostPath", Refused(VOLUME)),
    ("spec.volumes[].image", Refused(VOLUME)),
    ("spec.volumes[].iscsi", Refused(VOLUME)),
    ("spec.volumes[].name", Supported),
    ("spec.volumes[].nfs", Refused(VOLUME)),
    ("spec.volumes[].persistentVolumeClaim", Refused(VOLUME)),
    ("spec.volumes[].photonPersistentDisk", Refused(OLD_VOLUME)),
    ("spec.volumes[].portworxVolume", Refused(OLD_VOLUME)),
    ("spec.volumes[].projected", Refused(VOLUME)),
    ("spec.volumes[].quobyte", Refused(OLD_VOLUME)),
    ("spec.volumes[].rbd", Refused(OLD_VOLUME)),
    ("spec.volumes[].scaleIO", Refused(OLD_VOLUME)),
    ("spec.volumes[].secret", Refused(VOLUME)),
    ("spec.volumes[].storageos", Refused(OLD_VOLUME)),
    ("spec.volumes[].vsphereVolume", Refused(OLD_VOLUME)),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use k8s_openapi::api::core::v1;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::json;

    use super::super::typed::fields_of;
    use super::*;

    #[test]
    fn the_table_has_every_field_of_kubernetes_once_and_no_other() {
        let types: [(&str, &[&str]); 17] = [
            ("", fields_of::<v1::Pod>()),
            ("metadata.", fields_of::<ObjectMeta>()),
            ("spec.", fields_of::<v1::PodSpec>()),
            ("spec.os.", fields_of::<v1::PodOS>()),
            ("spec.dnsConfig.", fields_of::<v1::PodDNSConfig>()),
            ("spec.hostAliases[].", fields_of::<v1::HostAlias>()),
            ("spec.securityContext.", fields_of::<v1::PodSecurityContext>()),
            (
                "spec.securityContext.seccompProfile.",
                fields_of::<v1::SeccompProfile>(),
            ),
            ("spec.containers[].", fields_of::<v1::Container>()),
            ("spec.containers[].ports[].", fields_of::<v1::ContainerPort>()),
            ("spec.containers[].env[].", fields_of::<v1::EnvVar>()),
            ("spec.containers[].env[].valueFrom.", fields_of::<v1::EnvVarSource>()),
            ("spec.containers[].resources.", fields_of::<v1::ResourceRequirements>()),
            ("spec.containers[].securityContext.", fields_of::<v1::SecurityContext>()),
            (
                "spec.containers[].securityContext.seccompProfile.",
                fields_of::<v1::SeccompProfile>(),
            ),
            ("spec.containers[].volumeMounts[].", fields_of::<v1::VolumeMount>()),
            ("spec.volumes[].", fields_of::<v1::Volume>()),
        ];
        let more: [(&str, &[&str]); 3] = [
            (
                "spec.containers[].env[].valueFrom.fieldRef.",
                fields_of::<v1::ObjectFieldSelector>(),
            ),
            (
                "spec.containers[].securityContext.capabilities.",
                fields_of::<v1::Capabilities>(),
            ),
            ("spec.volumes[].emptyDir.", fields_of::<v1::EmptyDirVolumeSource>()),
        ];
        let expected: HashSet<String> = types
            .iter()
            .chain(&more)
            .inspect(|(prefix, fields)| assert!(!fields.is_empty(), "{prefix}"))
            .flat_map(|(prefix, fields)| fields.iter().map(move |field| format!("{prefix}{field}")))
            .collect();
        let table: HashSet<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(table.len(), TABLE.len(), "a field is there twice");
        let missing: Vec<_> = expected.difference(&table).collect();
        let unknown: Vec<_> = table.difference(&expected).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "missing: {missing:?}, unknown: {unknown:?}"
        );
    }

    #[test]
    fn refused_fields_are_named_and_harmless_values_accepted() {
        let pod = json!({"spec": {
            "hostNetwork": false, "hostPID": true, "restartPolicy": "Always", "initContainers": [], "nodeSelector": {"a": "b"},
            "containers": [
                {"livenessProbe": {}, "stdin": false, "ports": [{"hostPort": 0}, {"hostPort": 80}], "lifecycle": null},
                {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}
            ],
            "volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "emptyDir": {"medium": "HugePages-2Mi"}}]
        }});
        let (problems, ignored) = check(&pod);
        let mut paths: Vec<String> = problems.iter().map(|problem| problem.path.to_string()).collect();
        paths.sort();
        assert_eq!(
            paths,
            [
                "spec.containers[0].livenessProbe",
                "spec.containers[0].ports[1].hostPort",
                "spec.containers[1].env[0].valueFrom.secretKeyRef",
                "spec.hostPID",
                "spec.restartPolicy",
                "spec.volumes[0].hostPath",
                "spec.volumes[1].emptyDir.medium",
            ]
        );
        assert!(problems.iter().any(|problem| problem.message
            == "spec.restartPolicy: \"Always\" is not supported by microkube yet: containers are not restarted; leave it out, or write Never"));
        assert_eq!(
            ignored.iter().map(|(path, _)| path.to_string()).collect::<Vec<_>>(),
            ["spec.nodeSelector"]
        );
    }
}
