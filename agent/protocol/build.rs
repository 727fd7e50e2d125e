//! Generates the protobuf messages and the ttrpc client and server from `proto/agent.proto`.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);
    ttrpc_codegen::Codegen::new()
        .out_dir(&out_dir)
        .input("proto/agent.proto")
        .include("proto")
        .rust_protobuf()
        .customize(ttrpc_codegen::Customize {
            async_all: true,
            ..Default::default()
        })
        .run()?;
    remove_debug_of_secrets(&out_dir.join("agent.rs"))?;
    // The generated files start with inner attributes, which are allowed in a module file but not in an `include!`.
    std::fs::write(out_dir.join("mod.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")?;
    println!("cargo:rerun-if-changed=proto/agent.proto");
    Ok(())
}

/// Messages with files, arguments or environments, which may contain Secrets. The generated `Debug` would print them,
/// so `src/redacted.rs` implements its own.
const WITH_SECRETS: [&str; 3] = ["FileProjection", "StartContainerRequest", "StartProcessRequest"];

fn remove_debug_of_secrets(generated: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = std::fs::read_to_string(generated)?;
    for message in WITH_SECRETS {
        let declaration = format!("pub struct {message} {{");
        let (before, after) = text
            .split_once(&declaration)
            .ok_or_else(|| format!("no {message} was generated"))?;
        let derives = before
            .rfind("#[derive(")
            .ok_or_else(|| format!("{message} derives nothing"))?;
        let (before, derives) = before.split_at(derives);
        let without_debug = derives.replace(",Debug", "");
        if without_debug == derives {
            return Err(format!("{message} does not derive Debug last: {derives}").into());
        }
        text = [before, &without_debug, &declaration, after].concat();
    }
    std::fs::write(generated, text)?;
    Ok(())
}
