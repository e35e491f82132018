//! Days of the Gregorian calendar.

use std::fmt;

/// A day. Ordered, and written as `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: i32,
    month: u32,
    day: u32,
}

/// How a column writes its dates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2012-01-31`, `2012/1/31`, and either with a time of day after it.
    YearFirst,
    /// `31.1.2012`
    DayMonthYearByDots,
    /// `1/31/2012`
    MonthDayYear,
    /// `31/1/2012`
    DayMonthYear,
}

impl Format {
    /// In the order of preference: where both fit, a date with slashes has its month first.
    pub const ALL: [Format; 4] =
        [Format::YearFirst, Format::DayMonthYearByDots, Format::MonthDayYear, Format::DayMonthYear];

    /// The date, if the text is one in this format. In one pass: a table has a date in every row.
    pub fn parse(self, text: &str) -> Option<Date> {
        // The three numbers, and how many digits each has.
        let mut numbers = [(0_u32, 0_u32); 3];
        let mut at = 0;
        let mut separator = None;
        let mut bytes = text.bytes();
        for byte in bytes.by_ref() {
            match byte {
                b'0'..=b'9' => {
                    let (number, digits) = numbers.get_mut(at)?;
                    *number = *number * 10 + u32::from(byte - b'0');
                    *digits += 1;
                    if *digits > 4 {
                        return None;
                    }
                }
                b'-' | b'/' | b'.' if *separator.get_or_insert(byte) == byte => at += 1,
                // A time of day starts with the hour; anything else makes the text no date.
                b'T' | b' ' if at == 2 && bytes.next().is_some_and(|next| next.is_ascii_digit()) => break,
                _ => return None,
            }
        }
        let [first, second, third] = numbers;
        let (year, month, day) = match (self, separator?) {
            (Format::YearFirst, b'-' | b'/') => (first, second, third),
            (Format::MonthDayYear, b'/') => (third, first, second),
            (Format::DayMonthYearByDots, b'.') | (Format::DayMonthYear, b'/') => (third, second, first),
            _ => return None,
        };
        if at != 2 || year.1 != 4 || month.1 > 2 || day.1 > 2 {
            return None;
        }
        Date::new(i32::try_from(year.0).ok()?, month.0, day.0)
    }
}

impl Date {
    /// The day, if the month has it.
    pub fn new(year: i32, month: u32, day: u32) -> Option<Date> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            _ => return None,
        };
        (1..=days).contains(&day).then_some(Date { year, month, day })
    }

    /// Months since January of the year 0.
    pub fn month_number(self) -> i64 {
        i64::from(self.year) * 12 + i64::from(self.month) - 1
    }

    /// Days since 1 March of the year 0, so that differences are numbers of days.
    pub fn number(self) -> i64 {
        // Years start in March here: the leap day is then the last of its year.
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let months_since_march = i64::from((self.month + 9) % 12);
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        365 * year + leap_days + (153 * months_since_march + 2) / 5 + i64::from(self.day) - 1
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_reads_its_own_writing() {
        let day = Date::new(2012, 1, 31);
        for (format, text) in [
            (Format::YearFirst, "2012-01-31"),
            (Format::YearFirst, "2012/1/31"),
            (Format::YearFirst, "2012-01-31T12:00:00Z"),
            (Format::YearFirst, "2012-01-31 12:00"),
            (Format::DayMonthYearByDots, "31.01.2012"),
            (Format::MonthDayYear, "1/31/2012"),
            (Format::DayMonthYear, "31/01/2012"),
        ] {
            assert_eq!(format.parse(text), day, "{text}");
        }
    }

    #[test]
    fn what_is_no_day_is_no_date() {
        for text in [
            "2012-02-30",
            "2011-02-29",
            "1900-02-29",
            "2012-13-01",
            "2012-00-01",
            "2012-1",
            "20120131",
            "",
            "1.5",
            "2012-01-31 noon",
            "2012-01-+1",
            "12-01-31",
        ] {
            for format in Format::ALL {
                assert_eq!(format.parse(text), None, "{text}");
            }
        }
        assert!(Format::YearFirst.parse("2000-02-29").is_some());
    }

    #[test]
    fn days_are_numbered_without_a_gap() {
        let number = |year, month, day| Date::new(year, month, day).unwrap().number();
        assert_eq!(number(1970, 1, 1) - number(1969, 12, 31), 1);
        assert_eq!(number(2000, 3, 1) - number(2000, 2, 28), 2);
        assert_eq!(number(1900, 3, 1) - number(1900, 2, 28), 1);
        assert_eq!(number(2015, 12, 31) - number(2012, 1, 1), 1460);
    }
}
