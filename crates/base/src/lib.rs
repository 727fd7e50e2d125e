//! What the crates of the host side share and none of them owns: errors with their causes, locks between threads, starting processes.
//!
//! A module belongs here when several crates need it and it knows nothing of Pods, images or machines. What only the program needs
//! (its terminal, its standard error) stays in `src/`.

pub mod causes;
pub mod child;
pub mod lock;
