//! Commands for all replicas, and their answers.

use uuid::Uuid;

use super::{Database, column, text};
use crate::store::StoreError;

impl Database {
    /// Writes a command for all replicas, and returns its id. Forgets old ones.
    pub(in crate::store) async fn ask_replicas(&self, command: &str) -> Result<Uuid, StoreError> {
        let id = Uuid::new_v4();
        let sql = "WITH old AS (DELETE FROM commands WHERE asked_at < clock_timestamp() - interval '10 min')
                   INSERT INTO commands (id, asked_at, command) VALUES ($1, clock_timestamp(), $2) ON CONFLICT DO NOTHING";
        self.commits.query(sql, &[&id, &text(command)]).await?;
        Ok(id)
    }

    /// The commands of the last minute that this replica has not answered.
    pub(in crate::store) async fn unanswered_commands(&self) -> Result<Vec<(Uuid, String)>, StoreError> {
        let sql = "SELECT id, command FROM commands c WHERE asked_at > clock_timestamp() - interval '1 min'
                       AND NOT EXISTS (SELECT FROM answers a WHERE a.command = c.id AND a.replica = $1)
                   ORDER BY asked_at";
        let rows = self.reads.query(sql, &[&self.replica]).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect()
    }

    /// Writes the answer of this replica. Does nothing if the command was forgotten.
    pub(in crate::store) async fn answer(&self, command: Uuid, answer: &str) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO answers (command, replica, answer) SELECT id, $2, $3 FROM commands WHERE id = $1
                   ON CONFLICT (command, replica) DO NOTHING";
        self.commits.query(sql, &[&command, &self.replica, &text(answer)]).await?;
        Ok(())
    }

    /// The answers so far, each with its replica.
    pub(in crate::store) async fn answers(&self, command: Uuid) -> Result<Vec<(Uuid, String)>, StoreError> {
        let rows =
            self.reads.query("SELECT replica, answer FROM answers WHERE command = $1", &[&command]).await?;
        rows.iter().map(|row| Ok((column(row, 0)?, column(row, 1)?))).collect()
    }
}
