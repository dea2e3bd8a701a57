//! Ticks that no schedule asks for.

use tokio::sync::watch;

/// Makes every ticker serve a tick now, in addition to those of its schedule. For tests, which need not wait for the wall
/// clock then.
#[derive(Clone)]
pub struct ManualTicks {
    sender: watch::Sender<()>,
    /// Has seen no tick. Tickers clone it, so they also serve a tick from before their start.
    receiver: watch::Receiver<()>,
}

impl ManualTicks {
    /// Starts a sweep of every schedule.
    pub fn tick(&self) {
        self.sender.send_replace(());
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.receiver.clone()
    }
}

impl Default for ManualTicks {
    fn default() -> Self {
        let (sender, receiver) = watch::channel(());
        Self { sender, receiver }
    }
}
