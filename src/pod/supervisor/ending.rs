//! How a Pod ends, for `run`: the cause and the exit code.

use super::supervised_pod::SupervisedPod;
use crate::pod::lifecycle::{Event, Lifecycle, is_create_error};

/// Exit code of a `run` that was interrupted before anything ran, as in a shell.
const INTERRUPTED: u8 = 130;

/// How a Pod ended, for `run`.
#[derive(Debug)]
pub struct Outcome {
    /// What `run` exits with.
    pub exit_code: u8,
    /// Why the Pod could not be run to its end, if so.
    pub error: Option<String>,
    /// Whether its records are removed.
    pub forget: bool,
}

/// What has happened that may be the cause of the end.
#[derive(Debug, Default)]
pub struct Ending {
    sandbox_was_ready: bool,
    interrupted: bool,
    /// Why the Pod cannot go on.
    failure: Option<String>,
    /// How its machine was lost, until there is another.
    loss: Option<String>,
}

impl Ending {
    /// A command line has asked for the end.
    pub fn was_ordered(&mut self) {
        self.interrupted = true;
    }

    /// The machine was lost.
    pub fn machine_was_lost(&mut self, how: String) {
        self.loss = Some(how);
    }

    /// A machine is ready; returns how the one before it was lost.
    pub fn machine_is_ready(&mut self) -> Option<String> {
        self.sandbox_was_ready = true;
        self.loss.take()
    }

    /// Whether the event is a failure that Kubernetes would retry indefinitely. Foreground runs do not: the Pod is killed and the command line
    /// gets the reason.
    #[must_use]
    pub fn is_hopeless(&mut self, pod: &SupervisedPod, event: &Event) -> bool {
        if pod.record.detached {
            return false;
        }
        let error = match event {
            Event::ImageFailed { container, message, .. } => {
                format!("container {:?}: {message}", pod.container_name(*container))
            }
            Event::SandboxFailed { message } => message.clone(),
            // The container could not be created: the same attempt would be made again and again.
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

    /// How the Pod has ended.
    pub fn outcome(self, pod: &SupervisedPod, lifecycle: &Lifecycle) -> Outcome {
        Outcome {
            exit_code: match (&self.failure, self.interrupted) {
                (Some(_), _) if !self.sandbox_was_ready => 1,
                (None, true) if !self.sandbox_was_ready => INTERRUPTED,
                // All its containers may have succeeded before the kill.
                (Some(_), _) => lifecycle.exit_code().max(1),
                _ => lifecycle.exit_code(),
            },
            error: self.failure.or(self.loss),
            forget: lifecycle.deletion().is_some() || !pod.record.detached,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::lifecycle::{ContainerAttempt, Time};
    use crate::pod::supervisor::supervised_pod::test_pod;

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
            container: 0,
            reason: "ErrImagePull".to_owned(),
            message: "no such image".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_kubernetes_tries_for_ever_ends_a_pod_in_the_foreground_with_its_error() {
        let (pod, _messages) = test_pod(false);
        let mut ending = Ending::default();
        assert!(ending.is_hopeless(&pod, &image_failed()));
        let error = "container \"web\": no such image".to_owned();
        assert_eq!(ended(ending, &pod), (1, Some(error), true));
    }

    #[tokio::test]
    async fn a_container_that_cannot_be_created_is_hopeless_in_the_foreground_and_one_that_does_not_start_has_ended() {
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
    async fn a_detached_pod_goes_on_trying_and_keeps_its_records() {
        let (pod, _messages) = test_pod(true);
        let mut ending = Ending::default();
        assert!(!ending.is_hopeless(&pod, &image_failed()));
        assert_eq!(ended(ending, &pod), (0, None, false));
    }

    #[tokio::test]
    async fn a_pod_that_is_interrupted_before_it_runs_has_not_failed() {
        let (pod, _messages) = test_pod(false);
        let mut ending = Ending::default();
        ending.was_ordered();
        assert!(ending.is_hopeless(&pod, &image_failed()));
        assert_eq!(ended(ending, &pod), (INTERRUPTED, None, true));
    }

    #[tokio::test]
    async fn a_lost_machine_is_the_error_until_there_is_another() {
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
