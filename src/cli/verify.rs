//! `gatelog verify`: every byte of the log, and every row of the read models.

use std::io::Write;
use std::path::Path;

use aws_lc_rs::digest;
use gatelog_projections::catch_up::CatchUpError;
use gatelog_projections::keys::{KeyKind, global};
use gatelog_projections::verify::{Report, verify};
use serde_json::json;

use super::progress::Progress;
use super::{Exit, Failure, data, print_json};
use crate::node::{Data, Folders, remove_scratch};

/// Differences that are listed.
const LISTED: usize = 100;

impl From<CatchUpError> for Failure {
    fn from(e: CatchUpError) -> Self {
        match e {
            CatchUpError::Log(e) => Failure::Log(e),
            e => Failure::Node(e.into()),
        }
    }
}

pub fn run(args: data::Printed) -> Result<(), Failure> {
    let config = args.data.existing()?;
    let data = Data::open(&config)?;
    let scrubbed = data.backend.scrub()?;
    let scratch = Folders::under(&config.data_dir).scratch;
    let report = fold_again(&data, &scratch, scrubbed.records);
    // It holds personal data, so it must not outlive the command.
    remove_scratch(&scratch)?;
    let report = report?;
    if args.json {
        print_json(&as_json(&report, scrubbed.bytes, &views(&data)?))?;
    } else {
        tell(&report, scrubbed.bytes)?;
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err(Failure::Told(Exit::Differences))
    }
}

fn fold_again(data: &Data, scratch: &Path, records: u64) -> Result<Report, Failure> {
    let mut progress = Progress::new("records", records);
    let mut seen = 0;
    let report = verify(
        &data.store,
        data.log.as_ref(),
        data.keys.as_ref(),
        &data.projections,
        scratch,
        || {
            seen += 1;
            if seen % 1024 == 0 {
                progress.set(seen);
            }
        },
    )?;
    progress.finish();
    Ok(report)
}

/// A read model's rows in few words. Nodes whose models are equally far say the same.
struct View {
    name: &'static str,
    rows: u64,
    /// SHA-256 over keys and values in order of key, each with its length before it.
    digest: String,
}

fn views(data: &Data) -> Result<Vec<View>, Failure> {
    let checkpoint = global(KeyKind::Checkpoint).done();
    let mut all = Vec::new();
    for projection in &data.projections {
        let Some(table) = data.store.active(projection.name()) else {
            continue;
        };
        let (mut rows, mut hash) = (0, digest::Context::new(&digest::SHA256));
        data.store
            .each(&table, &[], &[], |key, value| {
                if key != checkpoint {
                    rows += 1;
                    for part in [key, value] {
                        hash.update(&(part.len() as u64).to_be_bytes());
                        hash.update(part);
                    }
                }
                true
            })
            .map_err(Failure::other)?;
        all.push(View {
            name: projection.name(),
            rows,
            digest: hex::encode(hash.finish()),
        });
    }
    Ok(all)
}

fn as_json(report: &Report, bytes: u64, views: &[View]) -> serde_json::Value {
    let views: Vec<_> = views
        .iter()
        .map(|v| json!({"name": v.name, "rows": v.rows, "digest": v.digest}))
        .collect();
    let rows: serde_json::Map<_, _> = report
        .rows
        .iter()
        .map(|(name, n)| ((*name).to_owned(), json!(n)))
        .collect();
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|f| {
            let difference = format!("{:?}", f.difference).to_lowercase();
            json!({"projection": f.projection, "difference": difference, "row": f.row})
        })
        .collect();
    json!({
        "clean": report.is_clean(),
        "records": report.records,
        "log_bytes": bytes,
        "rows": rows,
        "not_compared": report.not_compared,
        "views": views,
        "rows_that_differ": report.differences,
        "differences": findings,
        "stopped": report.stopped,
    })
}

fn tell(report: &Report, bytes: u64) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    // Kafka checks its own bytes; what was read of it came with the right checksums.
    match bytes {
        0 => writeln!(out, "log: {} records", report.records)?,
        _ => writeln!(
            out,
            "log: {} records, {bytes} bytes, all as written",
            report.records
        )?,
    }
    for (name, rows) in &report.rows {
        writeln!(out, "{name}: {rows} rows compared")?;
    }
    if !report.not_compared.is_empty() {
        writeln!(
            out,
            "Folded from the log again, these read models begin where Kafka's retention has cut the activity \
             stream, and were not compared: {}",
            report.not_compared.join(", ")
        )?;
    }
    for f in report.findings.iter().take(LISTED) {
        let difference = format!("{:?}", f.difference).to_lowercase();
        writeln!(out, "DIFFERENCE in {}: {} is {difference}", f.projection, f.row)?;
    }
    if report.differences > LISTED as u64 {
        writeln!(out, "… and {} more", report.differences - LISTED as u64)?;
    }
    for place in &report.stopped {
        writeln!(out, "STOPPED at {place}")?;
    }
    if report.is_clean() {
        writeln!(out, "No difference.")?;
    } else {
        // One that stopped may be among those that the log cannot give back.
        let but = if report.not_compared.is_empty() {
            ""
        } else {
            ", but those that were not compared would lose what was cut off"
        };
        writeln!(
            out,
            "{} differences. `gatelog projections rebuild NAME` builds a read model anew{but}.",
            report.differences + report.stopped.len() as u64
        )?;
    }
    Ok(())
}
