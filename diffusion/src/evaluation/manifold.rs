//! Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020): each set's manifold is the balls around
//! its points that reach to their k-th nearest neighbours.

use faer::Mat;
use serde::Serialize;

use super::{
    Features,
    dense::{product, widened},
    same_dim,
};
use crate::{Error, Result};

/// Rows of distances that are worked on at a time.
const BLOCK: usize = 256;

/// The four measures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Manifold {
    /// Share of the fake points inside at least one real ball.
    pub precision: f64,
    /// Share of the real points inside at least one fake ball.
    pub recall: f64,
    /// Real balls around a fake point, on average, over k; may be above 1.
    pub density: f64,
    /// Share of the real balls whose nearest fake point is inside.
    pub coverage: f64,
}

/// The four measures of `fake` against `real`, with the radii from [`radii`].
///
/// # Errors
/// If the widths differ, or the radii are not of these points.
pub fn compare(real: &Features, fake: &Features, radii: [&[f64]; 2], k: usize) -> Result<Manifold> {
    same_dim(real.dim, fake.dim)?;
    let [real_radii, fake_radii] = radii;
    if real_radii.len() != real.len() || fake_radii.len() != fake.len() || k == 0 || real.is_empty() || fake.is_empty() {
        let got = format!("{} and {} for {} and {}", real_radii.len(), fake_radii.len(), real.len(), fake.len());
        return Err(Error::Config(format!("expected a radius for each point, at least one of each, got {got}")));
    }
    let (mut inside, mut incidences, mut recalled) = (vec![false; fake.len()], 0usize, 0usize);
    let mut covered = 0;
    each_block(real, fake, |first, distances| {
        for i in 0..distances.ncols() {
            let (real_radius, column) = (real_radii[first + i], distances.col(i));
            let mut nearest = f64::INFINITY;
            let mut in_fake = false;
            for (j, distance) in column.iter().enumerate() {
                let hit = *distance < real_radius;
                inside[j] |= hit;
                incidences += usize::from(hit);
                in_fake |= *distance < fake_radii[j];
                nearest = nearest.min(*distance);
            }
            recalled += usize::from(in_fake);
            covered += usize::from(nearest < real_radius);
        }
    });
    let share = |n: usize, of: usize| n as f64 / of as f64;
    Ok(Manifold {
        precision: share(inside.iter().filter(|i| **i).count(), fake.len()),
        recall: share(recalled, real.len()),
        density: share(incidences, k * fake.len()),
        coverage: share(covered, real.len()),
    })
}

/// Distance of each point to its k-th nearest neighbour within the set, itself not counted.
///
/// # Errors
/// If there are not more than k points.
pub fn radii(points: &Features, k: usize) -> Result<Vec<f64>> {
    if k == 0 || points.len() <= k {
        return Err(Error::Config(format!("expected more pictures than neighbours (k = {k}, at least 1), got {}", points.len())));
    }
    let mut radii = Vec::with_capacity(points.len());
    each_block(points, points, |first, distances| {
        for i in 0..distances.ncols() {
            let mut others: Vec<f64> = distances.col(i).iter().copied().collect();
            others.swap_remove(first + i);
            let (_, kth, _) = others.select_nth_unstable_by(k - 1, f64::total_cmp);
            radii.push(*kth);
        }
    });
    Ok(radii)
}

/// The `k` rows of `to` nearest to each row of `from`, nearest first: their positions and distances.
///
/// # Errors
/// If the widths differ, or `to` has fewer than k rows.
pub fn nearest(from: &Features, to: &Features, k: usize) -> Result<Vec<Vec<(usize, f64)>>> {
    same_dim(from.dim, to.dim)?;
    if k == 0 || to.len() < k {
        return Err(Error::Config(format!("expected at least {} pictures to look among, got {}", k.max(1), to.len())));
    }
    let mut found = Vec::with_capacity(from.len());
    each_block(from, to, |_, distances| {
        for i in 0..distances.ncols() {
            let mut all: Vec<(usize, f64)> = distances.col(i).iter().copied().enumerate().collect();
            all.select_nth_unstable_by(k - 1, |a, b| a.1.total_cmp(&b.1));
            all.truncate(k);
            all.sort_by(|a, b| a.1.total_cmp(&b.1));
            found.push(all);
        }
    });
    Ok(found)
}

/// Euclidean distances, `[b, block of a]`, a block of a's rows at a time with the first one's position. Both sets are shifted to
/// b's mean first, which keeps digits.
fn each_block(a: &Features, b: &Features, mut f: impl FnMut(usize, &Mat<f64>)) {
    let mean = mean(b);
    let y = widened(&b.values, b.dim, Some(&mean));
    let of_y = squares(&y);
    for (block, rows) in a.values.chunks(BLOCK * a.dim).enumerate() {
        let x = widened(rows, a.dim, Some(&mean));
        let of_x = squares(&x);
        let mut distances = product(y.as_ref(), x.transpose());
        for (i, of_x) in of_x.iter().enumerate() {
            for (d, of_y) in distances.col_mut(i).iter_mut().zip(&of_y) {
                *d = (of_x + of_y - 2.0 * *d).max(0.0).sqrt();
            }
        }
        f(block * BLOCK, &distances);
    }
}

fn mean(points: &Features) -> Vec<f64> {
    let mut mean = vec![0.0; points.dim];
    for row in points.values.chunks_exact(points.dim) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += f64::from(*v) / points.len() as f64);
    }
    mean
}

fn squares(rows: &Mat<f64>) -> Vec<f64> {
    rows.row_iter().map(|row| row.iter().map(|v| v * v).sum()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn line(points: &[f32]) -> Features {
        Features::from_rows(1, points.to_vec()).unwrap()
    }

    #[test]
    fn points_on_a_line_by_hand() {
        let (real, fake) = (line(&[0.0, 1.0, 3.0, 10.0]), line(&[0.25, 2.5, 30.0]));
        let (of_real, of_fake) = (radii(&real, 1).unwrap(), radii(&fake, 1).unwrap());
        let near = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(near(&of_real, &[1.0, 1.0, 2.0, 7.0]) && near(&of_fake, &[2.25, 2.25, 27.5]), "{of_real:?} {of_fake:?}");
        let measured = compare(&real, &fake, [&of_real, &of_fake], 1).unwrap();
        // 0.25 is in the balls of 0 and 1, 2.5 in that of 3, 30 in none; 10 is in the ball of 30, and its own is empty.
        assert_eq!(measured, Manifold { precision: 2.0 / 3.0, recall: 1.0, density: 1.0, coverage: 0.75 });
        assert!(radii(&real, 4).is_err() && radii(&real, 0).is_err());
        assert!(compare(&real, &fake, [&of_fake, &of_real], 1).is_err());
    }

    #[test]
    fn blocks_do_not_matter_and_the_nearest_are_found() {
        let points: Vec<f32> = (0..600).map(|i| ((i * 7919) % 6007) as f32).collect();
        let set = line(&points);
        let found = nearest(&line(&[points[400], points[3] + 0.25]), &set, 2).unwrap();
        assert_eq!((found[0][0].0, found[1][0].0), (400, 3));
        assert!(found[0][0].1 < 1e-6 && (found[1][0].1 - 0.25).abs() < 1e-6);
        let by_hand = |i: usize| {
            let mut all: Vec<f64> = points.iter().map(|p| f64::from((p - points[i]).abs())).collect();
            all.sort_by(f64::total_cmp);
            all[3]
        };
        let radii = radii(&set, 3).unwrap();
        assert!((0..600).all(|i| (radii[i] - by_hand(i)).abs() < 1e-6));
        assert!(nearest(&set, &line(&[1.0]), 2).is_err());
    }
}
