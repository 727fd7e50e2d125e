//! Which Pods use which images.

use std::collections::BTreeMap;

use microkube_image::Image;
use microkube_manifest::image_volumes;

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
            let volumes = image_volumes(&record.pod).map(|(_, source)| source.reference.as_deref());
            let names = containers.map(|container| container.image.as_deref()).chain(volumes);
            for name in names.flatten() {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::test_pods::TestPods;

    #[test]
    fn a_pod_uses_the_images_of_its_containers_and_volumes() {
        let pods = TestPods::new();
        pods.add_pod(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web", "namespace": "shop" },
            "spec": {
                "containers": [{ "name": "main", "image": "nginx:1" }],
                "volumes": [{ "name": "model", "image": { "reference": "example.org/model:v1" } }],
            },
        }));
        let users = Users::read(&pods.paths).unwrap();
        for name in ["docker.io/library/nginx:1", "example.org/model:v1"] {
            assert_eq!(users.of_name(name), ["shop/web"], "{name}");
        }
    }
}
