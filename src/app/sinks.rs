//! From configured sinks to dispatchers that know where they stand.

use super::AppError;
use crate::{
    config::{self, SinkStart, SinkTarget},
    dispatch::{DispatchContext, Dispatcher},
    sink::{
        Sink,
        jsonl::{JsonlSink, Target},
    },
    store::{SinkRegistration, Start},
};

/// Registers the sinks with the store and makes a dispatcher for each.
pub(super) async fn dispatchers(
    sinks: &[config::Sink],
    context: &DispatchContext,
) -> Result<Vec<Dispatcher>, AppError> {
    let registrations = sinks.iter().map(registration).collect();
    let now = context.clock.now().wall;
    let registered = context.store.register_sinks(registrations, now).await?;
    sinks
        .iter()
        .zip(registered)
        .map(|(sink, registered)| {
            let target = Sink::Jsonl(JsonlSink::new(target(sink)?));
            Ok(Dispatcher::new(sink.name.clone(), target, &registered, context.clone()))
        })
        .collect()
}

fn registration(sink: &config::Sink) -> SinkRegistration {
    let start = match sink.start {
        SinkStart::Now => Start::Now,
        SinkStart::Beginning => Start::Beginning,
    };
    SinkRegistration { name: sink.name.clone(), start, destination: None }
}

fn target(sink: &config::Sink) -> Result<Target, AppError> {
    let SinkTarget::File { path, mode, group } = sink.target.clone() else { return Ok(Target::Stdout) };
    let group = group.map(|group| group_id(&sink.name, &group)).transpose()?;
    Ok(Target::File { path, mode, group })
}

fn group_id(sink: &str, group: &str) -> Result<u32, AppError> {
    let unusable = |reason: String| AppError::Unusable { what: format!("group of sink {sink:?}"), reason };
    match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => Ok(found.gid.as_raw()),
        Ok(None) => {
            Err(unusable(format!("there is no group {group:?} on this system: create it, or remove the key")))
        }
        Err(error) => Err(unusable(format!("the group {group:?} cannot be looked up: {error}"))),
    }
}
