//! Runs the benchmarks until the command line does.
use clap::Parser;

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    options: gatelog::bench::Options,
}

#[tokio::main]
async fn main() {
    if let Err(e) = gatelog::bench::run(Args::parse().options).await {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
