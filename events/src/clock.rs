//! The only place that reads a clock. Everything else is handed the time (clippy.toml bans the rest).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, NaiveDate, Timelike, Utc};
use serde::{Deserialize, Serialize};

/// A moment in UTC, in whole milliseconds since 1970. RFC 3339 in texts, a number in read models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

// RFC 3339 has years of four digits only, and what is written must be readable.
const YEAR_0: i64 = -62_167_219_200_000;
const END_OF_YEAR_9999: i64 = 253_402_300_799_999;

const fn whole_millis(d: Duration) -> i64 {
    let ms = d.as_millis();
    if ms > i64::MAX as u128 {
        i64::MAX
    } else {
        ms as i64
    }
}

impl Timestamp {
    pub const EPOCH: Timestamp = Timestamp(0);

    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Days since 1970-01-01 (UTC).
    pub const fn day(self) -> i32 {
        self.0.div_euclid(86_400_000) as i32
    }

    pub const fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(d)))
    }

    pub const fn minus(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(whole_millis(d)))
    }

    /// Time from `earlier` to this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Timestamp) -> Duration {
        let ms = self.0.saturating_sub(earlier.0);
        Duration::from_millis(if ms < 0 { 0 } else { ms as u64 })
    }

    fn chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.0.clamp(YEAR_0, END_OF_YEAR_9999)).unwrap_or_default()
    }
}

/// RFC 3339 in UTC. Digit by digit, for every event and answer has several. A moment outside the years 0 to 9999 shows as the nearest in them.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.chrono();
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |at: usize, digits: usize, mut n: u32| {
            for place in text[at..at + digits].iter_mut().rev() {
                *place = b'0' + (n % 10) as u8;
                n /= 10;
            }
        };
        put(0, 4, t.year().unsigned_abs());
        put(5, 2, t.month());
        put(8, 2, t.day());
        put(11, 2, t.hour());
        put(14, 2, t.minute());
        put(17, 2, t.second());
        put(20, 3, t.timestamp_subsec_millis());
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// The text is not an RFC 3339 date and time, or in UTC not within the years 0 to 9999.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a date and time in RFC 3339 form, such as 2026-11-24T10:15:00.000Z")]
pub struct InvalidTimestamp;

/// The milliseconds of a text in the very form that is written here; none of any other. Whoever reads the log reads
/// several for each event.
fn as_written(text: &[u8]) -> Option<i64> {
    let text: &[u8; 24] = text.try_into().ok()?;
    let marks = [
        (4, b'-'),
        (7, b'-'),
        (10, b'T'),
        (13, b':'),
        (16, b':'),
        (19, b'.'),
        (23, b'Z'),
    ];
    if marks.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let number = |at: usize, digits: usize| {
        let mut all = text[at..at + digits].iter();
        all.try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
    };
    let day = NaiveDate::from_ymd_opt(number(0, 4)?.cast_signed(), number(5, 2)?, number(8, 2)?)?;
    let time = day.and_hms_milli_opt(number(11, 2)?, number(14, 2)?, number(17, 2)?, number(20, 3)?)?;
    Some(time.and_utc().timestamp_millis())
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(s: &str) -> Result<Self, InvalidTimestamp> {
        as_written(s.as_bytes())
            .or_else(|| Some(DateTime::parse_from_rfc3339(s).ok()?.timestamp_millis()))
            .filter(|ms| (YEAR_0..=END_OF_YEAR_9999).contains(ms))
            .map(Self)
            .ok_or(InvalidTimestamp)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            s.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            std::borrow::Cow::<str>::deserialize(d)?
                .parse()
                .map_err(serde::de::Error::custom)
        } else {
            i64::deserialize(d).map(Self)
        }
    }
}

impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time"})
    }
}

/// The present moment, by the system's clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    Timestamp(Utc::now().timestamp_millis() + crate::failpoint::clock_error())
}

/// The monotonic clock, for measuring durations and deadlines only.
#[allow(clippy::disallowed_methods)]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_or_computed_can_be_written_and_read_again() {
        for (text, shown) in [
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59.999Z"),
            ("2026-11-24t13:15:00.5+01:00", "2026-11-24T12:15:00.500Z"),
        ] {
            let t: Timestamp = text.parse().unwrap();
            assert_eq!(t.to_string(), shown);
            assert_eq!(shown.parse(), Ok(t));
        }
        for far in [
            Timestamp::from_millis(i64::MAX),
            Timestamp::from_millis(i64::MIN),
            Timestamp::EPOCH.plus(Duration::MAX),
            Timestamp::EPOCH.minus(Duration::MAX),
        ] {
            assert!(far.to_string().parse::<Timestamp>().is_ok(), "{far}");
        }
        assert!(Timestamp::EPOCH.plus(Duration::MAX) > Timestamp::EPOCH);
    }

    #[test]
    fn moments_that_utc_cannot_write_in_four_digits_are_refused() {
        for text in [
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "+10000-01-01T00:00:00Z",
            "2026-11-24",
            "",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTimestamp), "{text}");
        }
    }
}
