//! The text form of metrics (Prometheus, 0.0.4): whole families, each with its help and type before its samples.

use cofferdam_core::latency::{BOUNDS_US, LatencyCounts};
use std::fmt::{self, Display, Write as _};

/// The media type.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text in the making. Names, labels and their values are words of the code, in which nothing has to be escaped.
#[derive(Default)]
pub(crate) struct Exposition(String);

/// A label: its name and its value.
type Label = (&'static str, &'static str);

impl Exposition {
    /// A number that only grows. The name ends with `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// Numbers that only grow, each with its labels.
    pub fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([Label; N], u64)>,
    ) {
        self.family(name, "counter", help);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    /// Durations by size, in seconds. The name ends with `_seconds`.
    pub fn histograms<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([Label; N], LatencyCounts)>,
    ) {
        self.family(name, "histogram", help);
        for (labels, counts) in samples {
            let mut sum = 0_u64;
            let bounds = BOUNDS_US.into_iter().map(Some).chain([None]);
            for (count, bound) in counts.counts.iter().zip(bounds) {
                sum = sum.saturating_add(*count);
                let bound = bound.map_or_else(|| "+Inf".to_owned(), |us| Seconds(us).to_string());
                self.0.push_str(name);
                self.0.push_str("_bucket{");
                for (label, value) in &labels {
                    self.write(format_args!("{label}=\"{value}\","));
                }
                self.write(format_args!("le=\"{bound}\"}} {sum}\n"));
            }
            self.sample(&format!("{name}_sum"), &labels, Seconds(counts.sum_us));
            self.sample(&format!("{name}_count"), &labels, sum);
        }
    }

    /// The text.
    pub fn text(self) -> String {
        self.0
    }

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[Label], value: impl Display) {
        self.0.push_str(name);
        for (n, (label, value)) in labels.iter().enumerate() {
            self.write(format_args!("{}{label}=\"{value}\"", if n == 0 { '{' } else { ',' }));
        }
        self.write(format_args!("{} {value}\n", if labels.is_empty() { "" } else { "}" }));
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// Microseconds, shown as seconds to the last digit.
pub(crate) struct Seconds(pub u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000, self.0 % 1_000_000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        write!(f, "{}", format!("{whole}.{rest:06}").trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_the_format_says() {
        let mut text = Exposition::default();
        text.counters("a_total", "How many.", [([("kind", "x"), ("status", "2xx")], 3)]);
        text.gauge("b", "How much.", 1);
        assert_eq!(
            text.text(),
            "# HELP a_total How many.\n# TYPE a_total counter\na_total{kind=\"x\",status=\"2xx\"} 3\n\
             # HELP b How much.\n# TYPE b gauge\nb 1\n"
        );
        for (us, shown) in [(0, "0"), (100, "0.0001"), (1_500_000, "1.5"), (60_000_000, "60")] {
            assert_eq!(Seconds(us).to_string(), shown);
        }
    }
}
