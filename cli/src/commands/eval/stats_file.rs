//! Files with the mean and covariance of features, as pytorch-fid, EDM and others exchange them: `mu` and `sigma`; and of the
//! spatial features `mu_s` and `sigma_s`, as ADM's evaluator has them.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use strata_datasets::npz::{Npz, Numbers, pickled_numbers};
use strata_diffusion::evaluation::moments::Statistics;

use super::pickled;
use crate::npz;

/// Whether a name is that of such a file; an npz may hold images instead, which its arrays tell.
pub fn is_statistics(path: &Path) -> bool {
    let ends = |end: &str| path.to_string_lossy().ends_with(end);
    path.is_file()
        && (ends(".pkl") || ends(".pt") || (ends(".npz") && Npz::open(path).is_ok_and(|file| file.names().contains(&"mu"))))
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Of the features.
    pub features: Statistics,
    /// Of the spatial features.
    pub spatial: Option<Statistics>,
}

/// Reads an npz with `mu` and `sigma`, or a pickle (of PyTorch, too) with them, at the top or under `fid`. Nothing in a pickle is
/// executed.
///
/// # Errors
/// If there are none, or they are no mean and covariance.
pub fn read(path: &Path) -> anyhow::Result<Stored> {
    let context = || path.display().to_string();
    if path.extension().is_some_and(|e| e == "pkl" || e == "pt") {
        let found = pickled_numbers(path, &[&["mu"], &["sigma"], &["fid", "mu"], &["fid", "sigma"]])?;
        let mut found = found.into_iter().flatten();
        return match (found.next(), found.next()) {
            (Some(mu), Some(sigma)) => Ok(Stored { features: of(mu, sigma, None).with_context(context)?, spatial: None }),
            _ => bail!("{}: expected `mu` and `sigma`, at the top or under `fid`", path.display()),
        };
    }
    let file = Npz::open(path)?;
    let count = file.numbers("count")?.and_then(|n| n.values.first().map(|v| *v as u64));
    let pair = |mu: &str, sigma: &str| match (file.numbers(mu)?, file.numbers(sigma)?) {
        (Some(mu), Some(sigma)) => of(mu, sigma, count).with_context(context).map(Some),
        _ => Ok(None),
    };
    let Some(features) = pair("mu", "sigma")? else {
        bail!("{}: expected arrays `mu` and `sigma`, got {}", path.display(), file.names().join(", "));
    };
    Ok(Stored { features, spatial: pair("mu_s", "sigma_s")? })
}

fn of(mu: Numbers, sigma: Numbers, count: Option<u64>) -> anyhow::Result<Statistics> {
    let d = mu.values.len();
    if sigma.shape != [d, d] {
        bail!("expected `sigma` [{d}, {d}] for `mu` {:?}, got {:?}", mu.shape, sigma.shape);
    }
    Ok(Statistics::new(mu.values, sigma.values, count)?)
}

/// Writes `mu` `[d]` and `sigma` `[d, d]`, float64. A `.pkl` is EDM2's, a `.pt` torch-fidelity's; anything else is an npz, which
/// also has `mu_s` and `sigma_s` if there are spatial ones, and `count`, the number of images, which other programs do not look at.
///
/// # Errors
/// If the file cannot be written; spatial features in a pickle, which has no place for them.
pub fn write(path: &Path, stored: &Stored) -> anyhow::Result<()> {
    let pickle = path.extension().and_then(|e| e.to_str()).filter(|e| ["pkl", "pt"].contains(e));
    ensure!(pickle.is_none() || stored.spatial.is_none(), "{}: spatial features are kept in an .npz alone", path.display());
    match pickle {
        Some("pkl") => return pickled::write_edm(path, &stored.features),
        Some(_) => return pickled::write_torch(path, &stored.features),
        None => {}
    }
    let pairs = [("mu", "sigma", Some(&stored.features)), ("mu_s", "sigma_s", stored.spatial.as_ref())];
    npz::archive(path, |archive| {
        for (mu, sigma, statistics) in pairs {
            let Some(statistics) = statistics else { continue };
            let d = statistics.dim();
            npz::add_numbers(archive, mu, &[d], &statistics.mean)?;
            npz::add_numbers(archive, sigma, &[d, d], &statistics.covariance)?;
        }
        match stored.features.count {
            Some(count) => npz::add_numbers(archive, "count", &[1], &[count as f64]),
            None => Ok(()),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn statistics_go_there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npz");
        let features = Statistics::new(vec![0.1, -2.0], vec![1.0, 0.25, 0.25, 3.0], Some(7)).unwrap();
        let spatial = Statistics::new(vec![5.0], vec![2.0], Some(7)).unwrap();
        for spatial in [None, Some(spatial)] {
            let stored = Stored { features: features.clone(), spatial };
            write(&path, &stored).unwrap();
            assert!(is_statistics(&path));
            assert_eq!(read(&path).unwrap(), stored);
        }
        for name in ["a.pkl", "a.pt"] {
            let path = folder.path().join(name);
            let stored = Stored { features: Statistics { count: None, ..features.clone() }, spatial: None };
            write(&path, &stored).unwrap();
            assert!(is_statistics(&path));
            assert_eq!(read(&path).unwrap(), stored, "{name}");
        }
        npz::archive(&path, |archive| npz::add_numbers(archive, "mu", &[2], &[0.0, 1.0])).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("`mu` and `sigma`, got mu"), "{message}");
        std::fs::write(&path, "PK").unwrap();
        assert!(read(&path).is_err());
    }
}
