//! The table of fields: one line for each, in the order of Kubernetes' types. The other half of `support`.

use super::support::Support::{self, Ignored, Refused, RefusedIf, SameAs, Supported, SupportedWith};
use super::support::Values;

const TRUE: Values = Values::Are(&["true"]);
const RESTART_ALL: Values = Values::Are(&["RestartAllContainers"]);
const NOT_ZERO: Values = Values::AreNot(&["0"]);
const PROPAGATION: Values = Values::Are(&["HostToContainer", "Bidirectional"]);
const UNMASKED: Values = Values::Are(&["Unmasked"]);
const RECURSIVE: Values = Values::Are(&["IfPossible", "Enabled"]);
const LOCALHOST_PROFILE: Values = Values::Are(&["Localhost"]);
const HUGE_PAGES: Values = Values::BeginWith("HugePages");
const NOT_LINUX: Values = Values::Are(&["windows"]);

const ONE_NODE: &str = "there is one node, and the Pod runs on it";
const NO_CLUSTER: &str = "there is no API server that it could be used with";
const SERVER: &str = "the API server fills it in";
const IN_VM: &str = "every Pod is a virtual machine of its own, which shares nothing with the host";
const VOLUME: &str = "emptyDir is the only kind of volume so far";
const OLD_VOLUME: &str = "Kubernetes itself has dropped or is dropping this kind of volume";
const NO_OBJECTS: &str = "there are no ConfigMaps, and Secrets only for pulling images; write the value itself";
const WINDOWS: &str = "containers run on Linux";
const NO_LSM: &str = "the guest kernel has no such security module";

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
    ("spec.activeDeadlineSeconds", Supported),
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
    ("spec.hostIPC", RefusedIf(TRUE, IN_VM)),
    ("spec.hostNetwork", RefusedIf(TRUE, IN_VM)),
    ("spec.hostPID", RefusedIf(TRUE, IN_VM)),
    ("spec.hostUsers", Ignored(IN_VM)),
    ("spec.hostname", Supported),
    ("spec.hostnameOverride", Refused("use spec.hostname")),
    ("spec.imagePullSecrets", Supported),
    ("spec.imagePullSecrets[].name", Supported),
    ("spec.initContainers", SameAs("spec.containers")),
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
    (
        "spec.readinessGates",
        SupportedWith("nothing here sets the condition, so the Pod never becomes ready"),
    ),
    ("spec.readinessGates[].conditionType", Supported),
    ("spec.resourceClaims", Refused("there are no devices to claim")),
    ("spec.resources", Refused("set the resources of the containers")),
    ("spec.restartPolicy", Supported),
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
    ("spec.setHostnameAsFQDN", RefusedIf(TRUE, "the Pod has no domain")),
    (
        "spec.shareProcessNamespace",
        RefusedIf(TRUE, "every container has a process namespace of its own"),
    ),
    ("spec.subdomain", Refused("the Pod has no domain")),
    ("spec.terminationGracePeriodSeconds", Supported),
    ("spec.tolerations", Ignored(ONE_NODE)),
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
            LOCALHOST_PROFILE,
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
        SupportedWith("as in Kubernetes, which has dropped it, such a hook fails when it runs"),
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
        RefusedIf(RESTART_ALL, "a rule restarts the container that has it, not the others"),
    ),
    ("spec.containers[].restartPolicyRules[].exitCodes", Supported),
    ("spec.containers[].restartPolicyRules[].exitCodes.operator", Supported),
    ("spec.containers[].restartPolicyRules[].exitCodes.values", Supported),
    // ContainerPort
    ("spec.containers[].ports[].containerPort", Supported),
    (
        "spec.containers[].ports[].hostIP",
        Refused("ports are not published on the host; the Pod has an address of its own"),
    ),
    (
        "spec.containers[].ports[].hostPort",
        RefusedIf(
            NOT_ZERO,
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
        RefusedIf(UNMASKED, "/proc is always masked; use privileged"),
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
    ("spec.containers[].volumeMounts[].mountPath", Supported),
    (
        "spec.containers[].volumeMounts[].mountPropagation",
        RefusedIf(PROPAGATION, "mounts do not propagate"),
    ),
    ("spec.containers[].volumeMounts[].name", Supported),
    ("spec.containers[].volumeMounts[].readOnly", Supported),
    (
        "spec.containers[].volumeMounts[].recursiveReadOnly",
        RefusedIf(RECURSIVE, "use readOnly; nothing is mounted below a volume"),
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
        RefusedIf(HUGE_PAGES, "the guest has no huge pages of its own"),
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
