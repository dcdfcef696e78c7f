//! `gatelog compact`: the documented step after which no byte of an erased person is left.

use std::io::Write;

use super::Failure;
use super::data::Args;
use crate::node::{Data, compact};

pub fn run(args: &Args) -> Result<(), Failure> {
    let data = Data::open(&args.existing()?)?;
    // Of an erasure that is not folded yet nothing would leave.
    data.catch_up()?;
    compact(&data.store, &data.keys).map_err(Failure::other)?;
    writeln!(
        std::io::stdout(),
        "Read models and keys were rewritten; nothing of erased users is left in them."
    )?;
    Ok(())
}
