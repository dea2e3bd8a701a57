//! Every sink gets every event of the log and nothing else, whatever fails: receivers, files, disks or processes.

mod certificates;
mod conservation;
mod disks;
mod reopening;
