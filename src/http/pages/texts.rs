//! What the pages for customers say, one table per language. A language is added here and nowhere else.

/// All texts of the preference page in one language.
#[derive(Debug, PartialEq, Eq)]
pub struct Texts {
    /// BCP 47 language tag.
    pub language: &'static str,
    pub title: &'static str,
    /// Stands before the address, which is masked.
    pub for_address: &'static str,
    pub explained: &'static str,
    pub granted: &'static str,
    pub not_granted: &'static str,
    /// Stands before the channel.
    pub by: &'static str,
    /// Stands before a day.
    pub since: &'static str,
    pub grant: &'static str,
    pub withdraw: &'static str,
    pub withdraw_all: &'static str,
    /// The summary above a notice's text.
    pub notice: &'static str,
    /// The link to a notice that stands elsewhere.
    pub notice_elsewhere: &'static str,
    /// Why nothing can be granted here.
    pub no_notice: &'static str,
    pub disabled: &'static str,
    pub nothing: &'static str,
    pub saved_granted: &'static str,
    pub saved_withdrawn: &'static str,
    pub saved_all_withdrawn: &'static str,
    pub notice_changed: &'static str,
    pub not_understood: &'static str,
    pub not_valid_title: &'static str,
    pub not_valid: &'static str,
    /// Names of channels, by their names in the log. Others show as they are.
    pub channels: &'static [(&'static str, &'static str)],
}

const EN: Texts = Texts {
    language: "en",
    title: "Your choices",
    for_address: "For",
    explained: "You decide what your data is used for. A change takes effect at once, and you can change it back at any time.",
    granted: "You agreed",
    not_granted: "You have not agreed",
    by: "by",
    since: "since",
    grant: "Agree",
    withdraw: "Withdraw",
    withdraw_all: "Withdraw everything",
    notice: "What you would agree to",
    notice_elsewhere: "Read what you would agree to",
    no_notice: "You can agree to this where you are logged in: there is no text here that you would agree to.",
    disabled: "This account is disabled, so nothing can be agreed to. You can still withdraw.",
    nothing: "There is nothing to choose.",
    saved_granted: "Saved. You agreed to:",
    saved_withdrawn: "Saved. You withdrew:",
    saved_all_withdrawn: "Saved. You withdrew everything.",
    notice_changed: "Nothing was changed: the text has changed meanwhile. Read it once more, and choose again.",
    not_understood: "Nothing was changed: the form did not arrive as it was sent. Choose again.",
    not_valid_title: "This link is not valid any more",
    not_valid: "Use the link of a newer message, or change your choices where you are logged in. To leave a mailing, the link for \
         unsubscribing in the message itself goes on working.",
    channels: &[
        ("email", "e-mail"),
        ("sms", "text message"),
        ("phone", "phone"),
        ("post", "letter"),
        ("push", "notification"),
    ],
};

const DE: Texts = Texts {
    language: "de",
    title: "Ihre Einwilligungen",
    for_address: "Für",
    explained: "Sie bestimmen, wofür Ihre Daten verwendet werden. Eine Änderung gilt sofort, und Sie können sie jederzeit zurücknehmen.",
    granted: "Sie haben eingewilligt",
    not_granted: "Sie haben nicht eingewilligt",
    by: "per",
    since: "seit",
    grant: "Einwilligen",
    withdraw: "Widerrufen",
    withdraw_all: "Alles widerrufen",
    notice: "Worin Sie einwilligen würden",
    notice_elsewhere: "Lesen, worin Sie einwilligen würden",
    no_notice: "Einwilligen können Sie dort, wo Sie angemeldet sind: Hier liegt kein Text vor, in den Sie einwilligen würden.",
    disabled: "Dieses Konto ist gesperrt, daher können Sie in nichts einwilligen. Widerrufen können Sie weiterhin.",
    nothing: "Es gibt nichts zu wählen.",
    saved_granted: "Gespeichert. Sie haben eingewilligt in:",
    saved_withdrawn: "Gespeichert. Sie haben widerrufen:",
    saved_all_withdrawn: "Gespeichert. Sie haben alles widerrufen.",
    notice_changed: "Nichts wurde geändert: Der Text ist inzwischen ein anderer. Lesen Sie ihn noch einmal, und wählen Sie neu.",
    not_understood: "Nichts wurde geändert: Das Formular kam nicht so an, wie es gesendet wurde. Wählen Sie noch einmal.",
    not_valid_title: "Dieser Link gilt nicht mehr",
    not_valid: "Nehmen Sie den Link einer neueren Nachricht, oder ändern Sie Ihre Einwilligungen dort, wo Sie angemeldet sind. \
         Der Link zum Abbestellen in der Nachricht selbst gilt weiterhin.",
    channels: &[
        ("email", "E-Mail"),
        ("sms", "SMS"),
        ("phone", "Telefon"),
        ("post", "Brief"),
        ("push", "Benachrichtigung"),
    ],
};

/// The first is what is shown where no language fits.
const ALL: &[Texts] = &[EN, DE];

/// Most languages of a header that are looked at.
const MAX_WANTED: usize = 20;

/// The languages of an `Accept-Language` header (RFC 9110, section 12.5.4), the most wanted first. What cannot be read is
/// passed over.
pub fn wanted(header: &str) -> Vec<String> {
    let mut found: Vec<(f32, String)> = Vec::new();
    for part in header.split(',').take(MAX_WANTED) {
        let (tag, weight) = part.split_once(';').unwrap_or((part, "q=1"));
        let weight = weight.trim().strip_prefix("q=").and_then(|q| q.parse().ok());
        let tag = tag.trim().to_ascii_lowercase();
        let weight: f32 = weight.unwrap_or(0.0);
        if weight > 0.0 && !tag.is_empty() && tag != "*" {
            found.push((weight, tag));
        }
    }
    // Stable: of two that are wanted alike, the first counts.
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    found.into_iter().map(|(_, tag)| tag).collect()
}

/// Of several tags, the one that is wanted most: the same, or else one of the same primary language (RFC 4647, section 3.4).
pub fn best<'t>(wanted: &[String], offered: impl Iterator<Item = &'t str> + Clone) -> Option<&'t str> {
    let primary = |tag: &str| tag.split('-').next().unwrap_or_default().to_ascii_lowercase();
    wanted.iter().find_map(|want| {
        let same = offered.clone().find(|o| o.eq_ignore_ascii_case(want));
        same.or_else(|| offered.clone().find(|o| primary(o) == primary(want)))
    })
}

impl Texts {
    /// The texts in the language that is wanted most, of those there are.
    pub fn of(wanted: &[String]) -> &'static Texts {
        let tag = best(wanted, ALL.iter().map(|t| t.language));
        let found = ALL.iter().find(|t| Some(t.language) == tag);
        found.unwrap_or(&EN)
    }

    /// What a channel is called.
    pub fn channel<'c>(&self, name: &'c str) -> &'c str {
        let known = self.channels.iter().find(|(of, _)| *of == name);
        known.map_or(name, |(_, called)| called)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_one_that_is_wanted_most_of_those_there_are() {
        for (header, language) in [
            ("", "en"),
            ("de", "de"),
            ("de-AT,de;q=0.9,en;q=0.8", "de"),
            ("fr, en;q=0.5, de;q=0.7", "de"),
            ("fr", "en"),
            ("de;q=0", "en"),
            ("en-GB, de", "en"),
            ("DE", "de"),
            ("*", "en"),
            (";;;,,q=,de;q=nonsense", "en"),
        ] {
            assert_eq!(Texts::of(&wanted(header)).language, language, "{header}");
        }
        assert_eq!(wanted(&"de,".repeat(10_000)).len(), MAX_WANTED);
    }

    #[test]
    fn a_tag_fits_itself_before_its_language() {
        let offered = ["pt-BR", "pt-PT", "de"];
        let best = |header| best(&wanted(header), offered.iter().copied());
        assert_eq!(best("pt-PT"), Some("pt-PT"));
        assert_eq!(best("pt"), Some("pt-BR"));
        assert_eq!(best("de-CH"), Some("de"));
        assert_eq!(best("fr"), None);
    }
}
