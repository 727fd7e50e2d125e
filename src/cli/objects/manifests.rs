//! Objects of all kinds in the manifests named on a command line.

use anyhow::bail;
use microkube_manifest::Input;
use microkube_manifest::kinds::{self, Document};

use super::super::failure::Failure;
use super::super::manifests::{self, FilenameArgs, Texts};
use super::super::namespace::NamespaceArg;
use super::name::ObjectName;

/// The documents that were read.
#[derive(Debug)]
pub(in crate::cli) struct Documents {
    pub(in crate::cli) documents: Vec<Document>,
    /// The content of standard input, if it was read.
    pub(in crate::cli) consumed_stdin: Option<Vec<u8>>,
}

/// Reads the objects of these paths, without defaults and validation.
pub(in crate::cli) fn read(files: &FilenameArgs) -> Result<Documents, Failure> {
    let Texts { texts, consumed_stdin } = manifests::texts(files).map_err(Failure::from)?;
    let inputs: Vec<Input<'_>> = texts.iter().map(|(source, text)| Input { source, text }).collect();
    let documents = kinds::read_documents(&inputs).map_err(Failure::from)?;
    if documents.is_empty() {
        return Err(Failure::from(anyhow::anyhow!(
            "no objects passed: the manifests are empty"
        )));
    }
    Ok(Documents {
        documents,
        consumed_stdin,
    })
}

/// The name of a document's object. The command line's namespace applies to objects that do not specify one.
pub(in crate::cli) fn name_of(document: &Document, namespace: &NamespaceArg) -> anyhow::Result<ObjectName> {
    let metadata = document.object().metadata();
    let Some(name) = metadata.name.clone().filter(|name| !name.is_empty()) else {
        let place = document.place();
        bail!(
            "{}:{}:{}: resource name may not be empty",
            document.source(),
            place.line,
            place.column
        );
    };
    if !document.kind().namespaced {
        return Ok(ObjectName { namespace: None, name });
    }
    let stated = metadata.namespace.clone().filter(|stated| !stated.is_empty());
    let own = match (stated, &namespace.namespace) {
        (Some(stated), Some(given)) if stated != *given => bail!(
            "the namespace from the provided object {stated:?} does not match the namespace {given:?}. You must pass \
             '--namespace={stated}' to perform this operation."
        ),
        (Some(stated), _) => stated,
        (None, _) => namespace.or_default(),
    };
    Ok(ObjectName {
        namespace: Some(own),
        name,
    })
}
