//! Any text as an e-mail address: reading it never panics, and the form that is looked up is its own form. If it were
//! not, an address could be had twice, or reached in two ways.

#![no_main]

use gatelog_events::email::Email;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(email) = Email::parse(text) else {
        return;
    };
    // A key may be longer than an address may be typed: folding and Punycode lengthen. Lower case is the same address;
    // the key itself need not be lower case, since Cherokee folds to upper case.
    for spelling in [email.key(), &email.key().to_lowercase()] {
        if let Ok(again) = Email::parse(spelling) {
            assert_eq!(again.key(), email.key());
        }
    }
});
