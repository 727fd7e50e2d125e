//! Attached Pods, with the tests in the role of the supervisor.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use jiff::Timestamp;
use nix::sys::signal::{Signal, raise};
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::super::pods::test_pods::TestPods;
use super::super::stream::tests::ONE_AT_A_TIME;
use super::*;
use crate::pod::logs::{Limits, LogWriter};
use crate::pod::supervisor_protocol::{
    AttachOptions, Notice, SupervisorFrame, SupervisorRequest, read_frame, write_frame,
};
use crate::pod::test_pods::asked;
use crate::state::{LockedFile, StatusRecord};

mod output;

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: ImageArgs,
}

/// A Pod of `run` with these arguments, its output, and its supervisor's lock.
struct Run {
    pods: TestPods,
    record: PodRecord,
    args: ImageArgs,
    lock: Option<LockedFile>,
    told: Vec<String>,
    output: Shown,
    errors: Shown,
}

/// The output on a standard stream.
#[derive(Clone, Default)]
struct Shown {
    bytes: Rc<RefCell<Vec<u8>>>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy)]
enum Fault {
    /// Nothing reads it. The user notices that, and sends this signal.
    Stopped(Signal),
    DiskFull,
}

impl Shown {
    fn with_fault(fault: Fault) -> Self {
        Self {
            fault: Some(fault),
            ..Self::default()
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes.borrow().clone()).unwrap()
    }
}

impl AsyncWrite for Shown {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.fault {
            None => {
                self.bytes.borrow_mut().extend_from_slice(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
            Some(Fault::Stopped(signal)) => {
                raise(signal).unwrap();
                Poll::Pending
            }
            Some(Fault::DiskFull) => Poll::Ready(Err(ErrorKind::StorageFull.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({ "waiting": { "reason": reason, "message": message } })
}

fn ended(reason: &str, exit_code: i32, message: &str) -> Value {
    json!({ "terminated": {
        "reason": reason, "exitCode": exit_code, "message": message, "containerID": "main-0",
    } })
}

fn never_pulled() -> Value {
    waiting(
        "ErrImageNeverPull",
        "Container image \"nginx:1\" is not present with pull policy of Never",
    )
}

impl Run {
    fn new(words: &[&str]) -> Self {
        let words = ["run", "--image=nginx:1", "--attach"].iter().chain(words);
        let args = <Cli as clap::Parser>::try_parse_from(words).unwrap().args;
        let restart = args.restart.clone();
        let pods = TestPods::new();
        let (uid, lock) = pods.add_owned(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": { "restartPolicy": restart, "containers": [{ "name": "main", "image": "nginx:1" }] },
        }));
        Self {
            record: pods.records.get(&uid).unwrap().unwrap(),
            pods,
            args,
            lock: Some(lock),
            told: Vec::new(),
            output: Shown::default(),
            errors: Shown::default(),
        }
    }

    fn set(&self, phase: &str, state: Value, last_state: Value) {
        let status = json!({ "phase": phase, "containerStatuses": [{
            "name": "main", "image": "nginx:1", "imageID": "", "containerID": "main-0", "ready": false, "restartCount": 0,
            "state": state, "lastState": last_state,
        }] });
        self.pods.set_status(&self.record.uid, status);
    }

    /// Writes the log of an attempt, as its supervisor does.
    fn log(&self, attempt: u32, output: &[(OutputStream, &str)]) {
        let directory = logs::container_dir(&self.pods.paths, &self.record.uid, "main");
        let mut log = LogWriter::open(directory, attempt, Limits::default());
        for (stream, text) in output {
            log.write(*stream, text.as_bytes(), Timestamp::now());
            log.finish(*stream, Timestamp::now());
        }
    }

    fn listen(&self) -> UnixListener {
        UnixListener::bind(self.pods.paths.supervisor_socket(&self.record.uid)).unwrap()
    }

    fn is_gone(&self) -> bool {
        self.pods.records.get(&self.record.uid).unwrap().is_none()
    }

    /// Runs to the end. `look` sees each output text first.
    async fn run(&mut self, mut look: impl FnMut(&str)) -> anyhow::Result<u8> {
        let mut endings = Endings::new().unwrap();
        let told = &mut self.told;
        let mut console = Console {
            output: Box::new(self.output.clone()),
            errors: Box::new(self.errors.clone()),
            tell: &mut |text: &str| {
                look(text);
                told.push(text.to_owned());
            },
        };
        follow_and_remove(&self.pods.paths, &self.record, &self.args, &mut endings, &mut console).await
    }
}

/// The status of a Pod that failed when its container ended this way.
fn failed(end: Value) -> StatusRecord {
    let over = Run::new(&["--restart=Never"]);
    over.set("Failed", end, json!({}));
    over.pods.records.status(&over.record.uid).unwrap().unwrap()
}

/// Accepts a request from the command line and answers it.
async fn answer(listener: &UnixListener, notices: &[Notice]) -> SupervisorRequest {
    let (mut stream, _) = listener.accept().await.unwrap();
    let request = asked(&mut stream).await.unwrap();
    for notice in notices {
        write_frame(&mut stream, &SupervisorFrame::Notice(notice.clone()))
            .await
            .unwrap();
    }
    request
}

#[tokio::test(start_paused = true)]
async fn a_container_that_cannot_start_within_a_minute_fails_and_its_pod_is_removed() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never", "--rm"]);
    run.set("Pending", never_pulled(), json!({}));
    // The Pod has no owner, so it can be removed.
    run.lock = None;
    let start = tokio::time::Instant::now();
    let error = run.run(|_| {}).await.unwrap_err().to_string();
    assert_eq!(start.elapsed().as_secs(), 60);
    let reason = "container \"main\" is waiting to start: ErrImageNeverPull: Container image \"nginx:1\" is not present with pull \
                  policy of Never";
    assert_eq!(
        error,
        format!("timed out waiting for the condition: pod \"web\": {reason}")
    );
    assert_eq!(
        run.told,
        [
            format!("microkube: pod \"web\": {reason}"),
            "pod \"web\" deleted".to_owned()
        ]
    );
    assert!(run.is_gone());
}

#[tokio::test(start_paused = true)]
async fn the_requested_start_timeout_applies_and_without_rm_the_pod_stays() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--pod-running-timeout=5s"]);
    let start = tokio::time::Instant::now();
    let error = run.run(|_| {}).await.unwrap_err().to_string();
    assert_eq!(start.elapsed().as_secs(), 5);
    assert_eq!(
        error,
        "timed out waiting for the condition: pod \"web\": container \"main\" is waiting to start: Pending (see --pod-running-timeout)"
    );
    assert!(!run.is_gone());
}

#[tokio::test]
async fn a_signal_ends_the_wait_for_the_start_and_rm_removes_the_pod() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
        let mut run = Run::new(&["--rm"]);
        run.set("Pending", never_pulled(), json!({}));
        run.lock = None;
        let interrupt = |text: &str| {
            if text.contains("ErrImageNeverPull") {
                raise(signal).unwrap();
            }
        };
        assert_eq!(run.run(interrupt).await.unwrap(), code);
        assert_eq!(
            run.told[1],
            "microkube: stopping the Pod (press Ctrl-C again to kill it)"
        );
        assert!(run.is_gone());
    }
}

#[tokio::test]
async fn a_second_signal_shortens_the_termination_and_a_third_ends_the_wait() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--rm"]);
    run.set("Pending", never_pulled(), json!({}));
    let listener = run.listen();
    let supervisor = async {
        let first = answer(&listener, &[Notice::Done]).await;
        raise(Signal::SIGINT).unwrap();
        let second = answer(&listener, &[Notice::Done]).await;
        raise(Signal::SIGINT).unwrap();
        (first, second)
    };
    let interrupt = |text: &str| {
        if text.contains("ErrImageNeverPull") {
            raise(Signal::SIGINT).unwrap();
        }
    };
    let (requests, result) = tokio::join!(supervisor, run.run(interrupt));
    let delete = |grace| SupervisorRequest::Delete { grace };
    assert_eq!(requests, (delete(None), delete(Some(SHORT_GRACE))));
    assert_eq!(result.unwrap_err().to_string(), "pod \"web\" is still being deleted");
}

#[tokio::test]
async fn a_failed_removal_is_an_error() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never", "--rm"]);
    run.set("Succeeded", ended("Completed", 0, ""), json!({}));
    let listener = run.listen();
    let refusal = Notice::Refused {
        message: "not today".to_owned(),
    };
    let (_, result) = tokio::join!(answer(&listener, std::slice::from_ref(&refusal)), run.run(|_| {}));
    assert_eq!(
        format!("{:#}", result.unwrap_err()),
        "--rm could not remove pod \"web\": cannot delete pod \"web\": not today"
    );
}

#[tokio::test]
async fn a_missing_command_fails_at_once_with_128_and_the_containers_message() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never"]);
    let message = "exec: \"dsfsdf\": executable file not found in $PATH";
    run.set("Failed", ended("StartError", 128, message), json!({}));
    assert_eq!(run.run(|_| {}).await.unwrap(), 128);
    assert_eq!(
        run.told.last().unwrap(),
        &format!("pod default/web terminated (StartError)\n{message}")
    );
}

#[tokio::test]
async fn the_reason_and_exit_code_of_an_attached_container_are_reported() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never"]);
    run.set("Running", json!({ "running": {} }), json!({}));
    let listener = run.listen();
    let (pods, uid) = (run.pods.records.clone(), run.record.uid.clone());
    let over = failed(ended("OOMKilled", 137, ""));
    let supervisor = async {
        let request = answer(&listener, &[Notice::Attached, Notice::Exited { exit_code: 0 }]).await;
        pods.save_status(&uid, &over).unwrap();
        request
    };
    let (request, result) = tokio::join!(supervisor, run.run(|_| {}));
    assert!(
        matches!(request, SupervisorRequest::Attach(AttachOptions { container, stdin: false, .. }) if container == "main")
    );
    assert_eq!(result.unwrap(), 137);
    assert_eq!(run.told, ["pod default/web terminated (OOMKilled)"]);
}

#[tokio::test]
async fn an_attach_refused_after_the_container_exited_is_not_an_error() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never"]);
    run.set("Running", json!({ "running": {} }), json!({}));
    let listener = run.listen();
    let (pods, uid) = (run.pods.records.clone(), run.record.uid.clone());
    let over = failed(ended("Error", 3, ""));
    let supervisor = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        asked(&mut stream).await.unwrap();
        let message = "container \"main\" is not running".to_owned();
        write_frame(&mut stream, &SupervisorFrame::Notice(Notice::Refused { message }))
            .await
            .unwrap();
        // The command has noticed that, and waits.
        assert!(read_frame(&mut stream).await.unwrap().is_none());
        pods.save_status(&uid, &over).unwrap();
    };
    let ((), result) = tokio::join!(supervisor, run.run(|_| {}));
    assert_eq!(result.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_attach_to_a_running_container_is_an_error() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never"]);
    run.set("Running", json!({ "running": {} }), json!({}));
    let listener = run.listen();
    let refused = Notice::Refused {
        message: "too many sessions".to_owned(),
    };
    let (_, result) = tokio::join!(answer(&listener, std::slice::from_ref(&refused)), run.run(|_| {}));
    assert_eq!(result.unwrap_err().to_string(), "too many sessions");
}

#[tokio::test]
async fn the_end_of_an_input_that_stays_open_does_not_end_the_wait() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never", "-i", "-t"]);
    run.set("Running", json!({ "running": {} }), json!({}));
    let listener = run.listen();
    let (pods, uid) = (run.pods.records.clone(), run.record.uid.clone());
    let over = failed(ended("Error", 3, ""));
    let supervisor = async {
        answer(&listener, &[Notice::Attached, Notice::InputEnded]).await;
        pods.save_status(&uid, &over).unwrap();
    };
    let ((), result) = tokio::join!(supervisor, run.run(|_| {}));
    assert_eq!(result.unwrap(), 3);

    // If the exit code is ignored, the command does not wait.
    let mut run = Run::new(&["--restart=Always", "-i", "-t"]);
    run.set("Running", json!({ "running": {} }), json!({}));
    let listener = run.listen();
    let (_, result) = tokio::join!(
        answer(&listener, &[Notice::Attached, Notice::InputEnded]),
        run.run(|_| {})
    );
    assert_eq!(result.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failing_command_under_on_failure_is_an_error_unless_the_pod_succeeds_in_time() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=OnFailure"]);
    let back_off = || waiting("CrashLoopBackOff", "back-off 10s restarting failed container");
    run.set("Running", back_off(), ended("Error", 3, ""));
    let error = run.run(|_| {}).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "timed out waiting for the condition: pod \"web\" has not succeeded: container \"main\" terminated (Error) with exit code 3"
    );
    let told = run.told.join("\n");
    assert!(
        told.contains("container \"main\" terminated (Error) with exit code 3; --restart=OnFailure restarts it"),
        "{told}"
    );

    let mut run = Run::new(&["--restart=OnFailure"]);
    run.set("Running", back_off(), ended("Error", 3, ""));
    let (records, uid) = (run.pods.records.clone(), run.record.uid.clone());
    let mut status = records.status(&uid).unwrap().unwrap();
    status.status.phase = Some("Succeeded".to_owned());
    let succeed = move |text: &str| {
        if text.contains("waiting up to 60s") {
            records.save_status(&uid, &status).unwrap();
        }
    };
    assert_eq!(run.run(succeed).await.unwrap(), 0);
}

#[tokio::test]
async fn the_exit_code_of_an_always_restarted_command_is_reported_but_not_returned() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (words, why) in [
        (&["--restart=Always"][..], "--restart=Always restarts the container"),
        (
            &["-i", "--leave-stdin-open", "--restart=Never"],
            "with --leave-stdin-open",
        ),
    ] {
        let mut run = Run::new(words);
        run.set("Running", json!({ "waiting": {} }), ended("Error", 3, "it is broken"));
        assert_eq!(run.run(|_| {}).await.unwrap(), 0);
        let told = run.told.join("\n");
        let text =
            "container \"main\" terminated (Error) with exit code 3: it is broken; this command's exit code is 0: ";
        assert!(told.contains(&format!("{text}{why}")), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_never_runs_is_a_failure_after_any_number_of_starts() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for restart in ["--restart=Always", "--restart=OnFailure"] {
        let mut run = Run::new(&[restart]);
        let message = "exec: \"dsfsdf\": executable file not found in $PATH";
        run.set(
            "Running",
            waiting("RunContainerError", message),
            ended("StartError", 128, message),
        );
        let error = run.run(|_| {}).await.unwrap_err().to_string();
        assert!(
            error.contains("timed out") && error.contains("RunContainerError") && error.contains("dsfsdf"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn deleting_the_pod_ends_the_wait() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut run = Run::new(&["--restart=Never"]);
    run.set("Pending", never_pulled(), json!({}));
    let (records, uid) = (run.pods.records.clone(), run.record.uid.clone());
    let delete = move |text: &str| {
        if text.contains("ErrImageNeverPull") {
            records.remove(&uid).unwrap();
        }
    };
    let error = run.run(delete).await.unwrap_err().to_string();
    assert_eq!(error, "pod \"web\" was deleted while waiting for it");
}

/// The output of a container that wrote to both streams and ended at once.
const WORDS: [(OutputStream, &str); 2] = [(OutputStream::Stdout, "out\n"), (OutputStream::Stderr, "err")];
