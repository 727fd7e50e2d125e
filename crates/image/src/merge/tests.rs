//! Which layers are merged, and how the store keeps the result.

use std::fs;

use microkube_erofs::Volume;

use super::*;
use crate::tests::{Blobs, Fixture, fixture, image};
use crate::{ImageConfiguration, Verification};

/// An image of `count` layers, each with its own file and one shared by all.
fn layered(fixture: &Fixture, name: &str, count: usize) -> Image {
    let mut blobs = Blobs::new();
    let layers: Vec<_> = (0..count)
        .map(|number| {
            let mut tar = tar::Builder::new(Vec::new());
            for (path, content) in [
                (format!("{name}-{number}"), number.to_string()),
                ("last".to_owned(), number.to_string()),
            ] {
                let mut header = tar::Header::new_gnu();
                header.set_size(content.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
            tar.into_inner().unwrap()
        })
        .collect();
    let manifest = image(&mut blobs, &layers);
    let reference = format!("example.org/{name}:v1");
    fixture.load(&blobs, manifest, Some(&reference)).unwrap().remove(0)
}

fn content(layer: &Layer, name: &str) -> Option<Vec<u8>> {
    let volume = Volume::open(fs::File::open(&layer.path).unwrap()).unwrap();
    let inode = volume.lookup(&volume.root().unwrap(), name.as_bytes()).unwrap()?;
    Some(volume.small_data(&inode, 100).unwrap())
}

#[test]
fn the_lowest_layers_are_merged_if_the_images_do_not_fit() {
    let fixture = fixture();
    let images = vec![layered(&fixture, "a", 12), layered(&fixture, "b", 3)];
    let same = fixture.store.fit(images.clone(), 15).unwrap();
    assert_eq!(same, images, "images that fit are unchanged");
    let before = fixture.content("layers/sha256");
    let fitted = fixture.store.fit(images.clone(), 11).unwrap();
    assert_eq!(fixture.content("layers/sha256"), before + 1);
    assert_eq!(fitted[1], images[1]);
    let [merged, rest @ ..] = fitted[0].layers.as_slice() else {
        panic!()
    };
    assert_eq!(rest, &images[0].layers[5..], "eight files");
    for number in 0..5 {
        assert_eq!(
            content(merged, &format!("a-{number}")),
            Some(number.to_string().into_bytes())
        );
    }
    assert_eq!(
        (content(merged, "last"), content(merged, "a-5")),
        (Some(b"4".to_vec()), None)
    );
    // The second time the file already exists.
    let made = fs::metadata(&merged.path).unwrap().modified().unwrap();
    assert_eq!(fixture.store.fit(images, 11).unwrap(), fitted);
    assert_eq!(fs::metadata(&merged.path).unwrap().modified().unwrap(), made);
}

#[test]
fn the_same_layers_always_give_the_same_file() {
    let merged = [fixture(), fixture()].map(|fixture| {
        let images = vec![layered(&fixture, "a", 6)];
        let fitted = fixture.store.fit(images, 1).unwrap().remove(0);
        assert_eq!(fitted.layers.len(), 1);
        fs::read(&fitted.layers[0].path).unwrap()
    });
    assert!(merged[0] == merged[1]);
}

#[test]
fn layers_shared_by_images_count_once() {
    let fixture = fixture();
    let mut images = vec![layered(&fixture, "a", 9)];
    images.push(images[0].clone());
    let same = fixture.store.fit(images.clone(), 9).unwrap();
    assert_eq!(same, images);
    let fitted = fixture.store.fit(images, 8).unwrap();
    assert_eq!(fitted[0].layers, fitted[1].layers);
}

/// Images without layer files: enough to decide what to merge.
fn fabricated(count: usize, layers: usize) -> Vec<Image> {
    let layer = |image: usize, number: usize| Layer {
        diff_id: format!("sha256:{image}-{number}"),
        path: format!("{image}-{number}").into(),
        length_bytes: 4096,
    };
    (0..count)
        .map(|number| Image {
            reference: format!("example.org/{number}:v1"),
            id: String::new(),
            manifest_digest: String::new(),
            repo_digest: None,
            config: ImageConfiguration::default(),
            layers: (0..layers).map(|layer_number| layer(number, layer_number)).collect(),
            size_bytes: 0,
        })
        .collect()
}

#[test]
fn any_mix_of_containers_fits_on_a_disk_of_255_partitions() {
    let store = fixture().store;
    for (count, layers, step) in [
        (1, 127, Some(usize::MAX)),
        (1, 255, Some(usize::MAX)),
        (1, 256, Some(128)),
        (1, 500, Some(128)),
        (2, 127, Some(usize::MAX)),
        (2, 128, Some(64)),
        (3, 100, Some(64)),
        (4, 64, Some(32)),
        (255, 1, Some(usize::MAX)),
        (255, 500, Some(1)),
        (256, 1, None),
    ] {
        let images = fabricated(count, layers);
        assert_eq!(store.step_for(&images, 255), step, "{count} images of {layers} layers");
        if let Some(step) = step {
            assert!(store.count(&images, step) <= 255);
        }
    }
    let mixed = [fabricated(1, 500), fabricated(40, 3), fabricated(100, 1)].concat();
    assert!(store.step_for(&mixed, 255).is_some());
    let error = store.fit(fabricated(256, 2), 255).unwrap_err().to_string();
    assert!(error.contains("256 different images; the maximum is 255"), "{error}");
}

#[test]
fn merged_layers_are_kept_while_an_image_uses_them() {
    let fixture = fixture();
    let images = vec![layered(&fixture, "a", 6)];
    let fitted = fixture.store.fit(images, 4).unwrap();
    let merged = fitted[0].layers[0].path.clone();
    fixture.store.sweep().unwrap();
    assert!(merged.exists());
    fixture.store.tag("example.org/a:v1", "example.org/b:v1").unwrap();
    fixture.store.remove("example.org/a:v1").unwrap();
    assert!(merged.exists());
    fixture.store.remove("example.org/b:v1").unwrap();
    assert_eq!(fixture.content("layers/sha256"), 0);
    // Missing layers cannot be merged.
    let error = fixture.store.fit(fitted, 2).unwrap_err();
    assert!(matches!(error, ImageError::Removed { .. }), "{error}");
}

#[test]
fn damaged_merged_layers_are_found_and_repaired() {
    let fixture = fixture();
    let images = vec![layered(&fixture, "a", 6)];
    let fitted = fixture.store.fit(images.clone(), 4).unwrap();
    let merged = &fitted[0].layers[0].path;
    let intact = fs::read(merged).unwrap();
    let verify = |repair| {
        let how = Verification { blobs: false, repair };
        let mut found = fixture.store.verify_image(&images[0], how).unwrap();
        found.problems.pop().map(|problem| (problem.what, problem.repaired))
    };
    let problem = |repaired| Some(("the lowest 3 layers, merged".to_owned(), repaired));
    assert_eq!(verify(false), None);
    let mut damaged = intact.clone();
    damaged[4096 + 100] ^= 1;
    fs::write(merged, &damaged).unwrap();
    assert_eq!(verify(false), problem(false));
    assert_eq!(verify(true), problem(true));
    assert!(fs::read(merged).unwrap() == intact);
    // A visibly damaged file is created again when it is needed.
    for broken in [vec![], vec![0; 8192]] {
        fs::write(merged, broken).unwrap();
        fixture.store.fit(images.clone(), 4).unwrap();
        assert!(fs::read(merged).unwrap() == intact);
    }
}

#[test]
fn the_file_limit_applies_to_merged_layers() {
    let mut fixture = fixture();
    let images = vec![layered(&fixture, "a", 6)];
    let mut options = crate::Options::default();
    options.limits.files = 5;
    fixture.store = ImageStore::open_with(fixture.directory.path().join("images"), options).unwrap();
    let error = fixture.store.fit(images, 1).unwrap_err();
    let text = crate::tests::chain(&error);
    assert!(
        text.contains("lowest 6 layers") && text.contains("more than 5 files"),
        "{text}"
    );
    assert_eq!(fixture.content("tmp"), 1, "only the lock is left");
}

#[test]
fn at_least_two_layers_are_merged_or_none() {
    assert_eq!(split(&[1, 2, 3], 3), ([].as_slice(), [1, 2, 3].as_slice()));
    assert_eq!(split(&[1, 2, 3], 2), ([1, 2].as_slice(), [3].as_slice()));
    assert_eq!(split(&[1, 2, 3], 1), ([1, 2, 3].as_slice(), [].as_slice()));
    assert_eq!(split::<u8>(&[], 1), ([].as_slice(), [].as_slice()));
}
