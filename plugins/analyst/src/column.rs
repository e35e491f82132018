//! What is in a column: statistics of numbers, dates and texts, gathered cell by cell in bounded memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use schemars::JsonSchema;
use serde::Serialize;

use crate::date::{Date, Format};

/// Numbers that are kept of a table, over all columns, to find quantiles: 32 MiB of them.
const SAMPLE_TOTAL_MAX: usize = 2 << 20;

/// Numbers that are kept of a column. More would cost more instructions than all of the reading, and move a quantile by
/// less than a fifth of a percentile.
const SAMPLE_COLUMN_MAX: usize = 100_000;

/// Numbers to keep of each of so many columns.
pub fn sample_max(columns: usize) -> usize {
    (SAMPLE_TOTAL_MAX / columns.max(1)).min(SAMPLE_COLUMN_MAX)
}

/// Different texts of a column that are counted.
const CATEGORIES_MAX: usize = 10_000;

/// Different days of a column that are kept to find gaps: some 270 years.
const DAYS_MAX: usize = 100_000;

/// A longer text is not counted as a category, so that the categories stay small.
const CATEGORY_BYTES_MAX: usize = 128;

/// How many of the most frequent texts, the most extreme outliers and the longest gaps are told.
const TOLD_MAX: usize = 5;

/// What is in a column.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Column {
    pub name: String,
    /// Cells with a value, unreadable ones included.
    pub count: u64,
    /// Cells without: empty, or `NA`, `N/A`, `NaN`, `null`, `none` or `-`.
    pub missing: u64,
    /// Cells with a value that does not fit the column's type. They are left out of the statistics.
    pub unreadable: u64,
    /// The first of those, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable_example: Option<String>,
    #[serde(flatten)]
    pub content: Content,
}

/// The statistics, by the column's type.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    Number(Numbers),
    Date(Dates),
    Text(Texts),
}

/// Statistics of numbers.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Numbers {
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// Of the sample (divided by n − 1).
    pub standard_deviation: f64,
    pub quartile_1: f64,
    pub median: f64,
    pub quartile_3: f64,
    /// Whether quartiles, median and outliers come from an even sample of the numbers instead of all of them.
    pub sampled: bool,
    /// Numbers further than 1.5 interquartile ranges below the first or above the third quartile.
    pub outliers: u64,
    /// The furthest of them.
    pub extremes: Vec<Extreme>,
}

/// A number far from the others.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Extreme {
    pub value: f64,
    /// The row it is in; the first after the header is 1.
    pub row: u64,
}

/// Statistics of dates.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Dates {
    /// The first day, as `YYYY-MM-DD`.
    pub first: String,
    /// The last day.
    pub last: String,
    /// Different days.
    pub days: u64,
    /// The usual number of days from one to the next, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_days: Option<u64>,
    /// How often the next day comes later than usual.
    pub gaps: u64,
    /// The longest of those.
    pub longest_gaps: Vec<Gap>,
}

/// Days that are missing between two.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Gap {
    /// The last day before the gap.
    pub after: String,
    /// The first day after it.
    pub before: String,
    /// From one to the other.
    pub days: u64,
}

/// Statistics of texts.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Texts {
    /// Different texts.
    pub distinct: u64,
    /// Whether there are more than that.
    pub distinct_is_at_least: bool,
    /// Characters of the longest.
    pub longest: u64,
    /// The most frequent.
    pub top: Vec<Category>,
}

/// A text and how often it is there.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Category {
    pub value: String,
    pub count: u64,
}

/// What a cell holds, once its column's type is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell {
    Missing,
    Number(f64),
    Date(Date),
    /// A text, or what does not fit the type.
    Other,
}

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Number,
    Date(Format),
    Text,
}

/// The share of a column's cells that must fit a type for the column to be of it: a stray word does not make a column
/// of numbers a column of texts.
const FITTING_SHARE: f64 = 0.95;

impl Kind {
    /// The type that fits these cells.
    pub fn of<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Kind {
        let present = || cells.clone().map(str::trim).filter(|cell| !is_missing(cell));
        let fits = |fit: &dyn Fn(&str) -> bool| {
            let (mut total, mut fitting) = (0_u64, 0_u64);
            for cell in present() {
                total += 1;
                fitting += u64::from(fit(cell));
            }
            total > 0 && fitting as f64 >= total as f64 * FITTING_SHARE
        };
        if fits(&|cell| number(cell).is_some()) {
            return Kind::Number;
        }
        Format::ALL.into_iter().find(|format| fits(&|cell| format.parse(cell).is_some())).map_or(Kind::Text, Kind::Date)
    }
}

fn is_missing(cell: &str) -> bool {
    match cell.as_bytes() {
        [] | [b'-'] => true,
        [b'n' | b'N', ..] => ["na", "n/a", "nan", "null", "none"].iter().any(|word| cell.eq_ignore_ascii_case(word)),
        _ => false,
    }
}

/// A number as tables write it: with `,` between thousands, if at all.
fn number(cell: &str) -> Option<f64> {
    plain_number(cell).or_else(|| any_number(cell))
}

/// Digits with a point, as most numbers are, in one pass. Exact: the digits are a whole number below 2^53 and the power of
/// ten is one that a float can hold, so that the one division rounds correctly.
fn plain_number(cell: &str) -> Option<f64> {
    const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
    let (negative, digits) = match cell.as_bytes() {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let (mut whole, mut point) = (0_u64, None);
    for (index, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => whole = whole * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(index),
            _ => return None,
        }
    }
    let places = point.map_or(0, |point| digits.len() - 1 - point);
    if digits.len() == 16 && point.is_none() || point.is_some() && digits.len() == 1 {
        return None;
    }
    let value = whole as f64 / POWERS.get(places)?;
    Some(if negative { -value } else { value })
}

fn any_number(cell: &str) -> Option<f64> {
    // Rust reads "inf" and "infinity" too, which in a table are words.
    if !cell.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.'))
        || !cell.ends_with(|last: char| last.is_ascii_digit() || last == '.')
    {
        return None;
    }
    let plain = cell.parse().ok().or_else(|| {
        let (whole, fraction) = cell.split_once('.').unwrap_or((cell, ""));
        let mut groups = whole.trim_start_matches(['-', '+']).split(',');
        let well_grouped =
            groups.next().is_some_and(|first| (1..=3).contains(&first.len())) && groups.all(|group| group.len() == 3);
        (well_grouped && !fraction.contains(',')).then(|| cell.replace(',', "").parse().ok()).flatten()
    });
    plain.filter(|number: &f64| number.is_finite())
}

/// The cell without white space around it, which most have none of.
fn trimmed(cell: &str) -> &str {
    match cell.as_bytes() {
        [b'!'..=b'~', .., b'!'..=b'~'] | [b'!'..=b'~'] | [] => cell,
        _ => cell.trim(),
    }
}

/// How often each text is there.
type Categories = HashMap<String, u64, BuildHasherDefault<Fnv>>;

/// FNV-1a: a few instructions a byte, where the standard library's hash takes many more to withstand chosen keys. Whoever
/// chooses the keys here spends nobody's fuel but their own.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A column while its table is read.
pub struct Gathering {
    name: String,
    kind: Kind,
    count: u64,
    missing: u64,
    unreadable: u64,
    unreadable_example: Option<String>,
    moments: Moments,
    sample: Sample,
    /// By their numbers.
    days: BTreeMap<i64, Date>,
    categories: Categories,
    categories_overflowed: bool,
    longest: u64,
}

impl Gathering {
    /// `sample_max` is the most numbers to keep.
    pub fn new(name: String, kind: Kind, sample_max: usize) -> Gathering {
        Gathering {
            name,
            kind,
            count: 0,
            missing: 0,
            unreadable: 0,
            unreadable_example: None,
            moments: Moments::default(),
            sample: Sample::new(sample_max),
            days: BTreeMap::new(),
            categories: Categories::default(),
            categories_overflowed: false,
            longest: 0,
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes in the cell of a row; the first row after the header is 1.
    pub fn add(&mut self, cell: &str, row: u64) -> Cell {
        let cell = trimmed(cell);
        if is_missing(cell) {
            self.missing += 1;
            return Cell::Missing;
        }
        self.count += 1;
        match self.kind {
            Kind::Number => {
                if let Some(number) = number(cell) {
                    self.moments.add(number);
                    self.sample.add(number, row);
                    return Cell::Number(number);
                }
            }
            Kind::Date(format) => {
                if let Some(date) = format.parse(cell) {
                    if self.days.len() < DAYS_MAX {
                        self.days.insert(date.number(), date);
                    }
                    return Cell::Date(date);
                }
            }
            Kind::Text => {
                self.add_text(cell);
                return Cell::Other;
            }
        }
        self.unreadable += 1;
        self.unreadable_example.get_or_insert_with(|| cell.chars().take(60).collect());
        Cell::Other
    }

    fn add_text(&mut self, cell: &str) {
        // There are no more characters than bytes, so that most cells need not be counted.
        if cell.len() as u64 > self.longest {
            self.longest = self.longest.max(cell.chars().count() as u64);
        }
        if let Some(count) = self.categories.get_mut(cell) {
            *count += 1;
        } else if self.categories.len() < CATEGORIES_MAX && cell.len() <= CATEGORY_BYTES_MAX {
            self.categories.insert(cell.to_owned(), 1);
        } else {
            self.categories_overflowed = true;
        }
    }

    pub fn finish(self) -> Column {
        let content = match self.kind {
            // A column without any value has no type to speak of.
            _ if self.count == self.unreadable => Content::Text(Texts {
                distinct: 0,
                distinct_is_at_least: self.unreadable > 0,
                longest: 0,
                top: Vec::new(),
            }),
            Kind::Number => Content::Number(numbers(&self.moments, self.sample)),
            Kind::Date(_) => Content::Date(dates(&self.days)),
            Kind::Text => Content::Text(texts(self.categories, self.categories_overflowed, self.longest)),
        };
        Column {
            name: self.name,
            count: self.count,
            missing: self.missing,
            unreadable: self.unreadable,
            unreadable_example: self.unreadable_example,
            content,
        }
    }
}

fn numbers(moments: &Moments, sample: Sample) -> Numbers {
    let sampled = sample.is_partial();
    let seen = sample.seen;
    let mut kept = sample.kept;
    let mut quantile = |share: f64| quantile(&mut kept, share);
    let (quartile_1, median, quartile_3) = (quantile(0.25), quantile(0.5), quantile(0.75));
    let reach = 1.5 * (quartile_3 - quartile_1);
    // How far beyond the fence; not positive for a number within.
    let excess = |value: f64| (quartile_1 - reach - value).max(value - quartile_3 - reach);
    let mut beyond: Vec<_> = kept.iter().copied().filter(|(value, _)| excess(*value) > 0.0).collect();
    let outliers = beyond.len() as u64;
    // By row where they are as far, so that the same table has the same report.
    beyond.sort_by(|(one, at), (other, at_other)| excess(*other).total_cmp(&excess(*one)).then(at.cmp(at_other)));
    Numbers {
        min: moments.min,
        max: moments.max,
        mean: moments.mean,
        standard_deviation: moments.standard_deviation(),
        quartile_1,
        median,
        quartile_3,
        sampled,
        // A share of the sample stands for the same share of all.
        outliers: if sampled { (outliers as f64 * seen as f64 / kept.len() as f64).round() as u64 } else { outliers },
        extremes: beyond.into_iter().take(TOLD_MAX).map(|(value, row)| Extreme { value, row }).collect(),
    }
}

/// Between the two nearest, as most statistics programs do by default. Puts the numbers in another order, but does not
/// sort them: that would take more instructions than all of the reading.
fn quantile(numbers: &mut [(f64, u64)], share: f64) -> f64 {
    let place = share * numbers.len().saturating_sub(1) as f64;
    let index = place.floor() as usize;
    if index >= numbers.len() {
        return 0.0;
    }
    let (_, (below, _), greater) = numbers.select_nth_unstable_by(index, |(one, _), (other, _)| one.total_cmp(other));
    let above = greater.iter().map(|(number, _)| *number).fold(f64::INFINITY, f64::min);
    if place.fract() == 0.0 { *below } else { *below + (above - *below) * place.fract() }
}

fn dates(days: &BTreeMap<i64, Date>) -> Dates {
    let steps = || days.iter().zip(days.iter().skip(1)).map(|(one, next)| (next.0 - one.0, *one.1, *next.1));
    let mut how_often = BTreeMap::new();
    for (step, ..) in steps() {
        *how_often.entry(step).or_insert(0_usize) += 1;
    }
    // Usual is what at least half of the steps are; months are of one kind, whatever their length.
    let monthly: usize = how_often.range(28..=31).map(|(_, count)| count).sum();
    let half = days.len().saturating_sub(1).div_ceil(2).max(1);
    let most_frequent = how_often.iter().max_by_key(|(_, count)| **count).map(|(step, count)| (*step, *count));
    let usual = match most_frequent {
        _ if monthly >= half => Some(31),
        Some((step, count)) if count >= half => Some(step),
        _ => None,
    };
    let mut gaps: Vec<_> = steps().filter(|(step, ..)| usual.is_some_and(|usual| *step > usual)).collect();
    let count = gaps.len() as u64;
    gaps.sort_by_key(|(step, ..)| std::cmp::Reverse(*step));
    let gap = |(days, after, before): (i64, Date, Date)| Gap {
        after: after.to_string(),
        before: before.to_string(),
        days: days.unsigned_abs(),
    };
    let day = |day: Option<(&i64, &Date)>| day.map(|(_, date)| date.to_string()).unwrap_or_default();
    Dates {
        first: day(days.first_key_value()),
        last: day(days.last_key_value()),
        days: days.len() as u64,
        step_days: usual.map(i64::unsigned_abs),
        gaps: count,
        longest_gaps: gaps.into_iter().take(TOLD_MAX).map(gap).collect(),
    }
}

fn texts(categories: Categories, overflowed: bool, longest: u64) -> Texts {
    let distinct = categories.len() as u64;
    let mut top: Vec<_> = categories.into_iter().map(|(value, count)| Category { value, count }).collect();
    // By name where the count is the same, so that the same table has the same report.
    top.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.value.cmp(&other.value)));
    top.truncate(TOLD_MAX);
    Texts { distinct, distinct_is_at_least: overflowed, longest, top }
}

/// Count, range, mean and variance in one pass, without the loss of precision that sums of squares have (Welford).
#[derive(Clone, Copy, Debug)]
pub struct Moments {
    pub count: u64,
    pub mean: f64,
    squares: f64,
    min: f64,
    max: f64,
}

impl Default for Moments {
    fn default() -> Moments {
        Moments { count: 0, mean: 0.0, squares: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY }
    }
}

impl Moments {
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (value - self.mean);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn standard_deviation(&self) -> f64 {
        if self.count < 2 { 0.0 } else { (self.squares / (self.count - 1) as f64).sqrt() }
    }
}

/// How two columns vary together, in one pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Comoment {
    count: u64,
    mean_a: f64,
    mean_b: f64,
    squares_a: f64,
    squares_b: f64,
    products: f64,
}

impl Comoment {
    pub fn add(&mut self, a: f64, b: f64) {
        self.count += 1;
        let (delta_a, delta_b) = (a - self.mean_a, b - self.mean_b);
        self.mean_a += delta_a / self.count as f64;
        self.mean_b += delta_b / self.count as f64;
        self.squares_a += delta_a * (a - self.mean_a);
        self.squares_b += delta_b * (b - self.mean_b);
        self.products += delta_a * (b - self.mean_b);
    }

    /// Pearson's coefficient, −1 to 1; none if there are fewer than three pairs or a column does not vary.
    pub fn correlation(&self) -> Option<f64> {
        let scale = (self.squares_a * self.squares_b).sqrt();
        (self.count >= 3 && scale > 0.0).then(|| (self.products / scale).clamp(-1.0, 1.0))
    }
}

/// Up to a number of values, every one of a column as likely to be kept as any other (Algorithm R).
struct Sample {
    kept: Vec<(f64, u64)>,
    max: usize,
    seen: u64,
    random: u64,
}

impl Sample {
    fn new(max: usize) -> Sample {
        // A fixed seed: the same table has the same report.
        Sample { kept: Vec::new(), max: max.max(1), seen: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    fn add(&mut self, value: f64, row: u64) {
        self.seen += 1;
        if self.kept.len() < self.max {
            self.kept.push((value, row));
            return;
        }
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let place = (self.random % self.seen) as usize;
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = (value, row);
        }
    }

    fn is_partial(&self) -> bool {
        self.seen > self.kept.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(cells: &[&str]) -> Column {
        let mut gathering = Gathering::new("c".into(), Kind::of(cells.iter().copied()), 1000);
        for (row, cell) in cells.iter().enumerate() {
            gathering.add(cell, row as u64 + 1);
        }
        gathering.finish()
    }

    fn numbers_of(column: Column) -> Numbers {
        match column.content {
            Content::Number(numbers) => numbers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_column_is_of_the_type_that_its_cells_fit() {
        let kind = |cells: &[&str]| Kind::of(cells.iter().copied());
        assert_eq!(kind(&["1", "-2.5", "+3e4", "", "NA", "1,234.5"]), Kind::Number);
        assert_eq!(kind(&["1", "two"]), Kind::Text);
        assert_eq!(kind(&["inf", "nan", "Infinity"]), Kind::Text);
        assert_eq!(kind(&["", "-", "null"]), Kind::Text);
        assert_eq!(kind(&["2012-01-01", "2012-01-02T10:00"]), Kind::Date(Format::YearFirst));
        assert_eq!(kind(&["1/2/2012", "12/31/2012"]), Kind::Date(Format::MonthDayYear));
        assert_eq!(kind(&["1/2/2012", "31/12/2012"]), Kind::Date(Format::DayMonthYear));
        assert_eq!(kind(&["12,34", "5"]), Kind::Text);
        let mut mostly: Vec<_> = std::iter::repeat_n("7", 95).collect();
        mostly.extend(["seven"; 5]);
        assert_eq!(kind(&mostly), Kind::Number);
        mostly.push("eight");
        assert_eq!(kind(&mostly), Kind::Text);
    }

    #[test]
    fn the_short_way_to_a_number_and_the_long_one_lead_to_the_same() {
        for cell in [
            "0",
            "-0",
            "7",
            "3.14",
            "-2.50",
            ".5",
            "5.",
            "123456789012345",
            "0.00000000000001",
            "99999999999999.9",
            "1234567890123456",
            "0.1234567890123456",
            "1e5",
            "+1",
            "00012.30",
        ] {
            let expected: f64 = cell.parse().unwrap();
            assert_eq!(number(cell).map(f64::to_bits), Some(expected.to_bits()), "{cell}");
        }
        for cell in ["", "-", ".", "-.", "1.2.3", "--1", "1-", "0x10", "1 2", "1,23", "e5", "1e", "1e999"] {
            assert_eq!(number(cell), None, "{cell}");
        }
    }

    #[test]
    fn numbers_have_the_statistics_of_the_textbook() {
        let column = column(&["2", "4", "4", "4", "5", "5", "7", "9", "", "n/a"]);
        assert_eq!((column.count, column.missing, column.unreadable), (8, 2, 0));
        let numbers = numbers_of(column);
        assert_eq!((numbers.min, numbers.max, numbers.mean), (2.0, 9.0, 5.0));
        assert!((numbers.standard_deviation - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!((numbers.quartile_1, numbers.median, numbers.quartile_3), (4.0, 4.5, 5.5));
        assert_eq!(numbers.outliers, 1);
        assert_eq!((numbers.extremes[0].value, numbers.extremes[0].row), (9.0, 8));
    }

    #[test]
    fn a_variance_far_from_zero_keeps_its_precision() {
        let numbers = numbers_of(column(&["1000000004", "1000000007", "1000000013", "1000000016"]));
        assert!((numbers.standard_deviation - 30.0_f64.sqrt()).abs() < 1e-9);
    }

    #[test]
    fn one_number_has_no_spread_and_no_column_at_all_no_type() {
        assert_eq!(numbers_of(column(&["5"])).standard_deviation, 0.0);
        let empty = column(&["", "NA"]);
        assert_eq!((empty.count, empty.missing), (0, 2));
        assert!(matches!(empty.content, Content::Text(Texts { distinct: 0, .. })));
    }

    #[test]
    fn a_stray_word_among_numbers_is_told_and_left_out() {
        let mut cells = vec!["1"; 40];
        cells.push("broken");
        let column = column(&cells);
        assert_eq!((column.count, column.unreadable), (41, 1));
        assert_eq!(column.unreadable_example.as_deref(), Some("broken"));
        assert_eq!(numbers_of(column).mean, 1.0);
    }

    #[test]
    fn a_sample_stands_for_a_long_column() {
        let mut gathering = Gathering::new("c".into(), Kind::Number, 2000);
        for row in 1..=100_000_u64 {
            gathering.add(&row.to_string(), row);
        }
        let numbers = numbers_of(gathering.finish());
        assert!(numbers.sampled);
        assert_eq!((numbers.min, numbers.max, numbers.mean), (1.0, 100_000.0, 50_000.5));
        assert!((numbers.median - 50_000.0).abs() < 4_000.0, "{}", numbers.median);
    }

    #[test]
    fn a_missing_day_is_a_gap_and_a_short_month_is_not() {
        let dates = |cells: &[&str]| match column(cells).content {
            Content::Date(dates) => dates,
            other => panic!("{other:?}"),
        };
        let daily = dates(&["2012-01-01", "2012-01-02", "2012-01-05", "2012-01-06", "2012-01-06"]);
        assert_eq!((daily.days, daily.step_days, daily.gaps), (4, Some(1), 1));
        assert_eq!((daily.longest_gaps[0].after.as_str(), daily.longest_gaps[0].days), ("2012-01-02", 3));
        let monthly = dates(&["2012-01-01", "2012-02-01", "2012-03-01", "2012-05-01"]);
        assert_eq!((monthly.step_days, monthly.gaps), (Some(31), 1));
        let single = dates(&["2012-01-01"]);
        assert_eq!((single.first.as_str(), single.step_days, single.gaps), ("2012-01-01", None, 0));
    }

    #[test]
    fn the_most_frequent_texts_come_first_and_then_by_name() {
        match column(&["b", "a", "c", "c", "x y"]).content {
            Content::Text(texts) => {
                let top: Vec<_> = texts.top.iter().map(|category| (category.value.as_str(), category.count)).collect();
                assert_eq!(top, [("c", 2), ("a", 1), ("b", 1), ("x y", 1)]);
                assert_eq!((texts.distinct, texts.distinct_is_at_least, texts.longest), (4, false, 3));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn columns_that_move_together_correlate() {
        let of = |pairs: &[(f64, f64)]| {
            let mut comoment = Comoment::default();
            pairs.iter().for_each(|(a, b)| comoment.add(*a, *b));
            comoment.correlation()
        };
        assert!((of(&[(1.0, 2.0), (2.0, 4.0), (3.0, 6.0)]).unwrap() - 1.0).abs() < 1e-12);
        assert!((of(&[(1.0, 6.0), (2.0, 4.0), (3.0, 2.0)]).unwrap() + 1.0).abs() < 1e-12);
        assert_eq!(of(&[(1.0, 5.0), (2.0, 5.0), (3.0, 5.0)]), None);
        assert_eq!(of(&[(1.0, 5.0), (2.0, 6.0)]), None);
    }
}
