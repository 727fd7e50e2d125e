//! `Debug` of messages that may contain Secrets.

use std::fmt;

use crate::messages::{FileProjection, StartContainerRequest, StartProcessRequest};

impl fmt::Debug for FileProjection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileProjection")
            .field("path", &self.path)
            .field("content", &format_args!("({} bytes)", self.content.len()))
            .field("mode", &format_args!("{:#o}", self.mode))
            .field("fs_user", &self.fs_user)
            .finish()
    }
}

impl fmt::Debug for StartContainerRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartContainerRequest")
            .field("id", &self.id)
            .field("layer_ids", &self.layer_ids)
            .field("args", &format_args!("({})", self.args.len()))
            .field("env", &format_args!("({})", self.env.len()))
            .field("working_dir", &self.working_dir)
            .field("user", &self.user)
            .field("mounts", &self.mounts)
            .field("resources", &self.resources)
            .field("security", &self.security)
            .field("stdin", &self.stdin)
            .field("tty", &self.tty)
            .field("termination_message_path", &self.termination_message_path)
            .field("oom_score_adj", &self.oom_score_adj)
            .field("start_after", &self.start_after)
            .field("pid_namespace_of", &self.pid_namespace_of)
            .finish()
    }
}

impl fmt::Debug for StartProcessRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartProcessRequest")
            .field("container_id", &self.container_id)
            .field("process_id", &self.process_id)
            .field("args", &format_args!("({})", self.args.len()))
            .field("stdin", &self.stdin)
            .field("tty", &self.tty)
            .field("terminal_size", &self.terminal_size)
            .field("timeout_ms", &self.timeout_ms)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::messages::{FileProjection, StartContainerRequest, StartProcessRequest, WriteFileVolumeRequest};

    #[test]
    fn debug_of_a_start_shows_neither_arguments_nor_environment() {
        let container = StartContainerRequest {
            id: "main-0".to_owned(),
            args: vec!["--password=hunter2".to_owned()],
            env: vec!["PASSWORD=hunter2".to_owned(), "USER=hunter2".to_owned()],
            ..Default::default()
        };
        let shown = format!("{container:?}");
        assert!(
            shown.contains(r#"id: "main-0", layer_ids: [], args: (1), env: (2), working_dir"#),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
        let process = StartProcessRequest {
            process_id: "exec-1".to_owned(),
            args: vec!["login".to_owned(), "hunter2".to_owned()],
            ..Default::default()
        };
        let shown = format!("{process:?}");
        assert!(
            shown.contains(r#"process_id: "exec-1", args: (2), stdin: false"#),
            "{shown}"
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn debug_of_a_request_does_not_show_the_content_of_files() {
        let request = WriteFileVolumeRequest {
            volume: "credentials".to_owned(),
            files: vec![FileProjection {
                path: "password".to_owned(),
                content: b"hunter2".to_vec(),
                mode: 0o400,
                ..Default::default()
            }],
            ..Default::default()
        };
        let shown = format!("{request:?}");
        assert!(
            shown.contains(r#"FileProjection { path: "password", content: (7 bytes), mode: 0o400, fs_user: None }"#),
            "{shown}"
        );
        assert!(!shown.contains("hunter2") && !shown.contains("104, 117"), "{shown}");
    }
}
