//! A container on the page: its configuration, state, environment and mounts.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, ContainerState, ContainerStatus, EnvVar, EnvVarSource, Pod, Probe,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use microkube_manifest::downward;
use microkube_projection::own_amount;

use super::page::Page;

/// Its name, with everything about it below.
pub(super) fn describe(page: &mut Page, container: &Container, status: Option<&ContainerStatus>, pod: &Pod) {
    page.title(1, &container.name);
    if let Some(status) = status {
        page.field(2, "Container ID", status.container_id.as_deref().unwrap_or_default());
    }
    page.field(2, "Image", container.image.as_deref().unwrap_or_default());
    if let Some(status) = status {
        page.field(2, "Image ID", &status.image_id);
    }
    ports(page, "Port", container, |port| port.container_port);
    ports(page, "Host Port", container, |port| port.host_port.unwrap_or(0));
    words(page, "Command", container.command.as_deref());
    words(page, "Args", container.args.as_deref());
    if let Some(status) = status {
        state(page, "State", status.state.as_ref());
        if status
            .last_state
            .as_ref()
            .is_some_and(|state| state.terminated.is_some())
        {
            state(page, "Last State", status.last_state.as_ref());
        }
        page.field(2, "Ready", if status.ready { "True" } else { "False" });
        page.field(2, "Restart Count", &status.restart_count.to_string());
    }
    if let Some(resources) = &container.resources {
        amounts(page, "Limits", resources.limits.as_ref());
        amounts(page, "Requests", resources.requests.as_ref());
    }
    for (name, probe) in [
        ("Liveness", &container.liveness_probe),
        ("Readiness", &container.readiness_probe),
        ("Startup", &container.startup_probe),
    ] {
        if let Some(probe) = probe {
            page.field(2, name, &describe_probe(probe));
        }
    }
    environment(page, container, pod);
    mounts(page, container);
}

fn ports(page: &mut Page, title: &str, container: &Container, number: impl Fn(&ContainerPort) -> i32) {
    let port = |port: &ContainerPort| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        match port.name.as_deref() {
            None | Some("") => format!("{}/{protocol}", number(port)),
            Some(name) => format!("{}/{protocol} ({name})", number(port)),
        }
    };
    let ports: Vec<String> = container.ports.iter().flatten().map(port).collect();
    match ports.as_slice() {
        [] => page.field(2, title, "<none>"),
        [only] => page.field(2, title, only),
        _ => page.field(2, &format!("{title}s"), &ports.join(", ")),
    }
}

fn words(page: &mut Page, title: &str, words: Option<&[String]>) {
    let words = words.unwrap_or_default();
    if words.is_empty() {
        return;
    }
    page.title(2, title);
    for line in words.iter().flat_map(|word| word.split('\n')) {
        page.word(3, line);
    }
}

fn state(page: &mut Page, title: &str, state: Option<&ContainerState>) {
    let state = state.cloned().unwrap_or_default();
    if let Some(running) = &state.running {
        page.field(2, title, "Running");
        page.time(3, "Started", running.started_at.as_ref());
    } else if let Some(terminated) = &state.terminated {
        page.field(2, title, "Terminated");
        for (name, value) in [("Reason", &terminated.reason), ("Message", &terminated.message)] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                page.field(3, name, value);
            }
        }
        page.field(3, "Exit Code", &terminated.exit_code.to_string());
        if let Some(signal @ 1..) = terminated.signal {
            page.field(3, "Signal", &signal.to_string());
        }
        page.time(3, "Started", terminated.started_at.as_ref());
        page.time(3, "Finished", terminated.finished_at.as_ref());
    } else {
        page.field(2, title, "Waiting");
        let reason = state.waiting.and_then(|waiting| waiting.reason);
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            page.field(3, "Reason", &reason);
        }
    }
}

fn amounts(page: &mut Page, title: &str, amounts: Option<&BTreeMap<String, Quantity>>) {
    let Some(amounts) = amounts.filter(|amounts| !amounts.is_empty()) else {
        return;
    };
    page.title(2, title);
    for (name, amount) in amounts {
        page.field(3, name, &amount.0);
    }
}

fn describe_probe(probe: &Probe) -> String {
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        probe.initial_delay_seconds.unwrap_or(0),
        probe.timeout_seconds.unwrap_or(1),
        probe.period_seconds.unwrap_or(10),
        probe.success_threshold.unwrap_or(1),
        probe.failure_threshold.unwrap_or(3),
    );
    let host = |host: &Option<String>| host.clone().unwrap_or_default();
    if let Some(exec) = &probe.exec {
        let command = exec.command.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
        format!("exec [{command}] {attributes}")
    } else if let Some(get) = &probe.http_get {
        let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_ascii_lowercase();
        let path = get.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!(
            "http-get {scheme}://{}:{}{slash}{path} {attributes}",
            host(&get.host),
            port(&get.port)
        )
    } else if let Some(socket) = &probe.tcp_socket {
        format!("tcp-socket {}:{} {attributes}", host(&socket.host), port(&socket.port))
    } else if let Some(grpc) = &probe.grpc {
        let service = grpc.service.as_deref().unwrap_or_default();
        format!("grpc <pod>:{} {service} {attributes}", grpc.port)
    } else {
        format!("unknown {attributes}")
    }
}

fn port(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn environment(page: &mut Page, container: &Container, pod: &Pod) {
    let sources: Vec<_> = container.env_from.iter().flatten().collect();
    if !sources.is_empty() {
        page.title(2, "Environment Variables from");
        for source in sources {
            let (name, kind, optional) = match (&source.config_map_ref, &source.secret_ref) {
                (Some(reference), _) => (reference.name.as_str(), "ConfigMap", reference.optional),
                (None, Some(reference)) => (reference.name.as_str(), "Secret", reference.optional),
                (None, None) => continue,
            };
            let prefix = match source.prefix.as_deref() {
                None | Some("") => String::new(),
                Some(prefix) => format!(" with prefix '{prefix}'"),
            };
            let optional = optional.unwrap_or(false);
            page.cells(3, &[name, &format!("{kind}{prefix}"), &format!("Optional: {optional}")]);
        }
    }
    let variables = container.env.as_deref().unwrap_or_default();
    if variables.is_empty() {
        page.field(2, "Environment", "<none>");
        return;
    }
    page.title(2, "Environment");
    for variable in variables {
        match &variable.value_from {
            Some(source) => show_value_source(page, variable, source, container, pod),
            None => {
                let value = variable.value.as_deref().unwrap_or_default();
                let lines: Vec<String> = value.split('\n').map(str::to_owned).collect();
                page.list(3, &variable.name, &lines);
            }
        }
    }
}

fn show_value_source(page: &mut Page, variable: &EnvVar, source: &EnvVarSource, container: &Container, pod: &Pod) {
    let name = format!("{}:", variable.name);
    if let Some(field) = &source.field_ref {
        let status = pod.status.as_ref();
        let address = |ip: Option<&String>| ip.and_then(|ip| ip.parse().ok());
        let known = downward::PodStatusFields {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            pod_ip: address(status.and_then(|status| status.pod_ip.as_ref())),
            host_ip: address(status.and_then(|status| status.host_ip.as_ref())),
            node_name: pod
                .spec
                .as_ref()
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default(),
        };
        let value = downward::field(&field.field_path, pod, &known).unwrap_or_default();
        let version = field.api_version.as_deref().unwrap_or("v1");
        page.field(3, &variable.name, &format!("{value} ({version}:{})", field.field_path));
    } else if let Some(field) = &source.resource_field_ref {
        let value = match (own_amount(field, pod, container), field.resource.as_str()) {
            (Ok(amount), "limits.cpu" | "limits.memory") if amount == "0" => "node allocatable".to_owned(),
            (amount, _) => amount.unwrap_or_default(),
        };
        page.field(3, &variable.name, &format!("{value} ({})", field.resource));
    } else if let Some(key) = &source.secret_key_ref {
        let optional = format!("Optional: {}", key.optional.unwrap_or(false));
        let what = format!("<set to the key '{}' in secret '{}'>", key.key, key.name);
        page.cells(3, &[&name, &what, &optional]);
    } else if let Some(key) = &source.config_map_key_ref {
        let optional = format!("Optional: {}", key.optional.unwrap_or(false));
        let what = format!("<set to the key '{}' of config map '{}'>", key.key, key.name);
        page.cells(3, &[&name, &what, &optional]);
    } else if let Some(key) = &source.file_key_ref {
        let optional = format!("Optional: {}", key.optional.unwrap_or(false));
        let (key, path, volume) = (&key.key, &key.path, &key.volume_name);
        let what = format!("<set to the key '{key}' of file '{path}' in volume '{volume}'>");
        page.cells(3, &[&name, &what, &optional]);
    }
}

fn mounts(page: &mut Page, container: &Container) {
    let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    if mounts.is_empty() {
        page.field(2, "Mounts", "<none>");
        return;
    }
    mounts.sort_by(|left, right| left.mount_path.cmp(&right.mount_path));
    page.title(2, "Mounts");
    for mount in mounts {
        let access = if mount.read_only == Some(true) { "ro" } else { "rw" };
        let path = match mount.sub_path.as_deref() {
            None | Some("") => String::new(),
            Some(path) => format!(",path={path:?}"),
        };
        page.word(3, &format!("{} from {} ({access}{path})", mount.mount_path, mount.name));
    }
}
