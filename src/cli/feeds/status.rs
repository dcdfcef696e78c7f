//! What `gatelog feed status` prints.

use std::fmt::Write;

use serde_json::Value;

use super::text;

/// How the consumers of a feed are doing, from what `GET /v1/feeds/{feed}/status` says.
pub(super) fn page(name: &str, status: &Value) -> String {
    let mut out = format!("{name}  version {}", status["newest_version"]);
    let purpose = status["purpose"].as_str();
    out += &purpose.map_or("  no purpose".to_owned(), |p| format!("  {p}"));
    if let Some(at) = status["retired_at"].as_str() {
        out += &format!("  retired {at}");
    }
    out.push('\n');
    let consumers = status["consumers"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if consumers.is_empty() {
        out += "no webhook and no topic: how far those are who follow by page or stream is not known here\n";
    }
    for consumer in consumers {
        let _ = writeln!(out, "{}", line(consumer));
        if let Some(last) = consumer["this_node"]["deliveries"].get(0) {
            let _ = writeln!(out, "    last: {}", delivery(last));
        }
    }
    let open = &status["unacknowledged_withdrawals"];
    let _ = writeln!(out, "withdrawals told and not acknowledged: {}", count(open));
    out
}

fn line(c: &Value) -> String {
    let (lag, node) = (&c["lag"], &c["this_node"]);
    let at_most = if lag["exact"] == false { "at most " } else { "" };
    let total = |outcome: &str| node["totals"][outcome].as_u64().unwrap_or(0);
    format!(
        "  {} {}  {}  behind {at_most}{} records, {:.1} s  withdrawals not told {}  dead letters {}  this node: {:.1}/s, {} taken, {} failed",
        text(c, "kind"),
        text(c, "name"),
        text(c, "state"),
        lag["records"],
        lag["seconds"].as_f64().unwrap_or(0.0),
        lag["withdrawals"],
        count(&c["dead_letters"]),
        node["taken_per_second"].as_f64().unwrap_or(0.0),
        total("taken"),
        total("failed"),
    )
}

fn count(c: &Value) -> String {
    let more = if c["more"] == true { "+" } else { "" };
    format!("{}{more}", c["count"])
}

fn delivery(d: &Value) -> String {
    let status = d["status"]
        .as_u64()
        .map_or("no answer".to_owned(), |s| s.to_string());
    format!(
        "{}  {}  {}  {} ({status}, {} ms)",
        text(d, "time"),
        text(d, "kind"),
        text(d, "subject"),
        text(d, "outcome"),
        d["milliseconds"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_tells_what_waits_and_what_was_given_up() {
        let status = json!({
            "newest_version": 2, "purpose": "newsletter", "retired_at": null,
            "unacknowledged_withdrawals": {"count": 1000, "more": true},
            "consumers": [{
                "kind": "webhook", "name": "crm", "state": "live",
                "lag": {"records": 7, "exact": false, "seconds": 12.34, "withdrawals": 1},
                "dead_letters": {"count": 3, "more": false},
                "this_node": {"taken_per_second": 0.25, "totals": {"taken": 15}, "deliveries": [
                    {"time": "2026-11-27T12:00:00.000Z", "kind": "plan.upgraded", "subject": "s", "outcome": "failed",
                     "status": null, "milliseconds": 20_000},
                ]},
            }],
        });
        let page = page("marketing", &status);
        for part in [
            "marketing  version 2  newsletter\n",
            "webhook crm  live  behind at most 7 records, 12.3 s  withdrawals not told 1  dead letters 3",
            "15 taken, 0 failed",
            "plan.upgraded  s  failed (no answer, 20000 ms)",
            "not acknowledged: 1000+",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(super::page("f", &json!({})).contains("no webhook"));
    }
}
