//! Runs the benchmarks until the command line does.
use clap::Parser;

#[derive(Parser)]
enum Args {
    Bench(gatelog::bench::Options),
}

#[tokio::main]
async fn main() {
    let Args::Bench(options) = Args::parse();
    if let Err(e) = gatelog::bench::run(options).await {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
