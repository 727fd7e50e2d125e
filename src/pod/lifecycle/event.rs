//! The Pod's events, with the kubelet's messages (1.36).

use std::fmt::Write as _;
use std::time::Duration;

use super::interface::{Action, PodEvent, ProbeKind, cut};
use super::plan::PodPlan;

/// Maximum length of a probe's output in an event, in bytes: that of an event's message.
const MAX_PROBE_OUTPUT_BYTES: usize = 1024;

fn emit(warning: bool, reason: &'static str, message: String, container: Option<usize>) -> Action {
    Action::Emit(PodEvent {
        warning,
        reason,
        message,
        container,
    })
}

fn normal(reason: &'static str, message: String, container: usize) -> Action {
    emit(false, reason, message, Some(container))
}

fn warning(reason: &'static str, message: String, container: usize) -> Action {
    emit(true, reason, message, Some(container))
}

/// `format.Pod`: how the kubelet refers to a Pod in messages.
pub fn pod_reference(pod: &PodPlan) -> String {
    format!("{}_{}({})", pod.name, pod.namespace, pod.uid)
}

/// Events about images concern a container, or the Pod if the image is that of a volume.
pub fn pulling(container: Option<usize>, image: &str) -> Action {
    emit(false, "Pulling", format!("Pulling image \"{image}\""), container)
}

pub fn pulled(container: Option<usize>, image: &str, took: Duration) -> Action {
    let took = go_duration(took);
    let message = format!("Successfully pulled image \"{image}\" in {took} ({took} including waiting)");
    emit(false, "Pulled", message, container)
}

pub fn already_present(container: Option<usize>, image: &str) -> Action {
    let message = format!("Container image \"{image}\" already present on machine");
    emit(false, "Pulled", message, container)
}

/// The event about an image that is not available, by the kubelet's reason.
pub fn image_failed(container: Option<usize>, image: &str, reason: &str, message: &str) -> Action {
    let (event, message) = match reason {
        "ErrImageNeverPull" => {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            ("ErrImageNeverPull", message)
        }
        "InvalidImageName" => {
            let message = format!("Failed to apply default image tag \"{image}\": {message}");
            ("InspectFailed", message)
        }
        "ImageInspectError" => {
            let message = format!("Failed to inspect image \"{image}\": {message}");
            ("InspectFailed", message)
        }
        _ => ("Failed", format!("Failed to pull image \"{image}\": {message}")),
    };
    emit(true, event, message, container)
}

pub fn image_back_off(container: Option<usize>, image: &str) -> Action {
    let message = format!("Back-off pulling image \"{image}\"");
    emit(false, "BackOff", message, container)
}

pub fn start_failed(container: usize, message: &str) -> Action {
    warning("Failed", format!("Error: {message}"), container)
}

pub fn image_not_added(container: usize, message: &str) -> Action {
    start_failed(container, &format!("cannot add the image to the running VM: {message}"))
}

pub fn created(container: usize) -> Action {
    normal("Created", "Container created".to_owned(), container)
}

pub fn started(container: usize) -> Action {
    normal("Started", "Container started".to_owned(), container)
}

pub fn back_off(container: usize, name: &str, pod: &str) -> Action {
    let message = format!("Back-off restarting failed container {name} in pod {pod}");
    warning("BackOff", message, container)
}

pub fn killing(container: usize, message: String) -> Action {
    normal("Killing", message, container)
}

pub fn post_start_failed(container: usize) -> Action {
    warning("FailedPostStartHook", "PostStartHook failed".to_owned(), container)
}

pub fn pre_stop_failed(container: usize) -> Action {
    warning("FailedPreStopHook", "PreStopHook failed".to_owned(), container)
}

pub fn unhealthy(container: usize, kind: ProbeKind, mut output: String) -> Action {
    cut(&mut output, MAX_PROBE_OUTPUT_BYTES);
    let message = format!("{} probe failed: {output}", probe_name(kind));
    warning("Unhealthy", message, container)
}

pub fn probe_errored(container: usize, kind: ProbeKind, mut error: String) -> Action {
    cut(&mut error, MAX_PROBE_OUTPUT_BYTES);
    let kind = probe_name(kind);
    let message = format!("{kind} probe errored and resulted in unknown state: {error}");
    warning("Unhealthy", message, container)
}

pub fn probe_warning(container: usize, kind: ProbeKind, mut output: String) -> Action {
    cut(&mut output, MAX_PROBE_OUTPUT_BYTES);
    let message = format!("{} probe warning: {output}", probe_name(kind));
    warning("ProbeWarning", message, container)
}

pub fn exceeded_grace_period() -> Action {
    let message = "Container runtime did not terminate the pod within specified grace period.";
    emit(true, "ExceededGracePeriod", message.to_owned(), None)
}

pub fn deadline_exceeded() -> Action {
    emit(false, "DeadlineExceeded", DEADLINE_EXCEEDED.to_owned(), None)
}

/// `status.message` of a Pod that exceeded its deadline.
pub const DEADLINE_EXCEEDED: &str = "Pod was active on the node longer than the specified deadline";

/// The reason of a Pod that was evicted.
pub const EVICTED: &str = "Evicted";

pub fn evicted(message: String) -> Action {
    emit(true, EVICTED, message, None)
}

pub fn rejected(reason: &'static str, message: String) -> Action {
    emit(true, reason, message, None)
}

pub fn invalid(message: String) -> Action {
    emit(true, "FailedValidation", message, None)
}

pub fn sandbox_failed(message: &str) -> Action {
    let message = format!("Failed to create pod sandbox: {message}");
    emit(true, "FailedCreatePodSandBox", message, None)
}

pub fn sandbox_lost(message: &str) -> Action {
    emit(true, "FailedSync", format!("Pod sandbox is gone: {message}"), None)
}

pub fn sandbox_changed() -> Action {
    let message = "Pod sandbox changed, it will be killed and re-created.";
    emit(false, "SandboxChanged", message.to_owned(), None)
}

fn probe_name(kind: ProbeKind) -> &'static str {
    match kind {
        ProbeKind::Startup => "Startup",
        ProbeKind::Liveness => "Liveness",
        ProbeKind::Readiness => "Readiness",
    }
}

/// A duration as Go prints it, cut to milliseconds: `10s`, `1m20s`, `1.5s`, `340ms`.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (seconds, rest) = (millis / 1000, millis % 1000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(text, "{minutes}m");
    }
    let _ = write!(text, "{seconds}");
    if rest > 0 {
        let _ = write!(text, ".{}", format!("{rest:03}").trim_end_matches('0'));
    }
    text.push('s');
    text
}
