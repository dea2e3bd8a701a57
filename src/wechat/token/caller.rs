//! For whom token calls are made: each is timed and told to the official account that caused it.

use bytes::Bytes;

use crate::wechat::{
    CallObserver, Endpoint,
    error::{CallError, CallFailure},
    http::WechatClient,
    wire,
};

/// Makes calls, and tells of each.
#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    pub(super) client: &'a WechatClient,
    pub(super) observer: &'a dyn CallObserver,
}

impl Caller<'_> {
    /// One exchange, and what `read` makes of its answer.
    pub(super) async fn call<T>(
        self,
        endpoint: Endpoint,
        exchange: impl Future<Output = Result<Bytes, CallError>>,
        read: impl FnOnce(&str) -> Result<T, CallError>,
    ) -> Result<T, CallFailure> {
        let sent_at = self.client.now();
        let answer = exchange.await.and_then(|body| read(&wire::text(&body)));
        self.observer.called(endpoint, self.client.now().since(&sent_at), answer.as_ref().err());
        answer.map_err(|error| CallFailure::new(endpoint, error, sent_at))
    }
}
