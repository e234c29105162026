//! Months as items count them: of the calendar, or of a world with a calendar of its own.
//!
//! A calendar month is kept as the number of months since January of the year 0: `12 * year + month - 1`, so January 2020 is 24240.
//! Worlds made here count their months from 0 and have at most 60. Whatever is below [`FIRST_CALENDAR_MONTH`] is shown as a plain
//! number, the rest as `2020-01`; differences are months either way.

/// January of the year 1000: the first number that is read as a month of the calendar.
pub const FIRST_CALENDAR_MONTH: u32 = 12 * 1000;

/// Last year with four digits.
const LAST_YEAR: u32 = 9999;

/// As people write it: `2020-01`, or `17` where the calendar is the world's own.
pub fn show(month: u32) -> String {
    if month < FIRST_CALENDAR_MONTH { month.to_string() } else { format!("{:04}-{:02}", month / 12, month % 12 + 1) }
}

/// Reads `2020-01`, `2020/01`, either with a day after it, or a plain number below [`FIRST_CALENDAR_MONTH`]; `None` for anything else.
///
/// A year alone is no month.
pub fn parse(text: &str) -> Option<u32> {
    let parts: Vec<&str> = text.trim().split(['-', '/']).collect();
    if parts.iter().any(|part| part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let number = |part: &str| part.parse::<u32>().ok();
    match parts.as_slice() {
        // Four digits are a year, whose month is not known.
        [month] => number(month).filter(|&month| month < 1000),
        [year, month, day @ ..] if year.len() == 4 && day.len() <= 1 => {
            let is_day = day.iter().all(|day| number(day).is_some_and(|day| (1..=31).contains(&day)));
            let (year, month) = (number(year)?, number(month)?);
            ((1000..=LAST_YEAR).contains(&year) && (1..=12).contains(&month) && is_day).then(|| 12 * year + month - 1)
        }
        _ => None,
    }
}

/// The first month of a year of the calendar; `None` before the year 1000 and after 9999.
pub fn january(year: u32) -> Option<u32> {
    (1000..=LAST_YEAR).contains(&year).then(|| 12 * year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_of_the_calendar_and_of_a_world_are_told_apart() {
        assert_eq!((parse("2020-01"), show(24240).as_str()), (Some(24240), "2020-01"));
        assert_eq!((parse("2023/12/08"), show(24287).as_str()), (Some(24287), "2023-12"));
        assert_eq!((parse("2024-03-22"), parse(" 1789-04 ")), (Some(24290), Some(21471)));
        assert_eq!((parse("17"), show(17).as_str()), (Some(17), "17"));
        assert_eq!(january(2020), parse("2020-01"));
        for month in [0, 60, FIRST_CALENDAR_MONTH, 24251, 24252, 119_999] {
            assert_eq!(parse(&show(month)), Some(month));
        }
    }

    #[test]
    fn what_is_no_month_is_none() {
        for text in
            ["", "2020", "before 2022", "2020-13", "2020-00", "20-01", "2020-01-32", "2020-01-02-03", "-1", "0999-01"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!((january(999), january(10_000)), (None, None));
    }
}
