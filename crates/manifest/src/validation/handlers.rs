//! Kubernetes' rules for probes and hooks.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;
use super::surroundings::Surroundings;

/// `supportedStopSignalsLinux`, in Kubernetes' order.
const STOP_SIGNALS: [&str; 65] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGRTMAX",
    "SIGRTMAX-1",
    "SIGRTMAX-10",
    "SIGRTMAX-11",
    "SIGRTMAX-12",
    "SIGRTMAX-13",
    "SIGRTMAX-14",
    "SIGRTMAX-2",
    "SIGRTMAX-3",
    "SIGRTMAX-4",
    "SIGRTMAX-5",
    "SIGRTMAX-6",
    "SIGRTMAX-7",
    "SIGRTMAX-8",
    "SIGRTMAX-9",
    "SIGRTMIN",
    "SIGRTMIN+1",
    "SIGRTMIN+10",
    "SIGRTMIN+11",
    "SIGRTMIN+12",
    "SIGRTMIN+13",
    "SIGRTMIN+14",
    "SIGRTMIN+15",
    "SIGRTMIN+2",
    "SIGRTMIN+3",
    "SIGRTMIN+4",
    "SIGRTMIN+5",
    "SIGRTMIN+6",
    "SIGRTMIN+7",
    "SIGRTMIN+8",
    "SIGRTMIN+9",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
    "SIGWINCH",
    "SIGXCPU",
    "SIGXFSZ",
];

/// Checks the hooks, the stop signal and the probes of a container.
pub(super) fn hooks_and_probes(
    container: &Container,
    surroundings: &Surroundings<'_>,
    path: &FieldPath,
    found: &mut Found,
) {
    let grace = surroundings.grace_seconds;
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.field("lifecycle");
        for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(hook) = hook {
                handler(&Handler::of_hook(hook), grace, &path.field(field), found);
            }
        }
        if let Some(signal) = &lifecycle.stop_signal {
            stop_signal(signal, surroundings.os, &path.field("stopSignal"), found);
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

/// The meaning of a signal depends on the operating system, so the Pod must specify one.
fn stop_signal(signal: &str, os: Option<&str>, path: &FieldPath, found: &mut Found) {
    match os {
        None => found.forbidden(path, "may not be set for containers with empty `spec.os.name`"),
        // Only Linux runs here; the check of `spec.os.name` reports that.
        Some("windows") => {}
        Some(_) => found.one_of(path, signal, &STOP_SIGNALS),
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

/// The common part of probes and hooks.
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
