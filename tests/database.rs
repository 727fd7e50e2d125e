//! A database that says what it has committed, for the image `database`.

use crate::log_lines::last_number;

/// Reports what a previous run left (`check ok`, `found NUMBER`), then commits numbers to `/data/numbers`, one after the
/// other, and prints `committed NUMBER` after each.
pub const WRITER: &str = "cd /data
sql() { sqlite3 -cmd '.timeout 60000' -cmd 'PRAGMA synchronous=FULL' numbers \"$1\"; }
sql 'PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS numbers(number INTEGER PRIMARY KEY, filler BLOB)' > /dev/null || exit 1
echo check $(sql 'PRAGMA integrity_check')
number=$(sql 'SELECT coalesce(max(number), 0) FROM numbers') || exit 1
echo found $number
while :; do
    number=$((number + 1))
    sql \"BEGIN; INSERT INTO numbers VALUES ($number, randomblob(2000)); DELETE FROM numbers WHERE number < $number - 200; COMMIT\" || exit 1
    echo committed $number
done";

/// The last number that this output of [`WRITER`] calls committed; 0 if there is none.
#[must_use]
pub fn last_committed(output: &str) -> u64 {
    last_number(output, "committed ").unwrap_or(0)
}

/// Asserts that [`WRITER`] found an intact database with everything that had been committed.
///
/// # Panics
/// If it did not.
#[track_caller]
pub fn assert_found(output: &str, committed: u64) {
    assert!(output.lines().any(|line| line == "check ok"), "{output}");
    let found = last_number(output, "found ").unwrap_or_else(|| panic!("nothing found: {output}"));
    assert!(found >= committed, "{committed} was committed, {found} found");
}
