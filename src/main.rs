//! The `gatelog` program: a server and its tools. See [`gatelog::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    gatelog::cli::run()
}
