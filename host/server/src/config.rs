//! What a server is told at its start: flags before environment before defaults, all of it checked before anything
//! happens.

use cofferdam_core::quota::Quota;
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// The variables that mean something. Any other `COFFERDAM_` variable is a mistake that would go unseen.
const VARIABLES: [&str; 9] = [
    "COFFERDAM_DATA_DIR",
    "COFFERDAM_LISTEN",
    "COFFERDAM_ADMIN_LISTEN",
    "COFFERDAM_DEV",
    "COFFERDAM_DRAIN_WAIT",
    "COFFERDAM_LOG",
    "COFFERDAM_URL",
    "COFFERDAM_API_KEY",
    "COFFERDAM_ADMIN_KEY",
];

/// How long a drain may be: shorter, and no run ends by itself; longer, and no init system waits for it.
const DRAIN_WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);

/// Start the server.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// For development: free ports, a fresh data directory unless one is given, and ready-made keys that are printed.
    /// Limits, grants and storage are the same as without it.
    #[arg(long, env = "COFFERDAM_DEV")]
    dev: bool,
    /// Where everything is kept: runs, plugins, workspaces, keys.
    #[arg(long, value_name = "DIR", env = "COFFERDAM_DATA_DIR", required_unless_present = "dev")]
    data_dir: Option<PathBuf>,
    /// Where clients connect; port 0 takes a free one [default: 127.0.0.1:8080, with --dev 127.0.0.1:0].
    #[arg(long, value_name = "ADDRESS:PORT", env = "COFFERDAM_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where the platform looks after the host: /livez and /readyz (health), /streams (sockets) and /metrics (Prometheus).
    /// Keep it away from clients [default: 127.0.0.1:8081, with --dev 127.0.0.1:0].
    #[arg(long, value_name = "ADDRESS:PORT", env = "COFFERDAM_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,
    /// How long running runs may go on after SIGTERM, with its unit: 100ms to 60m.
    #[arg(long, value_name = "TIME", env = "COFFERDAM_DRAIN_WAIT", default_value = "30s", value_parser = drain_wait)]
    drain_wait: Duration,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept. None: a fresh directory that is removed at the end.
    pub data_dir: Option<PathBuf>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where the platform looks after the host.
    pub admin_listen: SocketAddr,
    /// Ready-made keys, told to whoever starts the server.
    pub dev: bool,
    /// How long running runs may go on once the server is to end.
    pub drain_wait: Duration,
    /// The `cofferdam` binary, which compiles components in a process of its own.
    pub compile_worker: PathBuf,
    /// What each user may take.
    pub quota: Quota,
    /// Runs executing at once, of all users.
    pub runs_live_max: u32,
    /// How long WebSockets are waited for.
    pub socket_times: SocketTimes,
}

/// How long WebSockets are waited for. Fixed for a host; tests are impatient.
#[derive(Debug, Clone, Copy)]
pub struct SocketTimes {
    /// The time between two pings. Proxies drop connections that are silent for longer.
    pub ping_every: Duration,
    /// The longest silence of a client, whose every frame counts, the answers to pings among them. Then it is taken to
    /// be gone, and its socket is closed.
    pub silence_max: Duration,
    /// How long a client may take to read what it was sent at once. Then its socket is closed; what it missed is in
    /// storage.
    pub write_max: Duration,
}

impl Default for SocketTimes {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(15),
            silence_max: Duration::from_secs(45),
            write_max: Duration::from_secs(30),
        }
    }
}

/// A configuration that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable that nothing reads.
    #[error("there is no setting {given}; did you mean {nearest}? Rename it, or unset it")]
    UnknownVariable {
        /// As it is set.
        given: String,
        /// The most similar one.
        nearest: &'static str,
    },
    /// Two listeners, one address.
    #[error("--listen and --admin-listen are both {0}; give the admin listener another port")]
    SameAddress(SocketAddr),
    /// No binary to compile with.
    #[error("cannot find the path of this binary, which compiles plugins: {0}; start it by its full path")]
    NoBinary(#[source] std::io::Error),
}

impl Config {
    /// A development server on free ports, with a fresh data directory.
    #[must_use]
    pub fn dev(compile_worker: PathBuf) -> Self {
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir: None,
            listen: free,
            admin_listen: free,
            dev: true,
            drain_wait: Duration::from_secs(30),
            compile_worker,
            quota: Quota::default(),
            runs_live_max: cofferdam_core::quota::RUNS_LIVE_MAX,
            socket_times: SocketTimes::default(),
        }
    }

    /// The configuration that flags and environment ask for.
    ///
    /// # Errors
    /// When they do not make one.
    pub fn from_args(args: ServeArgs) -> Result<Self, ConfigError> {
        known_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))?;
        let worker = std::env::current_exe().map_err(ConfigError::NoBinary)?;
        let port = |fixed: u16| SocketAddr::from(([127, 0, 0, 1], if args.dev { 0 } else { fixed }));
        let config = Self {
            listen: args.listen.unwrap_or_else(|| port(8080)),
            admin_listen: args.admin_listen.unwrap_or_else(|| port(8081)),
            data_dir: args.data_dir,
            drain_wait: args.drain_wait,
            dev: args.dev,
            ..Self::dev(worker)
        };
        if config.listen == config.admin_listen && config.listen.port() != 0 {
            return Err(ConfigError::SameAddress(config.listen));
        }
        Ok(config)
    }
}

fn known_variables(names: impl Iterator<Item = String>) -> Result<(), ConfigError> {
    for given in names.filter(|name| name.starts_with("COFFERDAM_")) {
        if !VARIABLES.contains(&given.as_str()) {
            let nearest = VARIABLES.into_iter().min_by_key(|name| strsim::damerau_levenshtein(name, &given));
            return Err(ConfigError::UnknownVariable { given, nearest: nearest.unwrap_or_default() });
        }
    }
    Ok(())
}

fn drain_wait(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match text.strip_prefix(number).unwrap_or_default() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("a time needs its unit: 500ms, 30s, 5m".into()),
    };
    let ms = number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit_ms))
        .ok_or("a time is a whole number and its unit: 30s")?;
    let wait = Duration::from_millis(ms);
    if DRAIN_WAIT.contains(&wait) { Ok(wait) } else { Err("must be from 100ms to 60m".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_is_within_bounds() {
        for (text, ms) in [("100ms", 100), ("30s", 30_000), ("60m", 3_600_000)] {
            assert_eq!(drain_wait(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "0s",
            "99ms",
            "61m",
            "-1s",
            "1.5s",
            "30 s",
            "30h",
            "99999999999999999999s",
            "18446744073709551615m",
        ] {
            assert!(drain_wait(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_refused_with_the_right_one() {
        let names = |names: &[&str]| known_variables(names.iter().map(|name| (*name).to_owned()));
        assert!(names(&["PATH", "COFFERDAM_LISTEN", "COFFERDAM_API_KEY"]).is_ok());
        let refused = names(&["COFFERDAM_LISTN"]).expect_err("refused").to_string();
        assert!(refused.contains("did you mean COFFERDAM_LISTEN?"), "{refused}");
    }
}
