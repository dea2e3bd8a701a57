//! Response bodies that are sent whole, slowly in pieces, or only in part.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::poll_recorder::PollRecorder;

/// Number of pieces of a dripping body. A shorter body is sent in single bytes.
const DRIP_PIECES: usize = 20;
/// Bytes that a truncated body announces in addition to its real length.
const MISSING_BYTES: usize = 64;

/// Ends a truncated body: hyper closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("the body is truncated")]
pub(super) struct BodyTruncated;

/// The pieces of a response body.
pub(super) type BodyStream = StreamBody<BoxStream<'static, Result<Frame<Bytes>, BodyTruncated>>>;

/// A response body. The recorder ends with it, before the client can see the last byte.
pub(super) struct ResponseBody {
    pub(super) announced_length: usize,
    pub(super) stream: BodyStream,
}

impl ResponseBody {
    pub(super) fn whole(body: Vec<u8>, recorder: Option<PollRecorder>) -> Self {
        Self::in_pieces(body, usize::MAX, Duration::ZERO, recorder)
    }

    pub(super) fn dripping(body: Vec<u8>, over: Duration, recorder: Option<PollRecorder>) -> Self {
        let piece = body.len().div_ceil(DRIP_PIECES).max(1);
        let pieces = u32::try_from(body.len().div_ceil(piece)).unwrap_or(1).max(1);
        Self::in_pieces(body, piece, over / pieces, recorder)
    }

    /// Sends half of the body and announces more than all of it.
    pub(super) fn truncated(mut body: Vec<u8>, recorder: Option<PollRecorder>) -> Self {
        let announced_length = body.len() + MISSING_BYTES;
        body.truncate(body.len() / 2);
        let half = stream::once(async { Ok(Frame::data(body.into())) });
        let end = stream::once(async move {
            // hyper flushes the half while the body is pending. An immediate error would discard it.
            tokio::task::yield_now().await;
            drop(recorder);
            Err(BodyTruncated)
        });
        ResponseBody { announced_length, stream: StreamBody::new(half.chain(end).boxed()) }
    }

    fn in_pieces(body: Vec<u8>, piece: usize, pause: Duration, recorder: Option<PollRecorder>) -> Self {
        let announced_length = body.len();
        let pieces =
            stream::unfold((Bytes::from(body), recorder), move |(mut rest, mut recorder)| async move {
                if rest.is_empty() {
                    return None;
                }
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                let sent = rest.split_to(piece.min(rest.len()));
                if rest.is_empty()
                    && let Some(mut recorder) = recorder.take()
                {
                    recorder.mark_sent();
                }
                Some((Ok(Frame::data(sent)), (rest, recorder)))
            });
        ResponseBody { announced_length, stream: StreamBody::new(pieces.boxed()) }
    }
}
