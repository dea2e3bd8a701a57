//! Makes token calls, and reports each to the observer of the official account that caused it.

use bytes::Bytes;

use crate::{
    domain::{clock::Moment, endpoint::Endpoint},
    wechat::{
        error::{CallError, CallFailure},
        http::WechatClient,
        observer::CallObserver,
        wire,
    },
};

/// The client, with the observer of one official account.
#[derive(Clone, Copy)]
pub(super) struct ObservedClient<'a> {
    pub(super) client: &'a WechatClient,
    pub(super) observer: &'a dyn CallObserver,
}

impl ObservedClient<'_> {
    pub(super) fn now(&self) -> Moment {
        self.client.now()
    }

    /// Makes one exchange and parses the answer.
    pub(super) async fn call<T>(
        self,
        endpoint: Endpoint,
        exchange: impl Future<Output = Result<Bytes, CallError>>,
        parse: impl FnOnce(&str) -> Result<T, CallError>,
    ) -> Result<T, CallFailure> {
        let sent_at = self.now();
        let answer = exchange.await.and_then(|body| parse(&wire::text(&body)));
        self.observer.called(endpoint, self.now().since(&sent_at), answer.as_ref().err());
        answer.map_err(|error| CallFailure::new(endpoint, error, sent_at))
    }
}
