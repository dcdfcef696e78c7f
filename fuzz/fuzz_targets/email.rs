//! Any text as an e-mail address: reading it never panics, and the form that is looked up is its own form. If it were
//! not, an address could be had twice, or reached in two ways.

#![no_main]

use gatelog_events::email::Email;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(email) = Email::parse(text) else {
        return;
    };
    // A key may be longer than an address may be typed: folding and Punycode lengthen.
    if let Ok(again) = Email::parse(email.key()) {
        assert_eq!(again.key(), email.key());
    }
    let round = email.key().to_lowercase();
    assert_eq!(round, email.key(), "a key has no upper case");
});
