//! Golden help texts, and rules that every flag's help has to keep.
//!
//! `INSTA_UPDATE=always cargo test -p llamero --test it help` rewrites the golden
//! files under `tests/it/snapshots` after an intended change.

use clap::{Arg, Command, CommandFactory};
use llamero_cli::args::Cli;
use llamero_worker::settings;

/// The command as it is parsed, with a width that no terminal decides.
fn command() -> Command {
    let mut command = Cli::command().term_width(100);
    command.build();
    command
}

fn subcommand(name: &str) -> Command {
    command().find_subcommand(name).expect("the subcommand exists").clone().term_width(100)
}

fn golden(name: &str) {
    let help = subcommand(name).render_long_help().to_string();
    insta::assert_snapshot!(name, help);
}

#[test]
fn main_help() {
    insta::assert_snapshot!("llamero", command().render_long_help().to_string());
}

#[test]
fn worker_help() {
    golden("worker");
}

#[test]
fn predict_help() {
    golden("predict");
}

#[test]
fn embed_help() {
    golden("embed");
}

#[test]
fn models_help() {
    golden("models");
}

#[test]
fn interrupt_help() {
    golden("interrupt");
}

#[test]
fn hook_help() {
    golden("hook");
    let hook = subcommand("hook");
    for name in ["list", "reload", "rollback", "disable", "inspect", "check"] {
        let sub = hook.find_subcommand(name).expect("the subcommand exists");
        // The flags of the connection are those of every client command.
        let sub = sub.clone().term_width(100);
        let help = sub.clone().render_long_help().to_string();
        let help = help.split_once("\nConnection:").map_or(help.clone(), |(own, rest)| {
            let examples = rest.split_once("\nExamples:").map_or("", |(_, text)| text);
            format!("{own}\nConnection: ...\n\nExamples:{examples}")
        });
        insta::assert_snapshot!(format!("hook_{name}"), help);
    }
}

#[test]
fn settings_help() {
    golden("settings");
}

#[test]
fn demo_help() {
    golden("demo");
}

/// Every argument of every subcommand but the ones that clap adds.
fn arguments() -> Vec<(String, Arg)> {
    arguments_of(&command())
}

fn arguments_of(command: &Command) -> Vec<(String, Arg)> {
    command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
        .flat_map(|sub| {
            let own = sub
                .get_arguments()
                .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
                .map(|arg| (sub.get_name().to_owned(), arg.clone()));
            own.chain(arguments_of(sub)).collect::<Vec<_>>()
        })
        .collect()
}

fn help_of(arg: &Arg) -> String {
    arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default()
}

#[test]
fn every_flag_begins_with_a_verb_and_names_its_value() {
    for (command, arg) in arguments() {
        let help = help_of(&arg);
        let place = format!("{command} {}", arg.get_id());
        assert!(help.chars().next().is_some_and(char::is_uppercase), "{place}: {help:?}");
        if arg.get_action().takes_values() {
            let names = arg.get_value_names().expect("a value has a name");
            assert!(names.iter().all(|name| name.to_uppercase() == name.as_str()), "{place}");
        }
    }
}

#[test]
fn flags_that_are_settings_name_their_default_variable_and_key() {
    let worker = subcommand("worker");
    let specs = settings::specs();
    let mut checked = 0;
    for arg in worker.get_arguments() {
        let Some(flag) = arg.get_long() else { continue };
        if ["config", "set", "help", "version"].contains(&flag) {
            continue;
        }
        let spec = specs
            .iter()
            .find(|spec| spec.flag() == flag)
            .unwrap_or_else(|| panic!("--{flag} is no setting"));
        let help = help_of(arg);
        for part in [
            "[default: ".to_owned(),
            format!("[env: llm_{}", spec.name),
            format!("[config: {}]", spec.name),
        ] {
            assert!(help.contains(&part), "--{flag} lacks {part}: {help}");
        }
        for alias in spec.aliases {
            assert!(help.contains(alias), "--{flag} lacks {alias}: {help}");
        }
        checked += 1;
    }
    assert_eq!(checked, 11, "a flag was added or removed");
}

#[test]
fn no_flag_occurs_twice_in_a_command() {
    // clap checks this, and more, in debug builds only.
    command().debug_assert();
}
