//! nginx as a new user would run it: alone, and with a sidecar.

use microkube_tests::built::source_tree;

use crate::host::{alone, host, http_get, wait_until};

const NGINX: &str = r"
apiVersion: v1
kind: Pod
metadata:
  name: my-nginx-pod
spec:
  containers:
  - name: my-nginx-container
    image: nginx:latest
    imagePullPolicy: IfNotPresent
    ports:
    - containerPort: 80
      protocol: TCP
";

/// The Pod's address, from the record of its lease.
fn pod_ip() -> String {
    let mut address = None;
    wait_until("the Pod has an address", || {
        let leases = host().state_dir.join("network/leases");
        address = std::fs::read_dir(leases)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .find(|name| name.parse::<std::net::Ipv4Addr>().is_ok());
        address.is_some()
    });
    address.unwrap()
}

#[test]
fn nginx_is_reachable_from_the_host_at_the_pods_address_and_ends_gracefully() {
    let _alone = alone();
    let before = host().leftovers();
    let pod = host().start(NGINX);
    let address = format!("{}:80", pod_ip());
    let mut page = String::new();
    wait_until("nginx answers", || {
        page = http_get(&address, "/").unwrap_or_default();
        !page.is_empty()
    });
    assert!(page.contains("Welcome to nginx!"), "{page}");
    host().leftovers().assert_one_pod_more_than(&before);
    pod.signal(libc::SIGINT);
    // nginx's stop signal is SIGQUIT, on which it exits normally, with exit code 0.
    pod.finish().success();
    host().assert_nothing_left_since(&before);
}

#[test]
fn the_sidecar_reaches_nginx_on_localhost() {
    let _alone = alone();
    let manifest = std::fs::read_to_string(source_tree().join("examples/nginx-sidecar.yaml")).unwrap();
    let mut pod = host().start(&manifest);
    pod.wait_for("[debian-sidecar-container] <h1>Welcome to nginx!</h1>");
    pod.wait_for("[debian-sidecar-container] fetched from localhost by my-nginx-pod");
    pod.signal(libc::SIGTERM);
    pod.finish().success();
}
