//! The table of fields: one line for each, in the order of Kubernetes' types. `support` looks things up in it.

use std::fmt;

use Support::{Ignored, Refused, RefusedIf, SameAs, Supported, SupportedWith};

/// What microkube does with a field that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// What Kubernetes does.
    Supported,
    /// The same, and there is something to know about it.
    SupportedWith(&'static str),
    /// Supported, and the fields in it are as those of another one, of the same type or of less.
    SameAs(&'static str),
    /// Nothing: it makes no difference on a single node, or is not enforced yet; says which.
    Ignored(&'static str),
    /// Nothing yet, so it is an error to write it; says what is missing.
    Refused(&'static str),
    /// These values are refused, the others are supported.
    RefusedIf(Values, &'static str),
}

/// Some of the values of a field, as they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// These.
    Are(&'static [&'static str]),
    /// All but these.
    AreNot(&'static [&'static str]),
    /// Those that begin so.
    BeginWith(&'static str),
}

impl Values {
    /// Whether `value` is one of them.
    pub(super) fn include(self, value: &str) -> bool {
        match self {
            Self::Are(values) => values.contains(&value),
            Self::AreNot(values) => !values.contains(&value),
            Self::BeginWith(start) => value.starts_with(start),
        }
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Are(values) => f.write_str(&values.join(", ")),
            Self::AreNot(values) => write!(f, "values other than {}", values.join(", ")),
            Self::BeginWith(start) => write!(f, "{start}…"),
        }
    }
}

const TRUE: Values = Values::Are(&["true"]);
const FALSE: Values = Values::Are(&["false"]);
const RESTART_ALL: Values = Values::Are(&["RestartAllContainers"]);
const NOT_ZERO: Values = Values::AreNot(&["0"]);
const PROPAGATION: Values = Values::Are(&["HostToContainer", "Bidirectional"]);
const UNMASKED: Values = Values::Are(&["Unmasked"]);
const RECURSIVE: Values = Values::Are(&["IfPossible", "Enabled"]);
const LOCALHOST_PROFILE: Values = Values::Are(&["Localhost"]);
const HUGE_PAGES: Values = Values::BeginWith("HugePages");
const NOT_LINUX: Values = Values::Are(&["windows"]);
const ROOT: Values = Values::Are(&["/"]);

const ONE_NODE: &str = "there is one node, and the Pod runs on it";
const NOT_COMPARED: &str = "not enforced yet: the Pod runs on this node, whatever its name and labels are";
const NO_CLUSTER: &str = "there is no API server to use it with";
const SERVER: &str = "microkube fills it in, as the API server does";
const IN_VM: &str = "each Pod runs in its own virtual machine, which has no access to the host's namespaces";
const VOLUME: &str = "emptyDir is the only volume type so far";
const OLD_VOLUME: &str = "Kubernetes has removed or deprecated this volume type";
const NO_OBJECTS: &str = "there are no ConfigMaps, and Secrets are only for image pulls; write the value itself";
const WINDOWS: &str = "containers run on Linux";
const NO_HOST_PORT: &str = "ports are not published on the host; connect to the Pod's own address";
const NO_LSM: &str = "the guest kernel is built without this security module";

/// All fields but those below a field that is ignored or refused as a whole.
pub(super) const TABLE: &[(&str, Support)] = &[
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
    (
        "metadata.finalizers",
        Refused("no controller would remove the finalizer"),
    ),
    ("metadata.generateName", Supported),
    ("metadata.generation", Ignored(SERVER)),
    ("metadata.labels", Supported),
    ("metadata.managedFields", Ignored(SERVER)),
    ("metadata.name", Supported),
    ("metadata.namespace", Supported),
    (
        "metadata.ownerReferences",
        Ignored("there are no other objects, and no garbage collector"),
    ),
    ("metadata.resourceVersion", Ignored(SERVER)),
    ("metadata.selfLink", Ignored(SERVER)),
    ("metadata.uid", Ignored("each run creates a new Pod with a new UID")),
    // PodSpec
    ("spec.activeDeadlineSeconds", Supported),
    ("spec.affinity", Ignored(NOT_COMPARED)),
    ("spec.automountServiceAccountToken", Ignored(NO_CLUSTER)),
    ("spec.containers", Supported),
    ("spec.dnsConfig", Supported),
    (
        "spec.dnsPolicy",
        SupportedWith("there is no cluster DNS: all policies but None use the host's resolv.conf"),
    ),
    ("spec.enableServiceLinks", Ignored("there are no Services")),
    (
        "spec.ephemeralContainers",
        Refused("containers cannot be added to a running Pod; Kubernetes refuses them in a manifest too"),
    ),
    ("spec.hostAliases", Supported),
    ("spec.hostIPC", RefusedIf(TRUE, IN_VM)),
    ("spec.hostNetwork", RefusedIf(TRUE, IN_VM)),
    ("spec.hostPID", RefusedIf(TRUE, IN_VM)),
    (
        "spec.hostUsers",
        RefusedIf(FALSE, "containers run in the user namespace of their virtual machine"),
    ),
    ("spec.hostname", Supported),
    ("spec.hostnameOverride", Refused("use spec.hostname")),
    ("spec.imagePullSecrets", Supported),
    ("spec.imagePullSecrets[].name", Supported),
    ("spec.initContainers", SameAs("spec.containers")),
    ("spec.nodeName", Ignored(NOT_COMPARED)),
    ("spec.nodeSelector", Ignored(NOT_COMPARED)),
    ("spec.os", Supported),
    (
        "spec.overhead",
        Ignored("it belongs to a RuntimeClass; microkube adds its own overhead to the virtual machine"),
    ),
    ("spec.preemptionPolicy", Ignored(ONE_NODE)),
    ("spec.priority", Ignored(ONE_NODE)),
    ("spec.priorityClassName", Ignored(ONE_NODE)),
    (
        "spec.readinessGates",
        SupportedWith("no controller here sets such a condition, so the Pod never becomes Ready"),
    ),
    ("spec.readinessGates[].conditionType", Supported),
    ("spec.resourceClaims", Refused("there are no devices to claim")),
    ("spec.resources", Refused("set the resources of each container")),
    ("spec.restartPolicy", Supported),
    (
        "spec.runtimeClassName",
        Refused("microkube is the only runtime; remove the field"),
    ),
    ("spec.schedulerName", Ignored(ONE_NODE)),
    ("spec.schedulingGates", Refused("no controller would remove the gate")),
    (
        "spec.schedulingGroup",
        Refused("Pods are started one by one, not in groups"),
    ),
    ("spec.securityContext", Supported),
    ("spec.serviceAccount", Ignored(NO_CLUSTER)),
    ("spec.serviceAccountName", Ignored(NO_CLUSTER)),
    ("spec.setHostnameAsFQDN", RefusedIf(TRUE, "Pods have no DNS domain")),
    (
        "spec.shareProcessNamespace",
        RefusedIf(TRUE, "each container has its own process namespace"),
    ),
    ("spec.subdomain", Refused("Pods have no DNS domain")),
    ("spec.terminationGracePeriodSeconds", Supported),
    ("spec.tolerations", Ignored("the node has no taints")),
    ("spec.topologySpreadConstraints", Ignored(ONE_NODE)),
    ("spec.volumes", Supported),
    ("spec.os.name", RefusedIf(NOT_LINUX, WINDOWS)),
    // PodDNSConfig, HostAlias
    ("spec.dnsConfig.nameservers", Supported),
    ("spec.dnsConfig.options", Supported),
    ("spec.dnsConfig.options[].name", Supported),
    ("spec.dnsConfig.options[].value", Supported),
    ("spec.dnsConfig.searches", Supported),
    ("spec.hostAliases[].hostnames", Supported),
    ("spec.hostAliases[].ip", Supported),
    // PodSecurityContext
    ("spec.securityContext.appArmorProfile", Refused(NO_LSM)),
    (
        "spec.securityContext.fsGroup",
        Refused("the owner of a volume is not changed"),
    ),
    (
        "spec.securityContext.fsGroupChangePolicy",
        Refused("the owner of a volume is not changed"),
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
            LOCALHOST_PROFILE,
            "only the profiles RuntimeDefault and Unconfined exist",
        ),
    ),
    ("spec.securityContext.supplementalGroups", Supported),
    ("spec.securityContext.supplementalGroupsPolicy", Supported),
    (
        "spec.securityContext.sysctls",
        Refused("the guest kernel keeps its default settings"),
    ),
    ("spec.securityContext.windowsOptions", Refused(WINDOWS)),
    // Container
    ("spec.containers[].args", Supported),
    ("spec.containers[].command", Supported),
    ("spec.containers[].env", Supported),
    ("spec.containers[].envFrom", Refused(NO_OBJECTS)),
    ("spec.containers[].image", Supported),
    ("spec.containers[].imagePullPolicy", Supported),
    ("spec.containers[].lifecycle", Supported),
    ("spec.containers[].livenessProbe", Supported),
    ("spec.containers[].name", Supported),
    ("spec.containers[].ports", Supported),
    (
        "spec.containers[].readinessProbe",
        SameAs("spec.containers[].livenessProbe"),
    ),
    (
        "spec.containers[].resizePolicy",
        Ignored("a running Pod is not resized"),
    ),
    ("spec.containers[].resources", Supported),
    ("spec.containers[].restartPolicy", Supported),
    ("spec.containers[].restartPolicyRules", Supported),
    ("spec.containers[].securityContext", Supported),
    (
        "spec.containers[].startupProbe",
        SameAs("spec.containers[].livenessProbe"),
    ),
    ("spec.containers[].stdin", Supported),
    ("spec.containers[].stdinOnce", Supported),
    ("spec.containers[].terminationMessagePath", Supported),
    ("spec.containers[].terminationMessagePolicy", Supported),
    ("spec.containers[].tty", Supported),
    ("spec.containers[].volumeDevices", Refused(VOLUME)),
    ("spec.containers[].volumeMounts", Supported),
    ("spec.containers[].workingDir", Supported),
    // Lifecycle, LifecycleHandler
    ("spec.containers[].lifecycle.postStart", Supported),
    (
        "spec.containers[].lifecycle.preStop",
        SameAs("spec.containers[].lifecycle.postStart"),
    ),
    ("spec.containers[].lifecycle.stopSignal", Supported),
    ("spec.containers[].lifecycle.postStart.exec", Supported),
    ("spec.containers[].lifecycle.postStart.exec.command", Supported),
    (
        "spec.containers[].lifecycle.postStart.httpGet",
        SameAs("spec.containers[].livenessProbe.httpGet"),
    ),
    ("spec.containers[].lifecycle.postStart.sleep", Supported),
    ("spec.containers[].lifecycle.postStart.sleep.seconds", Supported),
    (
        "spec.containers[].lifecycle.postStart.tcpSocket",
        SupportedWith("as in Kubernetes, where it is deprecated, such a hook fails when it runs"),
    ),
    ("spec.containers[].lifecycle.postStart.tcpSocket.host", Supported),
    ("spec.containers[].lifecycle.postStart.tcpSocket.port", Supported),
    // Probe
    ("spec.containers[].livenessProbe.exec", Supported),
    ("spec.containers[].livenessProbe.exec.command", Supported),
    ("spec.containers[].livenessProbe.failureThreshold", Supported),
    ("spec.containers[].livenessProbe.grpc", Supported),
    ("spec.containers[].livenessProbe.grpc.port", Supported),
    ("spec.containers[].livenessProbe.grpc.service", Supported),
    ("spec.containers[].livenessProbe.httpGet", Supported),
    ("spec.containers[].livenessProbe.httpGet.host", Supported),
    ("spec.containers[].livenessProbe.httpGet.httpHeaders", Supported),
    ("spec.containers[].livenessProbe.httpGet.httpHeaders[].name", Supported),
    ("spec.containers[].livenessProbe.httpGet.httpHeaders[].value", Supported),
    ("spec.containers[].livenessProbe.httpGet.path", Supported),
    ("spec.containers[].livenessProbe.httpGet.port", Supported),
    ("spec.containers[].livenessProbe.httpGet.scheme", Supported),
    ("spec.containers[].livenessProbe.initialDelaySeconds", Supported),
    ("spec.containers[].livenessProbe.periodSeconds", Supported),
    ("spec.containers[].livenessProbe.successThreshold", Supported),
    ("spec.containers[].livenessProbe.tcpSocket", Supported),
    ("spec.containers[].livenessProbe.tcpSocket.host", Supported),
    ("spec.containers[].livenessProbe.tcpSocket.port", Supported),
    (
        "spec.containers[].livenessProbe.terminationGracePeriodSeconds",
        Supported,
    ),
    ("spec.containers[].livenessProbe.timeoutSeconds", Supported),
    // ContainerRestartRule
    (
        "spec.containers[].restartPolicyRules[].action",
        RefusedIf(RESTART_ALL, "a rule can only restart its own container"),
    ),
    ("spec.containers[].restartPolicyRules[].exitCodes", Supported),
    ("spec.containers[].restartPolicyRules[].exitCodes.operator", Supported),
    ("spec.containers[].restartPolicyRules[].exitCodes.values", Supported),
    // ContainerPort
    ("spec.containers[].ports[].containerPort", Supported),
    ("spec.containers[].ports[].hostIP", Refused(NO_HOST_PORT)),
    ("spec.containers[].ports[].hostPort", RefusedIf(NOT_ZERO, NO_HOST_PORT)),
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
    (
        "spec.containers[].resources.limits",
        SupportedWith("cpu and memory are enforced; ephemeral-storage is accepted, but not enforced yet"),
    ),
    (
        "spec.containers[].resources.requests",
        SupportedWith(
            "cpu sets the CPU weight, cpu and memory the QoS class; not enforced yet: ephemeral-storage, and whether the host has what is requested",
        ),
    ),
    // SecurityContext, Capabilities
    ("spec.containers[].securityContext.allowPrivilegeEscalation", Supported),
    ("spec.containers[].securityContext.appArmorProfile", Refused(NO_LSM)),
    ("spec.containers[].securityContext.capabilities", Supported),
    ("spec.containers[].securityContext.capabilities.add", Supported),
    ("spec.containers[].securityContext.capabilities.drop", Supported),
    ("spec.containers[].securityContext.privileged", Supported),
    (
        "spec.containers[].securityContext.procMount",
        RefusedIf(UNMASKED, "/proc is masked unless the container is privileged"),
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
            LOCALHOST_PROFILE,
            "only the profiles RuntimeDefault and Unconfined exist",
        ),
    ),
    ("spec.containers[].securityContext.windowsOptions", Refused(WINDOWS)),
    // VolumeMount
    (
        "spec.containers[].volumeMounts[].mountPath",
        RefusedIf(ROOT, "the container's own root file system is there"),
    ),
    (
        "spec.containers[].volumeMounts[].mountPropagation",
        RefusedIf(PROPAGATION, "mounts are not propagated between containers"),
    ),
    ("spec.containers[].volumeMounts[].name", Supported),
    ("spec.containers[].volumeMounts[].readOnly", Supported),
    (
        "spec.containers[].volumeMounts[].recursiveReadOnly",
        RefusedIf(RECURSIVE, "use readOnly; volumes contain no other mounts"),
    ),
    ("spec.containers[].volumeMounts[].subPath", Supported),
    (
        "spec.containers[].volumeMounts[].subPathExpr",
        Refused("variables are not expanded in it; use subPath"),
    ),
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
        RefusedIf(HUGE_PAGES, "the guest reserves no huge pages"),
    ),
    (
        "spec.volumes[].emptyDir.sizeLimit",
        SupportedWith("enforced with medium Memory; on disk it is accepted, but not enforced yet"),
    ),
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
