//! The command `microkube-vmm`.
fn main() {}
