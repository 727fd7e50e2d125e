//! Probes of every kind against real servers: failure, recovery, and the consequences.

use microkube_tests::manifest::{Container, Pod, probe};
use serde_json::{Value, json};

use crate::detached_pod::Detached;
use crate::host::{alone, container, host, wait_until};

/// Three probes of one kind, with generous limits: the tests check success and failure, not the speed of servers.
fn probed(container: Container, startup: Value, readiness: Value, liveness: Value) -> Container {
    let failing_after = |handler: Value, failures: u32| {
        let timing = json!({ "periodSeconds": 1, "timeoutSeconds": 20, "failureThreshold": failures });
        probe(handler, timing)
    };
    container
        .set("startupProbe", failing_after(startup, 200))
        .set("readinessProbe", failing_after(readiness, 1))
        .set("livenessProbe", failing_after(liveness, 2))
        .mount("state", "/state")
}

/// A web server with a file for each probe.
fn http() -> Container {
    let get = |path: &str| json!({ "httpGet": { "path": path, "port": 8080 } });
    let script =
        "mkdir /www; cd /www; ln -s /state/started started; echo > ready; echo > alive; exec httpd -f -p 8080 -h /www";
    probed(container("http", script), get("/started"), get("/ready"), get("/alive"))
}

/// A listener for each probe.
fn tcp() -> Container {
    let connect = |port: u16| json!({ "tcpSocket": { "port": port } });
    let script = "httpd -f -p 8091 & echo $! > /ready; httpd -f -p 8092 & echo $! > /alive; while [ ! -e /state/started ]; do sleep 0.2; done; exec httpd -f -p 8090";
    probed(container("tcp", script), connect(8090), connect(8091), connect(8092))
}

/// nginx as a gRPC server: over HTTP/2 without TLS, it answers a call with a file and the trailer for success. Each
/// file is a framed `HealthCheckResponse`: SERVING (1) or NOT_SERVING (2).
fn grpc() -> Container {
    let server = |port: u16, root: &str| {
        format!(
            "server {{ listen {port} http2; root {root}; error_page 405 =200 $uri; add_trailer grpc-status 0 always; }}"
        )
    };
    let config = format!(
        "pid /tmp/nginx.pid; events {{}} http {{ access_log off; default_type application/grpc; {} {} {} }}",
        server(8081, "/state/startup"),
        server(8082, "/srv/ready"),
        server(8083, "/srv/alive"),
    );
    let script = format!(
        "test -e /state/startup || {}; {}; {}; echo '{config}' > /tmp/nginx.conf; exec nginx -c /tmp/nginx.conf -g 'daemon off;'",
        health("/state/startup", 2),
        health("/srv/ready", 1),
        health("/srv/alive", 1),
    );
    let call = |port: u16| json!({ "grpc": { "port": port } });
    let server = Container::new("grpc", "nginx:latest").shell(&script);
    probed(server, call(8081), call(8082), call(8083))
}

/// A shell command that makes a server answer with this status.
fn health(root: &str, status: u8) -> String {
    let service = format!("{root}/grpc.health.v1.Health");
    format!(
        "{{ mkdir -p {service}; printf '\\000\\000\\000\\000\\002\\010\\00{status}' > {service}/new; mv {service}/new {service}/Check; }}"
    )
}

const CONTAINERS: [&str; 3] = ["http", "tcp", "grpc"];

fn do_in(container: &str, command: &str) {
    host().succeed(["exec", "probing", "-c", container, "--", "/bin/sh", "-c", command]);
}

fn messages() -> Vec<(String, String)> {
    let text = host().succeed(["events", "--for", "pod/probing", "-o", "json"]);
    let events: Value = serde_json::from_str(&text).unwrap();
    let events = events["items"].as_array().unwrap();
    let field = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
    events
        .iter()
        .map(|event| (field(event, "reason"), field(event, "message")))
        .collect()
}

/// Waits until an event with this reason has a message that contains all of these parts.
#[track_caller]
fn wait_for_event(reason: &str, parts: &[&str]) {
    wait_until(&format!("there is an event {reason} {parts:?}"), || {
        let events = messages();
        events
            .iter()
            .any(|(of, message)| of == reason && parts.iter().all(|part| message.contains(part)))
    });
}

/// Waits for the kubelet's message about each kind of failing probe.
fn wait_for_failures(probe: &str, [http, tcp, grpc]: [&str; 3]) {
    let failed = format!("{probe} probe failed: ");
    wait_for_event("Unhealthy", &[&failed, http]);
    wait_for_event("Unhealthy", &[&failed, "dial tcp", tcp, "connect: connection refused"]);
    wait_for_event("Unhealthy", &[&failed, grpc]);
}

#[test]
fn every_kind_of_probe_fails_and_recovers_with_its_server() {
    let _alone = alone();
    let pod = Detached::start(
        &Pod::named("probing")
            .restart_policy("Always")
            .grace_period_seconds(2)
            .empty_dir("state")
            .container(http())
            .container(tcp())
            .container(grpc()),
    );
    let (not_found, not_serving) = (
        "HTTP probe failed with statuscode: 404",
        "service unhealthy (responded with \"NOT_SERVING\")",
    );

    wait_for_failures("Startup", [not_found, ":8090", not_serving]);
    for name in CONTAINERS {
        let status = pod.container(name);
        assert_eq!(
            (&status["started"], &status["ready"]),
            (&false.into(), &false.into()),
            "{status}"
        );
        assert!(status["state"]["running"].is_object(), "{status}");
    }
    do_in("http", "echo > /state/started");
    do_in("grpc", &health("/state/startup", 1));
    pod.wait_ready();

    do_in("http", "rm /www/ready");
    do_in("tcp", "kill $(cat /ready)");
    do_in("grpc", &health("/srv/ready", 2));
    for index in 0..CONTAINERS.len() {
        pod.wait(&format!("jsonpath={{.status.containerStatuses[{index}].ready}}=false"));
    }
    wait_for_failures("Readiness", [not_found, ":8091", not_serving]);
    do_in("http", "echo > /www/ready");
    do_in("tcp", "httpd -p 8091");
    do_in("grpc", &health("/srv/ready", 1));
    pod.wait_ready();
    for name in CONTAINERS {
        assert_eq!(pod.container(name)["restartCount"], 0, "{name}");
    }

    do_in("http", "rm /www/alive");
    do_in("tcp", "kill $(cat /alive)");
    do_in("grpc", &health("/srv/alive", 2));
    for index in 0..CONTAINERS.len() {
        pod.wait(&format!(
            "jsonpath={{.status.containerStatuses[{index}].restartCount}}=1"
        ));
    }
    pod.wait_ready();
    wait_for_failures("Liveness", [not_found, ":8092", not_serving]);
    for name in CONTAINERS {
        wait_for_event(
            "Killing",
            &[&format!("Container {name} failed liveness probe, will be restarted")],
        );
        assert_eq!(pod.container(name)["restartCount"], 1, "{name}");
    }
}
