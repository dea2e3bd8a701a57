//! Putting a backup in the store's place.
//!
//! Whoever ends this program at any moment leaves the old store or the new one. The new one is made beside the old, whole
//! and synced, and takes its name by one renaming; the old one has a second name by then. What would make a mixture is a
//! log of the old store beside the new file, which SQLite would replay into it: so the old store's log is folded into
//! its file first. Only a file that SQLite cannot open has a log that cannot be folded in; that is moved away just
//! before the renaming.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, fchown},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{
    backup, connect, file, renumber,
    schema::{self, Content},
};
use crate::store::{
    backup::{BackupProblem, BackupSummary, Copied, Observer, Restored},
    error::StoreError,
};

/// The file that is to become the store, while it is not whole.
const PARTIAL: &str = "-restore-partial";

/// What the name of a store that was replaced ends in, before the time.
const KEPT: &str = "-before-restore-";

/// Logs of SQLite: without them the file lacks commits, or has half of one.
const LOGS: [&str; 2] = ["-wal", "-journal"];

/// How much is copied between two looks at how far the copy has come.
const BLOCK_BYTES: usize = 1024 * 1024;

/// The most stores that are kept of one second.
const MAX_KEPT: u32 = 100;

pub(in crate::store) fn restore(
    store: &Path,
    from: &Path,
    now: Timestamp,
    observer: &Observer,
) -> Result<Restored, StoreError> {
    let path = file::resolve(store)?;
    check_outside(from, &path)?;
    let existed = file::beside(&path, "-lock").exists();
    let lock = file::Lock::take(&path)?;
    if !existed {
        give_to_owner_of(&path, &file::beside(&path, "-lock"));
    }
    remove_traces(&path)?;
    let partial = Partial(file::beside(&path, PARTIAL));
    let summary = prepare(from, &path, &partial.0, observer).map_err(|error| error.of_copy(from))?;
    fold(&path)?;
    let kept = keep(&path, now)?;
    file::rename_for_good(&partial.0, &path).map_err(|error| StoreError::io(&path, error))?;
    drop(lock);
    Ok(Restored { summary, path, kept })
}

/// Removed when it is dropped; there is none left once it has become the store.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-journal", "-shm"] {
            fs::remove_file(file::beside(&self.0, suffix)).ok();
        }
    }
}

/// Refuses what can be told without reading it.
fn check_outside(from: &Path, store: &Path) -> Result<(), StoreError> {
    let problem = |problem| Err(StoreError::backup(from, problem));
    let metadata = match from.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return problem(BackupProblem::Missing),
        Err(error) => return Err(StoreError::io(from, error).of_copy(from)),
    };
    if store.metadata().is_ok_and(|store| identity(&store) == identity(&metadata)) {
        return problem(BackupProblem::IsTheStore);
    }
    let has_log = |log: &&str| file::beside(from, log).metadata().is_ok_and(|log| log.len() > 0);
    if let Some(log) = LOGS.into_iter().find(|log| has_log(log)) {
        return problem(BackupProblem::HasLog(log));
    }
    file::check(from).map_err(|error| error.of_copy(from))
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What a restore that was killed has left: a file that is not whole, and second names of what is still the store.
fn remove_traces(path: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::io(path, error);
    drop(Partial(file::beside(path, PARTIAL)));
    let present: Vec<_> = std::iter::once("")
        .chain(LOGS)
        .filter_map(|suffix| file::beside(path, suffix).metadata().ok())
        .map(|metadata| identity(&metadata))
        .collect();
    let prefix = file::beside(path, KEPT);
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

/// Makes the new store: whole, checked, renumbered, synced.
fn prepare(
    from: &Path,
    path: &Path,
    partial: &Path,
    observer: &Observer,
) -> Result<BackupSummary, StoreError> {
    copy(from, partial, observer)?;
    give_to_owner_of(path, partial);
    let mut connection = connect(partial, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // All of it in one file: nothing but that is renamed.
    set_journal_to_delete(&connection)?;
    match schema::inspect(partial, &connection)? {
        Content::Current => {}
        Content::Older(version) => schema::migrate(&mut connection, version)?,
        Content::Nothing => {
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

fn copy(from: &Path, to: &Path, observer: &Observer) -> Result<(), StoreError> {
    let reading = |error| StoreError::io(from, error);
    let writing = |error| StoreError::io(to, error);
    let mut source = File::open(from).map_err(reading)?;
    let of = source.metadata().map_err(reading)?.len();
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
        if observer(Copied { bytes, of }).is_break() {
            return Err(StoreError::backup(from, BackupProblem::Stopped));
        }
    }
}

/// Root may restore the store of a daemon that does not run as root: its file, or else its directory, says as whom.
fn give_to_owner_of(path: &Path, created: &Path) {
    let owner = path.metadata().or_else(|_| file::directory_of(path).metadata());
    if let (Ok(owner), Ok(file)) = (owner, File::open(created)) {
        // Only root may; others are the owner already, as the store is readable by its owner alone.
        fchown(&file, Some(owner.uid()), Some(owner.gid())).ok();
    }
}

/// Folds the logs of the present store into its file, if there is a file that SQLite can open.
fn fold(path: &Path) -> Result<(), StoreError> {
    let is_sqlite = path.metadata().is_ok_and(|file| file.len() > 0) && file::check(path).is_ok();
    if !is_sqlite {
        return Ok(());
    }
    let folded = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(|connection| {
        match schema::inspect(path, &connection) {
            // Another program's, which happens to be where the configuration points to.
            Err(foreign @ StoreError::Foreign { .. }) => Err(foreign),
            _ => set_journal_to_delete(&connection),
        }
    });
    match folded {
        // There is nothing to be folded in then, or nothing into which.
        Err(StoreError::Corrupt { .. }) => Ok(()),
        Err(StoreError::BeingRead(_)) => Err(StoreError::BeingRead(path.to_path_buf())),
        folded => folded,
    }
}

/// Folds in and removes all logs, and makes SQLite work without the write-ahead log until a daemon opens the file.
fn set_journal_to_delete(connection: &Connection) -> Result<(), StoreError> {
    let busy = || StoreError::BeingRead(connection.path().map(PathBuf::from).unwrap_or_default());
    let mode = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
    match mode {
        Ok(mode) if mode == "delete" => Ok(()),
        Ok(_) => Err(busy()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Err(busy()),
        Err(error) => Err(error.into()),
    }
}

/// Gives the present store a second name, which it keeps, and takes away the logs that could not be folded in.
fn keep(path: &Path, now: Timestamp) -> Result<Option<PathBuf>, StoreError> {
    let io = |error| StoreError::io(path, error);
    let parts = || std::iter::once("").chain(LOGS).filter(|part| file::beside(path, part).exists());
    if parts().next().is_none() {
        return Ok(None);
    }
    let kept = free_name(path, now)?;
    for part in parts() {
        fs::hard_link(file::beside(path, part), file::beside(&kept, part)).map_err(io)?;
    }
    file::sync_directory_of(path).map_err(io)?;
    for log in LOGS.into_iter().chain(["-shm"]) {
        match fs::remove_file(file::beside(path, log)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
    }
    Ok(Some(kept))
}

fn free_name(path: &Path, now: Timestamp) -> Result<PathBuf, StoreError> {
    let first = format!("{KEPT}{}", now.strftime("%Y%m%dT%H%M%SZ"));
    let names = (2..=MAX_KEPT).map(|number| format!("{first}-{number}"));
    let mut names = std::iter::once(first.clone()).chain(names).map(|suffix| file::beside(path, &suffix));
    let is_free = |name: &PathBuf| {
        std::iter::once("").chain(LOGS).all(|part| file::beside(name, part).symlink_metadata().is_err())
    };
    names.find(is_free).ok_or_else(|| StoreError::TooManyBackups(file::beside(path, &first)))
}

#[cfg(test)]
mod tests {
    use std::{ops::ControlFlow, sync::Arc};

    use super::*;
    use crate::store::{Observer, sqlite::Sqlite};

    fn connection(path: &Path) -> Connection {
        connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
    }

    fn watch(path: &Path, kf_account: &str) {
        let sql = "INSERT INTO accounts (official_account, appid, kf_account, configured, state, baseline_taken, keyless)
                   VALUES ('shop', 'wx', ?1, 1, 'ok', 1, 0)";
        connection(path).execute(sql, [kf_account]).unwrap();
    }

    /// The names of the kf accounts, as whoever opens the store finds them, a crash at this moment assumed.
    fn found(path: &Path) -> Vec<String> {
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("kfwatch.db");
        for part in ["", "-wal", "-journal"] {
            if file::beside(path, part).exists() {
                fs::copy(file::beside(path, part), file::beside(&copy, part)).unwrap();
            }
        }
        let connection = connection(&copy);
        schema::require_current(&copy, &connection).unwrap();
        let mut statement = connection.prepare("SELECT kf_account FROM accounts ORDER BY id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn after_each_step_there_is_the_old_store_or_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let [path, backup, image] =
            ["kfwatch.db", "backup.db", "image"].map(|name| directory.path().join(name));
        let observer: Observer = Arc::new(|_| ControlFlow::Continue(()));
        drop(Sqlite::open(&path).unwrap());
        watch(&path, "a");
        backup::take(&path, &backup, &observer).unwrap();
        // A daemon that was killed: its last commits are in the log.
        let open = connection(&path);
        schema::require_current(&path, &open).unwrap();
        watch(&path, "b");
        fs::copy(file::beside(&path, "-wal"), &image).unwrap();
        let main = fs::read(&path).unwrap();
        drop(open);
        fs::write(&path, main).unwrap();
        fs::rename(image, file::beside(&path, "-wal")).unwrap();

        let (old, new) = (["a", "b"], ["a"]);
        assert_eq!(found(&path), old);
        let partial = Partial(file::beside(&path, PARTIAL));
        prepare(&backup, &path, &partial.0, &observer).unwrap();
        assert_eq!(found(&path), old);
        fold(&path).unwrap();
        assert_eq!(found(&path), old);
        let kept = keep(&path, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!(
            (found(&path), found(&kept)),
            (old.map(str::to_owned).into(), old.map(str::to_owned).into())
        );
        // Killed here, the next restore finds a second name of what is still the store.
        remove_traces(&path).unwrap();
        assert!(!kept.exists() && !partial.0.exists());
        assert_eq!(found(&path), old);

        prepare(&backup, &path, &partial.0, &observer).unwrap();
        let kept = keep(&path, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        file::rename_for_good(&partial.0, &path).unwrap();
        assert_eq!(found(&path), new);
        remove_traces(&path).unwrap();
        assert_eq!(found(&kept), old);
    }
}
