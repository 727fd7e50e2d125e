use microkube_manifest::kinds;
use serde_json::json;

use super::super::pods::test_pods::TestPods;
use super::*;
use crate::state::{EventLog, StatusRecord};

fn pod() -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web", "namespace": "default", "labels": { "app": "shop", "tier": "front" },
            "annotations": { "note": "a\nb\n" },
        },
        "spec": {
            "serviceAccountName": "default",
            "initContainers": [{ "name": "init", "image": "busybox", "command": ["sh", "-c", "echo a\necho b"] }],
            "containers": [{
                "name": "nginx",
                "image": "nginx:1.27",
                "ports": [{ "name": "http", "containerPort": 80, "protocol": "TCP" }, { "containerPort": 443 }],
                "resources": { "limits": { "memory": "64Mi" }, "requests": { "cpu": "100m", "memory": "64Mi" } },
                "livenessProbe": {
                    "httpGet": { "path": "/healthz", "port": "http", "scheme": "HTTP" },
                    "initialDelaySeconds": 3, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                },
                "readinessProbe": { "exec": { "command": ["cat", "/ready"] } },
                "env": [
                    { "name": "GREETING", "value": "hello" },
                    { "name": "NAME", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } },
                    { "name": "IP", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "status.podIP" } } },
                ],
                "volumeMounts": [
                    { "name": "data", "mountPath": "/data" },
                    { "name": "data", "mountPath": "/a", "readOnly": true, "subPath": "x" },
                ],
            }],
            "tolerations": [
                { "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 },
                { "operator": "Exists" },
            ],
            "volumes": [{ "name": "data", "emptyDir": {} }],
        },
        "status": {
            "phase": "Running",
            "startTime": "2026-11-21T10:00:00Z",
            "podIP": "10.88.0.5",
            "podIPs": [{ "ip": "10.88.0.5" }],
            "qosClass": "Burstable",
            "conditions": [{ "type": "Initialized", "status": "True" }, { "type": "Ready", "status": "False" }],
            "initContainerStatuses": [{
                "name": "init", "image": "busybox", "imageID": "sha256:aa", "containerID": "microkube://init-0", "ready": true,
                "restartCount": 0,
                "state": { "terminated": {
                    "exitCode": 0, "reason": "Completed", "startedAt": "2026-11-21T10:00:01Z", "finishedAt": "2026-11-21T10:00:02Z",
                } },
            }],
            "containerStatuses": [{
                "name": "nginx", "image": "nginx:1.27", "imageID": "sha256:bb", "ready": false, "restartCount": 2,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": {
                    "exitCode": 137, "signal": 9, "reason": "OOMKilled", "message": "no\u{1b}[2J memory",
                    "startedAt": "2026-11-21T10:00:03Z", "finishedAt": "2026-11-21T10:00:04Z",
                } },
            }],
        },
    }))
    .unwrap()
}

fn event(warning: bool, reason: &str, message: &str, count: u32, first: &str, last: &str) -> EventRecord {
    EventRecord {
        warning,
        reason: reason.to_owned(),
        message: message.to_owned(),
        field_path: None,
        count,
        first_seen: first.parse().unwrap(),
        last_seen: last.parse().unwrap(),
    }
}

#[test]
fn the_page_is_laid_out_as_by_kubectl() {
    let events = [
        event(
            true,
            "BackOff",
            "Back-off restarting",
            3,
            "2026-11-21T10:01:00Z",
            "2026-11-21T10:04:30Z",
        ),
        event(
            false,
            "Pulled",
            "Container image is there ",
            1,
            "2026-11-21T10:00:00Z",
            "2026-11-21T10:00:00Z",
        ),
    ];
    let shown = page(
        &pod(),
        Some(&events),
        "2026-11-21T10:05:00Z".parse().unwrap(),
        &TimeZone::UTC,
    );
    let expected = r#"Name:             web
Namespace:        default
Service Account:  default
Node:             <none>
Start Time:       Sat, 21 Nov 2026 10:00:00 +0000
Labels:           app=shop
                  tier=front
Annotations:      note:
                    a
                    b
Status:           Running
IP:               10.88.0.5
IPs:
  IP:  10.88.0.5
Init Containers:
  init:
    Container ID:  microkube://init-0
    Image:         busybox
    Image ID:      sha256:aa
    Port:          <none>
    Host Port:     <none>
    Command:
      sh
      -c
      echo a
      echo b
    State:          Terminated
      Reason:       Completed
      Exit Code:    0
      Started:      Sat, 21 Nov 2026 10:00:01 +0000
      Finished:     Sat, 21 Nov 2026 10:00:02 +0000
    Ready:          True
    Restart Count:  0
    Environment:    <none>
    Mounts:         <none>
Containers:
  nginx:
    Container ID:
    Image:          nginx:1.27
    Image ID:       sha256:bb
    Ports:          80/TCP (http), 443/TCP
    Host Ports:     0/TCP (http), 0/TCP
    State:          Waiting
      Reason:       CrashLoopBackOff
    Last State:     Terminated
      Reason:       OOMKilled
      Message:      no\u{1b}[2J memory
      Exit Code:    137
      Signal:       9
      Started:      Sat, 21 Nov 2026 10:00:03 +0000
      Finished:     Sat, 21 Nov 2026 10:00:04 +0000
    Ready:          False
    Restart Count:  2
    Limits:
      memory:  64Mi
    Requests:
      cpu:      100m
      memory:   64Mi
    Liveness:   http-get http://:http/healthz delay=3s timeout=1s period=10s #success=1 #failure=3
    Readiness:  exec [cat /ready] delay=0s timeout=1s period=10s #success=1 #failure=3
    Environment:
      GREETING:  hello
      NAME:      web (v1:metadata.name)
      IP:        10.88.0.5 (v1:status.podIP)
    Mounts:
      /a from data (ro,path="x")
      /data from data (rw)
Conditions:
  Type          Status
  Initialized   True
  Ready         False
Volumes:
  data:
    Type:        EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:
    SizeLimit:   <unset>
QoS Class:       Burstable
Node-Selectors:  <none>
Tolerations:     a:NoExecute op=Exists for 300s
                 op=Exists
Events:
  Type     Reason   Age               From       Message
  ----     ------   ----              ----       -------
  Normal   Pulled   5m                microkube  Container image is there
  Warning  BackOff  30s (x3 over 4m)  microkube  Back-off restarting
"#;
    assert_eq!(shown, expected);
}

#[test]
fn variables_from_resources_and_files_are_shown() {
    let resource =
        |name: &str, field: &str| json!({ "name": name, "valueFrom": { "resourceFieldRef": { "resource": field } } });
    let file = json!({ "volumeName": "settings", "path": "app.env", "key": "MODE", "optional": true });
    let mut value = serde_json::to_value(pod()).unwrap();
    value["spec"]["containers"][0]["env"] = json!([
        resource("LIMIT", "limits.memory"),
        resource("CPU", "limits.cpu"),
        resource("REQUEST", "requests.cpu"),
        resource("DISK", "limits.ephemeral-storage"),
        { "name": "MODE", "valueFrom": { "fileKeyRef": file } },
    ]);
    let pod: Pod = serde_json::from_value(value).unwrap();
    let shown = page(&pod, None, Timestamp::UNIX_EPOCH, &TimeZone::UTC);
    let expected = "    Environment:
      LIMIT:    67108864 (limits.memory)
      CPU:      node allocatable (limits.cpu)
      REQUEST:  1 (requests.cpu)
      DISK:     0 (limits.ephemeral-storage)
      MODE:     <set to the key 'MODE' of file 'app.env' in volume 'settings'>  Optional: true
";
    assert!(shown.contains(expected), "{shown}");
}

#[test]
fn a_terminating_pod_and_one_without_records_can_be_described() {
    let mut ending = pod();
    let deleted = "2026-11-21T10:04:50Z".parse().unwrap();
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(deleted));
    ending.metadata.deletion_grace_period_seconds = Some(30);
    let shown = page(&ending, None, "2026-11-21T10:05:00Z".parse().unwrap(), &TimeZone::UTC);
    assert!(shown.contains("Status:                    Terminating (lasts 10s)\nTermination Grace Period:  30s\n"));
    assert!(!shown.contains("Events:"));
    let empty = page(&Pod::default(), Some(&[]), Timestamp::UNIX_EPOCH, &TimeZone::UTC);
    assert!(
        empty.contains("Volumes:         <none>\n") && empty.ends_with("Events:          <none>\n"),
        "{empty}"
    );
}

#[test]
fn an_unknown_name_matches_pods_by_prefix() {
    let pods = TestPods::new();
    for name in ["web-1", "web-2", "db"] {
        pods.add(name, &[]);
    }
    let reader = Reader::new(pods.paths.clone());
    let requested = Requested {
        namespace: Some("default".to_owned()),
        ..Requested::default()
    };
    let with_prefix = |prefix: &str| with_prefix(&reader, &requested, kinds::named("pod").unwrap(), prefix);
    assert_eq!(with_prefix("web").unwrap().len(), 2);
    assert!(with_prefix("x").unwrap().is_empty());
}

#[test]
fn the_page_shows_the_records() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    pods.save_status(&uid, StatusRecord::pending());
    let mut log = EventLog::open(&pods.records.events_path(&uid)).unwrap();
    let then: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
    log.add(false, "Scheduled", "here", None, then.into()).unwrap();
    let record = pods.records.get(&uid).unwrap().unwrap();
    let pod = crate::pod::recorded_pod::object(&pods.records, record)
        .unwrap()
        .unwrap();
    let events = pods.records.events(&uid).unwrap();
    let shown = page(
        &pod,
        Some(&events),
        "2026-11-21T10:00:10Z".parse().unwrap(),
        &TimeZone::UTC,
    );
    assert!(shown.contains("Status:           Pending\nIP:\n"), "{shown}");
    assert!(
        shown.contains("  Normal  Scheduled  10s   microkube  here\n"),
        "{shown}"
    );
    assert!(shown.contains("QoS Class:        BestEffort\n"), "{shown}");
}
