//! All output is shown once, from the session or from the log.

use super::*;

fn output(stream: OutputStream, text: &str) -> SupervisorFrame {
    SupervisorFrame::Output {
        container: 0,
        stream,
        bytes: text.as_bytes().to_vec(),
    }
}

fn completed() -> StatusRecord {
    let over = Run::new(&["--restart=Never"]);
    over.set("Succeeded", ended("Completed", 0, ""), json!({}));
    over.pods.records.status(&over.record.uid).unwrap().unwrap()
}

/// Runs `run` against a supervisor that answers the request with these frames, closes the connection and reports the
/// end.
async fn run_against(run: &mut Run, frames: &[SupervisorFrame]) -> anyhow::Result<u8> {
    run.set("Running", json!({ "running": {} }), json!({}));
    let listener = run.listen();
    let (records, uid) = (run.pods.records.clone(), run.record.uid.clone());
    let over = completed();
    let supervisor = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let request = asked(&mut stream).await.unwrap();
        let SupervisorRequest::Attach(AttachOptions { from_start_of, .. }) = request else {
            panic!("{request:?}")
        };
        assert_eq!(from_start_of.as_deref(), Some("main-0"));
        for frame in frames {
            write_frame(&mut stream, frame).await.unwrap();
        }
        drop(stream);
        records.save_status(&uid, &over).unwrap();
    };
    let ((), result) = tokio::join!(supervisor, run.run(|_| {}));
    result
}

fn attached_at(stdout_bytes: u64, stderr_bytes: u64) -> SupervisorFrame {
    SupervisorFrame::Notice(Notice::AttachedAt {
        stdout_bytes,
        stderr_bytes,
    })
}

fn exited() -> SupervisorFrame {
    SupervisorFrame::Notice(Notice::Exited { exit_code: 0 })
}

#[tokio::test]
async fn output_written_before_the_connection_is_shown() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never"]);
    run.log(0, &WORDS);
    assert_eq!(run_against(&mut run, &[attached_at(4, 3), exited()]).await.unwrap(), 0);
    assert_eq!(
        (run.output.text().as_str(), run.errors.text().as_str()),
        ("out\n", "err")
    );
    assert_eq!(run.told, [""; 0]);

    // The rest arrives during the session, and by then is in the log too.
    let mut run = Run::new(&["--restart=Never"]);
    run.log(0, &WORDS);
    let frames = [attached_at(4, 1), output(OutputStream::Stderr, "rr"), exited()];
    assert_eq!(run_against(&mut run, &frames).await.unwrap(), 0);
    assert_eq!(
        (run.output.text().as_str(), run.errors.text().as_str()),
        ("out\n", "err")
    );
}

#[tokio::test]
async fn output_that_a_broken_session_did_not_deliver_is_shown_from_the_log() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let refused = SupervisorFrame::Notice(Notice::Refused {
        message: "container \"main\" is not running".to_owned(),
    });
    for frames in [
        vec![],
        vec![refused],
        vec![attached_at(0, 0)],
        vec![attached_at(4, 0), output(OutputStream::Stderr, "e")],
    ] {
        let mut run = Run::new(&["--restart=Never"]);
        run.log(0, &WORDS);
        assert_eq!(run_against(&mut run, &frames).await.unwrap(), 0);
        let shown = (run.output.text(), run.errors.text());
        assert_eq!((shown.0.as_str(), shown.1.as_str()), ("out\n", "err"), "{frames:?}");
        assert_eq!(run.told, [""; 0]);
    }
}

#[tokio::test]
async fn output_of_a_container_that_ended_before_it_was_seen_running_is_shown() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never", "--rm"]);
    run.log(0, &WORDS);
    run.set("Succeeded", ended("Completed", 0, ""), json!({}));
    run.lock = None;
    assert_eq!(run.run(|_| {}).await.unwrap(), 0);
    assert_eq!(
        (run.output.text().as_str(), run.errors.text().as_str()),
        ("out\n", "err")
    );
    assert!(run.is_gone());
}

#[tokio::test]
async fn output_of_an_attempt_that_ended_before_the_running_one_is_shown() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=OnFailure"]);
    run.log(0, &[(OutputStream::Stdout, "first\n")]);
    run.log(1, &[(OutputStream::Stdout, "second\n")]);
    let status = json!({ "phase": "Running", "containerStatuses": [{
        "name": "main", "image": "nginx:1", "imageID": "", "containerID": "main-1", "ready": true, "restartCount": 1,
        "state": { "running": {} }, "lastState": ended("Error", 3, ""),
    }] });
    run.pods.set_status(&run.record.uid, status);
    let listener = run.listen();
    let (records, uid) = (run.pods.records.clone(), run.record.uid.clone());
    let over = completed();
    let supervisor = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        asked(&mut stream).await.unwrap();
        write_frame(&mut stream, &attached_at(7, 0)).await.unwrap();
        write_frame(&mut stream, &exited()).await.unwrap();
        records.save_status(&uid, &over).unwrap();
    };
    let ((), result) = tokio::join!(supervisor, run.run(|_| {}));
    assert_eq!(result.unwrap(), 0);
    assert_eq!(run.output.text(), "first\nsecond\n");
}

#[tokio::test]
async fn output_that_is_not_in_the_log_is_reported_as_lost() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never"]);
    run.log(0, &[(OutputStream::Stdout, "out\n")]);
    assert_eq!(run_against(&mut run, &[attached_at(10, 0), exited()]).await.unwrap(), 0);
    assert_eq!(run.output.text(), "out\n");
    assert_eq!(
        run.told,
        ["microkube: warning: 6 bytes of the container's output are lost, because its log does not contain them"]
    );
}

#[tokio::test]
async fn a_signal_ends_the_command_while_its_output_from_the_log_is_not_read() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let stopped = Shown::with_fault(Fault::Stopped(Signal::SIGTERM));
    let patience = Duration::from_secs(30);

    // The container ended before it was seen running.
    let mut run = Run::new(&["--restart=Never", "--rm"]);
    run.output = stopped.clone();
    run.log(0, &WORDS);
    run.set("Succeeded", ended("Completed", 0, ""), json!({}));
    run.lock = None;
    let result = tokio::time::timeout(patience, run.run(|_| {})).await;
    assert_eq!(result.unwrap().unwrap(), 143);
    assert!(run.is_gone());

    // An earlier attempt ended.
    let mut run = Run::new(&["--restart=OnFailure"]);
    run.output = stopped.clone();
    run.log(0, &WORDS);
    let status = json!({ "phase": "Running", "containerStatuses": [{
        "name": "main", "image": "nginx:1", "imageID": "", "containerID": "main-1", "ready": true, "restartCount": 1,
        "state": { "running": {} }, "lastState": ended("Error", 3, ""),
    }] });
    run.pods.set_status(&run.record.uid, status);
    let result = tokio::time::timeout(patience, run.run(|_| {})).await;
    assert_eq!(result.unwrap().unwrap(), 143);

    // The session broke off.
    let mut run = Run::new(&["--restart=Never"]);
    run.output = stopped;
    run.log(0, &WORDS);
    let result = tokio::time::timeout(patience, run_against(&mut run, &[attached_at(0, 0)])).await;
    assert_eq!(result.unwrap().unwrap(), 143);
}

#[tokio::test]
async fn output_of_an_attempt_that_ended_after_a_failed_start_is_shown() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (id, shown) in [(Some("main-1"), "second\n"), (Some("main-0"), ""), (None, "")] {
        let mut run = Run::new(&["--restart=OnFailure"]);
        run.log(0, &[]);
        run.log(1, &[(OutputStream::Stdout, "second\n")]);
        let mut end = ended("Completed", 0, "");
        end["terminated"]["containerID"] = json!(id);
        run.set("Succeeded", end, json!({}));
        assert_eq!(run.run(|_| {}).await.unwrap(), 0);
        assert_eq!(run.output.text(), shown);
    }
}

#[tokio::test]
async fn a_failed_write_names_its_stream() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (stream, name) in [(OutputStream::Stdout, "output"), (OutputStream::Stderr, "error")] {
        let mut run = Run::new(&["--restart=Never"]);
        run.output = Shown::with_fault(Fault::DiskFull);
        run.errors = run.output.clone();
        run.log(0, &[(stream, "text")]);
        run.set("Succeeded", ended("Completed", 0, ""), json!({}));
        let error = run.run(|_| {}).await.unwrap_err().to_string();
        assert_eq!(error, format!("cannot write to standard {name}"));
    }
}
