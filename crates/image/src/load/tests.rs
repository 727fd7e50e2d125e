//! Archives and layouts in the shapes that tools write.

use std::fs::{self, File};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::Quiet;
use crate::tests::{Blobs, Fixture, chain, fixture, gzip, image, image_of, layer_tar, put};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn config(architecture: &str, layers: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({ "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } })
}

/// An archive with manifest.json, of these files for the layers.
fn docker_archive(fixture: &Fixture, config: &Value, files: &[Vec<u8>]) -> PathBuf {
    let path = fixture.directory.path().join("docker.tar");
    let mut builder = tar::Builder::new(File::create(&path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    let names: Vec<_> = (0..files.len()).map(|number| format!("{number}.tar.gz")).collect();
    let list = json!([{ "Config": "c.json", "RepoTags": ["example.org/a:v1"], "Layers": names }]);
    add("c.json", config.to_string().as_bytes());
    for (name, bytes) in names.iter().zip(files) {
        add(name, bytes);
    }
    add("manifest.json", list.to_string().as_bytes());
    builder.finish().unwrap();
    path
}

#[test]
fn layers_of_docker_archives_may_be_compressed_each_in_its_way() {
    let layers: Vec<_> = (0..3)
        .map(|number| layer_tar(&format!("f{number}"), &[number; 10_000]))
        .collect();
    let config = config("amd64", &layers);
    let plain = |layer: &[u8]| layer.to_vec();
    type Pack = fn(&[u8]) -> Vec<u8>;
    let ways: [[Pack; 3]; 4] = [[plain; 3], [gzip; 3], [zstd; 3], [zstd, plain, gzip]];
    let mut expected = None;
    for way in ways {
        let fixture = fixture();
        let files: Vec<_> = layers.iter().zip(way).map(|(layer, pack)| pack(layer)).collect();
        let path = docker_archive(&fixture, &config, &files);
        let image = fixture.store.load(&path, None, &Quiet).unwrap().remove(0);
        let contents: Vec<_> = image
            .layers
            .iter()
            .map(|layer| fs::read(&layer.path).unwrap())
            .collect();
        assert!(*expected.get_or_insert_with(|| contents.clone()) == contents);
        // Such an image can be saved, and is the same then.
        let saved = fixture.directory.path().join("saved");
        let name = ["example.org/a:v1".to_owned()];
        let target = crate::SaveTo::Directory(&saved);
        fixture.store.save(&name, target, &saved).unwrap();
        let again = crate::tests::fixture()
            .store
            .load(&saved, None, &Quiet)
            .unwrap()
            .remove(0);
        assert_eq!((again.id, again.manifest_digest), (image.id, image.manifest_digest));
    }
}

#[test]
fn layers_of_docker_archives_are_held_to_their_uncompressed_digests() {
    let layers = [layer_tar("a", b"1")];
    let other = layer_tar("a", b"2");
    for file in [other.clone(), gzip(&other), zstd(&other)] {
        let fixture = fixture();
        let path = docker_archive(&fixture, &config("amd64", &layers), &[file]);
        let error = fixture.store.load(&path, None, &Quiet).unwrap_err();
        assert!(chain(&error).contains("is corrupt"), "{}", chain(&error));
        assert_eq!(
            (fixture.content("layers/sha256"), fixture.content("references")),
            (0, 0)
        );
    }
    // More files than the configuration knows, or fewer.
    for files in [vec![], vec![layers[0].clone(), other]] {
        let fixture = fixture();
        let path = docker_archive(&fixture, &config("amd64", &layers), &files);
        let error = fixture.store.load(&path, None, &Quiet).unwrap_err();
        assert!(
            chain(&error).contains("it lists 1 layers, the archive"),
            "{}",
            chain(&error)
        );
    }
}

/// Images for two platforms, whose descriptors say so.
fn platforms(blobs: &mut Blobs) -> [Value; 2] {
    ["arm64", "amd64"].map(|architecture| {
        let layers = [layer_tar("which", architecture.as_bytes())];
        let mut manifest = image_of(blobs, &layers, &config(architecture, &layers));
        manifest["platform"] = json!({ "os": "linux", "architecture": architecture });
        manifest
    })
}

fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests })
}

fn put_index(blobs: &mut Blobs, manifests: &[Value]) -> Value {
    put(blobs, OCI_INDEX, index(manifests).to_string().into_bytes())
}

fn named(mut descriptor: Value, name: &str) -> Value {
    descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    descriptor
}

/// Loads a layout with this index.json.
fn load(fixture: &Fixture, blobs: &Blobs, index: &Value, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    let layout = fixture.directory.path().join("layout");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    for (digest, bytes) in blobs {
        fs::write(layout.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
    }
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fixture.store.load(&layout, name, &Quiet)
}

fn digest(descriptor: &Value) -> &str {
    descriptor["digest"].as_str().unwrap()
}

#[test]
fn indexes_of_every_shape_lead_to_this_platforms_manifest() {
    let mut blobs = Blobs::new();
    let [arm, amd] = platforms(&mut blobs);
    let bare = |descriptor: &Value| {
        let mut bare = descriptor.clone();
        bare.as_object_mut().unwrap().remove("platform");
        bare
    };
    let nested = put_index(&mut blobs, &[arm.clone(), amd.clone()]);
    let twice = put_index(&mut blobs, std::slice::from_ref(&nested));
    let mut deep = twice.clone();
    for _ in 0..4 {
        deep = put_index(&mut blobs, &[deep]);
    }
    let mut stated = nested.clone();
    stated["platform"] = amd["platform"].clone();
    let mut without_type = index(&[arm.clone(), amd.clone()]);
    without_type.as_object_mut().unwrap().remove("mediaType");
    let inner_without_type = put(&mut blobs, OCI_INDEX, without_type.to_string().into_bytes());
    let shapes = [
        ("plain", index(&[bare(&amd)])),
        ("flat", index(&[arm.clone(), amd.clone()])),
        ("flat, without a media type", without_type),
        ("flat, without platforms", index(&[bare(&arm), bare(&amd)])),
        ("nested", index(&[nested])),
        ("nested, with a platform", index(&[stated])),
        ("nested, without a media type", index(&[inner_without_type])),
        ("twice", index(&[twice])),
        ("deep", index(&[deep])),
    ];
    for (shape, index) in &shapes {
        let fixture = fixture();
        let images = load(&fixture, &blobs, index, Some("example.org/a:v1"));
        let images = images.unwrap_or_else(|error| panic!("{shape}: {}", chain(&error)));
        let found: Vec<_> = images.iter().map(|image| image.manifest_digest.as_str()).collect();
        assert_eq!(found, [digest(&amd)], "{shape}");
    }
    // What is for other platforms need not be there.
    for gone in [digest(&arm).to_owned(), {
        let manifest: Value = serde_json::from_slice(&blobs[digest(&arm)]).unwrap();
        digest(&manifest["config"]).to_owned()
    }] {
        blobs.remove(&gone);
        for (shape, index) in &shapes {
            let fixture = fixture();
            let images = load(&fixture, &blobs, index, Some("example.org/a:v1"));
            if *shape == "flat, without platforms" {
                // Nothing says that it is for another one.
                let error = images.unwrap_err();
                assert!(chain(&error).contains("is missing in it"), "{}", chain(&error));
            } else {
                assert_eq!(images.unwrap().len(), 1, "{shape}");
            }
        }
    }
}

#[test]
fn entries_of_one_name_are_one_image_for_several_platforms() {
    let fixture = fixture();
    let mut blobs = Blobs::new();
    let [arm, amd] = platforms(&mut blobs);
    let other = image(&mut blobs, &[layer_tar("other", b"1")]);
    let list = index(&[
        named(arm.clone(), "example.org/a:v1"),
        named(other.clone(), "example.org/b:v1"),
        named(amd.clone(), "example.org/a:v1"),
        named(amd.clone(), "example.org/a:v2"),
    ]);
    let mut loaded = load(&fixture, &blobs, &list, None).unwrap();
    loaded.sort_by(|a, b| a.reference.cmp(&b.reference));
    let found: Vec<_> = loaded
        .iter()
        .map(|image| (image.reference.as_str(), image.manifest_digest.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("example.org/a:v1", digest(&amd)),
            ("example.org/a:v2", digest(&amd)),
            ("example.org/b:v1", digest(&other))
        ]
    );
    // A name that has nothing for this platform is missed.
    let list = index(&[named(arm, "example.org/c:v1"), named(amd, "example.org/a:v1")]);
    let error = load(&fixture, &blobs, &list, None).unwrap_err();
    assert!(chain(&error).contains("only for linux/arm64"), "{}", chain(&error));
}

#[test]
fn several_images_without_names_do_not_get_one_name() {
    let mut blobs = Blobs::new();
    let images: Vec<_> = (0..2)
        .map(|number| image(&mut blobs, &[layer_tar("a", &[number])]))
        .collect();
    let error = load(&fixture(), &blobs, &index(&images), Some("a:v1")).unwrap_err();
    assert!(chain(&error).contains("it has 2 images"), "{}", chain(&error));
}

#[test]
fn indexes_that_lie_too_deep_are_refused() {
    let mut blobs = Blobs::new();
    let [_, mut inner] = platforms(&mut blobs);
    for _ in 0..20 {
        inner = put_index(&mut blobs, &[inner]);
    }
    let error = load(&fixture(), &blobs, &index(&[inner]), Some("a:v1")).unwrap_err();
    assert!(
        chain(&error).contains("indexes lie one in the other"),
        "{}",
        chain(&error)
    );
}

/// An image whose manifest and configuration have these types.
fn typed(blobs: &mut Blobs, manifest_type: &str, config_type: &str, config: Vec<u8>, layer: &[u8]) -> Value {
    let config = put(blobs, config_type, config);
    let layer = put(blobs, "application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(layer));
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer] });
    put(blobs, manifest_type, manifest.to_string().into_bytes())
}

#[test]
fn old_images_have_configurations_of_other_types() {
    let layers = [layer_tar("a", b"1")];
    let bytes = config("amd64", &layers).to_string().into_bytes();
    for manifest_type in [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
    ] {
        for config_type in ["application/octet-stream", "application/json", "text/html", OCI_CONFIG] {
            let mut blobs = Blobs::new();
            let manifest = typed(&mut blobs, manifest_type, config_type, bytes.clone(), &layers[0]);
            let loaded = load(&fixture(), &blobs, &index(&[manifest]), Some("a:v1"));
            assert_eq!(loaded.unwrap().len(), 1, "{config_type}");
        }
    }
}

#[test]
fn what_is_no_image_is_refused_with_its_type_or_its_content() {
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    for (config_type, content, expected) in [
        (
            "application/vnd.cncf.helm.config.v1+json",
            "{}",
            "describes no container image but \"application/vnd.cncf.helm.config.v1+json\"",
        ),
        (
            "application/octet-stream",
            "\u{1}binary",
            "its configuration is not usable",
        ),
        (
            "application/octet-stream",
            "{\"name\":\"chart\"}",
            "its configuration is not usable",
        ),
    ] {
        let mut blobs = Blobs::new();
        let layer = layer_tar("a", b"1");
        let manifest = typed(&mut blobs, docker, config_type, content.into(), &layer);
        let error = load(&fixture(), &blobs, &index(&[manifest]), Some("a:v1")).unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[test]
fn kubernetes_calls_a_loaded_image_by_its_manifest_where_it_has_one() {
    let fixture = fixture();
    let mut blobs = Blobs::new();
    let [arm, amd] = platforms(&mut blobs);
    let nested = put_index(&mut blobs, &[arm, amd.clone()]);
    for document in [&amd, &nested] {
        let list = index(std::slice::from_ref(document));
        let image = load(&fixture, &blobs, &list, Some("example.org/team/a:v1"))
            .unwrap()
            .remove(0);
        assert_eq!(
            image.kubernetes_id(),
            format!("example.org/team/a@{}", digest(document))
        );
        assert_eq!(image.manifest_digest, digest(&amd));
    }
    // Another name is another name of the same image.
    fixture.store.tag("example.org/team/a:v1", "example.org/b:v1").unwrap();
    let tagged = fixture.store.get("example.org/b:v1").unwrap().unwrap();
    assert_eq!(
        tagged.kubernetes_id(),
        format!("example.org/team/a@{}", digest(&nested))
    );
    let layers = [layer_tar("a", b"1")];
    let archive = docker_archive(&fixture, &config("amd64", &layers), &layers);
    let image = fixture.store.load(&archive, None, &Quiet).unwrap().remove(0);
    assert_eq!((image.kubernetes_id(), &image.repo_digest), (image.id.as_str(), &None));
}
