//! Many spellings of one e-mail address.

use std::collections::BTreeSet;

use gatelog_events::email::Email;

use super::dice::Dice;

/// `count` texts, all different, that are one address: case, composed and decomposed letters, ß and ss, full-width
/// letters, the domain in Unicode and in Punycode, other full stops, a full stop at its end.
pub fn spellings(name: &str, count: usize, dice: &mut Dice) -> Vec<String> {
    let plain = format!("{name}.jérôße@bücher.example");
    let key = Email::parse(&plain).unwrap();
    let mut found = BTreeSet::from([plain.clone()]);
    while found.len() < count {
        let spelling = spell(&plain, dice);
        // Full-width letters are three octets each, and a local part has at most 64.
        if spelling.split('@').next().unwrap().len() <= gatelog_events::email::MAX_LOCAL_OCTETS {
            let parsed = Email::parse(&spelling).unwrap_or_else(|e| panic!("{spelling}: {e}"));
            assert_eq!(parsed.key(), key.key(), "{spelling}");
            found.insert(spelling);
        }
    }
    found.into_iter().collect()
}

fn spell(plain: &str, dice: &mut Dice) -> String {
    let (local, domain) = plain.split_once('@').unwrap();
    let domain = match dice.below(3) {
        0 => domain.replace("bücher", "xn--bcher-kva"),
        _ => domain.to_owned(),
    };
    let mut text: String = local.chars().map(|c| letter(c, false, dice)).collect();
    text.push('@');
    text.extend(domain.chars().map(|c| letter(c, true, dice)));
    if dice.once_in(4) {
        text.push('.');
    }
    text
}

fn letter(c: char, in_domain: bool, dice: &mut Dice) -> String {
    let one = |dice: &mut Dice, of: &[&str]| dice.one(of).to_owned();
    match c {
        '.' if in_domain => one(dice, &[".", ".", "。", "．", "｡"]),
        '.' => one(dice, &[".", ".", "．"]),
        'ß' => one(dice, &["ß", "ẞ", "ss", "SS", "ſs", "sS", "ｓs"]),
        'é' => one(dice, &["é", "É", "e\u{301}", "E\u{301}"]),
        'ô' => one(dice, &["ô", "Ô", "o\u{302}", "O\u{302}"]),
        'ü' => one(dice, &["ü", "Ü", "u\u{308}", "U\u{308}"]),
        c if c.is_ascii_alphanumeric() => match dice.below(6) {
            0 => wide(c),
            1 => wide(c.to_ascii_uppercase()),
            2 | 3 => c.to_ascii_uppercase().to_string(),
            _ => c.to_string(),
        },
        c => c.to_string(),
    }
}

/// The full-width form of an ASCII character.
fn wide(c: char) -> String {
    char::from_u32(c as u32 + 0xFEE0).unwrap().to_string()
}
