//! Asks the linker for a build ID, which `src/build_id.rs` reads: not every distribution's gcc asks for one.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-Wl,--build-id");
}
