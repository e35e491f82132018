//! The verbs of `cofferdam`. Exit codes: 0 it worked; 1 the run, or the build, failed; 2 the command line is wrong;
//! 3 the server refused; 4 the server cannot be reached, or the host failed.

use clap::{
    CommandFactory as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use failure::Failure;
use std::process::ExitCode;

mod build;
mod client;
mod dev;
mod doctor;
mod events;
mod failure;
mod files;
mod follow;
mod grant;
mod inspect;
mod key;
mod kit;
mod locally;
mod new;
mod output;
mod plugin;
mod project;
mod quota;
mod replay;
mod run;
mod runs;
mod serve;
mod test;
mod usage;
mod verbs;

const AFTER_HELP: &str = "\
Exit codes:
  0  it worked
  1  the run, the build or a test failed (of `run`, `test` and `runs submit`; what only shows a run, as `runs events` does,
     shows it)
  2  the command line is wrong
  3  the server refused (a 4xx answer)
  4  the server cannot be reached, or the host failed

Environment:
  COFFERDAM_URL        the server, for every verb that talks to one
  COFFERDAM_API_KEY    your key
  COFFERDAM_ADMIN_KEY  an operator's key, for plugin push, grant, quota, tier, key and the usage of others
  COFFERDAM_LOG        what `serve` and `run` log: error, warn, info, debug";

/// Run untrusted agents, each in a sandbox of its own.
#[derive(Debug, Parser)]
#[command(name = "cofferdam", version, after_help = AFTER_HELP, arg_required_else_help = true)]
struct Cli {
    /// Print JSON, one document a line, and errors as problem documents.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the server.
    Serve(crate::config::ServeArgs),
    /// Run a component here and now, without a server.
    Run(run::RunArgs),
    /// Make a project from a template.
    New(new::NewArgs),
    /// Compile a project to a component.
    Build(build::BuildArgs),
    /// Build a project and run its cases, under the same limits and meter as on a server.
    Test(test::TestArgs),
    /// Watch a project, and build and run it again at each change.
    Dev(dev::DevArgs),
    /// Say what is installed of what an author needs, what is missing, and what mends it.
    Doctor(doctor::DoctorArgs),
    /// Show what a component is, asks for, and must be granted.
    Inspect(inspect::InspectArgs),
    /// Push and look at plugins.
    Plugin(plugin::PluginArgs),
    /// Submit, follow and look at runs.
    Runs(runs::RunsArgs),
    /// Execute a run that has ended again from its journal, and show the first difference.
    Replay(replay::ReplayArgs),
    /// Show the events of all of your runs.
    Events(events::EventsArgs),
    /// Say what a plugin may do for a user.
    Grant(grant::GrantArgs),
    /// Say how much a user may take.
    Quota(quota::QuotaArgs),
    /// Say how much the users of a tier may take.
    Tier(quota::TierArgs),
    /// Make API keys.
    Key(key::KeyArgs),
    /// Show what a user has, and has taken.
    Usage(usage::UsageArgs),
    /// Files of your workspace on the server.
    Files(files::FilesArgs),
    /// Compile one component under limits. The server starts this by itself.
    #[command(hide = true)]
    CompileWorker,
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, too, but not to the user.
            let _ = error.print();
            if let Some(verb) = verb_of_another(&error) {
                output::note(&format!("next: `{verb} --help`"));
            }
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(cli.verb, cli.json) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(cli.json);
            failure.exit_code()
        }
    }
}

/// The verb that a word belongs to which stands where it is none: `plugin push` for `push`.
fn verb_of_another(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let mut found = Cli::command()
        .get_subcommands()
        .filter(|verb| verb.find_subcommand(word).is_some())
        .map(|verb| format!("cofferdam {} {word}", verb.get_name()))
        .collect::<Vec<_>>();
    // Of several, such as `get`, nobody can say which.
    found.pop().filter(|_| found.is_empty())
}

fn run(verb: Verb, json: bool) -> Result<(), Failure> {
    match verb {
        // These do without the network and its threads.
        Verb::New(args) => new::run(args, json),
        Verb::Build(args) => build::run(&args).map_err(|error| Failure::Build(format!("{error:#}"))),
        Verb::CompileWorker => Err(Failure::Usage("compile-worker takes no other arguments".into())),
        Verb::Serve(args) => serve::run(args, json),
        Verb::Run(args) => within_tokio(run::run(args, json)),
        Verb::Test(args) => within_tokio(test::run(args, json)),
        Verb::Dev(args) => within_tokio(dev::run(args, json)),
        Verb::Doctor(args) => within_tokio(doctor::run(args, json)),
        Verb::Inspect(args) => within_tokio(inspect::run(args, json)),
        Verb::Plugin(args) => within_tokio(plugin::run(args, json)),
        Verb::Runs(args) => within_tokio(runs::run(args, json)),
        Verb::Replay(args) => within_tokio(replay::run(args, json)),
        Verb::Events(args) => within_tokio(events::run(args, json)),
        Verb::Grant(args) => within_tokio(grant::run(args, json)),
        Verb::Quota(args) => within_tokio(quota::run_quota(args, json)),
        Verb::Tier(args) => within_tokio(quota::run_tier(args, json)),
        Verb::Key(args) => within_tokio(key::run(args, json)),
        Verb::Usage(args) => within_tokio(usage::run(args, json)),
        Verb::Files(args) => within_tokio(files::run(args, json)),
    }
}

fn within_tokio(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| Failure::Host(format!("cannot start threads: {error}")))?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_can_stand_before_and_after_the_verb() {
        for line in [
            "cofferdam --json runs list",
            "cofferdam runs --json list",
            "cofferdam runs list --json",
            "cofferdam build --json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert!(cli.json, "{line}");
        }
    }

    #[test]
    fn a_verb_without_what_it_belongs_to_is_found() {
        let found = |line: &str| verb_of_another(&Cli::try_parse_from(line.split(' ')).expect_err(line));
        assert_eq!(found("cofferdam push echo echo.wasm").as_deref(), Some("cofferdam plugin push"));
        assert_eq!(found("cofferdam submit echo").as_deref(), Some("cofferdam runs submit"));
        assert_eq!(found("cofferdam get ann"), None);
        assert_eq!(found("cofferdam nothing"), None);
        assert_eq!(found("cofferdam runs push"), Some("cofferdam plugin push".into()));
    }
}
