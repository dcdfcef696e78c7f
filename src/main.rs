//! The `gatelog` program: a server and its tools. See [`gatelog::cli`].

use std::process::ExitCode;

/// A read allocates some fifty times; the system's allocator took a sixth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gatelog::cli::run()
}
