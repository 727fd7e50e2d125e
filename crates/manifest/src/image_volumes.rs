//! Which volumes of a Pod show images.

use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod};

/// The volumes of a Pod that show images, with their names. Their order determines their numbers.
pub fn image_volumes(pod: &Pod) -> impl Iterator<Item = (&str, &ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some((volume.name.as_str(), volume.image.as_ref()?)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_volumes_with_an_image_are_listed() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {}, "spec": { "containers": [], "volumes": [
                { "name": "a", "emptyDir": {} },
                { "name": "b", "image": { "reference": "model:v1" } },
                { "name": "c", "image": { "reference": "model:v2" } },
            ] },
        }))
        .unwrap();
        let listed = image_volumes(&pod).map(|(name, source)| (name, source.reference.as_deref()));
        assert_eq!(
            listed.collect::<Vec<_>>(),
            [("b", Some("model:v1")), ("c", Some("model:v2"))]
        );
        assert_eq!(image_volumes(&Pod::default()).count(), 0);
    }
}
