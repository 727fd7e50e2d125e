//! Messages from the tasks that carry out actions.

use microkube_image::Image;

use super::container_plans::AddedContainer;
use super::running_machine::StartedMachine;
use crate::pod::lifecycle::{ContainerAttempt, Event, ImageUse, PodEvent};
use crate::state::ProcessIdentity;

/// The state of an image.
#[derive(Debug)]
pub enum ImageNews {
    /// The image is being pulled.
    PullStarted,
    Ready(Box<Image>),
    Failed {
        /// The kubelet's reason.
        reason: String,
        message: String,
    },
}

/// A task's report to the supervisor's main loop.
#[derive(Debug)]
pub enum Message {
    /// An event for the lifecycle.
    Event(Event),
    /// An event to record. The lifecycle does not depend on it.
    Emit(PodEvent),
    /// All claims of the Pod have volumes, so its life can begin.
    Scheduled,
    /// The state of a requested image.
    Image {
        of: ImageUse,
        /// The request that this message answers. The container's image may have changed since.
        request: u64,
        news: ImageNews,
    },
    /// The VMM's process was started; the VM itself follows later.
    VmmStarted(Option<ProcessIdentity>),
    /// The VM has the image of a container, so the container can be started.
    ContainerPrepared {
        attempt: ContainerAttempt,
        added: Box<AddedContainer>,
    },
    /// The VM runs, and its agent has created the sandbox.
    MachineStarted(Box<StartedMachine>),
}
