//! A registry on the loopback interface, with microkube and skopeo as its clients.

use std::ffi::OsStr;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// Longer than any successful operation here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Built by `make`: one OCI layout per image.
pub fn layout(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/images").join(name);
    assert!(
        path.join("index.json").is_file(),
        "{} is missing: use `make registry-test`",
        path.display()
    );
    format!("oci:{}:latest", path.display())
}

/// A registry, ended when dropped, and a directory for its files and those of its clients.
pub struct Registry {
    pub directory: TempDir,
    /// Host and port.
    pub address: String,
    process: Child,
    tls: bool,
    /// USER:PASSWORD for pushing.
    credentials: Option<String>,
}

/// How to configure the registry.
#[derive(Default)]
pub struct Options<'a> {
    pub tls: bool,
    /// The accepted user and password.
    pub password: Option<(&'a str, &'a str)>,
    /// Additional configuration.
    pub config: String,
}

impl Registry {
    pub fn start(options: &Options<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        // The port was free a moment ago: if another process takes it now, the registry visibly fails to start.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {address}\n",
            path("storage").display()
        );
        if options.tls {
            write_certificates(directory.path());
            config += &format!(
                "  tls: {{certificate: {}, key: {}}}\n",
                path("server.crt").display(),
                path("server.key").display()
            );
        }
        if let Some((user, password)) = options.password {
            let hashed = succeed(Command::new("htpasswd").args(["-nbB", user, password]));
            std::fs::write(path("htpasswd"), hashed).unwrap();
            config += &format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                path("htpasswd").display()
            );
        }
        config += &options.config;
        std::fs::write(path("registry.yml"), config).unwrap();
        let log = std::fs::File::create(path("registry.log")).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(path("registry.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut process = command.spawn().expect("docker-registry is installed by `make`");
        let start = Instant::now();
        while TcpStream::connect(&address).is_err() {
            let ended = process.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "the registry does not start: {}",
                std::fs::read_to_string(path("registry.log")).unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self {
            address,
            process,
            tls: options.tls,
            credentials: options.password.map(|(user, password)| format!("{user}:{password}")),
            directory,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The full name of one of its images.
    pub fn image(&self, name: &str) -> String {
        format!("{}/test/{name}", self.address)
    }

    /// Pushes an image with skopeo.
    pub fn push(&self, source: &str, name: &str, options: &[&str]) {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet"]).args(options);
        if self.tls {
            command.arg("--dest-cert-dir").arg(self.path("authority"));
        } else {
            command.arg("--dest-tls-verify=false");
        }
        if let Some(credentials) = &self.credentials {
            command.args(["--dest-creds", credentials]);
        }
        succeed(command.arg(source).arg(format!("docker://{}", self.image(name))));
    }

    /// Makes microkube's user trust the registry's certificate.
    pub fn trust(&self) {
        let directory = self.path("home/.config/containers/certs.d").join(&self.address);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(self.path("authority/ca.crt"), directory.join("ca.crt")).unwrap();
    }

    /// microkube as a user with a separate home and state, not started yet.
    pub fn microkube<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        std::fs::create_dir_all(self.path("home")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_microkube"));
        // Image verbs need no KVM.
        command
            .args(args)
            .arg("--on-this-host")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("XDG_RUNTIME_DIR", self.path("home/run"))
            // Do not read the host's configuration file.
            .env("MICROKUBE_CONFIG", "")
            .env("MICROKUBE_STATE_DIR", self.path("state"))
            .env("MICROKUBE_RUN_DIR", self.path("run"))
            .stdin(Stdio::null());
        command
    }

    /// Pulls an image; returns its ID, or else stderr.
    pub fn pull(&self, name: &str) -> Result<String, String> {
        result(
            self.microkube(["image", "pull", "-q", &self.image(name)])
                .output()
                .unwrap(),
        )
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// stdout of a process, or stderr if it failed with the expected exit code 1.
pub fn result(output: Output) -> Result<String, String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    match output.status.code() {
        Some(0) => Ok(text(output.stdout)),
        Some(1) => Err(text(output.stderr)),
        _ => panic!("{output:?}"),
    }
}

/// Runs a tool, which must succeed; returns its stdout.
pub fn succeed(command: &mut Command) -> Vec<u8> {
    // A separate process group, so that Ctrl-C for the tests does not end the tools first.
    let output = command.process_group(0).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} (installed by `make`): {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}

/// Writes a CA to `authority/ca.crt`, and the registry's certificate and key next to it.
fn write_certificates(directory: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    std::fs::create_dir(directory.join("authority")).unwrap();
    std::fs::write(directory.join("authority/ca.crt"), authority.pem()).unwrap();
    std::fs::write(directory.join("server.crt"), certificate.pem()).unwrap();
    std::fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
}
