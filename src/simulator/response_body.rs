//! Response bodies that are sent whole, slowly in pieces, or only in part.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::poll_recorder::PollRecorder;

/// Number of pieces of a dripping body. A shorter body is sent in single bytes.
const DRIP_PIECES: usize = 20;
/// Bytes that a truncated body announces in addition to its real length.
const MISSING_BYTES: u64 = 64;

/// The body of a response. The recorder ends with it, before the client can see the last byte.
#[derive(Debug)]
pub(super) struct ResponseBody {
    progress: BodyProgress,
    recorder: Option<PollRecorder>,
}

/// Ends a truncated body: hyper closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("the body is truncated")]
pub(super) struct BodyTruncated;

#[derive(Debug)]
enum BodyProgress {
    Whole(Bytes),
    Truncated { rest: Option<Bytes>, announced: u64, flushed: bool },
    Drip { rest: Bytes, piece: usize, pause: Duration, sleep: Pin<Box<Sleep>> },
    Ended,
}

impl ResponseBody {
    pub(super) fn whole(body: Vec<u8>, recorder: Option<PollRecorder>) -> Self {
        ResponseBody { progress: BodyProgress::Whole(body.into()), recorder }
    }

    /// Sends half of the body and announces more than all of it.
    pub(super) fn truncated(mut body: Vec<u8>, recorder: Option<PollRecorder>) -> Self {
        let announced = body.len() as u64 + MISSING_BYTES;
        body.truncate(body.len() / 2);
        let progress = BodyProgress::Truncated { rest: Some(body.into()), announced, flushed: false };
        ResponseBody { progress, recorder }
    }

    pub(super) fn dripping(body: Vec<u8>, over: Duration, recorder: Option<PollRecorder>) -> Self {
        let piece = body.len().div_ceil(DRIP_PIECES).max(1);
        let pieces = u32::try_from(body.len().div_ceil(piece)).unwrap_or(1).max(1);
        let pause = over / pieces;
        let sleep = Box::pin(sleep(pause));
        ResponseBody { progress: BodyProgress::Drip { rest: body.into(), piece, pause, sleep }, recorder }
    }

    fn end(&mut self) {
        self.progress = BodyProgress::Ended;
        if let Some(mut recorder) = self.recorder.take() {
            recorder.mark_sent();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyTruncated;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyTruncated>>> {
        let piece = match &mut self.progress {
            BodyProgress::Ended => return Poll::Ready(None),
            BodyProgress::Whole(body) => std::mem::take(body),
            BodyProgress::Truncated { rest, flushed, .. } => {
                return match rest.take() {
                    Some(half) => Poll::Ready(Some(Ok(Frame::data(half)))),
                    // hyper flushes the half while the body is pending. An immediate error would discard it.
                    None if !std::mem::replace(flushed, true) => {
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    None => Poll::Ready(Some(Err(BodyTruncated))),
                };
            }
            BodyProgress::Drip { rest, piece, pause, sleep } => {
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                sleep.as_mut().reset(Instant::now() + *pause);
                rest.split_to((*piece).min(rest.len()))
            }
        };
        let more = matches!(&self.progress, BodyProgress::Drip { rest, .. } if !rest.is_empty());
        if !more {
            self.end();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.progress, BodyProgress::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.progress {
            BodyProgress::Whole(body) => body.len() as u64,
            BodyProgress::Truncated { announced, .. } => *announced,
            BodyProgress::Drip { rest, .. } => rest.len() as u64,
            BodyProgress::Ended => 0,
        })
    }
}
