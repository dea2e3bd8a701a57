//! GET /customservice/kfsession/getsessionlist.

use crate::simulator::fault::Fault;
use crate::simulator::json_writer::JsonWriter;
use crate::simulator::kf_account::{KfAccount, Session};
use crate::simulator::ledger::{LedgerWriter, RecordedResponse};
use crate::simulator::scenario::{KfState, ResponseStyle};
use crate::simulator::world::OfficialAccount;

/// Approximate size of an entry of sessionlist. A buffer that is too small only costs a reallocation.
const SESSION_ENTRY_BYTES: usize = 72;

/// Returns the open sessions of a kf account as JSON, and what the ledger records.
pub(crate) fn session_list(
    official: &OfficialAccount,
    account: Option<&KfAccount>,
    fault: Option<&Fault>,
    (now_ms, ledger): (i64, &LedgerWriter),
) -> Result<(Vec<u8>, RecordedResponse), i64> {
    let account = account.ok_or(65401)?;
    let mut state = account.current_state(now_ms, ledger);
    match state.binding {
        KfState::Bound => {}
        KfState::Invalid => return Err(65401),
        _ => return Err(65402),
    }
    let style = &official.style;
    let body = if style.shuffle > 0.0 || style.duplicate > 0.0 {
        let order = listed_order(state.open.len(), style, &mut state.response_rng);
        render(order.into_iter().map(|index| &state.open[index]), style, fault)
    } else {
        render(state.open.iter(), style, fault)
    };
    let recorded = match fault {
        Some(Fault::ListAbsent | Fault::ListNull) => RecordedResponse::Keyless,
        Some(fault @ (Fault::ListOfWrongType | Fault::EntryWithoutOpenid | Fault::CreatetimeNoNumber)) => {
            RecordedResponse::Failed(fault.clone())
        }
        _ if !ledger.is_enabled() => RecordedResponse::Keyless,
        _ if style.omit_empty_list && state.open.is_empty() => RecordedResponse::Keyless,
        _ => RecordedResponse::Listed(state.open.iter().filter_map(|session| session.ledger_index).collect()),
    };
    Ok((body, recorded))
}

/// Returns the positions of the sessions in the order in which they are listed: sometimes shuffled, sometimes with a
/// duplicate.
fn listed_order(sessions: usize, style: &ResponseStyle, rng: &mut fastrand::Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sessions).collect();
    if !order.is_empty() && rng.f64() < style.duplicate {
        order.push(rng.usize(..sessions));
    }
    if rng.f64() < style.shuffle {
        rng.shuffle(&mut order);
    }
    order
}

fn render<'a>(
    sessions: impl ExactSizeIterator<Item = &'a Session>,
    style: &ResponseStyle,
    fault: Option<&Fault>,
) -> Vec<u8> {
    let mut body = JsonWriter::new(style, 64 + sessions.len() * SESSION_ENTRY_BYTES);
    let list_fault = fault.filter(|fault| fault.alters_session_list());
    match list_fault {
        Some(Fault::ListAbsent) => return body.finish(),
        Some(Fault::ListNull) => body.raw("sessionlist", b"null"),
        Some(Fault::ListOfWrongType) => body.raw("sessionlist", br#"{"createtime":1,"openid":"o"}"#),
        None if sessions.len() == 0 && style.omit_empty_list => {}
        _ => {
            body.array("sessionlist", sessions, |entry, session| {
                entry.number_or_text("createtime", session.createtime, style.createtime_as_text);
                entry.text("openid", &session.openid);
            });
            body.append_to_array(match list_fault {
                Some(Fault::EntryWithoutOpenid) => br#"{"createtime":1795331551}"#,
                Some(Fault::CreatetimeNoNumber) => br#"{"createtime":"soon","openid":"oNoNumber"}"#,
                _ => b"",
            });
        }
    }
    body.finish()
}
