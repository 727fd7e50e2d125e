//! TLS, passwords and tokens with real servers and other tools.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::server::{Options, Registry, layout, result, succeed};

fn secured() -> Registry {
    let registry = Registry::start(&Options {
        tls: true,
        password: Some(("tester", "pass:word")),
        ..Options::default()
    });
    registry.push(&layout("busybox"), "busybox", &[]);
    registry
}

#[test]
fn missing_tls_settings_or_passwords_are_reported() {
    let registry = secured();
    let error = registry.pull("busybox").unwrap_err();
    assert!(error.contains("certificate"), "{error}");
    assert!(
        error.contains(&format!("/etc/containers/certs.d/{}/ca.crt", registry.address)),
        "{error}"
    );
    registry.trust();
    let error = registry.pull("busybox").unwrap_err();
    assert!(
        error.contains("podman login") && error.contains("imagePullSecrets"),
        "{error}"
    );
    assert!(
        std::fs::read_dir(registry.path("state/images/tmp"))
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn credentials_stored_by_other_tools_are_found() {
    let registry = secured();
    registry.trust();
    let login = |arguments: &[&str]| {
        let mut command = Command::new("skopeo");
        command
            .args(["login", "--username", "tester", "--password", "pass:word"])
            .args(arguments);
        command
            .arg("--cert-dir")
            .arg(registry.path("authority"))
            .arg(&registry.address);
        succeed(&mut command);
    };
    let auth_file = registry.path("home/run/containers/auth.json");
    std::fs::create_dir_all(auth_file.parent().unwrap()).unwrap();
    login(&["--authfile", auth_file.to_str().unwrap()]);
    let id = registry.pull("busybox").unwrap();
    assert!(id.starts_with("sha256:"), "{id}");
    // The same file under Docker's name.
    let docker = registry.path("home/.docker/config.json");
    std::fs::create_dir_all(docker.parent().unwrap()).unwrap();
    std::fs::rename(&auth_file, &docker).unwrap();
    assert_eq!(registry.pull("busybox").unwrap(), id);
    // And specified explicitly.
    let named = registry.path("named.json");
    std::fs::rename(&docker, &named).unwrap();
    registry.pull("busybox").unwrap_err();
    let mut command = registry.microkube(["image", "pull", "-q", &registry.image("busybox")]);
    assert_eq!(
        result(command.env("REGISTRY_AUTH_FILE", &named).output().unwrap()).unwrap(),
        id
    );
}

#[test]
fn a_credential_helper_is_asked() {
    let registry = secured();
    registry.trust();
    let helpers = registry.path("bin");
    std::fs::create_dir_all(&helpers).unwrap();
    let helper = helpers.join("docker-credential-test");
    let script = "#!/bin/sh\nread server\necho \"$1 $server\" >> \"$HOME/asked\"\necho '{\"Username\":\"tester\",\"Secret\":\"pass:word\"}'\n";
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = registry.path("docker");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.json"), r#"{"credsStore":"test"}"#).unwrap();
    let mut command = registry.microkube(["image", "pull", "-q", &registry.image("busybox")]);
    let path = format!("{}:{}", helpers.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("DOCKER_CONFIG", &config);
    result(command.output().unwrap()).unwrap();
    let asked = std::fs::read_to_string(registry.path("home/asked")).unwrap();
    assert_eq!(asked, format!("get {}\n", registry.address));
}

#[test]
fn a_wrong_password_is_an_error_that_does_not_repeat_it() {
    let registry = secured();
    registry.trust();
    let auth_file = registry.path("auth.json");
    let auth = BASE64_STANDARD.encode("tester:wrong-one");
    std::fs::write(
        &auth_file,
        json!({"auths": {&registry.address: {"auth": auth}}}).to_string(),
    )
    .unwrap();
    let mut command = registry.microkube(["image", "pull", "-q", &registry.image("busybox")]);
    let error = result(command.env("REGISTRY_AUTH_FILE", &auth_file).output().unwrap()).unwrap_err();
    assert!(error.contains("rejected the credentials"), "{error}");
    assert!(!error.contains("wrong-one") && !error.contains(&auth), "{error}");
}

/// A token server as the registry's documentation describes it: it signs the permissions of users who know the
/// password.
struct TokenServer {
    certificate: String,
    realm: String,
}

impl TokenServer {
    fn start(user: &'static str, password: &'static str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let chain = BASE64_STANDARD.encode(certificate.der());
        let signer = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &key.serialize_der(),
            &SystemRandom::new(),
        )
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let realm = format!("http://{}/token", listener.local_addr().unwrap());
        let expected = format!(
            "authorization: basic {}",
            BASE64_STANDARD.encode(format!("{user}:{password}"))
        );
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let lines = BufReader::new(connection.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok);
                let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                let is_user = head.iter().any(|line| line.eq_ignore_ascii_case(&expected));
                let (status, body) = match is_user {
                    true => ("200 OK", json!({"token": token(&signer, &chain, user)}).to_string()),
                    false => ("401 Unauthorized", String::new()),
                };
                let length = body.len();
                let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
                // It does not matter if the client has gone.
                let _ = connection.write_all(reply.as_bytes());
            }
        });
        Self {
            certificate: certificate.pem(),
            realm,
        }
    }
}

fn token(signer: &EcdsaKeyPair, chain: &str, user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [chain]});
    let claims = json!({
        "iss": "test-issuer", "sub": user, "aud": "test-service", "jti": "1",
        "iat": now - 10, "nbf": now - 10, "exp": now + 300,
        "access": [{"type": "repository", "name": "test/busybox", "actions": ["pull", "push"]}],
    });
    let encode = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let signature = signer.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn tokens_are_fetched_from_the_server_the_registry_names() {
    let tokens = TokenServer::start("tester", "secret");
    let bundle = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bundle.path(), &tokens.certificate).unwrap();
    let registry = Registry::start(&Options {
        config: format!(
            "auth: {{token: {{realm: \"{}\", service: test-service, issuer: test-issuer, rootcertbundle: {}}}}}\n",
            tokens.realm,
            bundle.path().display()
        ),
        ..Options::default()
    });
    registry.push(&layout("busybox"), "busybox", &["--dest-creds", "tester:secret"]);
    let error = registry.pull("busybox").unwrap_err();
    assert!(error.contains("podman login"), "{error}");
    let auth_file = registry.path("auth.json");
    let auth = BASE64_STANDARD.encode("tester:secret");
    // For this repository only, as `podman login REGISTRY/REPOSITORY` stores it.
    let key = registry.image("busybox");
    std::fs::write(&auth_file, json!({"auths": {key: {"auth": auth}}}).to_string()).unwrap();
    let mut command = registry.microkube(["image", "pull", "-q", &registry.image("busybox")]);
    result(command.env("REGISTRY_AUTH_FILE", &auth_file).output().unwrap()).unwrap();
}
