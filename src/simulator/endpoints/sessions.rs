//! GET /customservice/kfsession/getsessionlist.

use super::super::answer;
use super::super::attendance::{KfAccount, Session};
use super::super::fault::Fault;
use super::super::ledger::{Answered, LedgerBook};
use super::super::scenario::{KfState, Style};
use super::super::world::OfficialAccount;

/// The open sessions of a kf account, and what that was for the ledger.
pub(in super::super) fn session_list(
    official: &OfficialAccount,
    account: Option<&KfAccount>,
    fault: Option<&Fault>,
    (now_ms, book): (i64, &LedgerBook),
) -> Result<(Vec<u8>, Answered), i64> {
    let account = account.ok_or(65401)?;
    let mut attendance = account.attendance(now_ms, book);
    match attendance.state() {
        KfState::Bound => {}
        KfState::Invalid => return Err(65401),
        _ => return Err(65402),
    }
    let style = &official.style;
    let odd = style.shuffle > 0.0 || style.duplicate > 0.0;
    let body = if odd {
        let mut whims = attendance.whims.clone();
        let listed = oddly_listed(&attendance.open, style, &mut whims);
        attendance.whims = whims;
        let listed: Vec<&Session> = listed.into_iter().map(|index| &attendance.open[index]).collect();
        answer::session_list(listed.into_iter(), style, fault)
    } else {
        answer::session_list(attendance.open.iter(), style, fault)
    };
    let listed = || attendance.open.iter().filter_map(|session| session.ledger_index).collect();
    let keyless = style.omit_empty_list && attendance.open.is_empty();
    let answered = match fault {
        Some(Fault::ListAbsent | Fault::ListNull) => Answered::Keyless,
        Some(fault @ (Fault::ListOfWrongType | Fault::EntryWithoutOpenid | Fault::CreatetimeNoNumber)) => {
            Answered::Failed(fault.as_str())
        }
        _ if !book.is_enabled() || keyless => Answered::Keyless,
        _ => Answered::Listed(listed()),
    };
    Ok((body, answered))
}

/// Positions of the sessions in the order of the answer: now and then another one, now and then one twice.
fn oddly_listed(open: &[Session], style: &Style, whims: &mut fastrand::Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..open.len()).collect();
    if !order.is_empty() && whims.f64() < style.duplicate {
        order.push(whims.usize(..open.len()));
    }
    if whims.f64() < style.shuffle {
        whims.shuffle(&mut order);
    }
    order
}
