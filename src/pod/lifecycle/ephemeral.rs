//! Ephemeral containers, which are added to a running Pod. They start as soon as there is a sandbox, even before init
//! containers have finished, and end with the Pod. The Pod does not wait for them.

use k8s_openapi::api::core::v1::EphemeralContainer;

use super::interface::{Action, Time};
use super::plan::ContainerPlan;
use super::state::{Container, Lifecycle};

impl Lifecycle {
    /// Adds a container, with the next number. `generation` is the generation of the changed Pod.
    pub fn add_ephemeral(&mut self, now: Time, container: &EphemeralContainer, generation: Option<i64>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.containers
            .push(Container::new(ContainerPlan::of_ephemeral(container)));
        if self.plan.generation.is_some() {
            self.plan.generation = generation;
        }
        self.settle(now, &mut actions);
        actions
    }

    /// The number of containers that were added.
    #[must_use]
    pub fn ephemeral_count(&self) -> usize {
        let containers = self.containers.iter();
        containers.filter(|container| container.plan.is_ephemeral()).count()
    }
}
