//! Golden cases: what published implementations compute, recorded as numbers, run through the public API of the crates.
//!
//! A case is a folder `<area>/<name>/` with a `case.json` (kind, configuration, tolerances) and a `tensors.safetensors`
//! (inputs `in.*`, expected outputs `out.*` and `grad.*`). The cases of the project lie in `tests/golden`; the variable
//! `STRATA_GOLDEN_DIR` names another directory of the same form.
//!
//! - [`golden`]: reads cases, fills weights, compares answers, walks a directory.
//! - [`kinds`]: one function per kind of case, which translates a `case.json` into calls of the crates; the table of all kinds
//!   and the list of those that no code implements yet.
//!
//! `cargo test --release -p strata-tests golden` runs every case.
//!
//! ```
//! use strata_tests::golden::{Golden, Verdict};
//!
//! let golden = Golden::own();
//! let reports = golden.run_area("schedules")?;
//! assert!(reports.iter().all(|r| !matches!(r.verdict, Verdict::Failed(_))));
//! # Ok::<(), anyhow::Error>(())
//! ```

pub mod golden;
pub mod kinds;

pub use golden::{Answer, Case, Config};
