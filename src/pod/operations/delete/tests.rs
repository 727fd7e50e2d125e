//! Deletions with supervisors that the tests simulate.

use serde_json::json;
use tokio::net::UnixListener;

use super::ask::ask_supervisor;
use super::*;
use crate::pod::supervisor_protocol::{Notice, SupervisorFrame, SupervisorRequest, write_frame};
use crate::pod::test_pods::{TestPods, asked};
use crate::state::ProcessIdentity;

fn manifest(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1" }] },
    })
}

fn options(grace_s: Option<u64>, waits: bool, timeout_ms: u64) -> DeleteOptions {
    DeleteOptions {
        grace: grace_s.map(Duration::from_secs),
        waits,
        timeout: Some(Duration::from_millis(timeout_ms)).filter(|timeout| !timeout.is_zero()),
    }
}

async fn delete_all(pods: &TestPods, options: DeleteOptions) -> (Vec<String>, Vec<String>) {
    let (records, damaged) = pods.records.list_all().unwrap();
    assert!(damaged.is_empty(), "{damaged:?}");
    let mut told = Vec::new();
    let failures = delete(&pods.paths, records, &options, &mut |record| {
        told.push(record.name.clone());
        Ok(())
    })
    .await
    .unwrap();
    let failures = failures
        .into_iter()
        .map(|failure| format!("{:#}", failure.into_report()));
    (told, failures.collect())
}

/// A supervisor that gives this answer to one request, and then acts like a real one.
async fn supervise(listener: UnixListener, answer: Option<Notice>, at_end: impl FnOnce()) -> Option<SupervisorRequest> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let request = asked(&mut stream).await;
    drop(listener);
    if let Some(notice) = answer {
        write_frame(&mut stream, &SupervisorFrame::Notice(notice))
            .await
            .unwrap();
    }
    at_end();
    request
}

#[tokio::test]
async fn the_supervisor_is_asked_and_the_deletion_awaited() {
    let pods = TestPods::new();
    let (uid, lock) = pods.add_owned(&manifest("web"));
    let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
    let records = pods.records.clone();
    let supervisor = supervise(listener, Some(Notice::Done), move || {
        records.remove(&uid).unwrap();
        drop(lock);
    });
    let (request, (told, failures)) = tokio::join!(supervisor, delete_all(&pods, options(Some(5), true, 0)));
    assert_eq!(
        request,
        Some(SupervisorRequest::Delete {
            grace: Some(Duration::from_secs(5))
        })
    );
    assert_eq!(
        (told.as_slice(), failures.len()),
        (&["web".to_owned()][..], 0),
        "{failures:?}"
    );
}

#[tokio::test]
async fn an_ended_pod_without_a_supervisor_is_removed_at_once_with_its_records() {
    let pods = TestPods::new();
    let uid = pods.add("job", &[]);
    pods.set_status(&uid, json!({ "phase": "Succeeded" }));
    let (told, failures) = delete_all(&pods, options(None, true, 0)).await;
    assert_eq!(
        (told.as_slice(), failures.len()),
        (&["job".to_owned()][..], 0),
        "{failures:?}"
    );
    assert!(pods.records.is_gone(&uid) && !pods.paths.pod_run(&uid).exists());
}

#[tokio::test]
async fn the_socket_of_a_dead_supervisor_does_not_count_as_a_supervisor() {
    let pods = TestPods::new();
    let uid = pods.add("web", &[]);
    drop(UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap());
    assert!(!ask_supervisor(&pods.paths, &uid, None).await.unwrap());
    assert_eq!(delete_all(&pods, options(None, true, 0)).await.1, Vec::<String>::new());
    assert!(pods.records.is_gone(&uid));
}

#[tokio::test]
async fn a_deletion_that_exceeds_the_timeout_is_reported() {
    let pods = TestPods::new();
    let (uid, _lock) = pods.add_owned(&manifest("web"));
    let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
    let supervisor = supervise(listener, Some(Notice::Done), || {});
    let (_, (told, failures)) = tokio::join!(supervisor, delete_all(&pods, options(None, true, 50)));
    assert_eq!(told, ["web"]);
    assert_eq!(failures, ["timed out waiting for the condition on pods/web"]);
    assert!(!pods.records.is_gone(&uid));
}

#[tokio::test]
async fn a_refused_deletion_is_reported_and_other_pods_are_deleted() {
    let pods = TestPods::new();
    let (uid, _lock) = pods.add_owned(&manifest("web"));
    let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
    let refusal = Notice::Refused {
        message: "not today".to_owned(),
    };
    let (other, other_lock) = pods.add_owned(&manifest("other"));
    let other_listener = UnixListener::bind(pods.paths.supervisor_socket(&other)).unwrap();
    let records = pods.records.clone();
    let (_, _, (told, failures)) = tokio::join!(
        supervise(listener, Some(refusal), || {}),
        supervise(other_listener, Some(Notice::Done), move || {
            records.remove(&other).unwrap();
            drop(other_lock);
        }),
        delete_all(&pods, options(None, true, 0))
    );
    assert_eq!(told, ["other"]);
    assert_eq!(failures, ["cannot delete pod \"web\": not today"]);
}

#[tokio::test]
async fn a_force_deleted_pod_is_gone_once_its_supervisor_has_hidden_it() {
    let pods = TestPods::new();
    let (uid, _lock) = pods.add_owned(&manifest("web"));
    let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
    pods.records.hide(&uid).unwrap();
    let record = pods.records.get(&uid).unwrap().unwrap();
    let supervisor = supervise(listener, Some(Notice::Done), || {});
    let options = options(Some(0), true, 0);
    let mut tell = |_: &PodRecord| Ok(());
    let deletion = delete(&pods.paths, vec![record], &options, &mut tell);
    let (request, failures) = tokio::join!(supervisor, deletion);
    let grace = Some(Duration::ZERO);
    assert_eq!(request, Some(SupervisorRequest::Delete { grace }));
    assert_eq!(failures.unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_force_deletion_kills_a_hanging_supervisor() {
    let pods = TestPods::new();
    let (uid, mut lock) = pods.add_owned(&manifest("web"));
    let _never_accepts = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
    // Like a supervisor it holds the Pod's lock, but it does nothing.
    let stuck = std::process::Command::new("sleep")
        .arg("1000")
        .stdin(std::fs::File::from(lock.as_fd().try_clone_to_owned().unwrap()))
        .spawn();
    let mut stuck = stuck.unwrap();
    lock.leave_to_child();
    drop(lock);
    let mut record = pods.records.get(&uid).unwrap().unwrap();
    record.supervisor = ProcessIdentity::of(i32::try_from(stuck.id()).unwrap());
    pods.records.save(&record).unwrap();

    let (told, failures) = delete_all(&pods, options(Some(0), false, 0)).await;

    assert_eq!((told.len(), failures.len()), (1, 0), "{failures:?}");
    assert!(pods.records.is_gone(&uid) && !pods.paths.pod_state(&uid).exists());
    assert!(!stuck.wait().unwrap().success());
}

#[tokio::test]
async fn a_starting_supervisor_is_awaited() {
    let pods = TestPods::new();
    let (uid, lock) = pods.add_owned(&manifest("web"));
    let path = pods.paths.supervisor_socket(&uid);
    let records = pods.records.clone();
    let starting = async move {
        // The deletion has either found no socket by now, or finds one immediately: both must work.
        tokio::task::yield_now().await;
        let listener = UnixListener::bind(path).unwrap();
        supervise(listener, Some(Notice::Done), move || {
            records.remove(&uid).unwrap();
            drop(lock);
        })
        .await
    };
    let (request, (told, failures)) = tokio::join!(starting, delete_all(&pods, options(None, true, 0)));
    assert_eq!(request, Some(SupervisorRequest::Delete { grace: None }));
    assert_eq!((told.len(), failures.len()), (1, 0), "{failures:?}");
}
