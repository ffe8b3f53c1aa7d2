//! How near samples are to the data: what the field's evaluation programs compute, in float64.
//!
//! Pictures become rows of features ([`Features`]); the measures look at those alone.
//!
//! - [`classifier`]: a small network trained on the data's labels, for distances of its own name.
//! - [`confidence`]: intervals, and the limit for many samples.
//! - [`extractor`], [`collect`]: networks that describe pictures, and sets of pictures taken in a batch at a time.
//! - [`frechet`], [`moments`]: the Fréchet distance between Gaussians with the features' means and covariances (FID; sFID of the
//!   spatial features), and the statistics it is computed from, gathered over any number of pictures.
//! - [`kid`]: the kernel distance, unbiased at any number of pictures.
//! - [`inception`]: the network whose features FID and KID look at.
//! - [`inception_score`]: how certain and how varied a classifier finds samples, without reference.
//! - [`manifold`]: precision, recall, density and coverage.
//! - [`shared`]: a set that several processes have divided among them.
//! - [`vision`]: CLIP's image tower and DINOv2, for distances of their own names.

pub mod classifier;
pub mod collect;
pub mod confidence;
mod dense;
pub mod extractor;
pub mod frechet;
pub mod inception;
pub mod inception_score;
pub mod kid;
pub mod manifold;
pub mod moments;
pub mod shared;
pub mod vision;

use crate::{Error, Result};

/// Features of pictures, one row each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// Numbers in a row.
    pub dim: usize,
    /// Row-major, `[len, dim]`.
    pub values: Vec<f32>,
}

impl Features {
    /// No row yet.
    pub fn new(dim: usize) -> Self {
        Self { dim, values: Vec::new() }
    }

    /// Of rows that lie one after the other.
    ///
    /// # Errors
    /// If they are not whole rows, or a number is not finite.
    pub fn from_rows(dim: usize, values: Vec<f32>) -> Result<Self> {
        let mut features = Self::new(dim);
        check_rows(dim, &values, 0)?;
        features.values = values;
        Ok(features)
    }

    /// Adds rows.
    ///
    /// # Errors
    /// As [`Features::from_rows`].
    pub fn extend(&mut self, rows: &[f32]) -> Result<()> {
        check_rows(self.dim, rows, self.len())?;
        self.values.extend_from_slice(rows);
        Ok(())
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.dim).unwrap_or(0)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Row `i`, which must be there.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// The rows at `indices`, in that order.
    ///
    /// # Errors
    /// If an index is past the last row.
    pub fn select(&self, indices: &[usize]) -> Result<Self> {
        if let Some(i) = indices.iter().find(|i| **i >= self.len()) {
            return Err(Error::Config(format!("row of features: expected one below {}, got {i}", self.len())));
        }
        Ok(Self { dim: self.dim, values: indices.iter().flat_map(|i| self.row(*i)).copied().collect() })
    }
}

/// Whole rows of finite numbers; `before` rows came earlier.
fn check_rows(dim: usize, rows: &[f32], before: usize) -> Result<()> {
    if dim == 0 || !rows.len().is_multiple_of(dim) {
        return Err(Error::Config(format!("features: expected whole rows of {dim} numbers, got {} numbers", rows.len())));
    }
    match rows.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(Error::NonFinite(format!("in the features of picture {}: {}", before + at / dim, rows[at]))),
        None => Ok(()),
    }
}

fn same_dim(a: usize, b: usize) -> Result<()> {
    match a == b {
        true => Ok(()),
        false => Err(Error::Mismatch { what: "width of the features".into(), expected: a.to_string(), got: b.to_string() }),
    }
}
