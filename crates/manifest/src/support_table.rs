//! The table of fields: one line per field, in the order of Kubernetes' types. `support` does the lookups.

use std::fmt;

use Support::{Ignored, Refused, RefusedIf, SameAs, Supported, SupportedWith};

/// The support of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Works as in Kubernetes.
    Supported,
    /// Works as in Kubernetes, with a remark.
    SupportedWith(&'static str),
    /// Supported; its subfields have the status of those of another field, whose type is the same or has more fields.
    SameAs(&'static str),
    /// Has no effect, because it makes no difference on a single node or is not enforced yet; the text says which.
    Ignored(&'static str),
    /// Not supported yet, so writing it is an error; the text says what is missing.
    Refused(&'static str),
    /// These values are refused; all others are supported.
    RefusedIf(Values, &'static str),
}

/// A set of values of a field, as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Only these.
    Are(&'static [&'static str]),
    /// All but these.
    AreNot(&'static [&'static str]),
    /// Values with this prefix.
    BeginWith(&'static str),
}

impl Values {
    /// Whether `value` belongs to the set.
    pub(super) fn include(self, value: &str) -> bool {
        match self {
            Self::Are(values) => values.contains(&value),
            Self::AreNot(values) => !values.contains(&value),
            Self::BeginWith(start) => value.starts_with(start),
        }
    }
}

/// Describes the supported values if these are refused: `except true`, `but only 0`.
impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Are(values) => write!(f, "except {}", values.join(" and ")),
            Self::AreNot(values) => write!(f, "but only {}", values.join(" and ")),
            Self::BeginWith(start) => write!(f, "except {start}…"),
        }
    }
}

const TRUE: Values = Values::Are(&["true"]);
const NOT_ZERO: Values = Values::AreNot(&["0"]);
const HUGE_PAGES: Values = Values::BeginWith("HugePages");
const NOT_LINUX: Values = Values::Are(&["windows"]);
const ROOT: Values = Values::Are(&["/"]);
const BLOCK: Values = Values::Are(&["Block"]);
const HOST_DEVICES: Values = Values::Are(&["BlockDevice", "CharDevice", "Socket"]);

const ONE_NODE: &str = "there is one node, and the Pod runs on it";
const NOT_COMPARED: &str = "not enforced yet: the Pod runs on this node, regardless of the node's name and labels";
const NO_CLUSTER: &str = "there is no API server to use it";
const SERVER: &str = "microkube sets it, as Kubernetes does";
const IN_VM: &str = "each Pod runs in its own virtual machine, which has no access to the host's namespaces";
const NO_BLOCK: &str = "volumes are mounted as file systems, not attached as block devices";
const NO_SOURCE: &str = "new volumes are empty";
const ATTACH_ON_HOST: &str = "attach and mount the disk on the host, and use hostPath";
const OLD_VOLUME: &str = "Kubernetes has removed or deprecated this volume type";
const NO_SIGNER: &str = "there is no signer for certificates";
const VM_LIMITS: &str = "for a container without a limit, the value is that of its virtual machine";
const WINDOWS: &str = "containers run on Linux";
const NO_HOST_PORT: &str = "ports are not published on the host; connect to the Pod's own address";
const NO_LSM: &str = "the guest kernel is built without this security module";
const SECCOMP_DIRECTORY: &str = "a file in the directory of the setting security.seccompProfiles";

/// All fields except subfields of ignored or refused fields.
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
        SupportedWith("a deleted Pod stays until they are removed, unless it runs in the foreground"),
    ),
    ("metadata.generateName", Supported),
    ("metadata.generation", Ignored(SERVER)),
    ("metadata.labels", Supported),
    ("metadata.managedFields", Ignored(SERVER)),
    ("metadata.name", Supported),
    ("metadata.namespace", Supported),
    ("metadata.ownerReferences", Supported),
    ("metadata.ownerReferences[].apiVersion", Supported),
    ("metadata.ownerReferences[].blockOwnerDeletion", Supported),
    ("metadata.ownerReferences[].controller", Supported),
    ("metadata.ownerReferences[].kind", Supported),
    ("metadata.ownerReferences[].name", Supported),
    ("metadata.ownerReferences[].uid", Supported),
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
    ("spec.ephemeralContainers", SameAs("spec.containers")),
    ("spec.hostAliases", Supported),
    ("spec.hostIPC", RefusedIf(TRUE, IN_VM)),
    ("spec.hostNetwork", RefusedIf(TRUE, IN_VM)),
    ("spec.hostPID", RefusedIf(TRUE, IN_VM)),
    ("spec.hostUsers", Supported),
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
        SupportedWith("set the conditions with `patch --subresource status`"),
    ),
    ("spec.readinessGates[].conditionType", Supported),
    ("spec.resourceClaims", Refused("there are no devices to claim")),
    ("spec.resources", Refused("set the resources of each container")),
    ("spec.restartPolicy", Supported),
    (
        "spec.runtimeClassName",
        Refused("microkube is the only runtime; remove this field"),
    ),
    ("spec.schedulerName", Ignored(ONE_NODE)),
    ("spec.schedulingGates", Supported),
    ("spec.schedulingGates[].name", Supported),
    (
        "spec.schedulingGroup",
        Refused("Pods start individually, not in groups"),
    ),
    ("spec.securityContext", Supported),
    ("spec.serviceAccount", Supported),
    ("spec.serviceAccountName", Supported),
    ("spec.setHostnameAsFQDN", RefusedIf(TRUE, "Pods have no DNS domain")),
    ("spec.shareProcessNamespace", Supported),
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
    (
        "spec.securityContext.appArmorProfile",
        SameAs("spec.containers[].securityContext.appArmorProfile"),
    ),
    ("spec.securityContext.fsGroup", Supported),
    (
        "spec.securityContext.fsGroupChangePolicy",
        SupportedWith("it applies to claims with a disk; other volumes get the group in any case, as in Kubernetes"),
    ),
    ("spec.securityContext.runAsGroup", Supported),
    ("spec.securityContext.runAsNonRoot", Supported),
    ("spec.securityContext.runAsUser", Supported),
    ("spec.securityContext.seLinuxChangePolicy", Refused(NO_LSM)),
    ("spec.securityContext.seLinuxOptions", Refused(NO_LSM)),
    ("spec.securityContext.seccompProfile", Supported),
    (
        "spec.securityContext.seccompProfile.localhostProfile",
        SupportedWith(SECCOMP_DIRECTORY),
    ),
    ("spec.securityContext.seccompProfile.type", Supported),
    ("spec.securityContext.supplementalGroups", Supported),
    ("spec.securityContext.supplementalGroupsPolicy", Supported),
    (
        "spec.securityContext.sysctls",
        SupportedWith("sysctls that Kubernetes calls unsafe must be in the setting security.allowedUnsafeSysctls"),
    ),
    ("spec.securityContext.sysctls[].name", Supported),
    ("spec.securityContext.sysctls[].value", Supported),
    ("spec.securityContext.windowsOptions", Refused(WINDOWS)),
    // Container
    ("spec.containers[].args", Supported),
    ("spec.containers[].command", Supported),
    ("spec.containers[].env", Supported),
    ("spec.containers[].envFrom", Supported),
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
        Ignored("running Pods cannot be resized"),
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
    ("spec.containers[].volumeDevices", Refused(NO_BLOCK)),
    ("spec.containers[].volumeMounts", Supported),
    ("spec.containers[].workingDir", Supported),
    // EphemeralContainer
    ("spec.ephemeralContainers[].targetContainerName", Supported),
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
        SupportedWith("such a hook fails when it runs, as in Kubernetes, where it is deprecated"),
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
    ("spec.containers[].restartPolicyRules[].action", Supported),
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
    ("spec.containers[].env[].valueFrom.configMapKeyRef", Supported),
    ("spec.containers[].env[].valueFrom.fieldRef", Supported),
    ("spec.containers[].env[].valueFrom.fileKeyRef", Supported),
    ("spec.containers[].env[].valueFrom.resourceFieldRef", Supported),
    ("spec.containers[].env[].valueFrom.secretKeyRef", Supported),
    ("spec.containers[].env[].valueFrom.fieldRef.apiVersion", Supported),
    ("spec.containers[].env[].valueFrom.fieldRef.fieldPath", Supported),
    // ConfigMapKeySelector, FileKeySelector, SecretKeySelector, ResourceFieldSelector
    ("spec.containers[].env[].valueFrom.configMapKeyRef.key", Supported),
    ("spec.containers[].env[].valueFrom.configMapKeyRef.name", Supported),
    ("spec.containers[].env[].valueFrom.configMapKeyRef.optional", Supported),
    ("spec.containers[].env[].valueFrom.fileKeyRef.key", Supported),
    ("spec.containers[].env[].valueFrom.fileKeyRef.optional", Supported),
    ("spec.containers[].env[].valueFrom.fileKeyRef.path", Supported),
    (
        "spec.containers[].env[].valueFrom.fileKeyRef.volumeName",
        SupportedWith("an emptyDir volume; a file can have 1 MiB"),
    ),
    ("spec.containers[].env[].valueFrom.secretKeyRef.key", Supported),
    ("spec.containers[].env[].valueFrom.secretKeyRef.name", Supported),
    ("spec.containers[].env[].valueFrom.secretKeyRef.optional", Supported),
    (
        "spec.containers[].env[].valueFrom.resourceFieldRef.containerName",
        Supported,
    ),
    ("spec.containers[].env[].valueFrom.resourceFieldRef.divisor", Supported),
    (
        "spec.containers[].env[].valueFrom.resourceFieldRef.resource",
        SupportedWith(VM_LIMITS),
    ),
    // EnvFromSource
    ("spec.containers[].envFrom[].configMapRef", Supported),
    ("spec.containers[].envFrom[].configMapRef.name", Supported),
    ("spec.containers[].envFrom[].configMapRef.optional", Supported),
    ("spec.containers[].envFrom[].prefix", Supported),
    ("spec.containers[].envFrom[].secretRef", Supported),
    ("spec.containers[].envFrom[].secretRef.name", Supported),
    ("spec.containers[].envFrom[].secretRef.optional", Supported),
    // ResourceRequirements
    (
        "spec.containers[].resources.claims",
        Refused("there are no devices to claim"),
    ),
    (
        "spec.containers[].resources.limits",
        SupportedWith(
            "cpu and memory are enforced; a Pod that uses more than its ephemeral-storage is evicted, as by the kubelet",
        ),
    ),
    (
        "spec.containers[].resources.requests",
        SupportedWith(
            "cpu sets the CPU weight, cpu and memory the QoS class; not enforced yet: ephemeral-storage, and whether the host has the requested resources",
        ),
    ),
    // SecurityContext, Capabilities
    ("spec.containers[].securityContext.allowPrivilegeEscalation", Supported),
    (
        "spec.containers[].securityContext.appArmorProfile",
        SupportedWith("with a type other than Unconfined the Pod fails, as on nodes without AppArmor"),
    ),
    (
        "spec.containers[].securityContext.appArmorProfile.localhostProfile",
        Supported,
    ),
    ("spec.containers[].securityContext.appArmorProfile.type", Supported),
    ("spec.containers[].securityContext.capabilities", Supported),
    ("spec.containers[].securityContext.capabilities.add", Supported),
    ("spec.containers[].securityContext.capabilities.drop", Supported),
    (
        "spec.containers[].securityContext.privileged",
        SupportedWith("unless the setting security.allowPrivileged is false"),
    ),
    (
        "spec.containers[].securityContext.procMount",
        SupportedWith("Kubernetes allows Unmasked only with hostUsers: false"),
    ),
    ("spec.containers[].securityContext.readOnlyRootFilesystem", Supported),
    ("spec.containers[].securityContext.runAsGroup", Supported),
    ("spec.containers[].securityContext.runAsNonRoot", Supported),
    ("spec.containers[].securityContext.runAsUser", Supported),
    ("spec.containers[].securityContext.seLinuxOptions", Refused(NO_LSM)),
    ("spec.containers[].securityContext.seccompProfile", Supported),
    (
        "spec.containers[].securityContext.seccompProfile.localhostProfile",
        SupportedWith(SECCOMP_DIRECTORY),
    ),
    ("spec.containers[].securityContext.seccompProfile.type", Supported),
    ("spec.containers[].securityContext.windowsOptions", Refused(WINDOWS)),
    // VolumeMount
    (
        "spec.containers[].volumeMounts[].mountPath",
        RefusedIf(ROOT, "the container's root file system is mounted there"),
    ),
    (
        "spec.containers[].volumeMounts[].mountPropagation",
        SupportedWith(
            "Bidirectional only for emptyDir volumes; what the host mounts in a hostPath after the Pod has started does not appear",
        ),
    ),
    ("spec.containers[].volumeMounts[].name", Supported),
    ("spec.containers[].volumeMounts[].readOnly", Supported),
    ("spec.containers[].volumeMounts[].recursiveReadOnly", Supported),
    ("spec.containers[].volumeMounts[].subPath", Supported),
    ("spec.containers[].volumeMounts[].subPathExpr", Supported),
    // Volume and its types
    ("spec.volumes[].awsElasticBlockStore", Refused(OLD_VOLUME)),
    ("spec.volumes[].azureDisk", Refused(OLD_VOLUME)),
    ("spec.volumes[].azureFile", Refused(OLD_VOLUME)),
    ("spec.volumes[].cephfs", Refused(OLD_VOLUME)),
    ("spec.volumes[].cinder", Refused(OLD_VOLUME)),
    ("spec.volumes[].configMap", Supported),
    ("spec.volumes[].configMap.defaultMode", Supported),
    ("spec.volumes[].configMap.items", Supported),
    ("spec.volumes[].configMap.items[].key", Supported),
    ("spec.volumes[].configMap.items[].mode", Supported),
    ("spec.volumes[].configMap.items[].path", Supported),
    ("spec.volumes[].configMap.name", Supported),
    ("spec.volumes[].configMap.optional", Supported),
    (
        "spec.volumes[].csi",
        Refused("there are no CSI drivers; use a claim of a StorageClass"),
    ),
    ("spec.volumes[].downwardAPI", Supported),
    ("spec.volumes[].downwardAPI.defaultMode", Supported),
    ("spec.volumes[].downwardAPI.items", Supported),
    ("spec.volumes[].downwardAPI.items[].fieldRef", Supported),
    ("spec.volumes[].downwardAPI.items[].fieldRef.apiVersion", Supported),
    ("spec.volumes[].downwardAPI.items[].fieldRef.fieldPath", Supported),
    ("spec.volumes[].downwardAPI.items[].mode", Supported),
    ("spec.volumes[].downwardAPI.items[].path", Supported),
    (
        "spec.volumes[].downwardAPI.items[].resourceFieldRef",
        SameAs("spec.containers[].env[].valueFrom.resourceFieldRef"),
    ),
    ("spec.volumes[].emptyDir", Supported),
    (
        "spec.volumes[].emptyDir.medium",
        RefusedIf(HUGE_PAGES, "the guest reserves no huge pages"),
    ),
    (
        "spec.volumes[].emptyDir.sizeLimit",
        SupportedWith(
            "with medium Memory it is the size of the file system; on disk, a Pod that uses more is evicted, as by the kubelet",
        ),
    ),
    ("spec.volumes[].ephemeral", Supported),
    ("spec.volumes[].ephemeral.volumeClaimTemplate", Supported),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.metadata",
        SameAs("metadata"),
    ),
    ("spec.volumes[].ephemeral.volumeClaimTemplate.spec", Supported),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.accessModes",
        Supported,
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.dataSource",
        Refused(NO_SOURCE),
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.dataSourceRef",
        Refused(NO_SOURCE),
    ),
    ("spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources", Supported),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources.limits",
        SupportedWith("it has no effect, as in Kubernetes"),
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.resources.requests",
        Supported,
    ),
    ("spec.volumes[].ephemeral.volumeClaimTemplate.spec.selector", Supported),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.selector.matchExpressions",
        Supported,
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.selector.matchExpressions[].key",
        Supported,
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.selector.matchExpressions[].operator",
        Supported,
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.selector.matchExpressions[].values",
        Supported,
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.selector.matchLabels",
        Supported,
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.storageClassName",
        Supported,
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.volumeAttributesClassName",
        Refused("there are no VolumeAttributesClasses"),
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.volumeMode",
        RefusedIf(BLOCK, NO_BLOCK),
    ),
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.spec.volumeName",
        Supported,
    ),
    ("spec.volumes[].fc", Refused(ATTACH_ON_HOST)),
    ("spec.volumes[].flexVolume", Refused(OLD_VOLUME)),
    ("spec.volumes[].flocker", Refused(OLD_VOLUME)),
    ("spec.volumes[].gcePersistentDisk", Refused(OLD_VOLUME)),
    ("spec.volumes[].gitRepo", Refused(OLD_VOLUME)),
    ("spec.volumes[].glusterfs", Refused(OLD_VOLUME)),
    ("spec.volumes[].hostPath", Supported),
    ("spec.volumes[].hostPath.path", SupportedWith("it must be absolute")),
    (
        "spec.volumes[].hostPath.type",
        RefusedIf(HOST_DEVICES, "containers cannot use sockets and devices of the host"),
    ),
    (
        "spec.volumes[].image",
        SupportedWith("container images, not other OCI artifacts"),
    ),
    ("spec.volumes[].image.pullPolicy", Supported),
    ("spec.volumes[].image.reference", Supported),
    ("spec.volumes[].iscsi", Refused(ATTACH_ON_HOST)),
    ("spec.volumes[].name", Supported),
    (
        "spec.volumes[].nfs",
        Refused("mount the export on the host, and use hostPath"),
    ),
    ("spec.volumes[].persistentVolumeClaim", Supported),
    ("spec.volumes[].persistentVolumeClaim.claimName", Supported),
    ("spec.volumes[].persistentVolumeClaim.readOnly", Supported),
    ("spec.volumes[].photonPersistentDisk", Refused(OLD_VOLUME)),
    ("spec.volumes[].portworxVolume", Refused(OLD_VOLUME)),
    ("spec.volumes[].projected", Supported),
    ("spec.volumes[].projected.defaultMode", Supported),
    ("spec.volumes[].projected.sources", Supported),
    (
        "spec.volumes[].projected.sources[].clusterTrustBundle",
        Refused(NO_SIGNER),
    ),
    (
        "spec.volumes[].projected.sources[].configMap",
        SameAs("spec.volumes[].configMap"),
    ),
    (
        "spec.volumes[].projected.sources[].downwardAPI",
        SameAs("spec.volumes[].downwardAPI"),
    ),
    ("spec.volumes[].projected.sources[].podCertificate", Refused(NO_SIGNER)),
    ("spec.volumes[].projected.sources[].secret", Supported),
    (
        "spec.volumes[].projected.sources[].secret.items",
        SameAs("spec.volumes[].configMap.items"),
    ),
    ("spec.volumes[].projected.sources[].secret.name", Supported),
    ("spec.volumes[].projected.sources[].secret.optional", Supported),
    (
        "spec.volumes[].projected.sources[].serviceAccountToken",
        SupportedWith("signed with the node's own key; there is no API server that accepts it"),
    ),
    (
        "spec.volumes[].projected.sources[].serviceAccountToken.audience",
        Supported,
    ),
    (
        "spec.volumes[].projected.sources[].serviceAccountToken.expirationSeconds",
        Supported,
    ),
    ("spec.volumes[].projected.sources[].serviceAccountToken.path", Supported),
    ("spec.volumes[].quobyte", Refused(OLD_VOLUME)),
    ("spec.volumes[].rbd", Refused(OLD_VOLUME)),
    ("spec.volumes[].scaleIO", Refused(OLD_VOLUME)),
    ("spec.volumes[].secret", Supported),
    ("spec.volumes[].secret.defaultMode", Supported),
    ("spec.volumes[].secret.items", SameAs("spec.volumes[].configMap.items")),
    ("spec.volumes[].secret.optional", Supported),
    ("spec.volumes[].secret.secretName", Supported),
    ("spec.volumes[].storageos", Refused(OLD_VOLUME)),
    ("spec.volumes[].vsphereVolume", Refused(OLD_VOLUME)),
];
