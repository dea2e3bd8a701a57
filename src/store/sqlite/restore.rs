//! Replaces the store by a backup.
//!
//! If this program is killed at any moment, either the old or the new store remains. The steps are: write the new store to
//! a temporary file and sync it; checkpoint the write-ahead log of the old store, because SQLite would apply that log to the
//! new file; hard-link the old store to the name under which it is kept; rename the temporary file to the store's name. If
//! SQLite cannot open the old store, its log cannot be checkpointed, and is moved away just before the rename.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, fchown},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{
    backup,
    connection::connect,
    file, placement, renumber,
    schema::{self, SchemaState},
};
use crate::{
    file_system::identity,
    store::{
        backup::{BackupProblem, BackupSummary, CopyObserver, CopyProgress, RestoreSummary},
        error::StoreError,
    },
};

/// The suffix of the new store while it is incomplete.
const PARTIAL: &str = "-restore-partial";

/// The suffix of a replaced store, before the time.
const KEPT: &str = "-before-restore-";

/// Logs of SQLite. Without them a file lacks commits, or has half of one.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// How much is copied between two reports of progress.
const BLOCK_BYTES: usize = 1024 * 1024;

pub(in crate::store) fn restore(
    store: &Path,
    from: &Path,
    now: Timestamp,
    observer: &CopyObserver,
) -> Result<RestoreSummary, StoreError> {
    let path = file::resolve(store)?;
    placement::check(&path)?;
    check_outside(from, &path)?;
    let lock_existed = file::with_suffix(&path, "-lock").exists();
    let lock = file::Lock::take(&path)?;
    if !lock_existed {
        give_to_owner_of(&path, &file::with_suffix(&path, "-lock"));
    }
    remove_leftovers(&path)?;
    let partial = PartialStore(file::with_suffix(&path, PARTIAL));
    let summary = prepare(from, &path, &partial.0, observer).map_err(|error| error.for_copy(from))?;
    checkpoint(&path)?;
    let kept = keep_old(&path, now)?;
    file::rename_and_sync(&partial.0, &path).map_err(|error| StoreError::io(&path, error))?;
    drop(lock);
    Ok(RestoreSummary { summary, path, kept })
}

/// Removes the file when it is dropped, unless it has become the store.
struct PartialStore(PathBuf);

impl Drop for PartialStore {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-journal", "-shm"] {
            fs::remove_file(file::with_suffix(&self.0, suffix)).ok();
        }
    }
}

/// Rejects what can be recognized without reading it.
fn check_outside(from: &Path, store: &Path) -> Result<(), StoreError> {
    let problem = |problem| Err(StoreError::backup(from, problem));
    let metadata = match from.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return problem(BackupProblem::Missing),
        Err(error) => return Err(StoreError::io(from, error).for_copy(from)),
    };
    if store.metadata().is_ok_and(|store| identity(&store) == identity(&metadata)) {
        return problem(BackupProblem::IsTheStore);
    }
    let has_log = |log: &&str| file::with_suffix(from, log).metadata().is_ok_and(|log| log.len() > 0);
    if let Some(log) = LOGS.into_iter().find(|log| has_log(log)) {
        return problem(BackupProblem::HasLog(log));
    }
    file::check(from).map_err(|error| error.for_copy(from))
}

/// Removes what a killed restore has left: an incomplete file, and second names of what is still the store.
fn remove_leftovers(path: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::io(path, error);
    drop(PartialStore(file::with_suffix(path, PARTIAL)));
    let present: Vec<_> = std::iter::once("")
        .chain(LOGS)
        .filter_map(|suffix| file::with_suffix(path, suffix).metadata().ok())
        .map(|metadata| identity(&metadata))
        .collect();
    let prefix = file::with_suffix(path, KEPT);
    for entry in file::directory_of(path).read_dir().map_err(io)? {
        let kept = entry.map_err(io)?.path();
        let is_kept = kept
            .file_name()
            .zip(prefix.file_name())
            .is_some_and(|(name, prefix)| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()));
        if is_kept && kept.symlink_metadata().is_ok_and(|kept| present.contains(&identity(&kept))) {
            fs::remove_file(&kept).map_err(io)?;
        }
    }
    Ok(())
}

/// Makes the new store: complete, checked, renumbered, synced.
fn prepare(
    from: &Path,
    path: &Path,
    partial: &Path,
    observer: &CopyObserver,
) -> Result<BackupSummary, StoreError> {
    copy(from, partial, observer)?;
    give_to_owner_of(path, partial);
    let mut connection = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // Everything must be in one file, because only that is renamed.
    disable_wal(&connection)?;
    match schema::inspect(partial, &connection)? {
        SchemaState::Current => {}
        SchemaState::Older(version) => schema::migrate(&mut connection, version)?,
        SchemaState::Empty => {
            return Err(StoreError::Foreign { path: partial.to_path_buf(), what: "it is empty" });
        }
    }
    schema::check_whole(&connection)?;
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    renumber::renumber(&tx)?;
    tx.commit()?;
    let summary = backup::summary(partial, &connection)?;
    drop(connection);
    File::open(partial).and_then(|file| file.sync_all()).map_err(|error| StoreError::io(partial, error))?;
    Ok(summary)
}

fn copy(from: &Path, to: &Path, observer: &CopyObserver) -> Result<(), StoreError> {
    let reading = |error| StoreError::io(from, error);
    let writing = |error| StoreError::io(to, error);
    let mut source = File::open(from).map_err(reading)?;
    let total_bytes = source.metadata().map_err(reading)?.len();
    let mut copy = file::open_private(to, OpenOptions::new().create_new(true)).map_err(writing)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut bytes = 0;
    loop {
        let length = source.read(&mut block).map_err(reading)?;
        if length == 0 {
            return Ok(());
        }
        copy.write_all(&block[..length]).map_err(writing)?;
        bytes += length as u64;
        if observer(CopyProgress { bytes, total_bytes }).is_break() {
            return Err(StoreError::backup(from, BackupProblem::Stopped));
        }
    }
}

/// Gives a file that root has created to the user of the daemon: the owner of the store, or else of its directory.
fn give_to_owner_of(path: &Path, created: &Path) {
    let owner = path.metadata().or_else(|_| file::directory_of(path).metadata());
    if let (Ok(owner), Ok(file)) = (owner, File::open(created)) {
        // Only root may. Others are the owner already, because only the owner can read the store.
        fchown(&file, Some(owner.uid()), Some(owner.gid())).ok();
    }
}

/// Checkpoints the logs of the present store into its file, if SQLite can open it.
fn checkpoint(path: &Path) -> Result<(), StoreError> {
    let is_sqlite = path.metadata().is_ok_and(|file| file.len() > 0) && file::check(path).is_ok();
    if !is_sqlite {
        return Ok(());
    }
    let checkpointed = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|connection| {
        match schema::inspect(path, &connection) {
            // The configured path points to a file of another program.
            Err(foreign @ StoreError::Foreign { .. }) => Err(foreign),
            _ => disable_wal(&connection),
        }
    });
    match checkpointed {
        // Then there is no log, or no file to checkpoint it into.
        Err(StoreError::Corrupt { .. }) => Ok(()),
        Err(StoreError::BeingRead(_)) => Err(StoreError::BeingRead(path.to_path_buf())),
        checkpointed => checkpointed,
    }
}

/// Checkpoints and removes all logs. SQLite works without a write-ahead log until a daemon opens the file.
fn disable_wal(connection: &Connection) -> Result<(), StoreError> {
    let busy = || StoreError::BeingRead(connection.path().map(PathBuf::from).unwrap_or_default());
    let mode = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
    match mode {
        Ok(mode) if mode == "delete" => Ok(()),
        Ok(_) => Err(busy()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Err(busy()),
        Err(error) => Err(error.into()),
    }
}

/// Gives the present store a second name, under which it is kept, and removes the logs that could not be checkpointed.
fn keep_old(path: &Path, now: Timestamp) -> Result<Option<PathBuf>, StoreError> {
    let io = |error| StoreError::io(path, error);
    let parts = || std::iter::once("").chain(LOGS).filter(|part| file::with_suffix(path, part).exists());
    if parts().next().is_none() {
        return Ok(None);
    }
    let kept = free_name(path, now)?;
    for part in parts() {
        file::link_or_copy(&file::with_suffix(path, part), &file::with_suffix(&kept, part)).map_err(io)?;
    }
    file::sync_directory_of(path).map_err(io)?;
    for log in LOGS.into_iter().chain(["-shm"]) {
        file::remove_if_exists(&file::with_suffix(path, log)).map_err(io)?;
    }
    Ok(Some(kept))
}

fn free_name(path: &Path, now: Timestamp) -> Result<PathBuf, StoreError> {
    let suffix = format!("{KEPT}{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let is_free = |name: &PathBuf| {
        std::iter::once("").chain(LOGS).all(|part| file::with_suffix(name, part).symlink_metadata().is_err())
    };
    let free = file::numbered_names(path, &suffix).find(is_free);
    free.ok_or_else(|| StoreError::TooManyBackups(file::with_suffix(path, &suffix)))
}

#[cfg(test)]
mod tests {
    use std::{ops::ControlFlow, sync::Arc};

    use super::*;
    use crate::store::{CopyObserver, sqlite::Sqlite};

    fn connection(path: &Path) -> Connection {
        connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
    }

    fn watch(path: &Path, kf_account: &str) {
        let sql = "INSERT INTO accounts (official_account, appid, kf_account, configured, state, baseline_taken, keyless)
                   VALUES ('shop', 'wx', ?1, 1, 'ok', 1, 0)";
        connection(path).execute(sql, [kf_account]).unwrap();
    }

    /// The kf accounts in the store that a crash at this moment would leave.
    fn found(path: &Path) -> Vec<String> {
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("kfwatch.db");
        for part in ["", "-wal", "-journal"] {
            if file::with_suffix(path, part).exists() {
                fs::copy(file::with_suffix(path, part), file::with_suffix(&copy, part)).unwrap();
            }
        }
        let connection = connection(&copy);
        schema::require_current(&copy, &connection).unwrap();
        let mut statement = connection.prepare("SELECT kf_account FROM accounts ORDER BY id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn each_step_leaves_old_store_or_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let [path, backup, image] =
            ["kfwatch.db", "backup.db", "image"].map(|name| directory.path().join(name));
        let observer: CopyObserver = Arc::new(|_| ControlFlow::Continue(()));
        drop(Sqlite::open(&path).unwrap());
        watch(&path, "a");
        backup::back_up(&path, &backup, &observer).unwrap();
        // As a killed daemon leaves it: the last commits are in the log.
        let open = connection(&path);
        schema::require_current(&path, &open).unwrap();
        watch(&path, "b");
        fs::copy(file::with_suffix(&path, "-wal"), &image).unwrap();
        let main = fs::read(&path).unwrap();
        drop(open);
        fs::write(&path, main).unwrap();
        fs::rename(image, file::with_suffix(&path, "-wal")).unwrap();

        let (old, new) = (["a", "b"], ["a"]);
        assert_eq!(found(&path), old);
        let partial = PartialStore(file::with_suffix(&path, PARTIAL));
        prepare(&backup, &path, &partial.0, &observer).unwrap();
        assert_eq!(found(&path), old);
        checkpoint(&path).unwrap();
        assert_eq!(found(&path), old);
        let kept = keep_old(&path, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!(
            (found(&path), found(&kept)),
            (old.map(str::to_owned).into(), old.map(str::to_owned).into())
        );
        // After a kill at this moment, the next restore finds a second name of what is still the store.
        remove_leftovers(&path).unwrap();
        assert!(!kept.exists() && !partial.0.exists());
        assert_eq!(found(&path), old);

        prepare(&backup, &path, &partial.0, &observer).unwrap();
        let kept = keep_old(&path, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        file::rename_and_sync(&partial.0, &path).unwrap();
        assert_eq!(found(&path), new);
        remove_leftovers(&path).unwrap();
        assert_eq!(found(&kept), old);
    }
}
