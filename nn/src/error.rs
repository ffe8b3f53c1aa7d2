//! The crate's error type.

use std::path::PathBuf;

/// What can go wrong in operators, parameters and weight files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operator was handed an argument that does not fit.
    #[error("{op}: `{argument}`: expected {expected}, got {got}")]
    Argument {
        /// Operator.
        op: &'static str,
        /// Argument of that operator.
        argument: &'static str,
        /// What fits.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A network configuration that cannot be built.
    #[error("{0}")]
    Config(String),
    /// A set of weights that does not fit the parameters: every problem, one a line; of very many the first ones, for then it is
    /// another network's file.
    #[error("{} do not fit in {origin}:\n  {}", plural(problems.len(), "tensor"), listed(problems))]
    Weights {
        /// Where the weights came from.
        origin: String,
        /// One line per tensor.
        problems: Vec<String>,
    },
    /// A file that cannot be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// An error of candle.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An argument of an operator that does not fit.
    pub fn argument(op: &'static str, argument: &'static str, expected: impl Into<String>, got: impl std::fmt::Debug) -> Self {
        Self::Argument { op, argument, expected: expected.into(), got: format!("{got:?}") }
    }

    /// A file that cannot be used, and why.
    pub fn file(path: impl Into<PathBuf>, message: impl std::fmt::Display) -> Self {
        Self::File { path: path.into(), message: message.to_string() }
    }
}

/// More lines than these, which the tensors of any autoencoder are fewer than, tell that nothing fits, which a few of them show.
const MANY: usize = 300;
/// So many of many.
const FEW: usize = 5;

fn listed(problems: &[String]) -> String {
    if problems.len() <= MANY {
        return problems.join("\n  ");
    }
    format!("{}\n  and {} more", problems[..FEW].join("\n  "), problems.len() - FEW)
}

fn plural(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_many_problems_are_cut_and_counted() {
        let of = |n: usize| {
            let problems = (0..n).map(|i| format!("missing `{i}`")).collect();
            Error::Weights { origin: "x.pth".into(), problems }.to_string()
        };
        assert!(of(300).contains("missing `299`") && !of(300).contains("more"));
        assert_eq!(of(470).lines().count(), 7);
        assert!(of(470).starts_with("470 tensors do not fit in x.pth") && of(470).ends_with("and 465 more"), "{}", of(470));
    }
}
