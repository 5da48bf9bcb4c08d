//! The `Date` field of responses.
//!
//! Owns the text of one date and when it stops being true. Each set of connection buffers has one, so nothing is
//! shared between cores; it is formatted again only when the second has changed since the buffers were last used.

use std::time::{SystemTime, UNIX_EPOCH};

/// Length of an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub const DATE_BYTES: usize = 29;

const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// The date text and the monotonic time at which its second is over.
pub struct CachedDate {
    text: [u8; DATE_BYTES],
    expires_ns: u64,
}

impl CachedDate {
    pub const fn new() -> Self {
        Self {
            text: [b' '; DATE_BYTES],
            expires_ns: 0,
        }
    }

    /// The date at `now_ns` (monotonic), read from the system clock only if the cached second is over.
    pub fn at(&mut self, now_ns: u64) -> &[u8; DATE_BYTES] {
        if now_ns >= self.expires_ns {
            let wall = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            self.text = format(wall.as_secs());
            self.expires_ns = now_ns.saturating_add(1_000_000_000 - u64::from(wall.subsec_nanos()));
        }
        &self.text
    }
}

/// Formats seconds since the epoch as RFC 9110 section 5.6.7 wants it.
pub fn format(unix_seconds: u64) -> [u8; DATE_BYTES] {
    let days = unix_seconds / 86_400;
    let seconds = unix_seconds % 86_400;
    let (year, month, day) = civil_from_days(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    text[0..3].copy_from_slice(DAYS[(days % 7) as usize]);
    two_digits(&mut text[5..7], day);
    text[8..11].copy_from_slice(MONTHS[(month - 1) as usize]);
    two_digits(&mut text[12..14], year / 100 % 100);
    two_digits(&mut text[14..16], year % 100);
    two_digits(&mut text[17..19], seconds / 3600);
    two_digits(&mut text[20..22], seconds / 60 % 60);
    two_digits(&mut text[23..25], seconds % 60);
    text
}

fn two_digits(out: &mut [u8], value: u64) {
    out[0] = b'0' + (value / 10) as u8;
    out[1] = b'0' + (value % 10) as u8;
}

/// Year, month (1..12) and day (1..31) of a day count since 1970-01-01, after Howard Hinnant's `civil_from_days`
/// (years begin in March there, so that the leap day is the last one).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates_are_formatted_as_imf_fixdate() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(std::str::from_utf8(&format(seconds)).unwrap(), text);
        }
    }

    #[test]
    fn the_text_stays_until_its_second_is_over() {
        let mut date = CachedDate::new();
        let first = *date.at(1);
        assert!(date.expires_ns > 1 && date.expires_ns <= 1_000_000_001);
        let expires_ns = date.expires_ns;
        assert_eq!(*date.at(expires_ns - 1), first);
        assert_eq!(date.expires_ns, expires_ns);
        date.at(expires_ns);
        assert!(date.expires_ns > expires_ns);
    }
}
