//! Which Pods use which images.

use std::collections::BTreeMap;

use microkube_image::Image;

use crate::state::{Paths, PodRecords};

/// The Pods of this host by their images' names.
#[derive(Debug, Default)]
pub(super) struct Users {
    by_name: BTreeMap<String, Vec<String>>,
}

impl Users {
    pub fn read(paths: &Paths) -> anyhow::Result<Self> {
        let mut users = Self::default();
        for record in PodRecords::new(paths.clone()).list()? {
            let pod = format!("{}/{}", record.namespace, record.name);
            let Some(spec) = &record.pod.spec else { continue };
            let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
            for name in containers.filter_map(|container| container.image.as_deref()) {
                if let Ok(name) = microkube_image::normalized(name) {
                    users.add(name, &pod);
                }
            }
        }
        Ok(users)
    }

    fn add(&mut self, name: String, pod: &str) {
        let pods = self.by_name.entry(name).or_default();
        if !pods.iter().any(|other| other == pod) {
            pods.push(pod.to_owned());
        }
    }

    /// The Pods that use this image name.
    pub fn of_name(&self, name: &str) -> &[String] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The Pods that use the image under any of its names.
    pub fn of_image(&self, image: &Image, all: &[Image]) -> Vec<&str> {
        let names = all
            .iter()
            .filter(|other| other.manifest_digest == image.manifest_digest);
        let mut pods: Vec<_> = names
            .flat_map(|other| self.of_name(&other.reference))
            .map(String::as_str)
            .collect();
        pods.sort_unstable();
        pods.dedup();
        pods
    }
}

#[cfg(test)]
impl Users {
    pub fn with(name: &str, pod: &str) -> Self {
        let mut users = Self::default();
        users.add(name.to_owned(), pod);
        users
    }
}
