//! Mirrors that are down, lack the image, or send wrong content.

use super::*;

fn with_mirrors(servers: &[&TestServer], last: &TestServer) -> Registry {
    let mut text = format!("[[registry]]\nlocation = {:?}\n", last.address);
    for server in servers {
        text += &format!("[[registry.mirror]]\nlocation = \"{}/cache\"\n", server.address);
    }
    let mut environment = environment();
    environment.settings.add(text.as_bytes()).unwrap();
    registry_in(environment, &format!("{}/team/app:v1", last.address), &[])
}

async fn serving(body: &'static str) -> TestServer {
    TestServer::http(move |_| Reply::new(200, body)).await
}

#[tokio::test]
async fn a_mirror_with_the_image_is_sufficient() {
    let (mirror, last) = (serving("{}").await, serving("{}").await);
    let registry = with_mirrors(&[&mirror], &last);
    assert_eq!(registry.manifest(None).await.unwrap(), b"{}");
    assert_eq!(mirror.paths(""), ["/v2/cache/team/app/manifests/v1"]);
    assert!(last.requests().is_empty());
}

#[tokio::test]
async fn a_failed_mirror_is_skipped_for_the_rest_of_the_pull() {
    let last = serving("{}").await;
    let mut down = serving("{}").await;
    down.address = "127.0.0.1:1".into();
    let lacks = TestServer::http(|_| Reply::new(404, "")).await;
    let denies = TestServer::http(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x")).await;
    let lies = TestServer::http(|_| Reply::new(200, "{}").header("Docker-Content-Digest", Digest::of(b"other"))).await;
    let registry = with_mirrors(&[&down, &lacks, &denies, &lies], &last);
    for _ in 0..2 {
        assert_eq!(registry.manifest(None).await.unwrap(), b"{}");
    }
    for mirror in [&lacks, &denies, &lies] {
        assert_eq!(mirror.requests().len(), 1);
    }
    assert_eq!(last.requests().len(), 2);
}

#[tokio::test]
async fn if_all_sources_fail_the_error_of_the_registry_is_reported() {
    let (mirror, last) = (
        TestServer::http(|_| Reply::new(500, "")).await,
        TestServer::http(|_| Reply::new(404, "")).await,
    );
    let error = with_mirrors(&[&mirror], &last).manifest(None).await.unwrap_err();
    assert!(
        matches!(&error, PullError::NotFound { registry } if *registry == last.address),
        "{error}"
    );
}

#[tokio::test]
async fn the_registry_resumes_a_transfer_interrupted_by_a_mirror() {
    let bytes = content(200_000);
    let (whole, rest) = (bytes.clone(), bytes.clone());
    let mirror = TestServer::http(move |request| match request.range_start() {
        None => Reply::new(200, whole.as_slice()).cut_at(150_000),
        Some(_) => Reply::new(404, ""),
    })
    .await;
    let last = TestServer::http(move |request| {
        let start = request.range_start().unwrap();
        Reply::new(206, &rest[start..]).header("Content-Range", format!("bytes {start}-199999/200000"))
    })
    .await;
    assert!(fetch(&with_mirrors(&[&mirror], &last), &blob(&bytes)).await.unwrap() == bytes);
    assert_eq!(last.requests()[0].range_start(), Some(150_000));
}
