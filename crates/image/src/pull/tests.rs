//! Pulls into a store, from minimal registries on the loopback interface.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::reference::Digest;
use crate::registry::Environment;
use crate::registry::test_server::{Reply, Request, TestServer};
use crate::registry::tests::environment;
use crate::tests::{Blobs, Fixture, chain, fixture, image, image_of, layer_tar, put};
use crate::{Image, ImageError, Progress, PullPolicy, Quiet};

/// Serves `blobs` by digest, partly on request, and one under the tag `v1`.
fn serve(blobs: Blobs, tag: &str) -> impl Fn(&Request) -> Reply + Send + Sync + 'static {
    let tag = tag.to_owned();
    move |request| {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        let Some(body) = blobs.get(if last == "v1" { tag.as_str() } else { last }) else {
            return Reply::new(404, "");
        };
        match request.range_start() {
            None => Reply::new(200, body.as_slice()),
            Some(start) => Reply::new(206, &body[start..]).header(
                "Content-Range",
                format!("bytes {start}-{}/{}", body.len() - 1, body.len()),
            ),
        }
    }
}

/// An index with another platform first, then the image, then an attestation as builders add it.
fn index_image(blobs: &mut Blobs) -> String {
    let mut manifest = image(blobs, &[layer_tar("a", &[1; 200_000]), layer_tar("b", b"2")]);
    manifest["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let media_type = &manifest["mediaType"];
    let other = json!({ "mediaType": media_type, "digest": Digest::of(b"arm").as_str(), "size": 3,
        "platform": { "os": "linux", "architecture": "arm64" } });
    let attestation = json!({ "mediaType": media_type, "digest": Digest::of(b"sbom").as_str(), "size": 4,
        "annotations": { "vnd.docker.reference.type": "attestation-manifest" },
        "platform": { "os": "unknown", "architecture": "unknown" } });
    let index = json!({ "schemaVersion": 2, "manifests": [other, attestation, manifest] });
    let index = put(
        blobs,
        "application/vnd.oci.image.index.v1+json",
        index.to_string().into_bytes(),
    );
    index["digest"].as_str().unwrap().to_owned()
}

impl Fixture {
    async fn pull(&self, name: &str, policy: PullPolicy) -> Result<Image, ImageError> {
        self.pull_in(environment(), name, policy).await
    }

    async fn pull_in(&self, environment: Environment, name: &str, policy: PullPolicy) -> Result<Image, ImageError> {
        self.store
            .ensure_in(|| Ok(environment), name, policy, &[], &Quiet)
            .await
    }
}

fn name(server: &TestServer) -> String {
    format!("{}/test/app:v1", server.address)
}

#[tokio::test]
async fn a_pull_follows_the_index_and_honours_the_policy() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let tag = index_image(&mut blobs);
    let server = TestServer::http(serve(blobs, &tag)).await;
    let name = name(&server);
    let error = fixture.pull(&name, PullPolicy::Never).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImageNeverPull");
    assert_eq!(
        error.to_string(),
        format!("Container image \"{name}\" is not present with pull policy of Never")
    );
    assert!(server.requests().is_empty());
    let image = fixture.pull(&name, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(server.paths("/blobs/").len(), 3, "configuration and two layers");
    let before = server.requests().len();
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert_eq!(fixture.pull(&name, policy).await.unwrap(), image);
    }
    assert_eq!(server.requests().len(), before);
    assert_eq!(fixture.pull(&name, PullPolicy::Always).await.unwrap(), image);
    let config = format!("/v2/test/app/blobs/{}", image.id);
    let blobs_again = server.paths("/blobs/").split_off(3);
    assert_eq!(blobs_again, [config], "layers in the store are not fetched again");
}

#[tokio::test]
async fn interrupted_layer_downloads_resume_without_data_loss() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let tag = index_image(&mut blobs);
    let (serve, count) = (serve(blobs, &tag), AtomicUsize::new(0));
    let server = TestServer::http(move |request| {
        let reply = serve(request);
        let cuts = request.path.contains("/blobs/") && count.fetch_add(1, Ordering::Relaxed) % 2 == 0;
        let half = reply.body.len() / 2;
        if cuts { reply.cut_at(half) } else { reply }
    })
    .await;
    assert_eq!(
        fixture
            .pull(&name(&server), PullPolicy::Always)
            .await
            .unwrap()
            .layers
            .len(),
        2
    );
    assert!(server.requests().iter().any(|request| request.range_start().is_some()));
}

#[tokio::test]
async fn a_failed_pull_leaves_nothing_behind() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let tag = index_image(&mut blobs);
    let serve = serve(blobs, &tag);
    let server = TestServer::http(move |request| {
        let reply = serve(request);
        if request.path.contains("/blobs/") {
            reply.cut_at(0)
        } else {
            reply
        }
    })
    .await;
    let error = fixture.pull(&name(&server), PullPolicy::Always).await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    let text = chain(&error);
    assert!(
        text.contains("broke during the transfer of the configuration"),
        "{text}"
    );
    assert_eq!((fixture.content("tmp"), fixture.content("references")), (0, 0));
}

#[tokio::test]
async fn a_missing_image_is_reported_once() {
    let server = TestServer::http(|_| Reply::new(404, "")).await;
    let error = fixture().pull(&name(&server), PullPolicy::Always).await.unwrap_err();
    let expected = format!(
        "failed to pull image \"{}\": registry {} does not have this image: check repository and tag",
        name(&server),
        server.address
    );
    assert_eq!(chain(&error), expected);
}

#[tokio::test]
async fn a_layer_with_a_flipped_byte_is_reported_as_corrupt() {
    let mut blobs = Blobs::new();
    let tag = image(&mut blobs, &[layer_tar("a", &[1; 200_000])])["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let (digest, layer) = blobs
        .iter()
        .find(|(_, bytes)| bytes.starts_with(&[0x1f, 0x8b]))
        .unwrap();
    let (digest, length) = (digest.clone(), layer.len());
    for place in [0, 4, length / 2, length - 1] {
        let mut wrong = blobs.clone();
        wrong.get_mut(&digest).unwrap()[place] ^= 1;
        let server = TestServer::http(serve(wrong, &tag)).await;
        let fixture = fixture();
        let error = fixture.pull(&name(&server), PullPolicy::Always).await.unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains("is corrupt") && text.contains(&digest),
            "byte {place}: {text}"
        );
        assert_eq!((fixture.content("tmp"), fixture.content("layers/sha256")), (0, 0));
    }
}

#[tokio::test]
async fn a_mirror_with_a_corrupt_layer_does_not_fail_the_pull() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let tag = index_image(&mut blobs);
    let last = TestServer::http(serve(blobs.clone(), &tag)).await;
    let serve = serve(blobs, &tag);
    let mirror = TestServer::http(move |request| {
        let mut reply = serve(request);
        if reply.body.starts_with(&[0x1f, 0x8b]) {
            let middle = reply.body.len() / 2;
            reply.body[middle] ^= 1;
        }
        reply
    })
    .await;
    let mut environment = environment();
    let text = format!(
        "[[registry]]\nlocation={:?}\n[[registry.mirror]]\nlocation={:?}",
        last.address, mirror.address
    );
    environment.settings.add(text.as_bytes()).unwrap();
    let image = fixture
        .pull_in(environment, &name(&last), PullPolicy::Always)
        .await
        .unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(last.paths("/manifests/"), [""; 0], "the mirror's manifest was fine");
    assert!(!last.paths("/blobs/").is_empty());
}

#[tokio::test]
async fn unusable_manifests_are_refused() {
    let manifest = |bytes: &serde_json::Value| bytes.to_string().into_bytes();
    let mut blobs = Blobs::new();
    let oci_index = "application/vnd.oci.image.index.v1+json";
    let inner = put(
        &mut blobs,
        oci_index,
        manifest(&json!({ "schemaVersion": 2, "manifests": [] })),
    );
    let mut nested_entry = put(
        &mut blobs,
        oci_index,
        manifest(&json!({ "schemaVersion": 2, "manifests": [with_platform(inner)] })),
    );
    nested_entry = with_platform(nested_entry);
    let nested = put(
        &mut blobs,
        oci_index,
        manifest(&json!({ "schemaVersion": 2, "manifests": [nested_entry] })),
    );
    let deep = format!("{{\"manifests\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases = [
        (blobs[nested["digest"].as_str().unwrap()].clone(), "only for nothing"),
        (deep.into_bytes(), "its index is invalid"),
        (b"[2]".to_vec(), "not a JSON object"),
        (
            b"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}".to_vec(),
            "both a manifest and an index",
        ),
        (
            b"{\"schemaVersion\":1,\"fsLayers\":[]}".to_vec(),
            "schema version 1 (Docker before 1.10) is not supported",
        ),
        (b"<html>".to_vec(), "its manifest is invalid"),
    ];
    for (bytes, expected) in cases {
        let mut blobs = blobs.clone();
        blobs.insert("tag".into(), bytes);
        let server = TestServer::http(serve(blobs, "tag")).await;
        let error = fixture().pull(&name(&server), PullPolicy::Always).await.unwrap_err();
        assert!(chain(&error).contains(expected), "{expected}: {}", chain(&error));
    }
}

fn put_index(blobs: &mut Blobs, manifests: &[serde_json::Value]) -> serde_json::Value {
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    let media_type = "application/vnd.oci.image.index.v1+json";
    put(blobs, media_type, index.to_string().into_bytes())
}

#[tokio::test]
async fn a_pull_follows_nested_indexes() {
    for (depth, fits) in [(1, true), (5, true), (30, false)] {
        let (fixture, mut blobs) = (fixture(), Blobs::new());
        let manifest = image(&mut blobs, &[layer_tar("a", b"1")]);
        let platform = json!({ "os": "linux", "architecture": "arm64" });
        let other = json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "size": 3,
            "digest": Digest::of(b"arm").as_str(), "platform": platform });
        let mut top = with_platform(manifest.clone());
        for _ in 0..depth {
            top = put_index(&mut blobs, &[other.clone(), top]);
        }
        let root = top["digest"].as_str().unwrap().to_owned();
        let server = TestServer::http(serve(blobs, &root)).await;
        let pulled = fixture.pull(&name(&server), PullPolicy::Always).await;
        if fits {
            assert_eq!(pulled.unwrap().manifest_digest, manifest["digest"].as_str().unwrap());
            assert_eq!(
                server.paths("/manifests/").len(),
                depth + 1,
                "nothing for other platforms"
            );
        } else {
            let text = chain(&pulled.unwrap_err());
            assert!(text.contains("indexes are nested"), "{text}");
        }
    }
}

#[tokio::test]
async fn an_index_without_platforms_is_searched_for_a_matching_image() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let fits = image(&mut blobs, &[layer_tar("a", b"1")]);
    let layer = layer_tar("a", b"2");
    let config = json!({ "architecture": "arm64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&layer).as_str()] } });
    let arm = image_of(&mut blobs, &[layer], &config);
    let chart = json!({ "schemaVersion": 2, "layers": [],
        "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "size": 2, "digest": Digest::of(b"{}").as_str() } });
    let manifest_type = "application/vnd.oci.image.manifest.v1+json";
    let chart = put(&mut blobs, manifest_type, chart.to_string().into_bytes());
    let gone = json!({ "mediaType": manifest_type, "size": 4, "digest": Digest::of(b"gone").as_str() });
    let others = [arm, chart, gone];
    let everything = [others.as_slice(), std::slice::from_ref(&fits)].concat();
    for (entries, expected) in [(everything.as_slice(), Ok(())), (&others, Err("only for linux/arm64"))] {
        let top = put_index(&mut blobs, entries);
        let server = TestServer::http(serve(blobs.clone(), top["digest"].as_str().unwrap())).await;
        let pulled = fixture.pull(&name(&server), PullPolicy::Always).await;
        match (pulled, expected) {
            (Ok(image), Ok(())) => assert_eq!(image.manifest_digest, fits["digest"].as_str().unwrap()),
            (Err(error), Err(text)) => assert!(chain(&error).contains(text), "{}", chain(&error)),
            (pulled, _) => panic!("{pulled:?}"),
        }
    }
}

#[tokio::test]
async fn a_pulled_image_id_is_the_digest_behind_its_tag() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let index = index_image(&mut blobs);
    let manifest = image(&mut blobs, &[layer_tar("c", b"3")]);
    for root in [index.as_str(), manifest["digest"].as_str().unwrap()] {
        let server = TestServer::http(serve(blobs.clone(), root)).await;
        let expected = format!("{}/test/app@{root}", server.address);
        let by_tag = fixture.pull(&name(&server), PullPolicy::IfNotPresent).await.unwrap();
        assert_eq!(by_tag.kubernetes_id(), expected);
        // This name can pull the image again, and stays its name.
        let by_digest = fixture.pull(&expected, PullPolicy::IfNotPresent).await.unwrap();
        assert_eq!((by_digest.id, by_digest.repo_digest), (by_tag.id, Some(expected)));
    }
}

#[tokio::test]
async fn legacy_images_are_pulled_and_helm_charts_are_refused() {
    for (config_type, expected) in [
        ("application/octet-stream", None),
        (
            "application/vnd.cncf.helm.config.v1+json",
            Some("not a container image"),
        ),
    ] {
        let (fixture, mut blobs) = (fixture(), Blobs::new());
        let manifest = image(&mut blobs, &[layer_tar("a", b"1")]);
        let mut document: serde_json::Value =
            serde_json::from_slice(&blobs[manifest["digest"].as_str().unwrap()]).unwrap();
        document["config"]["mediaType"] = config_type.into();
        let manifest_type = "application/vnd.docker.distribution.manifest.v2+json";
        let top = put(&mut blobs, manifest_type, document.to_string().into_bytes());
        let server = TestServer::http(serve(blobs, top["digest"].as_str().unwrap())).await;
        let pulled = fixture.pull(&name(&server), PullPolicy::Always).await;
        match expected {
            None => assert_eq!(pulled.unwrap().layers.len(), 1),
            Some(text) => assert!(chain(&pulled.unwrap_err()).contains(text)),
        }
    }
}

fn with_platform(mut descriptor: serde_json::Value) -> serde_json::Value {
    descriptor["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    descriptor
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn layers_are_fetched_at_the_same_time() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let layers: Vec<_> = (0..3).map(|n| layer_tar("a", &[n; 1000])).collect();
    let tag = image(&mut blobs, &layers)["digest"].as_str().unwrap().to_owned();
    let config = blobs
        .iter()
        .find(|(_, bytes)| bytes.windows(6).any(|part| part == b"rootfs"))
        .unwrap();
    let (config, serve) = (config.0.clone(), serve(blobs, &tag));
    let arrived = Arc::new((Mutex::new(0), Condvar::new()));
    let server = TestServer::http(move |request| {
        if request.path.contains("/blobs/") && !request.path.ends_with(&config) {
            // Layers are sent only once all have been requested.
            let (count, all) = &*arrived;
            let mut count = count.lock().unwrap();
            *count += 1;
            all.notify_all();
            let waited = all
                .wait_timeout_while(count, Duration::from_secs(60), |count| *count < 3)
                .unwrap();
            if waited.1.timed_out() {
                return Reply::new(404, "");
            }
        }
        serve(request)
    })
    .await;
    assert_eq!(
        fixture
            .pull(&name(&server), PullPolicy::Always)
            .await
            .unwrap()
            .layers
            .len(),
        3
    );
}

/// Counts the layers that are waited for.
#[derive(Default)]
struct Waiting(AtomicUsize);

impl Progress for Waiting {
    fn layer_bytes(&self, _digest: &str, _received_bytes: u64, _total_bytes: u64) {}
    fn layer_waiting(&self, _digest: &str) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn layer_done(&self, _digest: &str, _present: bool) {}
}

#[tokio::test]
async fn pulls_of_the_same_layer_share_one_download() {
    let (fixture, mut blobs) = (fixture(), Blobs::new());
    let layer = layer_tar("a", &[1; 200_000]);
    let diff_id = Digest::of(&layer);
    let tag = image(&mut blobs, &[layer])["digest"].as_str().unwrap().to_owned();
    let server = TestServer::http(serve(blobs, &tag)).await;
    // Locks the layer like another process that is converting it.
    let (shared, lock) = (
        fixture.store.lock_shared().unwrap(),
        fixture.store.lock_layer(&diff_id).unwrap(),
    );
    let waiting = Waiting::default();
    let name = name(&server);
    let pulls = futures::future::join_all((0..4).map(|_| {
        fixture
            .store
            .ensure_in(|| Ok(environment()), &name, PullPolicy::Always, &[], &waiting)
    }));
    let release = async {
        while waiting.0.load(Ordering::Relaxed) < 4 {
            tokio::task::yield_now().await;
        }
        drop((shared, lock));
    };
    let (images, ()) = tokio::join!(pulls, release);
    assert!(images.iter().all(Result::is_ok), "{images:?}");
    let layers = server
        .requests()
        .into_iter()
        .filter(|request| request.path.contains("/blobs/"));
    assert_eq!(layers.count(), 4 + 1, "four configurations, one layer");
}

#[test]
fn a_pull_can_run_on_any_thread() {
    fn is_send(_: &impl Send) {}
    let fixture = fixture();
    is_send(&fixture.store.ensure("nginx", PullPolicy::Never, &[], &Quiet));
}
