//! Kubernetes' rules for probes and hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;

/// Checks the hooks and probes of a container; `grace` is the Pod's grace period in seconds.
pub(super) fn hooks_and_probes(container: &Container, grace: i64, path: &FieldPath, found: &mut Found) {
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.field("lifecycle");
        for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(hook) = hook {
                handler(&Handler::of_hook(hook), grace, &path.field(field), found);
            }
        }
    }
    if let Some(own) = &container.liveness_probe {
        let path = path.field("livenessProbe");
        probe(own, grace, &path, found);
        success_once(own, &path, found);
    }
    if let Some(own) = &container.readiness_probe {
        let path = path.field("readinessProbe");
        probe(own, grace, &path, found);
        if let Some(seconds) = own.termination_grace_period_seconds {
            let path = path.field("terminationGracePeriodSeconds");
            found.invalid(&path, seconds, "must not be set for readinessProbes");
        }
    }
    if let Some(own) = &container.startup_probe {
        let path = path.field("startupProbe");
        probe(own, grace, &path, found);
        success_once(own, &path, found);
    }
}

fn success_once(probe: &Probe, path: &FieldPath, found: &mut Found) {
    if let Some(threshold) = probe.success_threshold.filter(|threshold| *threshold != 1) {
        found.invalid(&path.field("successThreshold"), threshold, "must be 1");
    }
}

fn probe(probe: &Probe, grace: i64, path: &FieldPath, found: &mut Found) {
    handler(&Handler::of_probe(probe), grace, path, found);
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        found.not_negative(&path.field(field), value.unwrap_or_default());
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|seconds| *seconds <= 0) {
        let path = path.field("terminationGracePeriodSeconds");
        found.invalid(&path, seconds, "must be greater than 0");
    }
}

/// What probes and hooks have in common.
#[derive(Default)]
struct Handler<'p> {
    exec: Option<&'p ExecAction>,
    http_get: Option<&'p HTTPGetAction>,
    tcp_socket: Option<&'p TCPSocketAction>,
    grpc: Option<&'p GRPCAction>,
    sleep: Option<&'p SleepAction>,
}

impl<'p> Handler<'p> {
    fn of_probe(probe: &'p Probe) -> Self {
        Self {
            exec: probe.exec.as_ref(),
            http_get: probe.http_get.as_ref(),
            tcp_socket: probe.tcp_socket.as_ref(),
            grpc: probe.grpc.as_ref(),
            sleep: None,
        }
    }

    fn of_hook(hook: &'p LifecycleHandler) -> Self {
        Self {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        }
    }
}

fn handler(handler: &Handler<'_>, grace: i64, path: &FieldPath, found: &mut Found) {
    let mut count = 0;
    let mut first = |field: &str, found: &mut Found| {
        count += 1;
        if count > 1 {
            found.forbidden(&path.field(field), "may not specify more than 1 handler type");
        }
        count == 1
    };
    if let Some(exec) = handler.exec
        && first("exec", found)
        && exec.command.as_ref().is_none_or(Vec::is_empty)
    {
        found.required(&path.field("exec").field("command"), "");
    }
    if let Some(http_get) = handler.http_get
        && first("httpGet", found)
    {
        http_get_action(http_get, &path.field("httpGet"), found);
    }
    if let Some(tcp_socket) = handler.tcp_socket
        && first("tcpSocket", found)
    {
        port(&tcp_socket.port, &path.field("tcpSocket").field("port"), found);
    }
    if let Some(grpc) = handler.grpc
        && first("grpc", found)
    {
        found.between(&path.field("grpc").field("port"), i64::from(grpc.port), 1, 65535);
    }
    if let Some(sleep) = handler.sleep
        && first("sleep", found)
        && !(0..=grace).contains(&sleep.seconds)
    {
        let detail =
            format_args!("must be non-negative and less than terminationGracePeriodSeconds ({grace})").to_string();
        found.invalid(&path.field("sleep"), sleep.seconds, detail);
    }
    if count == 0 {
        found.required(path, "must specify a handler type");
    }
}

fn http_get_action(action: &HTTPGetAction, path: &FieldPath, found: &mut Found) {
    if action.path.as_deref().unwrap_or_default().is_empty() {
        found.required(&path.field("path"), "");
    }
    port(&action.port, &path.field("port"), found);
    found.one_of(
        &path.field("scheme"),
        action.scheme.as_deref().unwrap_or_default(),
        &["HTTP", "HTTPS"],
    );
    for (index, header) in action.http_headers.iter().flatten().enumerate() {
        let path = path.field("httpHeaders").index(index).field("name");
        found.invalid_for_each(&path, &header.name, names::http_header(&header.name));
    }
}

fn port(port: &IntOrString, path: &FieldPath, found: &mut Found) {
    match port {
        IntOrString::Int(number) => found.between(path, i64::from(*number), 1, 65535),
        IntOrString::String(name) => found.invalid_for_each(path, name, names::port_name(name)),
    }
}
