use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// A valid Pod, with places for what the tests insert.
fn manifest(container: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n{spec}  containers:\n  - name: main\n    image: nginx:1.27\n{container}"
    )
}

fn load_one(text: &[u8], source: &str) -> Result<Pod, ManifestError> {
    let mut manifests = load(&[Input { source, text }])?;
    assert_eq!(manifests.pods.len(), 1);
    Ok(manifests.pods.remove(0))
}

fn errors(text: &str) -> Vec<String> {
    let error = load_one(text.as_bytes(), "pod.yaml").unwrap_err();
    error.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn the_pod_of_two_containers_and_a_volume_loads() {
    let text = "
apiVersion: v1
kind: Pod
metadata:
  name: my-nginx-pod
  labels: {app: web}
spec:
  terminationGracePeriodSeconds: 5
  restartPolicy: Never
  nodeSelector: {disk: ssd}
  volumes:
  - name: data
    emptyDir: {medium: Memory, sizeLimit: 64Mi}
  containers:
  - name: my-nginx-container
    image: nginx:latest
    ports:
    - containerPort: 80
      protocol: TCP
    volumeMounts:
    - {name: data, mountPath: /data}
  - name: ubuntu-sidecar-container
    image: alicek106/rr-test:curl
    command: [\"tail\"]
    args: [\"-f\", \"/dev/null\"] # keeps running
    resources:
      limits: {cpu: 0.5, memory: 128Mi}
    env:
    - name: POD
      valueFrom: {fieldRef: {fieldPath: metadata.name}}
";
    let pod = load_one(text.as_bytes(), "pod.yaml").unwrap();
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.containers.len(), 2);
    assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
    assert_eq!(spec.containers[1].image_pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(resources::vm_size(&pod, 8).mem_size_mib, 256 + 128 + 64);
    // JSON is YAML; a byte order mark and surrounding empty documents are allowed.
    let json = serde_json::to_string(&pod).unwrap();
    assert_eq!(
        load_one(format!("\u{feff}---\n{json}\n---\n").as_bytes(), "-").unwrap(),
        pod
    );
}

#[test]
fn all_errors_are_reported_together_with_their_positions() {
    let text = "apiVersion: v1
kind: Pod
metadata:
  name: Foo
spec:
  restartPolcy: Never
  containers:
  - name: a
    imagePullPolice: Always
    ports:
    - containerPort: eighty
  - name: a
    image: b
    imagePullPolicy: Sometimes
    livenessProbe: {}
    volumeMounts:
    - {name: x, mountPath: /x}
";
    let expected = [
        "pod.yaml:4:3: metadata.name: Invalid value: \"Foo\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
         characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        "pod.yaml:6:3: unknown field \"spec.restartPolcy\", did you mean \"restartPolicy\"?",
        "pod.yaml:8:5: spec.containers[0].image: Required value",
        "pod.yaml:9:5: unknown field \"spec.containers[0].imagePullPolice\", did you mean \"imagePullPolicy\"?",
        "pod.yaml:11:7: spec.containers[0].ports[0].containerPort: invalid type: string \"eighty\", expected an integer",
        "pod.yaml:12:5: spec.containers[1].name: Duplicate value: \"a\"",
        "pod.yaml:14:5: spec.containers[1].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
         \"IfNotPresent\", \"Never\"",
        "pod.yaml:15:5: spec.containers[1].livenessProbe: Required value: must specify a handler type",
        "pod.yaml:17:8: spec.containers[1].volumeMounts[0].name: Not found: \"x\"",
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn common_indentation_and_spelling_mistakes_are_explained() {
    // `name` next to `metadata`, `images` for `image`, `ports` indented deeper than its container.
    let text = "apiVersion: v1
kind: Pod
metadata:
name: my-nginx-pod
spec:
containers:
- name: my-nginx-container
    images: nginx:latest
    ports:
    - containerPort: 80
    protocol: TCP
";
    let found = errors(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("pod.yaml:8:") && found[0].contains("not valid YAML"),
        "{found:?}"
    );
    let flat = text.replace("    ", "  ");
    assert_eq!(
        errors(&flat),
        [
            "pod.yaml:3:1: metadata.name: Required value: name or generateName is required",
            "pod.yaml:4:1: unknown field \"name\", it belongs in metadata: check the indentation",
            "pod.yaml:5:1: spec: Required value",
            "pod.yaml:6:1: unknown field \"containers\", it belongs in spec: check the indentation",
        ]
    );
}

#[test]
fn unsupported_kinds_and_empty_files_are_reported() {
    assert_eq!(
        errors("apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 3}\n"),
        [
            "pod.yaml:2:1: kind: apps/v1, kind Deployment is not supported by microkube yet, only ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount, StorageClass, List"
        ]
    );
    let class = errors("apiVersion: v1\nkind: StorageClass\nmetadata: {name: a}\n");
    assert!(
        class[0].ends_with("List (StorageClass would be in storage.k8s.io/v1)"),
        "{class:?}"
    );
    assert_eq!(errors("kind: ConfigMap\nmetadata: {name: a}\n").len(), 1);
    assert!(errors("apiVersion: batch/v1\nkind: Job\nmetadata: {name: hello}\n")[0].contains("batch/v1, kind Job"));
    assert!(errors("apiVersion: v1\nkind: pod\n")[0].ends_with("did you mean \"Pod\"?"));
    assert_eq!(
        errors(&manifest("", "").replace("apiVersion: v1", "apiVersion: v2")),
        ["pod.yaml:1:1: apiVersion: Unsupported value: \"v2\": supported values: \"v1\" (for kind Pod)"]
    );
    assert_eq!(
        errors("replicas: 3\n"),
        [
            "pod.yaml:1:1: apiVersion: Required value: write `apiVersion: v1` for a Pod",
            "pod.yaml:1:1: kind: Required value: write `kind: Pod` for a Pod",
        ]
    );
    assert!(errors("just text\n")[0].contains("not a Kubernetes object"));
    for empty in ["", "\n", "# nothing\n", "---\n---\n"] {
        assert!(
            errors(empty)[0].starts_with("pod.yaml: the manifest is empty"),
            "{empty:?}"
        );
    }
    assert!(
        load_one(b"\x7fELF\x02\x01\xff", "a.out")
            .unwrap_err()
            .to_string()
            .contains("is the file UTF-8 text?")
    );
}

#[test]
fn each_rule_has_the_message_of_kubernetes() {
    let volumes = "  volumes:\n  - {name: v, emptyDir: {}}\n";
    for (container, spec, expected) in [
        (
            "    ports: [{containerPort: 70000}]\n",
            "",
            "ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        ("    ports: [{name: x}]\n", "", "ports[0].containerPort: Required value"),
        (
            "    ports: [{containerPort: 1, protocol: tcp}]\n",
            "",
            "ports[0].protocol: Unsupported value: \"tcp\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            "    ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a}]\n",
            "",
            "ports[1].name: Duplicate value: \"a\"",
        ),
        (
            "    ports: [{containerPort: 1, hostPort: 80}]\n",
            "",
            "ports[0].hostPort: 80 is not supported by microkube yet: ports are not published on the host; connect to the Pod's own address",
        ),
        ("    env: [{value: x}]\n", "", "env[0].name: Required value"),
        (
            "    env: [{name: A, valueFrom: {}}]\n",
            "",
            "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (
            "    env: [{name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n",
            "",
            "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            "    env: [{name: A, value: true}]\n",
            "",
            "env[0].value: invalid type: boolean `true`, expected a string: write it in quotes",
        ),
        (
            "    resources: {limits: {cpu: abc}}\n",
            "",
            "resources.limits[cpu]: Invalid value: \"abc\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "    resources: {limits: {memory: -1}}\n",
            "",
            "resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            "    resources: {limits: {cpu: 100m}, requests: {cpu: 200m}}\n",
            "",
            "resources.requests: Invalid value: \"200m\": must be less than or equal to cpu limit of 100m",
        ),
        (
            "    resources: {limits: {nvidia.com/gpu: 1}}\n",
            "",
            "resources.limits[nvidia.com/gpu]: not supported by microkube yet: use cpu, memory or ephemeral-storage",
        ),
        (
            "    volumeMounts: [{name: v}]\n",
            volumes,
            "volumeMounts[0].mountPath: Required value",
        ),
        (
            "    volumeMounts: [{name: v, mountPath: /a}, {name: v, mountPath: /a}]\n",
            volumes,
            "volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ),
        (
            "    volumeMounts: [{name: v, mountPath: '/a:b'}]\n",
            volumes,
            "volumeMounts[0].mountPath: Invalid value: \"/a:b\": must not contain ':'",
        ),
        (
            "    volumeMounts: [{name: v, mountPath: /a, subPath: a/../b}]\n",
            volumes,
            "volumeMounts[0].subPath: Invalid value: \"a/../b\": must not contain '..'",
        ),
        (
            "    securityContext: {runAsUser: -1}\n",
            "",
            "securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            "    securityContext: {capabilities: {add: [NET_ADMN]}}\n",
            "",
            "securityContext.capabilities.add[0]: Invalid value: \"NET_ADMN\": must be ALL or the name of a Linux capability without CAP_, such as NET_ADMIN",
        ),
        (
            "    command: [\"a\\0b\"]\n",
            "",
            "command[0]: Invalid value: \"a\\0b\": must not contain a NUL character",
        ),
        (
            "    lifecycle: {stopSignal: SIGUSR1}\n",
            "",
            "lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
        ),
        (
            "    restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}]\n",
            "",
            "restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            "    restartPolicy: Never\n    restartPolicyRules: [{action: RestartAllContainers}]\n",
            "",
            "restartPolicyRules[0].exitCodes: Required value: must be specified",
        ),
    ] {
        let found = errors(&manifest(container, spec));
        assert_eq!(found.len(), 1, "{found:?}");
        let problem = found[0].split_once(": ").unwrap().1;
        assert_eq!(problem, format!("spec.containers[0].{expected}"));
    }
    for (spec, expected) in [
        (
            "  restartPolicy: always\n",
            "spec.restartPolicy: Unsupported value: \"always\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "  hostname: Web\n",
            "spec.hostname: Invalid value: \"Web\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            "  dnsPolicy: None\n",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            "  hostAliases: [{ip: 1.2.3}]\n",
            "spec.hostAliases[0].ip: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            "  volumes: [{name: v, emptyDir: {}}, {name: v}]\n",
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            "  volumes: [{name: v, nfs: {server: a, path: /}}]\n",
            "spec.volumes[0].nfs: not supported by microkube yet: mount the export on the host, and use hostPath",
        ),
        (
            "  volumes: [{name: v, emptyDir: {medium: Disk}}]\n",
            "spec.volumes[0].emptyDir.medium: Unsupported value: \"Disk\": supported values: \"\", \"Memory\"",
        ),
        (
            "  hostNetwork: true\n",
            "spec.hostNetwork: true is not supported by microkube yet: each Pod runs in its own virtual machine, which has no access to the host's namespaces",
        ),
        (
            "  initContainers: [{name: main, image: x}]\n",
            "spec.initContainers[0].name: Duplicate value: \"main\"",
        ),
        (
            "  initContainers: [{name: i, image: x, livenessProbe: {exec: {command: [a]}}}]\n",
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            "  activeDeadlineSeconds: 0\n",
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            "  readinessGates: [{conditionType: a.b/}]\n",
            "spec.readinessGates[0].conditionType: Invalid value: \"a.b/\": name part must be non-empty",
        ),
    ] {
        let found = errors(&manifest("", spec));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].split_once(": ").unwrap().1, expected);
    }
}

#[test]
fn fields_without_effect_on_one_node_are_accepted() {
    let spec = "  hostNetwork: false\n  dnsPolicy: Default\n  tolerations: [{operator: Exists}]\n  schedulerName: x\n  \
                priorityClassName: high\n  serviceAccountName: robot\n  automountServiceAccountToken: false\n  enableServiceLinks: false\n  \
                affinity: {nodeAffinity: {}}\n  restartPolicy: Never\n  initContainers: []\n  shareProcessNamespace: false\n";
    let container = "    resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}]\n    terminationMessagePolicy: FallbackToLogsOnError\n    \
                     securityContext: {seccompProfile: {type: RuntimeDefault}, capabilities: {drop: [ALL]}}\n";
    load_one(manifest(container, spec).as_bytes(), "pod.yaml").unwrap();
}

#[test]
fn the_total_size_of_annotations_is_limited() {
    let text = manifest("", "").replace(
        "  name: web\n",
        &format!("  name: web\n  annotations: {{a: {}}}\n", "x".repeat(256 << 10)),
    );
    assert_eq!(
        errors(&text),
        ["pod.yaml:5:3: metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
}

/// A Pod of more than a megabyte, and the faults that a hostile one of that size could have.
#[test]
fn a_megabyte_of_valid_and_of_faulty_input_is_handled() {
    let mut text = manifest("    env:\n", "");
    for number in 0..25_000 {
        let _ = writeln!(
            text,
            "    - name: VARIABLE_{number}\n      value: \"some text {number}\""
        );
    }
    assert!(text.len() > 1 << 20);
    let pod = load_one(text.as_bytes(), "pod.yaml").unwrap();
    assert_eq!(pod.spec.unwrap().containers[0].env.as_ref().unwrap().len(), 25_000);
    let faulty = text.replace("      value:", "      values:");
    let error = load_one(faulty.as_bytes(), "pod.yaml").unwrap_err();
    assert_eq!(error.files[0].problems.len(), error::MAX_PROBLEMS);
    assert_eq!(
        error.to_string().lines().next().unwrap(),
        "pod.yaml:11:7: unknown field \"spec.containers[0].env[0].values\", did you mean \"value\"?"
    );
    // The same with the names that are most expensive to compare, and with a single mapping that contains them all.
    let mut labels = manifest("", "").replace("  name: web\n", "  name: web\n  labels:\n");
    let at = labels.find("spec:").unwrap();
    let many: String = (0..20_000)
        .map(|number| format!("    \"{}{number} \": x\n", "a".repeat(40)))
        .collect();
    labels.insert_str(at, &many);
    let error = load_one(labels.as_bytes(), "pod.yaml").unwrap_err();
    assert_eq!(error.files[0].problems.len(), error::MAX_PROBLEMS);
    let wide: String = (0..20_000)
        .map(|number| format!("    {}{number}: x\n", "terminationMessagePolici".repeat(2)))
        .collect();
    assert!(load_one(manifest(&wide, "").as_bytes(), "pod.yaml").is_err());
}

proptest! {
    #[test]
    fn a_fault_is_reported_at_its_position(
        containers in 1_usize..6, faulty in 0_usize..6, indent in 0_usize..4, flow in any::<bool>(), comments in 0_usize..4,
        ends in prop_oneof![Just("\n"), Just("\r\n")]
    ) {
        let faulty = faulty % containers;
        let mut text = format!("apiVersion: v1\nkind: Pod\n{}metadata: {{name: web}}\nspec:\n  containers:\n", "# \u{e4}\n".repeat(comments));
        for number in 0..containers {
            let fault = if number == faulty { "imag" } else { "image" };
            let pad = " ".repeat(indent + 2);
            if flow {
                let _ = writeln!(text, "{pad}- {{name: \"c{number}\", {fault}: nginx}}");
            } else {
                let _ = writeln!(text, "{pad}- name: \"c{number}\"\n{pad}  {fault}: nginx");
            }
        }
        let (line, content) = text.lines().enumerate().find(|(_, line)| line.contains("imag:")).unwrap();
        let column = content.find("imag:").unwrap() + 1;
        let expected = format!("pod.yaml:{}:{column}: unknown field \"spec.containers[{faulty}].imag\", did you mean \"image\"?", line + 1);
        let found = errors(&text.replace('\n', ends));
        prop_assert!(found.contains(&expected), "{found:?} {expected}");
        prop_assert_eq!(found.len(), 2);
    }

    #[test]
    fn any_bytes_are_loaded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load(&[Input { source: "x", text: &bytes }]);
    }

    #[test]
    fn any_mutated_manifest_is_loaded_or_refused_with_a_position_inside(at in 0_usize..2000, put in "(\t|\n|:|- |&a |\\*a|[\\[\\]{}\"'#,|>%@!\\\\]){0,3}", cut in 0_usize..9) {
        let text = include_str!("../../../tests/manifests/valid/istio-injected.yaml");
        let start = (0..=at.min(text.len())).rev().find(|start| text.is_char_boundary(*start)).unwrap();
        let end = (start + cut..=text.len()).find(|end| text.is_char_boundary(*end)).unwrap_or(text.len());
        let changed = format!("{}{put}{}", &text[..start], &text[end..]);
        if let Err(error) = load(&[Input { source: "x", text: changed.as_bytes() }]) {
            for problem in &error.files[0].problems {
                let at = problem.location.unwrap();
                prop_assert!(at.line <= changed.lines().count() + 1, "{problem:?}");
            }
        }
    }
}

#[test]
fn pods_and_other_objects_of_a_file_are_read_in_any_order_and_as_lists() {
    let pod = "metadata: {name: p}, spec: {containers: [{name: c, image: i}]}";
    let text = format!(
        "{{apiVersion: v1, kind: Pod, {pod}}}
---
{{apiVersion: v1, kind: List, items: [{{apiVersion: v1, kind: Secret, metadata: {{name: s}}, data: null}}]}}
---
{{apiVersion: v1, kind: ConfigMapList, items: [{{metadata: {{name: c}}}}]}}
---
{{apiVersion: v1, kind: PodList, items: [{{{}}}]}}
",
        pod.replace("name: p", "name: q")
    );
    let input = Input {
        source: "x.yaml",
        text: text.as_bytes(),
    };
    let (manifests, documents) = load_all(&[input]).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<_> = manifests
        .pods
        .iter()
        .map(|pod| pod.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(names, ["p", "q"]);
    let kinds: Vec<_> = documents.iter().map(|document| document.kind().kind).collect();
    assert_eq!(kinds, ["Secret", "ConfigMap"]);
    assert!(
        documents[0]
            .written()
            .get("data")
            .is_some_and(serde_json::Value::is_null)
    );
}

#[test]
fn faulty_objects_are_refused_with_their_places_next_to_pods() {
    let text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: A}, dat: {}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: default}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {generateName: a-}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {generateName: a-}}
";
    let input = Input {
        source: "x.yaml",
        text: text.as_bytes(),
    };
    let error = load_all(&[input]).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines,
        [
            "x.yaml:1:56: unknown field \"dat\", did you mean \"data\"?",
            "x.yaml:5:46: metadata.name: Duplicate value: \"a\": another ConfigMap with this name is at x.yaml:3:46",
        ]
    );
}

#[test]
fn unknown_fields_of_all_objects_are_dropped_on_request() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: i, imag: j}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, dat: {}}
";
    let input = Input {
        source: "x.yaml",
        text: text.as_bytes(),
    };
    assert!(load_all(&[input]).is_err());
    let (manifests, documents) = load_all_with(&[input], UnknownFields::Dropped).unwrap();
    let dropped: Vec<_> = manifests
        .dropped_fields
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(
        dropped,
        [
            "unknown field \"spec.containers[0].imag\", did you mean \"image\"?",
            "unknown field \"dat\", did you mean \"data\"?",
        ]
    );
    let container = &manifests.written[0].value["spec"]["containers"][0];
    assert_eq!(*container, serde_json::json!({"name": "c", "image": "i"}));
    assert_eq!(documents[0].written().get("dat"), None);
}
