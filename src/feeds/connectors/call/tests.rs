use serde_json::json;

use super::super::tests::*;
use super::super::{SNAPSHOT, Verdict};
use super::*;

fn entries(lengths: &[(usize, usize)]) -> Vec<Entry> {
    let entry = |&(record, length): &(usize, usize)| Entry {
        item: Item::new(record, &given(record, SNAPSHOT, full()), Duty::Keep),
        json: "x".repeat(length),
    };
    lengths.iter().map(entry).collect()
}

#[test]
fn packs() {
    let limits = Limits {
        count: 3,
        bytes: 1_000,
        each: 500,
    };
    for (name, given, expected, refused) in [
        ("nothing", vec![], vec![], vec![]),
        ("by count", vec![(0, 1); 7], vec![3, 3, 1], vec![]),
        // 256 bytes stand around the list, and a comma behind each element.
        ("by bytes", vec![(0, 371), (1, 371), (2, 371)], vec![2, 1], vec![]),
        (
            "a byte too many",
            vec![(0, 371), (1, 372), (2, 370)],
            vec![1, 2],
            vec![],
        ),
        (
            "one that is too long",
            vec![(0, 9), (1, 501), (2, 9)],
            vec![2],
            vec![1],
        ),
        (
            "its record's others with it",
            vec![(0, 9), (1, 9), (1, 501), (2, 9)],
            vec![2],
            vec![1],
        ),
        ("all too long", vec![(0, 501), (0, 501)], vec![], vec![0]),
    ] {
        let (packs, gone) = pack(entries(&given), limits);
        assert_eq!(packs.iter().map(Vec::len).collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(gone, refused, "{name}");
    }
}

#[test]
fn records_of_an_oversized_state_are_refused_and_the_others_sent() {
    for connector in connectors() {
        let big = "x".repeat(5_000_000);
        let batch = [
            given(0, SNAPSHOT, full()),
            given(1, SNAPSHOT, fields_of(&json!({ "email": big }))),
        ];
        let plan = connector.calls(&batch);
        assert!(
            plan.refused.iter().all(|(record, _)| *record == 1) && !plan.refused.is_empty(),
            "{plan:?}"
        );
        assert!(
            plan.refused
                .iter()
                .all(|(_, v)| matches!(v, Verdict::Rejected { reason } if !reason.contains('x')))
        );
        assert!(plan.calls.iter().any(|c| c.records.contains(&0)));
    }
}

#[test]
fn bodies_stay_within_the_limits() {
    for connector in connectors() {
        let state = fields_of(&json!({ "email": "x".repeat(20_000) }));
        let batch: Vec<_> = (0..450).map(|n| given(n, SNAPSHOT, state.clone())).collect();
        let plan = connector.calls(&batch);
        assert_eq!(plan.refused, vec![]);
        for call in plan.calls {
            assert!(
                call.body.len() <= 4_000_000 && call.items.len() <= 1_000,
                "{call:?}"
            );
            assert!(serde_json::from_slice::<Value>(&call.body).is_ok());
        }
    }
}

#[test]
fn halves() {
    let list = |n: usize| {
        let entries = (0..n).map(|i| {
            Entry::new(
                Item::new(i / 2, &given(i, SNAPSHOT, full()), Duty::Keep),
                &json!(i),
            )
        });
        Call::list(
            Method::Post,
            "/x".to_owned(),
            Step::Write,
            "\"a\":1,",
            "list",
            entries.collect(),
        )
    };
    for (n, expected) in [
        (0, None),
        (1, None),
        (2, Some((vec![0], vec![1]))),
        (5, Some((vec![0, 1], vec![2, 3, 4]))),
    ] {
        let found = list(n)
            .halves()
            .map(|[a, b]| (body(&a)["list"].clone(), body(&b)["list"].clone()));
        assert_eq!(found, expected.map(|(a, b)| (json!(a), json!(b))), "{n}");
    }
    let [first, second] = list(5).halves().unwrap();
    assert_eq!((first.records, second.records), (vec![0], vec![1, 2]));
    assert_eq!(body(&list(5).halves().unwrap()[1])["a"], 1);
    assert_eq!(
        Call {
            list: None,
            ..list(4)
        }
        .halves(),
        None
    );
    assert_eq!(
        Call {
            body: b"{".to_vec(),
            ..list(4)
        }
        .halves(),
        None
    );
    assert_eq!(
        Call {
            body: b"{\"list\":[1]}".to_vec(),
            ..list(4)
        }
        .halves(),
        None
    );
}
