//! Generates the protobuf messages and the ttrpc client and server from `proto/agent.proto`.

use std::path::PathBuf;

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
    // The generated files start with inner attributes, which `include!` does not take but a module file does.
    std::fs::write(out_dir.join("mod.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")?;
    println!("cargo:rerun-if-changed=proto/agent.proto");
    Ok(())
}
