//! The default pull policy of an image.

/// The policy that an image reference gets if it has none: images whose tag is `latest` may change.
pub(super) fn pull_policy(image: &str) -> &'static str {
    if is_latest(image) { "Always" } else { "IfNotPresent" }
}

/// Whether an image reference has the tag `latest`, or neither a tag nor a digest, which means the same.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_when_images_are_pulled() {
        for image in ["nginx", "nginx:latest", "localhost:5000/nginx", "a.b/c/nginx:latest"] {
            assert!(is_latest(image), "{image}");
        }
        for image in [
            "nginx:1.27",
            "localhost:5000/nginx:1",
            "nginx@sha256:0000",
            "nginx:latest@sha256:0000",
        ] {
            assert!(!is_latest(image), "{image}");
        }
    }
}
