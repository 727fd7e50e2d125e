//! When a container will not write any more.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::stream::target::{self, Target};
use super::source::Source;
use crate::pod::logs::DirectoryWatch;
use crate::state::{Paths, PodRecords, RecordsError};

/// Waits until the container has ended and will not be restarted, or its Pod is gone.
pub(super) async fn wait(paths: &Paths, source: &Source) {
    let records = PodRecords::new(paths.clone());
    let uid = &source.target.record.uid;
    // The directory goes with the Pod.
    let Ok(mut changes) = DirectoryWatch::new(&[&paths.pod_state(uid)]) else {
        return;
    };
    loop {
        match is_over(&records, uid, &source.container) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!("the state of Pod {uid} cannot be read: {error}"),
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn is_over(records: &PodRecords, uid: &str, container: &str) -> Result<bool, RecordsError> {
    let Some(record) = records.get(uid)? else {
        return Ok(true);
    };
    let Some(status) = records.status(uid)? else {
        return Ok(false);
    };
    let target = Target {
        record,
        is_terminating: status.deletion_timestamp.is_some(),
        status: status.status,
    };
    Ok(has_ended(&target, container))
}

/// Whether the container has ended for good.
pub(super) fn has_ended(target: &Target, container: &str) -> bool {
    if target.is_completed() {
        return true;
    }
    let state = target
        .container_status(container)
        .and_then(|status| status.state.as_ref());
    let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) else {
        return false;
    };
    let pod = &target.record.pod;
    target.is_terminating
        || target::container(pod, container).is_none_or(|container| !is_restarted(pod, container, terminated.exit_code))
}

/// Whether a container that ended so is started again.
fn is_restarted(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let rules = container.restart_policy_rules.iter().flatten();
    let has_rule = rules.into_iter().any(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            rule.action == "Restart" && listed == (codes.operator == "In")
        })
    });
    let spec = pod.spec.as_ref();
    let is_init = spec.is_some_and(|spec| {
        let mut init = spec.init_containers.iter().flatten();
        init.any(|init| init.name == container.name)
    });
    let own = container.restart_policy.as_deref();
    let policy = own
        .or_else(|| spec.and_then(|spec| spec.restart_policy.as_deref()))
        .unwrap_or("Always");
    has_rule
        || match policy {
            "Never" => false,
            // An init container of a Pod that restarts its containers has done its work when it succeeds.
            "Always" if own.is_none() && is_init => exit_code != 0,
            "OnFailure" => exit_code != 0,
            _ => true,
        }
}
