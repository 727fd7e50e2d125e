//! Probes and hooks against servers in this process: the shared parts of these tests.

mod command;
mod grpc;
mod hooks;
mod hostile;
mod http_get;
mod tcp;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::{Container, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Runs no command, but returns a given answer after a delay.
struct Answer {
    answer: Result<ExecOutput, ExecError>,
    after: Duration,
    asked: Mutex<Vec<(Vec<String>, Option<Duration>)>>,
}

impl Answer {
    fn new(answer: Result<(i32, &[u8]), &str>) -> Self {
        let answer = answer.map(|(exit_code, output)| ExecOutput {
            exit_code,
            output: output.to_vec(),
        });
        Self {
            answer: answer.map_err(|error| ExecError::Failed(error.to_owned())),
            after: Duration::ZERO,
            asked: Mutex::default(),
        }
    }

    fn none() -> Self {
        Self::new(Err("nothing runs commands in this test"))
    }
}

impl Exec for Answer {
    async fn run(&self, command: &[String], timeout: Option<Duration>) -> Result<ExecOutput, ExecError> {
        self.asked.lock().unwrap().push((command.to_vec(), timeout));
        tokio::time::sleep(self.after).await;
        self.answer.clone()
    }
}

fn pod() -> Pod {
    let metadata = json!({"name": "web", "namespace": "default", "uid": "u-1"});
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap()
}

fn container(port: u16) -> Container {
    serde_json::from_value(json!({"name": "main", "ports": [{"containerPort": port, "name": "http"}]})).unwrap()
}

async fn run_probe(handler: Value, port: u16, exec: &Answer) -> Outcome {
    let (pod, container) = (pod(), container(port));
    let target = Target {
        pod: &pod,
        container: &container,
        pod_ip: LOCALHOST,
    };
    probe(&serde_json::from_value(handler).unwrap(), &target, exec).await
}

async fn run(hook: Value, port: u16, timeout: Option<Duration>, exec: &Answer) -> Result<(), String> {
    let (pod, container) = (pod(), container(port));
    let target = Target {
        pod: &pod,
        container: &container,
        pod_ip: LOCALHOST,
    };
    let ran = run_hook(&serde_json::from_value(hook).unwrap(), &target, timeout, exec).await;
    ran.map_err(|error| error.to_string())
}

/// Reads the head of a request.
async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Answers the request of each connection by its number, with raw bytes, and closes it. Collects the requests.
async fn serve(answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        for number in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            seen.lock().unwrap().push(head);
            // The client may have closed the connection early.
            let _ = stream.write_all(&answer(number)).await;
        }
    });
    (address, asked)
}

fn status(line: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok").into_bytes()
}

/// A port on which no process listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}
