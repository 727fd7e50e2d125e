//! The table of kinds in `docs/kinds.md`.

use std::fmt::Write as _;

use microkube_manifest::kinds;

const BEGIN: &str = "| Kind | `apiVersion` |";

/// The purpose of a kind's objects.
fn use_of(kind: &str) -> &'static str {
    match kind {
        "ConfigMap" => "settings for containers",
        "Namespace" => "a scope for names; created with the first object in it",
        "PersistentVolume" => "storage for claims: disks on the node, `hostPath` and `local`",
        "PersistentVolumeClaim" => "storage of Pods that outlives them",
        "StorageClass" => "how volumes are created for claims; `standard` exists from the beginning",
        "Pod" => "containers in a separate virtual machine",
        "Secret" => "secret settings, registry credentials",
        "ServiceAccount" => "`imagePullSecrets` for its Pods; each namespace has one named `default`",
        _ => "",
    }
}

fn table() -> String {
    let mut text =
        format!("{BEGIN} Other names | In a namespace | Subresources | Used for |\n|---|---|---|---|---|---|\n");
    let code = |names: &mut dyn Iterator<Item = &str>| {
        let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    for kind in kinds::all() {
        let names = [kind.plural].into_iter().chain(kind.short_names.iter().copied());
        // Separate verbs cover the other subresources.
        let subresources = kind.subresources.iter().copied().filter(|name| *name == "status");
        let _ = writeln!(
            text,
            "| {} | `{}` | {} | {} | {} | {} |",
            kind.kind,
            kind.api_version(),
            code(&mut names.into_iter()),
            if kind.namespaced { "yes" } else { "no" },
            code(&mut subresources.into_iter()),
            use_of(kind.kind)
        );
    }
    text
}

#[test]
fn the_table_in_the_documentation_has_all_kinds() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/kinds.md");
    let kept = std::fs::read_to_string(file).unwrap();
    let begin = kept.find(BEGIN).unwrap();
    let length = kept[begin..].find("\n\n").unwrap() + 1;
    if std::env::var_os("MICROKUBE_WRITE_EXPECTED").is_some() {
        let (before, after) = (&kept[..begin], &kept[begin + length..]);
        std::fs::write(file, format!("{before}{}{after}", table())).unwrap();
        return;
    }
    assert_eq!(
        &kept[begin..begin + length],
        table(),
        "regenerate it: MICROKUBE_WRITE_EXPECTED=1 cargo test kinds_page"
    );
}
