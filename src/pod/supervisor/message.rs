//! What comes back from the tasks that carry actions out.

use microkube_image::Image;

use super::running_machine::StartedMachine;
use crate::pod::lifecycle::Event;
use crate::state::ProcessIdentity;

/// A task's report to the loop of the Pod's life.
#[derive(Debug)]
pub enum Message {
    /// For the lifecycle.
    Event(Event),
    /// An image is there.
    Image {
        /// Number of the container that it is for.
        container: usize,
        /// The image.
        image: Box<Image>,
    },
    /// The machine's process was started; the machine itself comes later.
    VmmStarted(Option<ProcessIdentity>),
    /// The machine runs, and its agent has made the sandbox.
    MachineStarted(Box<StartedMachine>),
}
