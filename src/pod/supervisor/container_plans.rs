//! Holds the plans by which containers are started in the running VM, and their images. The plans are made when the VM
//! starts, or later when a container or another image is added.

use std::collections::{BTreeMap, HashSet};

use crate::pod::container_spec::{PlanFailure, PlannedContainer};
use crate::pod::machine_plan::AddedPlan;

/// A container that was planned for the running VM.
#[derive(Debug, Clone)]
pub struct AddedContainer {
    /// The image's name in the Pod.
    pub image: String,
    /// The id that the Pod's status shows for this image.
    pub image_id: String,
    pub planned: PlannedContainer,
}

/// The plans of all containers, by number.
#[derive(Debug, Default)]
pub struct ContainerPlans {
    /// How to start each container, or why it cannot be created.
    booted: Vec<Result<PlannedContainer, PlanFailure>>,
    /// The names of these plans' images in the Pod. Empty names are unknown.
    boot_images: Vec<String>,
    /// The ids of these images. Empty if they are unknown.
    boot_image_ids: Vec<String>,
    /// Plans that replace those in `booted`, and plans of ephemeral containers.
    added: BTreeMap<usize, PlannedContainer>,
    added_images: BTreeMap<usize, String>,
    added_image_ids: BTreeMap<usize, String>,
}

impl ContainerPlans {
    /// The plans at the start of a VM, and their images.
    pub fn new(
        booted: Vec<Result<PlannedContainer, PlanFailure>>,
        boot_images: Vec<String>,
        boot_image_ids: Vec<String>,
    ) -> Self {
        Self {
            booted,
            boot_images,
            boot_image_ids,
            ..Self::default()
        }
    }

    /// Adds the containers and images that were added to the VM since.
    pub fn with_added(self, added: &AddedPlan) -> Self {
        Self {
            added: added.containers.clone(),
            added_images: added.images.clone(),
            added_image_ids: added.image_ids.clone(),
            ..self
        }
    }

    /// How to start a container, or why it cannot be created. `None` if it is not planned yet.
    pub fn get(&self, container: usize) -> Option<Result<&PlannedContainer, &PlanFailure>> {
        match self.added.get(&container) {
            Some(planned) => Some(Ok(planned)),
            None => self.booted.get(container).map(Result::as_ref),
        }
    }

    /// Whether a container is planned with the image of this name and id. One name can refer to one image after another.
    /// If the id of the planned image is not known, only the name counts.
    pub fn has_image(&self, container: usize, image: &str, id: &str) -> bool {
        let (planned_image, planned_id) = match self.added.contains_key(&container) {
            true => (self.added_images.get(&container), self.added_image_ids.get(&container)),
            false => (self.boot_images.get(container), self.boot_image_ids.get(container)),
        };
        let is_other = planned_id.is_some_and(|planned| !planned.is_empty() && planned != id);
        planned_image.is_some_and(|planned| planned == image) && !is_other
    }

    /// Adds a plan, which replaces an earlier one of the same container.
    pub fn add(&mut self, container: usize, added: AddedContainer) {
        self.added_images.insert(container, added.image);
        self.added_image_ids.insert(container, added.image_id);
        self.added.insert(container, added.planned);
    }

    /// The ids of all layers that containers use.
    pub fn layer_ids(&self) -> HashSet<String> {
        let containers = 0..self.booted.len();
        let numbers = containers.chain(self.added.keys().copied());
        let planned = numbers.filter_map(|container| self.get(container)?.ok());
        planned
            .flat_map(|planned| planned.request.layer_ids.iter().cloned())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use microkube_protocol::messages::StartContainerRequest;

    use super::*;
    use crate::pod::layer_disk::LayerDisk;

    fn planned(layer: &str) -> PlannedContainer {
        PlannedContainer {
            name: "web".to_owned(),
            request: StartContainerRequest {
                layer_ids: vec![layer.to_owned()],
                ..Default::default()
            },
            image: None,
            stop_signal: 15,
        }
    }

    fn layers(plans: &ContainerPlans) -> Vec<String> {
        let mut layers: Vec<_> = plans.layer_ids().into_iter().collect();
        layers.sort();
        layers
    }

    #[test]
    fn a_later_plan_replaces_the_one_of_the_boot() {
        let failure = PlanFailure {
            reason: "CreateContainerConfigError".to_owned(),
            message: "no".to_owned(),
        };
        let images = ["i:1", "i:1"].map(str::to_owned).to_vec();
        let mut plans = ContainerPlans::new(vec![Ok(planned("l0")), Err(failure)], images, Vec::new());
        assert!(plans.has_image(0, "i:1", "a") && !plans.has_image(0, "i:2", "a"));
        assert!(plans.has_image(1, "i:1", "a"), "although it cannot be created");
        assert!(plans.get(2).is_none());
        for container in [0, 2] {
            let added = AddedContainer {
                image: "i:2".to_owned(),
                image_id: "b".to_owned(),
                planned: planned("l1"),
            };
            plans.add(container, added);
            assert!(plans.has_image(container, "i:2", "b") && !plans.has_image(container, "i:1", "a"));
        }
        assert_eq!(
            layers(&plans),
            ["l1"],
            "no container is made of the first layer any more"
        );
        assert!(matches!(plans.get(1), Some(Err(_))));
    }

    #[test]
    fn a_plan_is_for_one_of_the_images_that_a_name_refers_to() {
        let [name, old] = ["app:latest", "app@sha256:1"].map(str::to_owned);
        let mut plans = ContainerPlans::new(vec![Ok(planned("l0"))], vec![name.clone()], vec![old]);
        assert!(plans.has_image(0, &name, "app@sha256:1"));
        assert!(!plans.has_image(0, &name, "app@sha256:2"), "the tag was moved");
        let added = AddedContainer {
            image: name.clone(),
            image_id: "app@sha256:2".to_owned(),
            planned: planned("l1"),
        };
        plans.add(0, added);
        assert!(plans.has_image(0, &name, "app@sha256:2"));
        assert!(!plans.has_image(0, &name, "app@sha256:1"));
    }

    #[test]
    fn the_image_of_a_plan_without_one_is_not_known() {
        let plans = ContainerPlans::new(vec![Ok(planned("l0"))], Vec::new(), Vec::new());
        assert!(!plans.has_image(0, "i:1", "a"));
        let added = AddedPlan {
            layer_disk: LayerDisk::empty(),
            containers: BTreeMap::from([(0, planned("l1"))]),
            images: BTreeMap::new(),
            image_ids: BTreeMap::new(),
        };
        let booted = vec![Ok(planned("l0"))];
        let plans = ContainerPlans::new(booted, vec!["i:1".to_owned()], Vec::new()).with_added(&added);
        assert!(!plans.has_image(0, "i:1", "a"), "the plan is not that of the boot");
        assert_eq!(layers(&plans), ["l1"]);
    }
}
