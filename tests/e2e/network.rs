//! Pods reach each other and the host; no Pod can use another's address.

use microkube_tests::manifest::Pod;
use serde_json::json;

use crate::host::{alone, container, host, shell_pod};

#[test]
fn the_containers_of_a_pod_share_localhost_and_the_host_name() {
    let _alone = alone();
    let server = "hostname; mkdir /www; echo hello > /www/index.html; httpd -f -p 8080 -h /www & wait_for_end() { while [ ! -e /dev/shm/done ]; do sleep 0.1; done; }; wait_for_end";
    let client = "until wget -q -O - http://localhost:8080/; do sleep 0.1; done; hostname; touch /dev/shm/done";
    let pod = Pod::named("shared-net")
        .container(container("server", server))
        .container(container("client", client));
    let text = host().run(pod).success();
    assert!(text.contains("[client] hello\n"), "{text}");
    assert!(text.contains("[server] shared-net\n"), "{text}");
    assert!(text.contains("[client] shared-net\n"), "{text}");
}

#[test]
fn two_pods_listen_on_the_same_port_and_one_reaches_the_other_and_the_host() {
    let _alone = alone();
    let serve = "ip -4 -o addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/address \\1/'; mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www";
    // PID 1 has no handler for SIGTERM, so it runs until the end of the grace period.
    let server = |name| host().start(shell_pod(name, serve).grace_period_seconds(2));
    let mut first = server("first");
    let mut second = server("second");
    let address = |line: String| line.split_once("address ").unwrap().1.to_owned();
    let first_ip = address(first.wait_for("address "));
    let second_ip = address(second.wait_for("address "));
    assert_ne!(first_ip, second_ip);

    let host_server = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = host_server.local_addr().unwrap().port();
    let script = format!(
        "for ip in {first_ip} {second_ip}; do until wget -q -O - http://$ip/; do sleep 0.1; done; done; \
         gateway=$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'); echo hi | nc $gateway {port}; cat /etc/hosts /etc/resolv.conf /etc/hostname"
    );
    let mut third = host().start(shell_pod("third", &script));
    let mut greeting = String::new();
    std::io::Read::read_to_string(&mut host_server.accept().unwrap().0, &mut greeting).unwrap();
    assert_eq!(greeting, "hi\n");
    third.wait_for("first");
    let text = third.finish().success();
    assert!(text.starts_with("first\nsecond\n"), "{text}");
    assert!(
        text.contains("# Kubernetes-managed hosts file.") && text.contains("\tthird\n"),
        "{text}"
    );
    assert!(text.ends_with("third\n"), "{text}");
    for pod in [first, second] {
        pod.signal(libc::SIGINT);
        assert_eq!(pod.finish().code(), 137);
    }
}

#[test]
fn a_pod_cannot_send_from_another_address() {
    let _alone = alone();
    let script = "gateway=$(ip route | sed -n 's/default via \\([0-9.]*\\).*/\\1/p'); \
        ping -c 1 -W 20 $gateway > /dev/null && echo reached with its own; \
        ip addr add 10.88.255.77/16 dev eth0; \
        ping -c 2 -W 2 -I 10.88.255.77 $gateway > /dev/null || echo refused with another";
    let main = container("main", script).set("securityContext.capabilities.add", json!(["NET_ADMIN"]));
    let text = host().run(Pod::named("spoofer").container(main)).success();
    assert_eq!(text, "reached with its own\nrefused with another\n");
}
