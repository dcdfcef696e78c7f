//! Which notice somebody would agree to, when they grant a purpose on a page of ours.
//!
//! Settings do not tie notices to purposes, so it is the notice of the person's last choice about the purpose, else the one
//! that has the purpose's name, else the only one there is, unless it has another purpose's name. Of it, the version that was published last counts, in the
//! language that is wanted most. It must be there to be read: nobody can agree to a text that they are not shown.

use std::collections::BTreeMap;

use gatelog_events::domain::consent::{ConsentState, NoticeRef};
use gatelog_events::domain::tenant::{Notice, Settings};

use super::texts::best;

/// A notice that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown<'s> {
    pub id: &'s str,
    pub version: &'s str,
    pub language: &'s str,
    pub notice: &'s Notice,
}

impl Shown<'_> {
    /// As the ledger names it.
    pub fn reference(&self) -> NoticeRef {
        NoticeRef {
            id: self.id.to_owned(),
            version: self.version.to_owned(),
            language: self.language.to_owned(),
        }
    }
}

/// The notice under which a purpose would be granted now; none if there is none that can be read.
pub fn current<'s>(
    settings: &'s Settings,
    purpose: &str,
    last: Option<&ConsentState>,
    wanted: &[String],
) -> Option<Shown<'s>> {
    let id = last.map(|state| state.notice.id.as_str());
    let published = |id: &str| settings.notices.get_key_value(id);
    let only = || {
        let first = settings.notices.first_key_value();
        first.filter(|(id, _)| settings.notices.len() == 1 && !settings.purposes.contains_key(*id))
    };
    let (id, versions) = id
        .and_then(published)
        .or_else(|| published(purpose))
        .or_else(only)?;
    let readable = |n: &Notice| n.text.is_some() || n.url.is_some();
    let newest = newest(versions)?;
    let languages = versions
        .iter()
        .filter(|((version, _), n)| version == newest && readable(n))
        .map(|((_, language), _)| language.as_str());
    let language = best(wanted, languages.clone()).or_else(|| languages.clone().next())?;
    let key = (newest.to_owned(), language.to_owned());
    Some(Shown {
        id: id.as_str(),
        version: newest,
        language,
        notice: versions.get(&key)?,
    })
}

/// The version that was published last. A translation that is added later makes no older version newer.
fn newest(versions: &BTreeMap<(String, String), Notice>) -> Option<&str> {
    let mut first_published: BTreeMap<&str, _> = BTreeMap::new();
    for ((version, _), notice) in versions {
        let first = first_published.entry(version).or_insert(notice.published_at);
        *first = (*first).min(notice.published_at);
    }
    let newest = first_published.into_iter().max_by_key(|(_, first)| *first);
    newest.map(|(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::pages::texts::wanted;
    use gatelog_events::clock::Timestamp;
    use gatelog_events::domain::consent::{LawfulBasis, Method};

    fn publish(
        settings: &mut Settings,
        id: &str,
        version: &str,
        language: &str,
        at: i64,
        text: Option<&str>,
    ) {
        let notice = Notice {
            url: None,
            text: text.map(str::to_owned),
            published_at: Timestamp::from_millis(at),
        };
        let versions = settings.notices.entry(id.to_owned()).or_default();
        versions.insert((version.to_owned(), language.to_owned()), notice);
    }

    fn chose(notice: &str) -> ConsentState {
        ConsentState {
            granted: false,
            since: Timestamp::EPOCH,
            channel: "email".to_owned(),
            notice: NoticeRef {
                id: notice.to_owned(),
                version: "1".to_owned(),
                language: "en".to_owned(),
            },
            lawful_basis: LawfulBasis::Consent,
            method: Method::SelfService,
        }
    }

    fn found(
        settings: &Settings,
        last: Option<&ConsentState>,
        header: &str,
    ) -> Option<(String, String, String)> {
        let shown = current(settings, "newsletter", last, &wanted(header))?;
        let NoticeRef {
            id,
            version,
            language,
        } = shown.reference();
        Some((id, version, language))
    }

    fn is(id: &str, version: &str, language: &str) -> Option<(String, String, String)> {
        Some((id.to_owned(), version.to_owned(), language.to_owned()))
    }

    #[test]
    fn the_notice_is_that_of_the_last_choice_or_of_the_purpose_or_the_only_one() {
        let mut settings = Settings::default();
        assert_eq!(found(&settings, None, ""), None);
        publish(&mut settings, "privacy", "1", "en", 1, Some("t"));
        assert_eq!(found(&settings, None, ""), is("privacy", "1", "en"));
        settings.purposes.insert("privacy".to_owned(), String::new());
        assert_eq!(found(&settings, None, ""), None, "it is another purpose's");
        settings.purposes.clear();
        publish(&mut settings, "terms", "1", "en", 2, Some("t"));
        assert_eq!(found(&settings, None, ""), None, "which of two is not known");
        assert_eq!(
            found(&settings, Some(&chose("terms")), ""),
            is("terms", "1", "en")
        );
        assert_eq!(found(&settings, Some(&chose("gone")), ""), None);
        publish(&mut settings, "newsletter", "5", "en", 3, Some("t"));
        assert_eq!(found(&settings, None, ""), is("newsletter", "5", "en"));
        assert_eq!(
            found(&settings, Some(&chose("terms")), ""),
            is("terms", "1", "en")
        );
    }

    #[test]
    fn the_newest_version_counts_in_the_language_that_is_wanted() {
        let mut settings = Settings::default();
        publish(&mut settings, "privacy", "9", "en", 1, Some("t"));
        publish(&mut settings, "privacy", "10", "en", 2, Some("t"));
        publish(&mut settings, "privacy", "10", "de", 3, Some("t"));
        // A translation of the older one.
        publish(&mut settings, "privacy", "9", "de", 4, Some("t"));
        assert_eq!(found(&settings, None, "de-AT"), is("privacy", "10", "de"));
        assert_eq!(
            found(&settings, None, "fr"),
            is("privacy", "10", "de"),
            "any rather than none"
        );
        publish(&mut settings, "privacy", "11", "en", 5, None);
        assert_eq!(found(&settings, None, "en"), None, "it cannot be read");
    }
}
