//! Commands that go to all replicas, through a table of the store: the replica that a person asks writes the command, and every replica
//! carries it out and writes its answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, sleep},
};
use uuid::Uuid;

use crate::{
    control::{
        cluster::{AskReplicas, ReplicaAnswer},
        executor::CommandExecutor,
    },
    status::{ClusterStatus, ReplicaStatus},
    store::{Cluster, StoreError},
};

/// How long the replicas may take. A command is forgotten after that.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often the answers are looked at.
const ANSWER_INTERVAL: Duration = Duration::from_millis(250);

/// How often a replica looks for commands.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Asks all replicas.
pub(super) struct ReplicaCommands {
    pub(super) cluster: Cluster,
    pub(super) status: watch::Receiver<ClusterStatus>,
}

impl ReplicaCommands {
    async fn ask(&self, command: String) -> Result<Vec<ReplicaAnswer>, StoreError> {
        let replicas = self.status.borrow().replicas.clone();
        let id = self.cluster.ask_replicas(&command).await?;
        let deadline = Instant::now() + TIMEOUT;
        let mut answers: BTreeMap<Uuid, String> = BTreeMap::new();
        while Instant::now() < deadline && replicas.iter().any(|replica| !answers.contains_key(&replica.id)) {
            sleep(ANSWER_INTERVAL).await;
            answers = self.cluster.answers(id).await?.into_iter().collect();
        }
        let of_replica = |replica: &ReplicaStatus| ReplicaAnswer {
            replica: replica.name.clone(),
            lines: answers.get(&replica.id).cloned(),
        };
        Ok(replicas.iter().map(of_replica).collect())
    }
}

impl AskReplicas for ReplicaCommands {
    fn ask(&self, command: String) -> BoxFuture<'_, Result<Vec<ReplicaAnswer>, String>> {
        self.ask(command).map(|answers| answers.map_err(|error| crate::chain(&error))).boxed()
    }
}

/// Carries out the commands that were written for all replicas, and stops the sinks that another replica has stopped or suspended, until it
/// is aborted.
pub(super) async fn carry_out_commands(cluster: Cluster, executor: Arc<CommandExecutor>) {
    let mut running: FuturesUnordered<BoxFuture<'static, Uuid>> = FuturesUnordered::new();
    // Those that are being carried out have no answer yet; those from before this replica started are none of its business.
    let mut known: Option<BTreeSet<Uuid>> = None;
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(done) = running.next() => { known.get_or_insert_default().remove(&done); },
            _ = looks.tick() => match look(&cluster).await {
                Ok((commands, stopped_sinks)) => {
                    executor.note_stops(&stopped_sinks);
                    let Some(known) = &mut known else {
                        known = Some(commands.into_iter().map(|(id, _)| id).collect());
                        continue;
                    };
                    let new = commands.into_iter().filter(|(id, _)| known.insert(*id));
                    running.extend(new.map(|(id, command)| {
                        carry_out(cluster.clone(), Arc::clone(&executor), id, command).boxed()
                    }));
                }
                // The heartbeats say that the database does not answer.
                Err(error) => tracing::debug!("Commands could not be read: {}", crate::chain(&error)),
            }
        }
    }
}

/// The commands that this replica has not answered, and the sinks that any replica has stopped.
async fn look(cluster: &Cluster) -> Result<(Vec<(Uuid, String)>, Vec<String>), StoreError> {
    Ok((cluster.unanswered_commands().await?, cluster.stopped_sinks().await?))
}

async fn carry_out(cluster: Cluster, executor: Arc<CommandExecutor>, id: Uuid, command: String) -> Uuid {
    let answer = executor.answer(&command).await;
    if let Err(error) = cluster.answer(id, &answer).await {
        tracing::warn!("The answer to a command could not be stored: {}", crate::chain(&error));
    }
    id
}
