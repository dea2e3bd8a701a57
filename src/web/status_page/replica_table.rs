//! The table of replicas on the status page.

use jiff::SignedDuration;
use maud::{Markup, html};

use super::{PageTime, known_time};
use crate::{metrics::exposition::ClusterView, status::ReplicaStatus};

/// A larger difference of the clocks is worth a remark, because the times of events are off by it.
const MAX_CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(5);

/// The living replicas, and below them what is wrong with the cluster.
pub(super) fn table(cluster: &ClusterView, now: PageTime) -> Markup {
    let ClusterView { status, is_trusted } = cluster;
    html! {
        table.of {
            thead { tr {
                th { "Replica" } th { "Version" } th.n { "Shards" } th.n { "Kf accounts" } th.n { "Started" }
            } }
            tbody { @for replica in &status.replicas {
                @let ReplicaStatus { name, address, version, started_at, is_draining, is_this, shards, kf_accounts, .. } = replica;
                tr {
                    td {
                        @if *is_this { (name) " (this one)" } @else { a href=(address) { (name) } }
                        @if *is_draining { " is stopping" }
                    }
                    td { (version) }
                    td.n { (shards) }
                    td.n { (kf_accounts) }
                    td.n { (known_time(Some(*started_at), now)) " ago" }
                }
            } }
        }
        @if !is_trusted {
            p.remark {
                b { "The database does not answer" } ": this replica calls nobody until it does, because another one may own its accounts"
            }
        }
        @if status.unowned_shards > 0 {
            p.remark { b { (status.unowned_shards) " of " (status.shards) " shards have no owner" } ": nobody polls their accounts" }
        }
        @if status.has_config_mismatch {
            p.remark {
                b { "The replicas have different configurations" }
                ": until they agree, accounts and sinks that are no longer configured are not recorded as removed"
            }
        }
        @if SignedDuration::try_from(status.clock_skew).is_ok_and(|skew| skew > MAX_CLOCK_SKEW) {
            p.remark {
                b { "The clocks of this machine and of the database are " (status.clock_skew.as_secs()) " s apart" }
                ": set them by NTP; the times of events are off by as much"
            }
        }
    }
}
