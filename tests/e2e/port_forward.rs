//! `port-forward`: servers that listen on a Pod's localhost, reached from the host.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use microkube_tests::manifest::Pod;

use crate::detached_pod::Detached;
use crate::host::{Running, alone, container, host, http_get, processes, shell_pod};

/// Serves `hello` on port 8080 of localhost only.
const HELLO: &str = "mkdir /www; echo hello > /www/index.html; httpd -p 127.0.0.1:8080 -h /www; ";

/// Sends back what each connection to port 7000 sends. As many connections as `nc` has `l`s may wait to be accepted. With
/// two, and many that come at once, the guest's kernel answers with SYN cookies, and then resets a connection whose second
/// segment comes before it is accepted: what it sent is lost.
const ECHO: &str = "nc -$(printf %064d 0 | tr 0 l) -p 7000 -e cat & \
                    until nc 127.0.0.1 7000 < /dev/null; do sleep 0.1; done; ";

/// Ends on SIGTERM.
const WAIT: &str = "echo serving; trap 'exit 0' TERM; while :; do sleep 0.1; done";

fn serving(pod: &Pod) -> Detached {
    let pod = Detached::start(pod);
    pod.wait_for_log("main", "serving");
    pod
}

fn server(name: &str, scripts: &[&str]) -> Detached {
    serving(&shell_pod(name, &format!("{}{WAIT}", scripts.concat())))
}

/// A running `port-forward` with random local ports on IPv4, and those ports.
#[track_caller]
fn forward(pod: &str, ports: &[&str]) -> (Running, Vec<u16>) {
    let mut forward = host().begin([&["port-forward", "--address=127.0.0.1", pod][..], ports].concat());
    let local = ports.iter().map(|port| {
        let remote = port.trim_start_matches(':');
        let line = forward.wait_for(&format!(" -> {remote}"));
        let address = line.strip_prefix("Forwarding from 127.0.0.1:").unwrap();
        address.split(' ').next().unwrap().parse().unwrap()
    });
    let local = local.collect();
    (forward, local)
}

/// What the server of [`HELLO`] answers.
#[track_caller]
fn hello(port: u16) {
    let answer = http_get(&format!("127.0.0.1:{port}"), "/").unwrap();
    assert!(answer.ends_with("\r\n\r\nhello\n"), "{answer}");
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

#[test]
fn local_ports_lead_to_servers_on_the_localhost_of_the_pod_until_it_is_deleted() {
    let _alone = alone();
    let pod = server("forwarded", &[HELLO, ECHO]);
    let (mut forward, ports) = forward("pod/forwarded", &[":8080", ":7000", ":9"]);
    hello(ports[0]);
    forward.wait_for(&format!("Handling connection for {}", ports[0]));

    // Nothing listens there. The others still work.
    let error = connect(ports[2]).read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let line = forward.wait_for("error: an error occurred forwarding");
    assert!(
        line.contains(&format!("{} -> 9: error forwarding port 9 to pod ", ports[2]))
            && line.contains("dial tcp4 127.0.0.1:9: connect: connection refused"),
        "{line}"
    );
    hello(ports[0]);

    // Each direction ends by itself.
    let mut echo = connect(ports[1]);
    echo.write_all(b"some").unwrap();
    let mut some = [0; 4];
    echo.read_exact(&mut some).unwrap();
    echo.write_all(b" more").unwrap();
    echo.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    echo.read_to_string(&mut rest).unwrap();
    assert_eq!((&some, rest.as_str()), (b"some", " more"));

    pod.delete();
    let finished = forward.finish();
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.ends_with("lost connection to pod\n"), "{finished:?}");
}

#[test]
fn many_connections_carry_many_bytes_at_the_same_time() {
    let _alone = alone();
    let _pod = server("many", &[ECHO]);
    let (forward, ports) = forward("many", &[":7000"]);
    let port = ports[0];
    // These are open the whole time, and send nothing.
    let idle: Vec<TcpStream> = (0..20).map(|_| connect(port)).collect();
    std::thread::scope(|scope| {
        for number in 0..10_u32 {
            scope.spawn(move || {
                let bytes: Vec<u8> = (0..1_u32 << 18)
                    .flat_map(|index| (index.wrapping_mul(2_654_435_761) ^ number).to_le_bytes())
                    .collect();
                let mut stream = connect(port);
                let mut writer = stream.try_clone().unwrap();
                std::thread::scope(|scope| {
                    let bytes = &bytes;
                    scope.spawn(move || {
                        writer.write_all(bytes).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut echoed = Vec::new();
                    stream.read_to_end(&mut echoed).unwrap();
                    assert!(&echoed == bytes, "{} bytes", echoed.len());
                });
            });
        }
    });
    drop(idle);
    forward.signal(libc::SIGINT);
    let finished = forward.finish();
    assert_eq!(finished.code(), 0, "{finished:?}");
    assert_eq!(finished.stderr.replace(EMULATED, ""), "");
}

/// What the command says in the emulated host.
const EMULATED: &str =
    "microkube: these ports are open in the emulated host only; `microkube machine exec` runs programs there\n";

#[test]
fn both_loopback_addresses_lead_to_a_pod_with_users_of_its_own() {
    let _alone = alone();
    let main = container("main", &format!("{HELLO}{WAIT}"))
        .set("ports", serde_json::json!([{ "name": "http", "containerPort": 8080 }]));
    let pod = Pod::named("mapped-forward")
        .container(main)
        .set("spec.hostUsers", false);
    let _pod = serving(&pod);
    let mut forward = host().begin(["port-forward", "mapped-forward", "18080:http"]);
    let mut addresses = vec!["127.0.0.1:18080"];
    // As in kubectl, one of them is enough.
    if TcpListener::bind("[::1]:0").is_ok() {
        addresses.push("[::1]:18080");
    }
    for address in addresses {
        forward.wait_for(&format!("Forwarding from {address} -> 8080"));
        let answer = http_get(address, "/").unwrap();
        assert!(answer.ends_with("\r\n\r\nhello\n"), "{answer}");
    }
    // The port is used now.
    let second = host().output(["port-forward", "mapped-forward", "18080:http"]);
    assert_eq!(second.code(), 1, "{second:?}");
    for text in [
        "Unable to listen on port 18080: Listeners failed to create with the following errors: [unable to create listener: Error \
         listen tcp4 127.0.0.1:18080: bind: address already in use",
        "unable to listen on any of the requested ports: [{18080 8080}]",
    ] {
        assert!(second.stderr.contains(text), "{second:?}");
    }
    for (ports, message) in [
        ("nope", "Pod 'mapped-forward' does not have a named port 'nope'"),
        ("80:0", "remote port must be > 0"),
    ] {
        let refused = host().output(["port-forward", "mapped-forward", ports]);
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.stderr.contains(message), "{refused:?}");
    }
}

#[test]
fn new_connections_work_after_the_supervisor_has_died() {
    let _alone = alone();
    let _pod = server("reforwarded", &[HELLO, ECHO]);
    let (mut forward, ports) = forward("reforwarded", &[":8080", ":7000"]);
    let mut broken = connect(ports[1]);
    broken.write_all(b"x").unwrap();
    broken.read_exact(&mut [0; 1]).unwrap();
    let supervisors = processes(&["supervise"]);
    assert_eq!(supervisors.len(), 1);
    // SAFETY: kill(2) takes integers. The PID was found by the victim's command line a moment ago.
    unsafe { libc::kill(supervisors[0], libc::SIGKILL) };
    broken.read(&mut [0; 1]).unwrap_err();
    forward.wait_for("error: an error occurred forwarding");
    host().succeed(["recover"]);
    hello(ports[0]);
}

#[test]
fn a_pod_that_does_not_run_is_an_error_with_its_phase() {
    let _alone = alone();
    let ended = Detached::start(&shell_pod("ended-forward", "true"));
    ended.wait_phase("Succeeded");
    let finished = host().output(["port-forward", "ended-forward", ":80"]);
    assert_eq!(finished.code(), 1, "{finished:?}");
    let message = "unable to forward port because pod is not running. Current status=Succeeded\n";
    assert!(finished.stderr.ends_with(message), "{finished:?}");
    let gated = shell_pod("gated-forward", "true").set(
        "spec.schedulingGates",
        serde_json::json!([{ "name": "example.com/wait" }]),
    );
    let _gated = Detached::start(&gated);
    let finished = host().output(["port-forward", "gated-forward", ":80", "--pod-running-timeout=100ms"]);
    assert_eq!(finished.code(), 1, "{finished:?}");
    assert!(finished.stderr.ends_with("Current status=Pending\n"), "{finished:?}");
}
