//! Response bodies that arrive whole, in drops, or not to their end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::flight::Flight;

/// A dripping body comes in this many pieces, or in single bytes if it is shorter.
const DRIPS: usize = 20;
/// Bytes that a truncated body announces beyond those it sends.
const MISSING_BYTES: u64 = 64;

/// The body of an answer. The flight ends with it, before the client can see its last byte.
#[derive(Debug)]
pub(super) struct AnswerBody {
    manner: Manner,
    flight: Option<Flight>,
}

/// Ends a truncated body: the server closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("the body is cut off")]
pub(super) struct CutOff;

#[derive(Debug)]
enum Manner {
    Whole(Bytes),
    Truncated { rest: Option<Bytes>, announced: u64, flushed: bool },
    Drip { rest: Bytes, piece: usize, pause: Duration, sleep: Pin<Box<Sleep>> },
    Ended,
}

impl AnswerBody {
    pub(super) fn whole(body: Vec<u8>, flight: Option<Flight>) -> Self {
        AnswerBody { manner: Manner::Whole(body.into()), flight }
    }

    /// Sends half of the body and announces more than all of it.
    pub(super) fn truncated(mut body: Vec<u8>, flight: Option<Flight>) -> Self {
        let announced = body.len() as u64 + MISSING_BYTES;
        body.truncate(body.len() / 2);
        AnswerBody {
            manner: Manner::Truncated { rest: Some(body.into()), announced, flushed: false },
            flight,
        }
    }

    pub(super) fn dripping(body: Vec<u8>, over: Duration, flight: Option<Flight>) -> Self {
        let piece = body.len().div_ceil(DRIPS).max(1);
        let pieces = u32::try_from(body.len().div_ceil(piece)).unwrap_or(1).max(1);
        let pause = over / pieces;
        AnswerBody {
            manner: Manner::Drip { rest: body.into(), piece, pause, sleep: Box::pin(sleep(pause)) },
            flight,
        }
    }

    fn end(&mut self) {
        self.manner = Manner::Ended;
        if let Some(mut flight) = self.flight.take() {
            flight.arrive();
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let piece = match &mut self.manner {
            Manner::Ended => return Poll::Ready(None),
            Manner::Whole(body) => std::mem::take(body),
            Manner::Truncated { rest, flushed, .. } => {
                return match rest.take() {
                    Some(half) => Poll::Ready(Some(Ok(Frame::data(half)))),
                    // The half is flushed while the body is not ready; an error at once would take it along.
                    None if !std::mem::replace(flushed, true) => {
                        context.waker().wake_by_ref();
                        Poll::Pending
                    }
                    None => Poll::Ready(Some(Err(CutOff))),
                };
            }
            Manner::Drip { rest, piece, pause, sleep } => {
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                sleep.as_mut().reset(Instant::now() + *pause);
                rest.split_to((*piece).min(rest.len()))
            }
        };
        let more = matches!(&self.manner, Manner::Drip { rest, .. } if !rest.is_empty());
        if !more {
            self.end();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.manner, Manner::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.manner {
            Manner::Whole(body) => body.len() as u64,
            Manner::Truncated { announced, .. } => *announced,
            Manner::Drip { rest, .. } => rest.len() as u64,
            Manner::Ended => 0,
        })
    }
}
