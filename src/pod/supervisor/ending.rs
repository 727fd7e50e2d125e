//! The end of a Pod as `run` reports it: the cause and the exit code.

use super::supervised_pod::SupervisedPod;
use crate::pod::lifecycle::{Event, ImageUse, Lifecycle, is_create_error};
use crate::pod::pod_update::has_finalizers;

/// Exit code of a `run` that was interrupted before any container ran, as in a shell.
const INTERRUPTED: u8 = 130;

#[derive(Debug)]
pub struct Outcome {
    /// The exit code of `run`.
    pub exit_code: u8,
    /// Why the Pod could not run to its end, if it could not.
    pub error: Option<String>,
    /// Whether its records are removed.
    pub forget: bool,
}

/// Events that may be the cause of the end.
#[derive(Debug, Default)]
pub struct Ending {
    sandbox_was_ready: bool,
    interrupted: bool,
    /// Why the Pod cannot continue.
    failure: Option<String>,
    /// How the VM was lost, until the next one is ready.
    loss: Option<String>,
}

impl Ending {
    /// Records that a command line has requested the end.
    pub fn was_ordered(&mut self) {
        self.interrupted = true;
    }

    /// Records how the VM was lost.
    pub fn machine_was_lost(&mut self, how: String) {
        self.loss = Some(how);
    }

    /// Records that a VM is ready. Returns how the previous one was lost.
    pub fn machine_is_ready(&mut self) -> Option<String> {
        self.sandbox_was_ready = true;
        self.loss.take()
    }

    /// Whether the event is a failure that Kubernetes would retry indefinitely. Foreground runs do not: the Pod is
    /// killed, and the command line gets the reason.
    #[must_use]
    pub fn is_hopeless(&mut self, pod: &SupervisedPod, event: &Event) -> bool {
        if pod.record.detached {
            return false;
        }
        let error = match event {
            Event::ImageFailed {
                of: ImageUse::Container(container),
                ..
            } if pod.is_ephemeral(*container) => return false,
            Event::ContainerStartFailed { attempt, .. } if pod.is_ephemeral(attempt.container) => return false,
            Event::ImageFailed { of, message, .. } => match of {
                ImageUse::Container(container) => format!("container {:?}: {message}", pod.container_name(*container)),
                ImageUse::Volume(number) => format!("volume {:?}: {message}", pod.image_volume_name(*number)),
            },
            Event::SandboxFailed { message } | Event::Rejected { message, .. } | Event::Invalid { message } => {
                message.clone()
            }
            // The container could not be created, and the same attempt would be repeated forever.
            Event::ContainerStartFailed {
                attempt,
                reason,
                message,
            } if is_create_error(reason) => {
                format!("container {:?}: {message}", pod.container_name(attempt.container))
            }
            _ => return false,
        };
        if !self.interrupted {
            self.failure.get_or_insert(error);
        }
        true
    }

    /// The cause and the exit code.
    pub fn outcome(self, pod: &SupervisedPod, lifecycle: &Lifecycle) -> Outcome {
        Outcome {
            exit_code: match (&self.failure, self.interrupted) {
                (Some(_), _) if !self.sandbox_was_ready => 1,
                (None, true) if !self.sandbox_was_ready => INTERRUPTED,
                // All containers may have succeeded before the kill.
                (Some(_), _) => lifecycle.exit_code().max(1),
                _ => lifecycle.exit_code(),
            },
            error: self.failure.or(self.loss),
            forget: !pod.record.detached || (lifecycle.deletion().is_some() && !has_finalizers(&pod.current())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::lifecycle::{ContainerAttempt, Time};
    use crate::pod::supervisor::supervised_pod::{test_pod, test_pod_of};

    fn ended(ending: Ending, pod: &SupervisedPod) -> (u8, Option<String>, bool) {
        let lifecycle = Lifecycle::new(&pod.record.pod, Time::from_secs(1));
        let Outcome {
            exit_code,
            error,
            forget,
        } = ending.outcome(pod, &lifecycle);
        (exit_code, error, forget)
    }

    fn image_failed() -> Event {
        Event::ImageFailed {
            of: ImageUse::Container(0),
            reason: "ErrImagePull".to_owned(),
            message: "no such image".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_retryable_error_ends_a_foreground_pod() {
        let (pod, _messages) = test_pod(false);
        let mut ending = Ending::default();
        assert!(ending.is_hopeless(&pod, &image_failed()));
        let error = "container \"web\": no such image".to_owned();
        assert_eq!(ended(ending, &pod), (1, Some(error), true));
    }

    #[tokio::test]
    async fn the_error_about_the_image_of_a_volume_names_the_volume() {
        let (pod, _messages) = test_pod_of(serde_json::json!({
            "containers": [{ "name": "web", "image": "i" }], "volumes": [{ "name": "model", "image": { "reference": "m" } }],
        }));
        let failed = Event::ImageFailed {
            of: ImageUse::Volume(0),
            reason: "ErrImagePull".to_owned(),
            message: "no such image".to_owned(),
        };
        let mut ending = Ending::default();
        assert!(ending.is_hopeless(&pod, &failed));
        let error = "volume \"model\": no such image".to_owned();
        assert_eq!(ended(ending, &pod), (1, Some(error), true));
    }

    #[tokio::test]
    async fn an_uncreatable_container_ends_a_foreground_pod_and_an_unstartable_one_has_exited() {
        let failed = |reason: &str| Event::ContainerStartFailed {
            attempt: ContainerAttempt::new(0, 0),
            reason: reason.to_owned(),
            message: "no users".to_owned(),
        };
        let (pod, _messages) = test_pod(false);
        let mut ending = Ending::default();
        assert_eq!(ending.machine_is_ready(), None);
        assert!(!ending.is_hopeless(&pod, &failed("StartError")));
        assert!(ending.is_hopeless(&pod, &failed("CreateContainerConfigError")));
        let error = "container \"web\": no users".to_owned();
        assert_eq!(ended(ending, &pod), (1, Some(error), true));
        let (pod, _messages) = test_pod(true);
        assert!(!Ending::default().is_hopeless(&pod, &failed("CreateContainerConfigError")));
    }

    #[tokio::test]
    async fn a_foreground_pod_waits_for_missing_objects() {
        let (pod, _messages) = test_pod(false);
        let unavailable = Event::ContainerConfigUnavailable {
            attempt: ContainerAttempt::new(0, 0),
            message: "configmap \"x\" not found".to_owned(),
        };
        assert!(!Ending::default().is_hopeless(&pod, &unavailable));
    }

    #[tokio::test]
    async fn a_detached_pod_keeps_retrying_and_keeps_its_records() {
        let (pod, _messages) = test_pod(true);
        let mut ending = Ending::default();
        assert!(!ending.is_hopeless(&pod, &image_failed()));
        assert_eq!(ended(ending, &pod), (0, None, false));
    }

    #[tokio::test]
    async fn a_pod_interrupted_before_it_runs_has_not_failed() {
        let (pod, _messages) = test_pod(false);
        let mut ending = Ending::default();
        ending.was_ordered();
        assert!(ending.is_hopeless(&pod, &image_failed()));
        assert_eq!(ended(ending, &pod), (INTERRUPTED, None, true));
    }

    #[tokio::test]
    async fn a_lost_vm_is_the_error_until_it_is_replaced() {
        let (pod, _messages) = test_pod(false);
        let lost = || {
            let mut ending = Ending::default();
            assert_eq!(ending.machine_is_ready(), None);
            ending.machine_was_lost("it crashed".to_owned());
            ending
        };
        assert_eq!(ended(lost(), &pod), (0, Some("it crashed".to_owned()), true));
        let mut again = lost();
        assert_eq!(again.machine_is_ready().as_deref(), Some("it crashed"));
        assert_eq!(ended(again, &pod), (0, None, true));
    }
}
