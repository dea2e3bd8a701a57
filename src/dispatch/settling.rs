//! What became of an attempt: what is settled, what waits and for how long, what is given up, and whether the sink gets more.

use std::{sync::Arc, time::Duration};

use super::{Attempt, Dispatcher, MAX_DEAD_LETTERS, MAX_REFUSALS, SinkEnded, circuit_breaker::wait_after};
use crate::{
    domain::clock::Moment,
    sink::{DeliveryError, Sink},
    store::StoredEvent,
};

impl Dispatcher {
    /// Takes note of what became of an attempt.
    pub(super) async fn settle(&mut self, attempt: Attempt) -> Result<(), SinkEnded> {
        let Attempt { events, begun, outcome } = attempt;
        if outcome.is_err()
            && let Some(counters) = self.metrics.sink(&self.name)
        {
            counters.failed();
        }
        match outcome {
            Ok(()) => {
                let was_dead = |event: &&Arc<StoredEvent>| {
                    self.window.is_dead_letter(event) || self.letters.has_behind(event)
                };
                for event in events.iter().filter(was_dead).cloned().collect::<Vec<_>>() {
                    self.letters.delivered(&event, self.clock.now().monotonic).await;
                }
                self.window.settle(&events);
                if let Some(counters) = self.metrics.sink(&self.name) {
                    counters.delivered(events.len() as u64);
                }
                self.status.delivered(self.clock.now().wall);
                self.answered(begun);
            }
            Err(DeliveryError::Retryable { reason, after }) => {
                self.window.put_back(&events);
                self.failed(begun, reason, after);
            }
            Err(DeliveryError::Refused { reason, answer }) => {
                self.answered(begun);
                for event in &events {
                    self.refused(event, &reason, &answer).await;
                }
            }
            Err(DeliveryError::Stopped { reason }) => {
                self.window.put_back(&events);
                self.stop(reason);
            }
            Err(source @ DeliveryError::Gone) => return Err(SinkEnded { name: self.name.clone(), source }),
        }
        Ok(())
    }

    /// The sink is there, and will not have this event. One that was a dead letter is one again at once.
    async fn refused(&mut self, event: &Arc<StoredEvent>, reason: &str, answer: &str) {
        let refusals = self.window.refusals(event) + 1;
        let was_dead_letter = self.window.is_dead_letter(event);
        let is_given_up = refusals >= MAX_REFUSALS || was_dead_letter;
        if is_given_up && let Some(letters) = self.letters.bury(event, reason, answer, self.clock.now()).await
        {
            self.window.settle(std::slice::from_ref(event));
            if letters >= MAX_DEAD_LETTERS && !was_dead_letter {
                self.stop(format!("it has {letters} dead letters, and no more are kept"));
            }
            return;
        }
        tracing::debug!(sink = %self.name, event = event.id.0, refusals, "An event was refused: {reason}");
        let until = self.clock.now().monotonic + wait_after(refusals, fastrand::f64());
        self.window.delay(event, until);
    }

    /// The sink gets no more events. What is under way is finished; the rest stays in the log.
    fn stop(&mut self, reason: String) {
        if self.stop.reason().is_none() {
            tracing::error!(sink = %self.name, "Delivery has ended: {reason}; {}", self.until_resumed());
            self.stop.begin(reason, self.clock.now().wall);
        }
    }

    /// What ends a stop, for the log. Not that events are kept: those of a suspended sink are not.
    pub(super) fn until_resumed(&self) -> String {
        let or_else = if let Sink::Webhook(_) = *self.sink { ", or with another url" } else { "" };
        format!("it goes on after \"kfwatch sinks resume {}\"{or_else}", self.name)
    }

    /// Nothing can be delivered at present: all attempts wait.
    fn failed(&mut self, begun: Moment, reason: String, after: Option<Duration>) {
        let now = self.clock.now();
        self.circuit_breaker.failed(begun.monotonic, now.monotonic, after, fastrand::f64());
        self.status.failed(now.wall, reason.clone());
        let what = "Delivery stands still and will be tried again";
        if self.failures.failed(reason.clone(), now) {
            tracing::error!(sink = %self.name, "{what}: {reason}");
        } else {
            tracing::debug!(sink = %self.name, "{what}: {reason}");
        }
    }

    /// The sink is there.
    fn answered(&mut self, begun: Moment) {
        self.circuit_breaker.answered(begun.monotonic);
        self.status.answered();
        if let Some(recovery) = self.failures.succeeded(begun) {
            tracing::info!(sink = %self.name, failures = recovery.failures, "Delivery goes on");
        }
    }
}
