//! What the book reads out of addresses and events.

/// The number in `tNUMBER@…`.
pub(crate) fn token_of(address: &str) -> Option<u64> {
    let (local, _) = address.split_once('@')?;
    local
        .trim_start_matches('<')
        .strip_prefix('t')?
        .parse()
        .ok()
}

/// An RFC 3339 time with milliseconds, in UTC, as milliseconds since 1970.
pub(crate) fn millis(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    // Howard Hinnant's days_from_civil: years that begin in March, in eras of 400.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
    let secs = days * 86_400 + number(11..13)? * 3600 + number(14..16)? * 60 + number(17..19)?;
    u64::try_from(secs * 1000 + number(20..23)?).ok()
}

#[cfg(test)]
mod tests {
    use relay_core::time::UnixTime;

    #[test]
    fn times_read_back() {
        for at in [0, 951_782_400_123, 1_795_471_531_007, 4_102_444_799_999] {
            assert_eq!(
                super::millis(&UnixTime::from_millis(at).to_rfc3339()),
                Some(at)
            );
        }
    }
}
