//! Turns flags into the top layer of the settings.
//!
//! Only names are matched here: which setting a flag means. Whether the value
//! is right is decided where all layers come together, in
//! `llamero_worker::settings`.

use std::collections::BTreeMap;
use std::path::Path;

use llamero_worker::settings::Flags;

use crate::args::{ConnectArgs, WorkerArgs};
use crate::exit::{Exit, Failure};

/// The top layer that the flags of a client command mean.
///
/// # Errors
/// A setting is given twice, or a path is not UTF-8.
pub fn of_client(args: &ConnectArgs) -> Result<Flags, Failure> {
    let mut layer = Layer::default();
    layer.connect(args)?;
    layer.finish(args)
}

/// The top layer that the flags of `llamero worker` mean.
///
/// # Errors
/// As [`of_client`].
pub fn of_worker(args: &WorkerArgs) -> Result<Flags, Failure> {
    let mut layer = Layer::default();
    layer.connect(&args.connect)?;
    layer.path("dir", "--models", args.models.as_deref())?;
    layer.text("model", "--model", args.model.as_deref())?;
    layer.path("hooks_dir", "--hooks", args.hooks.as_deref())?;
    layer.number("slots", "--slots", args.slots)?;
    layer.number("queue", "--queue", args.queue)?;
    layer.number("ctx_size", "--ctx-size", args.ctx_size)?;
    layer.text("preload", "--preload", args.preload.then_some("true"))?;
    let form = args.log_format.map(|form| form.as_setting());
    layer.text("log_format", "--log-format", form)?;
    layer.finish(&args.connect)
}

/// Settings by name, with the text and the flag that set them.
#[derive(Debug, Default)]
struct Layer {
    values: BTreeMap<String, (String, String)>,
}

impl Layer {
    fn connect(&mut self, args: &ConnectArgs) -> Result<(), Failure> {
        self.text("nats_url", "--nats", args.nats.as_deref())?;
        self.text("nats_worker_subject", "--subject", args.subject.as_deref())?;
        self.text("log", "--log", args.log.as_deref())?;
        for setting in &args.set {
            self.add(&setting.name, "--set", setting.value.clone())?;
        }
        Ok(())
    }

    fn text(&mut self, name: &str, flag: &str, value: Option<&str>) -> Result<(), Failure> {
        match value {
            Some(text) => self.add(name, flag, text.to_owned()),
            None => Ok(()),
        }
    }

    fn number(&mut self, name: &str, flag: &str, value: Option<u32>) -> Result<(), Failure> {
        self.text(name, flag, value.map(|number| number.to_string()).as_deref())
    }

    fn path(&mut self, name: &str, flag: &str, value: Option<&Path>) -> Result<(), Failure> {
        let Some(path) = value else { return Ok(()) };
        let Some(text) = path.to_str() else {
            return Err(Failure::new(
                Exit::Usage,
                format!("{flag}: the path {} is not UTF-8", path.display()),
            ));
        };
        self.add(name, flag, text.to_owned())
    }

    fn add(&mut self, name: &str, flag: &str, text: String) -> Result<(), Failure> {
        // One rule for every pair, because a silent winner would be a guess.
        if let Some((_, first)) = self.values.get(name) {
            return Err(Failure::new(
                Exit::Usage,
                format!("the setting {name} is given twice, by {first} and by {flag}"),
            )
            .with_hint("leave out one of them"));
        }
        self.values.insert(name.to_owned(), (text, flag.to_owned()));
        Ok(())
    }

    fn finish(self, args: &ConnectArgs) -> Result<Flags, Failure> {
        let mut flags = Flags::default();
        flags.config.clone_from(&args.config);
        for (name, (text, flag)) in self.values {
            flags.set(&name, text, flag);
        }
        Ok(flags)
    }
}
