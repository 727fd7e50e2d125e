//! The user's editor, and the file that it edits.

use std::io::{Read as _, Write as _};

use anyhow::{Context as _, bail};
use microkube_base::child;
use microkube_manifest::MAX_TEXT_BYTES;
use tempfile::NamedTempFile;

/// A text after editing, and its file, which is removed unless it is kept.
#[derive(Debug)]
pub(super) struct Edited {
    pub(super) text: String,
    pub(super) file: NamedTempFile,
}

/// The editor's program and arguments.
#[derive(Debug, PartialEq)]
pub(super) struct Editor {
    words: Vec<String>,
    /// Whether the last word is a command for a shell.
    is_shell: bool,
    extension: &'static str,
}

impl Editor {
    pub(super) fn from_env(extension: &'static str) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let command = variable("KUBE_EDITOR").or_else(|| variable("EDITOR"));
        Self::of(
            &command.unwrap_or_else(|| "vi".to_owned()),
            variable("SHELL"),
            extension,
        )
    }

    /// Splits the command like kubectl: a shell handles quotes.
    fn of(command: &str, shell: Option<String>, extension: &'static str) -> Self {
        let is_shell = command.contains(' ') && command.contains(['"', '\'', '\\']);
        let words = if is_shell {
            let shell = shell.unwrap_or_else(|| "/bin/bash".to_owned());
            vec![shell, "-c".to_owned(), command.to_owned()]
        } else {
            command.split_whitespace().map(str::to_owned).collect()
        };
        Self {
            words,
            is_shell,
            extension,
        }
    }

    /// The program and its arguments for a file.
    fn command_line(&self, path: &str) -> Vec<String> {
        let mut words = self.words.clone();
        match words.last_mut() {
            Some(last) if self.is_shell => *last = format!("{last} {path:?}"),
            _ => words.push(path.to_owned()),
        }
        words
    }

    /// Edits a text in a file that only this user can read.
    pub(super) fn edit(&self, text: &str) -> anyhow::Result<Edited> {
        let mut file = tempfile::Builder::new()
            .prefix("microkube-edit-")
            .suffix(self.extension)
            .tempfile()
            .context("cannot create a temporary file")?;
        file.write_all(text.as_bytes())
            .context("cannot write the temporary file")?;
        let words = self.command_line(&file.path().display().to_string());
        let shown = self.words.join(" ");
        let Some((program, arguments)) = words.split_first() else {
            bail!("there is no editor; set KUBE_EDITOR or EDITOR");
        };
        let status = child::command(program).args(arguments).status();
        let status = status.with_context(|| format!("unable to launch the editor {shown:?}"))?;
        if !status.success() {
            bail!("there was a problem with the editor {shown:?}");
        }
        // The editor may have replaced the file.
        let edited = std::fs::File::open(file.path()).context("cannot read the edited file")?;
        let mut text = String::new();
        edited
            .take(MAX_TEXT_BYTES as u64 + 1)
            .read_to_string(&mut text)
            .context("cannot read the edited file")?;
        Ok(Edited { text, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<String> {
        Editor::of(command, None, ".yaml").command_line("/tmp/a b.yaml")
    }

    #[test]
    fn the_command_is_split_into_words_or_run_by_a_shell() {
        assert_eq!(words("vi"), ["vi", "/tmp/a b.yaml"]);
        assert_eq!(words("code -w"), ["code", "-w", "/tmp/a b.yaml"]);
        assert_eq!(
            words("sed -i 's/a/b/'"),
            ["/bin/bash", "-c", "sed -i 's/a/b/' \"/tmp/a b.yaml\""]
        );
    }

    #[test]
    fn the_edited_text_is_read_even_from_a_new_file() {
        for command in [
            "sed -i s/a/b/",
            "sh -c 'sed s/a/b/ \"$1\" > \"$1.new\" && mv \"$1.new\" \"$1\"' sh",
        ] {
            let edited = Editor::of(command, Some("/bin/sh".to_owned()), ".yaml")
                .edit("a\n")
                .unwrap();
            assert_eq!(edited.text, "b\n", "{command}");
        }
    }

    #[test]
    fn a_failing_editor_is_an_error() {
        for (command, message) in [
            ("false", "there was a problem with the editor \"false\""),
            ("/no/such -x", "unable to launch the editor \"/no/such -x\""),
        ] {
            let error = Editor::of(command, None, ".yaml").edit("a").unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
