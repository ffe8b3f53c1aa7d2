//! Files with the mean and covariance of features, as pytorch-fid, EDM and others exchange them: `mu` and `sigma`.

use std::path::Path;

use anyhow::{Context as _, bail};
use strata_datasets::npz::{Npz, Numbers, pickled_numbers};
use strata_diffusion::evaluation::moments::Statistics;

use crate::npz;

/// Whether a name is that of such a file; an npz may hold images instead, which its arrays tell.
pub fn is_statistics(path: &Path) -> bool {
    let ends = |end: &str| path.to_string_lossy().ends_with(end);
    path.is_file() && (ends(".pkl") || (ends(".npz") && Npz::open(path).is_ok_and(|file| file.names().contains(&"mu"))))
}

/// Reads an npz with `mu` and `sigma`, or a pickle with them, at the top or under `fid`. Nothing in a pickle is executed.
///
/// # Errors
/// If there are none, or they are no mean and covariance.
pub fn read(path: &Path) -> anyhow::Result<Statistics> {
    let context = || path.display().to_string();
    if path.to_string_lossy().ends_with(".pkl") {
        let found = pickled_numbers(path, &[&["mu"], &["sigma"], &["fid", "mu"], &["fid", "sigma"]])?;
        let mut found = found.into_iter().flatten();
        return match (found.next(), found.next()) {
            (Some(mu), Some(sigma)) => of(mu, sigma, None).with_context(context),
            _ => bail!("{}: expected `mu` and `sigma`, at the top or under `fid`", path.display()),
        };
    }
    let file = Npz::open(path)?;
    let (Some(mu), Some(sigma)) = (file.numbers("mu")?, file.numbers("sigma")?) else {
        bail!("{}: expected arrays `mu` and `sigma`, got {}", path.display(), file.names().join(", "));
    };
    let count = file.numbers("count")?.and_then(|n| n.values.first().map(|v| *v as u64));
    of(mu, sigma, count).with_context(context)
}

fn of(mu: Numbers, sigma: Numbers, count: Option<u64>) -> anyhow::Result<Statistics> {
    let d = mu.values.len();
    if sigma.shape != [d, d] {
        bail!("expected `sigma` [{d}, {d}] for `mu` {:?}, got {:?}", mu.shape, sigma.shape);
    }
    Ok(Statistics::new(mu.values, sigma.values, count)?)
}

/// Writes `mu` `[d]` and `sigma` `[d, d]`, float64; and `count`, the number of images, which other programs do not look at.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, statistics: &Statistics) -> anyhow::Result<()> {
    let d = statistics.dim();
    npz::archive(path, |archive| {
        npz::add_numbers(archive, "mu", &[d], &statistics.mean)?;
        npz::add_numbers(archive, "sigma", &[d, d], &statistics.covariance)?;
        match statistics.count {
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
        let statistics = Statistics::new(vec![0.1, -2.0], vec![1.0, 0.25, 0.25, 3.0], Some(7)).unwrap();
        write(&path, &statistics).unwrap();
        assert!(is_statistics(&path));
        assert_eq!(read(&path).unwrap(), statistics);
        npz::archive(&path, |archive| npz::add_numbers(archive, "mu", &[2], &[0.0, 1.0])).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("`mu` and `sigma`, got mu"), "{message}");
        std::fs::write(&path, "PK").unwrap();
        assert!(read(&path).is_err());
    }
}
