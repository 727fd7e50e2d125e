//! `microkube debug`: adds an ephemeral container to a Pod, or copies the Pod for debugging.

mod copy;
mod profile;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, EphemeralContainer, Pod};
use microkube_base::generated_name;
use microkube_manifest::Input;
use microkube_manifest::ephemeral::as_container;
use microkube_manifest::kinds::Object as Typed;

use self::copy::CopyOptions;
use self::profile::Profile;
use super::apply::as_kubectl_pod_error;
use super::attached_run::{FollowOptions, follow_added};
use super::completion;
use super::failure::Failure;
use super::pods_host::{self, Place, Purpose};
use super::print::print;
use super::stream::running::running_timeout;
use super::stream::session::Endings;
use super::stream::target;
use crate::pod::operations::apply;
use crate::pod::operations::delete::delete_one;
use crate::pod::operations::ephemeral;
use crate::pod::operations::update::Mode;
use crate::pod::recorded_pod::{self, RecordedPod};
use crate::state::{Paths, PodRecord, PodRecords};
use crate::stderr::say;

/// Debug a Pod with an additional container, or with a copy of the Pod
///
/// Adds an ephemeral container to the running Pod. It shares the Pod's network, host name and IPC; with --target, it
/// also sees the processes of that container. It is never restarted, and ends with the Pod.
///
/// With --copy-to, copies the Pod instead, with a new container or with other images and commands.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube debug -it web --image=busybox\n  microkube debug -it web --image=busybox --target=main\n  \
                  microkube debug web --image=busybox -c tools -- sleep 1d\n  \
                  microkube debug -it web --copy-to=web-debug --container=main -- sh\n  \
                  microkube debug web --copy-to=web-debug --set-image='*=busybox'"
)]
pub struct DebugArgs {
    /// Pod name: NAME or pod/NAME
    #[arg(value_name = "POD", add = completion::pod_names())]
    pod: String,
    /// Image of the debug container
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Name of the debug container [default: debugger- and five random characters]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Container whose processes the debug container sees
    #[arg(long, value_name = "CONTAINER", add = completion::containers())]
    target: Option<String>,
    /// Environment variable of the debug container; can be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// What the debug container may do
    #[arg(long, value_enum, default_value_t = Profile::General, value_name = "PROFILE")]
    profile: Profile,
    /// When to pull the image: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<String>,
    /// Keep stdin open, and attach to the container
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Allocate a TTY for the container; requires -i
    #[arg(short = 't', long)]
    tty: bool,
    /// Attach to the container [default: with -i]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    attach: Option<bool>,
    /// Only print output from the container
    #[arg(short, long)]
    quiet: bool,
    /// Create a copy of the Pod with this name
    #[arg(long, value_name = "NAME")]
    copy_to: Option<String>,
    /// Change images in the copy: CONTAINER=IMAGE; `*` stands for all containers; can be repeated
    #[arg(long, value_name = "CONTAINER=IMAGE", value_delimiter = ',')]
    set_image: Vec<String>,
    /// Delete the original Pod before creating the copy
    #[arg(long)]
    replace: bool,
    /// Schedule the copy on the node of the original; there is only one node
    #[arg(long)]
    same_node: bool,
    /// Whether the containers of the copy share a process namespace [default: as the profile says]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    share_processes: Option<bool>,
    /// Pass everything after -- as arguments, not as the command
    #[arg(long)]
    arguments_only: bool,
    /// How long to wait for the container to run
    #[arg(long, default_value = "1m", value_parser = running_timeout, allow_hyphen_values = true, value_name = "DURATION")]
    pod_running_timeout: Duration,
    /// Namespace of the Pod
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// The command of the debug container
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl DebugArgs {
    /// kubectl's rules (`DebugOptions.Validate`).
    fn check(&self) -> anyhow::Result<()> {
        if let Some(node) = self
            .pod
            .strip_prefix("node/")
            .or_else(|| self.pod.strip_prefix("nodes/"))
        {
            bail!(
                "microkube cannot debug node {node:?}: containers have no access to the host, only to their Pod's VM"
            );
        }
        if self.tty && !self.stdin {
            bail!("-i/--stdin is required for containers with -t/--tty=true");
        }
        if self.copy_to.is_some() {
            if self.image.is_none() && self.set_image.is_empty() && self.command.is_empty() {
                bail!("you must specify --image, --set-image or command arguments.");
            }
            if !self.command.is_empty() && self.container.is_none() && self.image.is_none() {
                bail!("you must specify an existing container or a new image when specifying args.");
            }
            if self.target.is_some() {
                bail!("--target is incompatible with --copy-to. Use --share-processes instead.");
            }
            return Ok(());
        }
        for (flag, is_set) in [
            ("--replace", self.replace),
            ("--same-node", self.same_node),
            ("--set-image", !self.set_image.is_empty()),
            ("--share-processes", self.share_processes.is_some()),
        ] {
            if is_set {
                bail!("{flag} may only be used with --copy-to.");
            }
        }
        if self.image.as_ref().is_none_or(String::is_empty) {
            bail!("you must specify --image when not using --copy-to.");
        }
        Ok(())
    }

    fn env(&self) -> anyhow::Result<Vec<EnvVar>> {
        let variables = self.env.iter().map(|variable| {
            let (name, value) = pair(variable).context("--env")?;
            Ok(EnvVar {
                name: name.to_owned(),
                value: Some(value.to_owned()),
                ..EnvVar::default()
            })
        });
        variables.collect()
    }

    fn images(&self) -> anyhow::Result<Vec<(String, String)>> {
        let images = self.set_image.iter().map(|image| {
            let (container, image) = pair(image).context("--set-image")?;
            Ok((container.to_owned(), image.to_owned()))
        });
        images.collect()
    }

    fn attaches(&self) -> bool {
        self.attach.unwrap_or(self.stdin)
    }

    /// The name of the debug container of this Pod.
    fn container_name(&self, pod: &Pod) -> String {
        if let Some(name) = &self.container {
            return name.clone();
        }
        let name = loop {
            let name = generated_name::generate("debugger-");
            if recorded_pod::container(pod, &name).is_none() {
                break name;
            }
        };
        if !self.quiet {
            say!("Defaulting debug container name to {name}.");
        }
        name
    }

    fn ephemeral_container(&self, pod: &Pod) -> anyhow::Result<EphemeralContainer> {
        let words = Some(self.command.clone()).filter(|words| !words.is_empty());
        let env = self.env()?;
        Ok(EphemeralContainer {
            name: self.container_name(pod),
            image: self.image.clone(),
            image_pull_policy: self.image_pull_policy.clone(),
            env: Some(env).filter(|env| !env.is_empty()),
            command: words.clone().filter(|_| !self.arguments_only),
            args: words.filter(|_| self.arguments_only),
            stdin: self.stdin.then_some(true),
            tty: self.tty.then_some(true),
            target_container_name: self.target.clone(),
            security_context: self.profile.security_context(None),
            ..EphemeralContainer::default()
        })
    }

    fn copy_options(&self, name: &str) -> anyhow::Result<CopyOptions> {
        Ok(CopyOptions {
            name: name.to_owned(),
            container: self.container.clone(),
            image: self.image.clone(),
            images: self.images()?,
            words: self.command.clone(),
            arguments_only: self.arguments_only,
            env: self.env()?,
            image_pull_policy: self.image_pull_policy.clone(),
            stdin: self.stdin,
            tty: self.tty,
            same_node: self.same_node,
            share_processes: self.share_processes,
            profile: self.profile,
        })
    }
}

fn pair(text: &str) -> anyhow::Result<(&str, &str)> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .with_context(|| format!("{text:?} must have the form NAME=VALUE"))
}

pub(super) fn run(args: DebugArgs) -> Result<ExitCode, Failure> {
    args.check().map_err(Failure::from)?;
    args.env().and(args.images().map(drop)).map_err(Failure::from)?;
    let purpose = match args.copy_to {
        Some(_) => Purpose::Start,
        None => Purpose::Look,
    };
    let paths = match pods_host::go_to_pods(purpose, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let pod = target::find(&paths, &args.namespace, &args.pod)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(debug(&paths, &args, &pod));
    // A blocking read of a terminal cannot be cancelled.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit_code?))
}

async fn debug(paths: &Paths, args: &DebugArgs, target: &RecordedPod) -> anyhow::Result<u8> {
    let mut endings = Endings::new()?;
    let (record, container) = match &args.copy_to {
        Some(name) => {
            let copied = create_copy(paths, args, target, name).await?;
            match copied {
                (record, Some(container)) => (record, container),
                (_, None) => return Ok(0),
            }
        }
        None => (target.record.clone(), add_container(paths, args, target).await?),
    };
    if !args.attaches() {
        return Ok(0);
    }
    let options = FollowOptions {
        stdin: args.stdin,
        tty: args.tty,
        pod_running_timeout: args.pod_running_timeout,
        rm: false,
        may_restart: args.copy_to.is_some(),
    };
    follow_added(paths, &record, &container, options, &mut endings).await
}

/// Adds the ephemeral container.
async fn add_container(paths: &Paths, args: &DebugArgs, target: &RecordedPod) -> anyhow::Result<Container> {
    if target.is_completed() {
        bail!(
            "cannot debug a completed pod; current phase is {} (use --copy-to)",
            target.phase()
        );
    }
    if let Some(target) = &args.target
        && !args.quiet
    {
        print(&format!(
            "Targeting container {target:?}. If you don't see processes from this container it may be because the container runtime \
             doesn't support this feature.\n"
        ))?;
    }
    let container = args.ephemeral_container(&target.record.pod)?;
    ephemeral::add(paths, &target.record, &container).await?;
    Ok(as_container(&container))
}

/// Creates the copy. Returns its record, and the container to attach to.
async fn create_copy(
    paths: &Paths,
    args: &DebugArgs,
    target: &RecordedPod,
    name: &str,
) -> anyhow::Result<(PodRecord, Option<Container>)> {
    let original = &target.record;
    let (copied, container) = copy::copy(&original.pod, &args.copy_options(name)?, |pod| args.container_name(pod))?;
    let mut manifest = serde_json::to_value(&copied).context("cannot encode the copy")?;
    manifest["apiVersion"] = "v1".into();
    manifest["kind"] = "Pod".into();
    let text = manifest.to_string();
    let input = Input {
        source: "the copy",
        text: text.as_bytes(),
    };
    let manifests = microkube_manifest::load(&[input])?;
    let pod = manifests.pods.first().context("there is no Pod")?;
    if args.replace {
        delete_one(paths, original.clone(), Some(Duration::ZERO)).await?;
    }
    let created = apply::create(paths, pod, Mode::Write).await;
    let created = created.map_err(|error| as_kubectl_pod_error(Typed::from(pod.clone()).kind(), error, None))?;
    let record = PodRecords::new(paths.clone()).find(&original.namespace, name)?;
    let record = record.ok_or_else(|| anyhow!("pod {name:?} is gone"))?;
    let container =
        container.and_then(|container| recorded_pod::container(&created, &container).map(|found| found.into_owned()));
    Ok((record, container))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: DebugArgs,
    }

    fn args(words: &[&str]) -> DebugArgs {
        let words = ["debug"].iter().chain(words);
        <Cli as clap::Parser>::try_parse_from(words).unwrap().args
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web"}, "spec": {"containers": [{"name": "main", "image": "i"}]},
        }))
        .unwrap()
    }

    #[test]
    fn arguments_that_do_not_fit_have_kubectls_messages() {
        for (words, message) in [
            (&["web"][..], "you must specify --image when not using --copy-to."),
            (
                &["web", "--image=b", "-t"],
                "-i/--stdin is required for containers with -t/--tty=true",
            ),
            (
                &["web", "--image=b", "--replace"],
                "--replace may only be used with --copy-to.",
            ),
            (
                &["web", "--image=b", "--same-node"],
                "--same-node may only be used with --copy-to.",
            ),
            (
                &["web", "--image=b", "--set-image=a=b"],
                "--set-image may only be used with --copy-to.",
            ),
            (
                &["web", "--copy-to=x"],
                "you must specify --image, --set-image or command arguments.",
            ),
            (
                &["web", "--copy-to=x", "--", "sh"],
                "you must specify an existing container or a new image when specifying args.",
            ),
            (
                &["web", "--copy-to=x", "--image=b", "--target=main"],
                "--target is incompatible with --copy-to. Use --share-processes instead.",
            ),
            (
                &["node/host", "--image=b"],
                "microkube cannot debug node \"host\": containers have no access to the host, only to their Pod's VM",
            ),
        ] {
            assert_eq!(args(words).check().unwrap_err().to_string(), message);
        }
        args(&["-it", "web", "--image=b", "--target=main", "--", "sh"])
            .check()
            .unwrap();
        args(&["web", "--copy-to=x", "--set-image=*=b"]).check().unwrap();
    }

    #[test]
    fn the_ephemeral_container_has_what_the_arguments_say() {
        let container = args(&[
            "-it",
            "web",
            "--image=busybox",
            "-c",
            "tools",
            "--target=main",
            "--env=A=b=c",
            "--profile=netadmin",
            "--",
            "sh",
            "-x",
        ])
        .ephemeral_container(&pod())
        .unwrap();
        assert_eq!(
            serde_json::to_value(container).unwrap(),
            json!({
                "name": "tools", "image": "busybox", "command": ["sh", "-x"], "stdin": true, "tty": true,
                "targetContainerName": "main", "env": [{"name": "A", "value": "b=c"}],
                "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
            })
        );
    }

    #[test]
    fn the_default_name_is_random_and_the_words_may_be_arguments() {
        let args = args(&[
            "web",
            "--image=b",
            "--quiet",
            "--arguments-only",
            "--profile=legacy",
            "--",
            "x",
        ]);
        let container = args.ephemeral_container(&pod()).unwrap();
        assert!(
            container.name.len() == 14 && container.name.starts_with("debugger-"),
            "{}",
            container.name
        );
        assert_eq!((container.command, container.args), (None, Some(vec!["x".to_owned()])));
        assert_eq!(container.security_context, None);
        assert!(!args.attaches());
    }

    #[test]
    fn attaching_follows_stdin_unless_it_is_specified() {
        assert!(args(&["web", "--image=b", "-i"]).attaches());
        assert!(!args(&["web", "--image=b", "-i", "--attach=false"]).attaches());
        assert!(args(&["web", "--image=b", "--attach"]).attaches());
    }

    #[test]
    fn pairs_need_a_name() {
        let error = args(&["web", "--image=b", "--env=x"]).env().unwrap_err();
        assert_eq!(format!("{error:#}"), "--env: \"x\" must have the form NAME=VALUE");
        assert!(args(&["web", "--copy-to=x", "--set-image=y"]).images().is_err());
    }
}
