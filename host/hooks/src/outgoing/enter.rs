//! The calls into the plugin of a stage: what it is given, and its verdict or why
//! there is none. What verdicts do is `stage`'s and `held`'s business.

use std::sync::Arc;

use super::chunker::Chunk;
use super::stage::{Ending, Kind, Stage};
use crate::bindings::v0_1::{ending_to_wit, response_hook, response_to_wit, stream_filter};
use crate::calls::{JobState, missing, returned_error};
use crate::classify::{CallError, Stage as CallStage};
use crate::error::Phase;
use crate::instance::{Allowance, guard, settle};
use crate::watch::Watch;

impl JobState {
    pub(super) async fn open_filter(
        &mut self,
        place: usize,
        watch: &Watch,
    ) -> Result<Option<stream_filter::Plan>, CallError> {
        let chain = Arc::clone(&self.chain);
        let entry = self.enter(place, watch, Allowance::Call).await?;
        let context = self.context(&entry);
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(place)?;
        let Some(guest) = &instance.stream else {
            return Err(missing(Phase::Stream));
        };
        let call = guest.call_open(&mut instance.store, &context);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        match settle(&instance.store, CallStage::Call, ended)? {
            Ok(plan) => Ok(plan),
            Err(error) => Err(returned_error(instance, error)),
        }
    }

    pub(super) async fn call_push(
        &mut self,
        stage: &Stage,
        chunk: Chunk,
    ) -> Result<stream_filter::Verdict, CallError> {
        let chain = Arc::clone(&self.chain);
        let Some(watch) = &stage.watch else {
            return Err(missing(Phase::Stream));
        };
        let Kind::Filter { held, .. } = &stage.kind else {
            return Err(missing(Phase::Stream));
        };
        let given = stream_filter::Chunk {
            seq: stage.pushes,
            text: chunk.text,
            tokens: chunk.tokens,
            held_bytes: u32::try_from(held.len()).unwrap_or(u32::MAX),
        };
        let entry = self.enter(stage.place, watch, Allowance::Push).await?;
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(stage.place)?;
        let Some(guest) = &instance.stream else {
            return Err(missing(Phase::Stream));
        };
        let call = guest.call_push(&mut instance.store, &given);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        match settle(&instance.store, CallStage::Call, ended)? {
            Ok(verdict) => Ok(verdict),
            Err(error) => Err(returned_error(instance, error)),
        }
    }

    pub(super) async fn call_close(
        &mut self,
        stage: &Stage,
        ending: &Ending,
    ) -> Result<stream_filter::Tail, CallError> {
        let chain = Arc::clone(&self.chain);
        let (Some(watch), Kind::Filter { held, .. }) = (&stage.watch, &stage.kind) else {
            return Err(missing(Phase::Stream));
        };
        let given = ending_to_wit(&ending.finish, &ending.usage, held.len());
        let entry = self.enter(stage.place, watch, Allowance::Call).await?;
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(stage.place)?;
        let Some(guest) = &instance.stream else {
            return Err(missing(Phase::Stream));
        };
        let call = guest.call_close(&mut instance.store, &given);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        match settle(&instance.store, CallStage::Call, ended)? {
            Ok(tail) => Ok(tail),
            Err(error) => Err(returned_error(instance, error)),
        }
    }

    pub(super) async fn call_response(
        &mut self,
        stage: &Stage,
        text: &str,
        ending: &Ending,
    ) -> Result<response_hook::Verdict, CallError> {
        let chain = Arc::clone(&self.chain);
        let Some(watch) = &stage.watch else {
            return Err(missing(Phase::Response));
        };
        let given = response_to_wit(text, &ending.finish, &ending.usage);
        let entry = self.enter(stage.place, watch, Allowance::Call).await?;
        let context = self.context(&entry);
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(stage.place)?;
        let Some(guest) = &instance.response else {
            return Err(missing(Phase::Response));
        };
        let call = guest.call_on_response(&mut instance.store, &context, &given);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        match settle(&instance.store, CallStage::Call, ended)? {
            Ok(verdict) => Ok(verdict),
            Err(error) => Err(returned_error(instance, error)),
        }
    }
}
