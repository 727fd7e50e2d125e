//! Credential helpers: programs named `docker-credential-NAME`, called for one registry at a time.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use microkube_base::child;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::credential::Credential;
use super::error::HelperError;

/// Maximum size of a helper's answer, in bytes.
const ANSWER_MAX_BYTES: u64 = 64 << 10;
/// How much of a failed helper's output an error shows.
const SHOWN_CHARS: usize = 200;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper; `None` if it has nothing for the registry.
pub(super) async fn get(
    helper: &str,
    registry: &str,
    directory: Option<&Path>,
    timeout: Duration,
) -> Result<Option<Credential>, HelperError> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if helper.is_empty() || !helper.chars().all(is_name) {
        return Err(HelperError::InvalidName);
    }
    let program = format!("docker-credential-{helper}");
    let program = directory.map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program));
    // Docker's name for its own registry when it calls helpers.
    let server = match registry {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let answer = tokio::time::timeout(timeout, run(&program, server)).await;
    let (status, output) = answer.map_err(|_| HelperError::TimedOut(timeout))??;
    if !status.success() {
        let said = String::from_utf8_lossy(&output);
        let said = said.trim();
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let shown: String = said.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS).collect();
        return Err(if shown.is_empty() {
            HelperError::Failed(status)
        } else {
            HelperError::Output(shown)
        });
    }
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| HelperError::Format)?;
    if answer.username.is_empty() && answer.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(if answer.username == "<token>" {
        Credential::IdentityToken(answer.secret)
    } else {
        Credential::Password {
            username: answer.username,
            password: answer.secret,
        }
    }))
}

/// Runs the program. It is killed if the future is dropped.
async fn run(program: &Path, server: &str) -> Result<(ExitStatus, Vec<u8>), HelperError> {
    let mut child = Command::from(child::command(program))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(HelperError::Start)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper need not read its input: only its answer counts.
        let _ = stdin.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(ANSWER_MAX_BYTES + 1).read_to_end(&mut output).await;
        read.map_err(HelperError::Read)?;
    }
    if output.len() as u64 > ANSWER_MAX_BYTES {
        return Err(HelperError::TooLarge { max: ANSWER_MAX_BYTES });
    }
    let status = child.wait().await.map_err(HelperError::Wait)?;
    Ok((status, output))
}
