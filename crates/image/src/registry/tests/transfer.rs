//! Blobs over broken connections and from lying servers.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Serves one blob, or the rest of it, with replies modified by `change`.
async fn server(bytes: &[u8], change: impl Fn(usize, &Request, Reply) -> Reply + Send + Sync + 'static) -> TestServer {
    let (bytes, count) = (bytes.to_vec(), AtomicUsize::new(0));
    TestServer::http(move |request| {
        let reply = match request.range_start() {
            Some(start) => Reply::new(206, &bytes[start..]).header(
                "Content-Range",
                format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
            None => Reply::new(200, bytes.as_slice()),
        };
        change(count.fetch_add(1, Ordering::Relaxed), request, reply)
    })
    .await
}

fn starts(server: &TestServer) -> Vec<Option<usize>> {
    server.requests().iter().map(Request::range_start).collect()
}

#[tokio::test]
async fn an_interrupted_transfer_resumes_where_it_ended() {
    let bytes = content(1_000_000);
    let server = server(
        &bytes,
        |count, _, reply| if count < 3 { reply.cut_at(100_000) } else { reply },
    )
    .await;
    assert!(fetch(&registry(&server), &blob(&bytes)).await.unwrap() == bytes);
    assert_eq!(starts(&server), [None, Some(100_000), Some(200_000), Some(300_000)]);
}

#[tokio::test]
async fn a_server_without_range_support_sends_everything_again() {
    let bytes = content(200_000);
    let whole = bytes.clone();
    let server = server(&bytes, move |count, _, _| {
        let reply = Reply::new(200, whole.as_slice());
        if count < 2 {
            reply.cut_at(70_000 * (count + 1))
        } else {
            reply
        }
    })
    .await;
    assert!(fetch(&registry(&server), &blob(&bytes)).await.unwrap() == bytes);
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_server_that_refuses_ranges_is_asked_for_everything() {
    let bytes = content(50_000);
    let server = server(&bytes, |count, request, reply| match (count, request.range_start()) {
        (0, _) => reply.cut_at(20_000),
        (_, Some(_)) => Reply::new(416, ""),
        _ => reply,
    })
    .await;
    assert!(fetch(&registry(&server), &blob(&bytes)).await.unwrap() == bytes);
    assert_eq!(starts(&server), [None, Some(20_000), None]);
}

#[tokio::test]
async fn a_range_other_than_the_requested_one_is_refused() {
    let bytes = content(50_000);
    for range in [
        "bytes 0-49999/50000",
        "bytes 20000-49999/50001",
        "bytes 20000-49999",
        "x",
    ] {
        let server = server(&bytes, move |count, _, reply| match count {
            0 => reply.cut_at(20_000),
            _ => Reply::new(206, "x").header("Content-Range", range),
        })
        .await;
        let error = fetch(&registry(&server), &blob(&bytes)).await.unwrap_err();
        assert!(error.to_string().contains("different range"), "{range}: {error}");
    }
}

#[tokio::test]
async fn a_transfer_without_progress_fails() {
    let bytes = content(50_000);
    let cut_off = server(&bytes, |_, _, reply| reply.cut_at(0)).await;
    let error = fetch(&registry(&cut_off), &blob(&bytes)).await.unwrap_err();
    assert!(matches!(error, PullError::Cut { .. }), "{error}");
    assert_eq!(cut_off.requests().len(), 5);
}

#[tokio::test]
async fn one_byte_at_a_time_is_not_progress() {
    let bytes = content(50_000);
    let cut_off = server(&bytes, |_, _, reply| reply.cut_at(1)).await;
    let error = fetch(&registry(&cut_off), &blob(&bytes)).await.unwrap_err();
    assert!(matches!(error, PullError::Cut { .. }), "{error}");
    assert_eq!(cut_off.requests().len(), 5);
}

#[tokio::test]
async fn a_stalled_or_trickling_transfer_is_resumed_and_then_fails() {
    let bytes = content(50_000);
    for then in [Then::Hang, Then::Drip(Duration::from_millis(1))] {
        let server = server(&bytes, move |_, _, reply| reply.cut_at(0).then(then)).await;
        let error = fetch(&impatient_registry(&server), &blob(&bytes)).await.unwrap_err();
        assert!(chain(&error).contains("it stalled"), "{}", chain(&error));
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test]
async fn lengths_that_differ_from_the_manifest_are_refused() {
    let bytes = content(50_000);
    let longer = [bytes.clone(), b"more".to_vec()].concat();
    for (announced, body) in [
        (Some(60_000), longer.clone()),
        (Some(40_000), bytes.clone()),
        (None, longer),
    ] {
        let body = if announced.is_none() {
            [body, content(70_000)].concat()
        } else {
            body
        };
        let server = TestServer::http(move |_| match announced {
            Some(length) => Reply::new(200, body.as_slice()).announcing(length),
            None => Reply::new(200, body.as_slice()).then(Then::Flood),
        })
        .await;
        let error = fetch(&registry(&server), &blob(&bytes)).await.unwrap_err();
        let is_found_out = matches!(error, PullError::Invalid { .. });
        assert!(is_found_out, "{announced:?}: {error}");
        assert_eq!(server.requests().len(), 1, "a retry would not help");
    }
}

#[tokio::test]
async fn a_flipped_byte_is_detected_even_after_an_interruption() {
    let bytes = content(50_000);
    let mut wrong = bytes.clone();
    wrong[49_999] ^= 1;
    let server = server(
        &wrong,
        |count, _, reply| if count == 0 { reply.cut_at(20_000) } else { reply },
    )
    .await;
    let error = fetch(&registry(&server), &blob(&bytes)).await.unwrap_err();
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn an_empty_blob_needs_no_request() {
    let server = TestServer::http(|_| Reply::new(500, "")).await;
    assert_eq!(fetch(&registry(&server), &blob(b"")).await.unwrap(), b"");
}
