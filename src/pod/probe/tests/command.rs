//! Probes that run commands.

use super::*;

#[tokio::test]
async fn a_command_probe_depends_on_the_exit_code() {
    let probe = json!({"exec": {"command": ["cat", "/tmp/healthy"]}, "timeoutSeconds": 5});
    let exec = Answer::new(Ok((0, b"fine")));
    assert_eq!(run_probe(probe.clone(), 1, &exec).await, Outcome::Success);
    let asked = exec.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        [(
            vec!["cat".to_owned(), "/tmp/healthy".to_owned()],
            Some(Duration::from_secs(5))
        )]
    );
    let exec = Answer::new(Ok((1, b"cat: can't open '/tmp/healthy'\n")));
    assert_eq!(
        run_probe(probe.clone(), 1, &exec).await,
        Outcome::Failure("cat: can't open '/tmp/healthy'\n".into())
    );
    assert_eq!(exec.asked.lock().unwrap().len(), 1, "a failure is not retried");
    let exec = Answer::new(Ok((1, &[b'x'; 20_000])));
    assert_eq!(
        run_probe(probe.clone(), 1, &exec).await,
        Outcome::Failure("x".repeat(OUTPUT_MAX_BYTES))
    );
    let exec = Answer::new(Err("the sandbox is gone"));
    assert_eq!(
        run_probe(probe, 1, &exec).await,
        Outcome::Unknown("the sandbox is gone".into())
    );
    assert_eq!(exec.asked.lock().unwrap().len(), 3);
    assert_eq!(
        run_probe(json!({}), 1, &exec).await,
        Outcome::Unknown("missing probe handler for web_default(u-1):main".into())
    );
}
