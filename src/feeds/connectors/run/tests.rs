use super::super::call::{Method, Step};
use super::super::tests::*;
use super::super::{Plan, SNAPSHOT};
use super::*;

fn call(path: &str, records: Vec<usize>) -> Call {
    let mut call = Call::new(Method::Get, path.to_owned(), Step::Find, vec![]).authorized("old".to_owned());
    call.records = records;
    call
}

#[test]
fn a_record_is_delivered_when_all_its_calls_were_accepted() {
    let refused = vec![(3, rejected("too long"))];
    let plan = Plan {
        calls: vec![call("/a", vec![0, 1]), call("/b", vec![1, 2])],
        refused,
    };
    let mut run = Run::new(plan, 5);
    assert_eq!(
        run.answered(Outcome::Wait(Duration::from_secs(2))),
        Go::Wait(Duration::from_secs(2))
    );
    assert_eq!(run.answered(Outcome::Unauthorized), Go::Unauthorized);
    assert_eq!(run.call().unwrap().path, "/a");
    let next = vec![call("/a1", vec![1]), call("/a2", vec![1])];
    assert_eq!(
        run.answered(Outcome::Judged {
            verdicts: vec![(0, Verdict::Delivered)],
            next
        }),
        Go::On
    );
    for path in ["/a1", "/a2", "/b"] {
        let call = run.call().unwrap().clone();
        assert_eq!(call.path, path);
        run.answered(Outcome::delivered(&call));
    }
    assert_eq!(run.call(), None);
    let (delivered, retry) = (Verdict::Delivered, Verdict::RETRY);
    let expected = [
        delivered.clone(),
        delivered.clone(),
        delivered,
        rejected("too long"),
        retry,
    ];
    assert_eq!(run.finish(), expected);
}

#[test]
fn what_was_not_called_is_tried_again() {
    let plan = Plan {
        calls: vec![call("/a", vec![0, 1]), call("/b", vec![1])],
        refused: vec![],
    };
    let mut run = Run::new(plan, 2);
    run.answered(verdicts_of(vec![
        (0, Verdict::Delivered),
        (1, Verdict::Delivered),
    ]));
    assert_eq!(run.finish(), [Verdict::Delivered, Verdict::RETRY]);
}

#[test]
fn a_new_token_goes_into_calls_that_stand() {
    let mut connector = connectors().remove(2);
    let batch = [given(0, SNAPSHOT, full())];
    let mut run = Run::new(connector.calls(&batch), 1);
    connector
        .logged_in(&answer(200, br#"{"access_token":"new"}"#))
        .unwrap();
    run.renew(&connector);
    assert!(
        run.call()
            .unwrap()
            .headers
            .contains(&("authorization", "Bearer new".to_owned()))
    );
}
