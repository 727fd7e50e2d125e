//! Hooks: commands, requests and sleeps, and their error messages.

use super::*;

#[tokio::test]
async fn hooks_fall_back_to_http_without_credentials() {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let hello = first.read(&mut [0; 4096]).await.unwrap();
        assert!(hello > 0);
        first.write_all(&status("400 Bad Request")).await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let head = read_head(&mut second).await;
        second.write_all(&status("200 OK")).await.unwrap();
        head.to_lowercase()
    });
    let headers = json!([{"name": "Authorization", "value": "Bearer x"}, {"name": "X-A", "value": "y"}]);
    let hook = json!({"httpGet": {"port": port, "path": "/stop", "scheme": "HTTPS", "httpHeaders": headers}});
    assert_eq!(run(hook, port, None, &Answer::none()).await, Ok(()));
    let head = served.await.unwrap();
    assert!(
        head.starts_with("get /stop ") && head.contains("x-a: y\r\n") && !head.contains("authorization"),
        "{head}"
    );
}

#[tokio::test]
async fn hooks_run_commands_and_call_servers() {
    let exec = Answer::new(Ok((0, b"")));
    let hook = json!({"exec": {"command": ["nginx", "-s", "quit"]}});
    assert_eq!(run(hook.clone(), 1, None, &exec).await, Ok(()));
    assert_eq!(exec.asked.lock().unwrap()[0].1, None);
    let exec = Answer::new(Ok((3, b"no\n")));
    assert_eq!(
        run(hook.clone(), 1, Some(Duration::from_secs(9)), &exec).await,
        Err(
            "Exec lifecycle hook ([nginx -s quit]) for Container \"main\" in Pod \"web_default(u-1)\" failed - error: \
             command 'nginx -s quit' exited with 3: , message: \"no\\n\""
                .to_owned()
        )
    );
    assert_eq!(exec.asked.lock().unwrap()[0].1, Some(Duration::from_secs(9)));
    let error = run(hook, 1, None, &Answer::none()).await.unwrap_err();
    assert!(error.ends_with("error: nothing runs commands in this test, message: \"\""));
    // Any response is a success.
    let (address, asked) = serve(|_| status("500 Internal Server Error")).await;
    let hook = json!({"httpGet": {"port": "http", "path": "/stop"}});
    assert_eq!(run(hook, address.port(), None, &exec).await, Ok(()));
    let head = asked.lock().unwrap()[0].to_lowercase();
    assert!(
        head.starts_with("get /stop ") && head.contains("user-agent: kube-lifecycle/1.36\r\n"),
        "{head}"
    );
    let port = closed_port().await;
    assert_eq!(
        run(json!({"httpGet": {"port": port, "path": "/x"}}), port, None, &exec).await,
        Err(format!(
            "HTTP lifecycle hook (/x) for Container \"main\" in Pod \"web_default(u-1)\" failed - error: \
             Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused"
        ))
    );
    let error = run(json!({"tcpSocket": {"port": port}}), port, None, &exec).await;
    assert!(error.unwrap_err().starts_with("Cannot run handler: invalid handler"));
}

#[tokio::test]
async fn a_command_hook_that_times_out_fails_and_is_not_retried() {
    let mut exec = Answer::none();
    exec.answer = Err(ExecError::TimedOut);
    let probe = json!({"exec": {"command": ["sleep", "9"]}, "timeoutSeconds": 2});
    assert_eq!(
        run_probe(probe, 1, &exec).await,
        Outcome::Failure("command timed out: \"sleep 9\" timed out after 2s".into())
    );
    assert_eq!(exec.asked.lock().unwrap().len(), 1);
    let hook = json!({"exec": {"command": ["sleep", "9"]}});
    assert_eq!(
        run(hook, 1, Some(Duration::from_secs(5)), &exec).await,
        Err("lifecycle hook for Container \"main\" in Pod \"web_default(u-1)\" did not complete within 5s".into())
    );
}

#[tokio::test(start_paused = true)]
async fn sleep_hooks_are_cancelled_at_their_timeout() {
    let begun = tokio::time::Instant::now();
    let sleep = json!({"sleep": {"seconds": 20}});
    assert_eq!(run(sleep.clone(), 1, None, &Answer::none()).await, Ok(()));
    assert_eq!(begun.elapsed().as_secs(), 20);
    let cut = run(sleep, 1, Some(Duration::from_secs(5)), &Answer::none()).await;
    assert_eq!(
        cut,
        Err("lifecycle hook for Container \"main\" in Pod \"web_default(u-1)\" did not complete within 5s".into())
    );
    assert_eq!(begun.elapsed().as_secs(), 25);
}
