//! Archives and layouts in the forms that various tools write.

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

/// An archive with `manifest.json` and these files as layers.
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
fn docker_archive_layers_may_use_different_compressions() {
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
        // Such an image can be saved, and loads as the same image.
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
fn docker_archive_layers_are_verified_by_their_uncompressed_digests() {
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
    // More files than the configuration lists, or fewer.
    for files in [vec![], vec![layers[0].clone(), other]] {
        let fixture = fixture();
        let path = docker_archive(&fixture, &config("amd64", &layers), &files);
        let error = fixture.store.load(&path, None, &Quiet).unwrap_err();
        assert!(
            chain(&error).contains("it lists 1 layers, but the archive"),
            "{}",
            chain(&error)
        );
    }
}

/// Images for two platforms, as stated in their descriptors.
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

/// Loads a layout with this `index.json`.
fn load(fixture: &Fixture, blobs: &Blobs, index: &Value, name: Option<&str>) -> Result<Vec<Image>, ImageError> {
    load_with(fixture, blobs, index, name, &Quiet)
}

fn load_with(
    fixture: &Fixture,
    blobs: &Blobs,
    index: &Value,
    name: Option<&str>,
    progress: &dyn Progress,
) -> Result<Vec<Image>, ImageError> {
    let layout = fixture.directory.path().join("layout");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    for (digest, bytes) in blobs {
        fs::write(layout.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
    }
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fixture.store.load(&layout, name, progress)
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
    // Content for other platforms may be missing.
    for gone in [digest(&arm).to_owned(), {
        let manifest: Value = serde_json::from_slice(&blobs[digest(&arm)]).unwrap();
        digest(&manifest["config"]).to_owned()
    }] {
        blobs.remove(&gone);
        for (shape, index) in &shapes {
            let fixture = fixture();
            let images = load(&fixture, &blobs, index, Some("example.org/a:v1"));
            if *shape == "flat, without platforms" {
                // The layout does not state that the image is for another platform.
                let error = images.unwrap_err();
                assert!(chain(&error).contains("is missing"), "{}", chain(&error));
            } else {
                assert_eq!(images.unwrap().len(), 1, "{shape}");
            }
        }
    }
}

#[test]
fn entries_with_the_same_name_are_one_multi_platform_image() {
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
    // A named image without an entry for this platform is an error.
    let list = index(&[named(arm, "example.org/c:v1"), named(amd, "example.org/a:v1")]);
    let error = load(&fixture, &blobs, &list, None).unwrap_err();
    assert!(chain(&error).contains("only for linux/arm64"), "{}", chain(&error));
}

/// Remembers which names were derived from tags.
#[derive(Default)]
struct Tags(std::sync::Mutex<Vec<(String, String)>>);

impl Progress for Tags {
    fn layer_bytes(&self, _digest: &str, _received_bytes: u64, _total_bytes: u64) {}
    fn layer_done(&self, _digest: &str, _present: bool) {}
    fn named_after_tag(&self, tag: &str, reference: &str) {
        self.0.lock().unwrap().push((tag.to_owned(), reference.to_owned()));
    }
}

/// The names of the images that are loaded from a layout with these entries, and the tags that they were derived from.
fn names_and_tags(blobs: &Blobs, entries: &[Value], name: Option<&str>) -> (Vec<String>, Vec<(String, String)>) {
    let (fixture, tags) = (fixture(), Tags::default());
    let images = load_with(&fixture, blobs, &index(entries), name, &tags).unwrap();
    let names = images.into_iter().map(|image| image.reference).collect();
    (names, tags.0.into_inner().unwrap())
}

#[test]
fn an_image_that_has_only_a_tag_is_loaded_under_a_name_derived_from_it() {
    let mut blobs = Blobs::new();
    let one = image(&mut blobs, &[layer_tar("a", b"1")]);
    let two = image(&mut blobs, &[layer_tar("a", b"2")]);
    let made = |tag: &str| (tag.to_owned(), format!("localhost/{tag}:latest"));
    let check = |entries: &[Value], name, names: &[&str], tags: &[(String, String)]| {
        let found = names_and_tags(&blobs, entries, name);
        assert_eq!(
            (found.0, found.1.as_slice()),
            (names.iter().map(|name| name.to_string()).collect(), tags)
        );
    };
    check(
        &[named(one.clone(), "v1")],
        None,
        &["localhost/v1:latest"],
        &[made("v1")],
    );
    check(
        &[named(one.clone(), "v1"), named(two.clone(), "1.2-rc_3")],
        None,
        &["localhost/v1:latest", "localhost/1.2-rc_3:latest"],
        &[made("v1"), made("1.2-rc_3")],
    );
    check(
        &[named(one.clone(), "v1"), named(one.clone(), "latest")],
        None,
        &["localhost/v1:latest", "localhost/latest:latest"],
        &[made("v1"), made("latest")],
    );
    // A name takes precedence over a tag.
    check(
        &[named(one.clone(), "v1")],
        Some("app:v2"),
        &["docker.io/library/app:v2"],
        &[],
    );
    check(
        &[named(one.clone(), "v1"), named(one.clone(), "example.org/a:v1")],
        None,
        &["example.org/a:v1"],
        &[],
    );
    // A tag may have characters that a name may not. Other tags of the image then name it.
    check(
        &[named(one.clone(), "V1"), named(one.clone(), "v1"), named(one, "V2")],
        None,
        &["localhost/v1:latest"],
        &[made("v1")],
    );
}

#[test]
fn the_error_for_an_image_that_cannot_be_named_suggests_a_working_remedy() {
    let mut blobs = Blobs::new();
    let one = image(&mut blobs, &[layer_tar("a", b"1")]);
    let two = image(&mut blobs, &[layer_tar("a", b"2")]);
    let tagged = "an image in it has only the tag \"V1\", which cannot be a name";
    let unnamed = "it contains an image without a name";
    let (name_it, save_it) = (
        "give one with --name",
        "save that image to an archive without the others, and load that with --name",
    );
    for (entries, name, expected) in [
        (vec![named(one.clone(), "V1")], None, format!("{tagged}; {name_it}")),
        (vec![one.clone()], None, format!("{unnamed}; {name_it}")),
        (
            vec![named(two.clone(), "v2"), named(one.clone(), "V1")],
            None,
            format!("{tagged}; {save_it}"),
        ),
        (
            vec![named(two.clone(), "example.org/a:v1"), one.clone()],
            None,
            format!("{unnamed}; {save_it}"),
        ),
        (
            vec![named(two, "example.org/a:v1"), named(one, "V1")],
            Some("a:v1"),
            "it has 2 images, so --name cannot be used; load it without --name, or load an archive of one image"
                .to_owned(),
        ),
    ] {
        let error = load(&fixture(), &blobs, &index(&entries), name).unwrap_err();
        assert!(chain(&error).ends_with(&expected), "{}", chain(&error));
    }
}

#[test]
fn entries_of_one_tag_are_one_image_for_several_platforms_and_tags_for_other_platforms_are_skipped() {
    let mut blobs = Blobs::new();
    let [arm, amd] = platforms(&mut blobs);
    for tags in [["v1", "v1"], ["arm", "v1"]] {
        let entries = [named(arm.clone(), tags[0]), named(amd.clone(), tags[1])];
        let (names, _) = names_and_tags(&blobs, &entries, None);
        assert_eq!(names, ["localhost/v1:latest"], "{tags:?}");
        let (names, _) = names_and_tags(&blobs, &entries, Some("a:v1"));
        assert_eq!(names, ["docker.io/library/a:v1"], "{tags:?}");
    }
    let error = load(&fixture(), &blobs, &index(&[named(arm, "v1")]), None).unwrap_err();
    assert!(chain(&error).contains("only for linux/arm64"), "{}", chain(&error));
}

#[test]
fn several_unnamed_images_do_not_share_a_name() {
    let mut blobs = Blobs::new();
    let images: Vec<_> = (0..2)
        .map(|number| image(&mut blobs, &[layer_tar("a", &[number])]))
        .collect();
    let error = load(&fixture(), &blobs, &index(&images), Some("a:v1")).unwrap_err();
    assert!(chain(&error).contains("it has 2 images"), "{}", chain(&error));
}

#[test]
fn too_deeply_nested_indexes_are_refused() {
    let mut blobs = Blobs::new();
    let [_, mut inner] = platforms(&mut blobs);
    for _ in 0..20 {
        inner = put_index(&mut blobs, &[inner]);
    }
    let error = load(&fixture(), &blobs, &index(&[inner]), Some("a:v1")).unwrap_err();
    assert!(chain(&error).contains("indexes are nested"), "{}", chain(&error));
}

/// An image with these media types of manifest and configuration.
fn typed(blobs: &mut Blobs, manifest_type: &str, config_type: &str, config: Vec<u8>, layer: &[u8]) -> Value {
    let config = put(blobs, config_type, config);
    let layer = put(blobs, "application/vnd.docker.image.rootfs.diff.tar.gzip", gzip(layer));
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer] });
    put(blobs, manifest_type, manifest.to_string().into_bytes())
}

#[test]
fn legacy_configuration_media_types_are_accepted() {
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
fn non_images_are_refused_with_their_type_or_content() {
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    for (config_type, content, expected) in [
        (
            "application/vnd.cncf.helm.config.v1+json",
            "{}",
            "describes \"application/vnd.cncf.helm.config.v1+json\", not a container image",
        ),
        (
            "application/octet-stream",
            "\u{1}binary",
            "its configuration is invalid",
        ),
        (
            "application/octet-stream",
            "{\"name\":\"chart\"}",
            "its configuration is invalid",
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
fn a_loaded_image_id_is_its_manifest_digest_where_it_has_one() {
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
    // Another name refers to the same image.
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
