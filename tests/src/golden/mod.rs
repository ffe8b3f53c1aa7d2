//! Reading, filling, running and comparing golden cases.

mod answer;
mod case;
mod compare;
mod config;
mod fill;
mod runner;

pub use answer::Answer;
pub use case::Case;
pub use compare::mismatches;
pub use config::Config;
pub use fill::{batch_norm_statistic, parameter};
pub use runner::{AREAS, Golden, Report, Verdict, failures, summary};
