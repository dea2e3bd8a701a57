//! Processes the outcome of an attempt: which events are settled, which back off, which become dead letters, and whether
//! the sink is stopped.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    Attempt, Dispatcher, SinkEnded,
    backoff::SINK_BACKOFF,
    circuit_breaker::CircuitBreaker,
    dead_letters::{MAX_DEAD_LETTERS, MAX_REFUSALS},
};
use crate::{
    domain::{clock::Moment, sink_state::BY_OPERATOR},
    sink::{Acknowledged, DeliveryError, Sink},
    store::{LogPosition, StoredEvent},
};

impl Dispatcher {
    /// Processes a finished attempt. Fails if the sink has ended for good.
    pub(super) async fn settle(&mut self, attempt: Attempt) -> Result<(), SinkEnded> {
        // The permit is kept until other dispatchers see the outcome.
        let Attempt { events, started_at, outcome, mut permit } = attempt;
        permit.finish();
        if outcome.is_err() {
            self.status.count_failed_attempt();
        }
        match outcome {
            Ok(done) => self.acknowledged(&events, done, started_at).await,
            Err(DeliveryError::Retryable { reason, after }) => {
                self.window.put_back(&events);
                self.failed(started_at, reason, after);
            }
            Err(DeliveryError::Refused { reason, response }) => {
                self.responded(started_at);
                for event in &events {
                    self.refused(event, &reason, &response).await;
                }
            }
            Err(DeliveryError::Stopped { reason }) => {
                self.window.put_back(&events);
                self.stop(reason);
            }
            Err(source @ DeliveryError::OutputClosed) => {
                return Err(SinkEnded { name: self.name.clone(), source });
            }
        }
        Ok(())
    }

    /// The sink has the events, except those that it postponed.
    async fn acknowledged(
        &mut self,
        events: &[Arc<StoredEvent>],
        Acknowledged { postponed }: Acknowledged,
        started_at: Moment,
    ) {
        let now = self.clock.now().monotonic;
        let later: HashSet<LogPosition> = postponed.iter().map(|(event, _)| event.id).collect();
        let events: Vec<_> = events.iter().filter(|event| !later.contains(&event.id)).cloned().collect();
        for event in &events {
            if self.window.is_dead_letter(event) || self.dead_letters.contains(event) {
                self.dead_letters.remove(event, now).await;
            }
        }
        self.window.settle(&events);
        for (event, wait) in &postponed {
            self.window.postpone(event, now + *wait);
        }
        if events.is_empty() {
            self.share.update(CircuitBreaker::attempt_skipped);
            return;
        }
        self.status.record_delivery(events.len() as u64, self.clock.now().wall);
        self.responded(started_at);
    }

    /// The sink works but refuses this event. A retried dead letter becomes one again at once.
    async fn refused(&mut self, event: &Arc<StoredEvent>, reason: &str, response: &str) {
        let refusals = self.window.refusals(event) + 1;
        let was_dead_letter = self.window.is_dead_letter(event);
        let is_refused_for_good = refusals >= MAX_REFUSALS || was_dead_letter;
        // If the store fails, the event is retried.
        if is_refused_for_good
            && let Some(count) = self.dead_letters.add(event, reason, response, self.clock.now()).await
        {
            self.window.settle(std::slice::from_ref(event));
            if count >= MAX_DEAD_LETTERS && !was_dead_letter {
                self.stop(format!("it has {count} dead letters, and no more are kept"));
            }
            return;
        }
        tracing::debug!(sink = %self.name, event = event.id.0, refusals, "Event refused: {reason}");
        let until = self.clock.now().monotonic + SINK_BACKOFF.wait(refusals, fastrand::f64());
        self.window.delay(event, until);
    }

    /// Stops the sink. Attempts in flight are finished; the other events stay in the log.
    fn stop(&mut self, reason: String) {
        if !self.status.is_stopped() {
            let destination = self.sink.load().destination();
            tracing::error!(sink = %self.name, destination, "Sink stopped: {reason}; {}", self.how_to_resume());
            self.stop_recorder.stop(reason, self.clock.now().wall);
        }
    }

    /// For the log. It does not say that events are kept: those of a suspended sink are not.
    pub(super) fn how_to_resume(&self) -> String {
        let by_operator = self.status.read().state.stop_reason() == Some(BY_OPERATOR);
        let or_else = if let (Sink::Webhook(_), false) = (&**self.sink.load(), by_operator) {
            " or another url"
        } else {
            ""
        };
        format!("resume with `kfwatch sinks resume {}`{or_else}", self.name)
    }

    /// The sink failed as a whole: all attempts back off.
    fn failed(&mut self, started_at: Moment, reason: String, retry_after: Option<Duration>) {
        let now = self.clock.now();
        self.share.update(|circuit_breaker| {
            let (started_at, now) = (started_at.monotonic, now.monotonic);
            circuit_breaker.record_failure(started_at, now, retry_after, fastrand::f64());
        });
        self.status.record_failure(now.wall, reason.clone());
        let what = "Delivery failed and will be retried";
        if self.share.is_news(&reason, now) {
            tracing::error!(sink = %self.name, destination = self.sink.load().destination(), "{what}: {reason}");
        } else {
            tracing::debug!(sink = %self.name, "{what}: {reason}");
        }
    }

    /// The sink works as a whole, and wants a pause, whether it acknowledged the events or refused them.
    fn responded(&mut self, started_at: Moment) {
        let until = self.clock.now().monotonic + self.sink.load().interval();
        self.share.update(|circuit_breaker| {
            circuit_breaker.record_response(started_at.monotonic);
            circuit_breaker.pause(until);
        });
        self.status.record_response();
        if let Some(failures) = self.share.recovered(started_at) {
            let destination = self.sink.load().destination();
            tracing::info!(sink = %self.name, destination, failures, "Delivery recovered");
        }
    }
}
