//! Kinds of the area `metrics`: evaluation metric cases.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Tensor};
use strata_diffusion::evaluation::{
    Features, frechet, inception_score, kid,
    manifold::{self, radii},
    moments::{Moments, Statistics},
};

use crate::golden::{Answer, Case};

/// Runs one case of this area.
///
/// # Errors
/// If the kind is none of this area, or the case cannot be computed.
pub fn run(case: &Case) -> Result<Answer> {
    match case.kind.as_str() {
        "frechet_distance" => frechet_distance(case),
        "inception_score" => inception(case),
        "kid" => kernel_distance(case),
        "precision_recall" => precision_recall(case),
        other => bail!("`{other}` is no kind of the area metrics"),
    }
}

fn frechet_distance(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let from = config.get::<String>("from")?;
    // What the tensors' shapes say too.
    let (d, n1, n2) = (config.get::<usize>("d")?, config.opt::<usize>("n1")?, config.opt::<usize>("n2")?);
    config.finish()?;
    let mut answer = Answer::new();
    let mut side = |i: usize, n: Option<usize>| -> Result<Statistics> {
        if from != "features" {
            return statistics(case, i);
        }
        let rows = features(case, &format!("features{i}"))?;
        ensure!(n.is_none_or(|n| n == rows.len()), "`n{i}` is {n:?}, the features have {} rows", rows.len());
        let statistics = Moments::of(rows.dim, &rows.values)?.statistics()?;
        answer.insert_values(format!("out.mu{i}"), statistics.mean.clone(), rows.dim)?;
        answer.insert_values(format!("out.sigma{i}"), statistics.covariance.clone(), (rows.dim, rows.dim))?;
        Ok(statistics)
    };
    let (one, two) = (side(1, n1)?, side(2, n2)?);
    ensure!(one.dim() == d, "`d` is {d}, the statistics have {}", one.dim());
    let distance = frechet::distance(&one, &two)?.distance;
    for name in ["out.fid", "out.fid_exact"].into_iter().filter(|name| case.expects(name)) {
        answer.insert_scalar(name, distance)?;
    }
    Ok(answer)
}

fn statistics(case: &Case, i: usize) -> Result<Statistics> {
    let values = |name: String| -> Result<Vec<f64>> { Ok(case.input(&name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?) };
    Ok(Statistics::new(values(format!("mu{i}"))?, values(format!("sigma{i}"))?, None)?)
}

fn kernel_distance(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let kernel = kid::Kernel { degree: config.get("degree")?, gamma: config.opt("gamma")?, coef0: config.get("coef0")? };
    let (subsets, size) = (config.get::<usize>("subsets")?, config.get::<usize>("subset_size")?);
    config.finish()?;
    let (a, b) = (features(case, "features1")?, features(case, "features2")?);
    let rows = |name: &str| -> Result<Vec<Vec<usize>>> {
        let rows = case.input(name)?.to_vec2::<i64>()?;
        ensure!(rows.len() == subsets && rows.iter().all(|r| r.len() == size), "`in.{name}`: expected [{subsets}, {size}]");
        Ok(rows.into_iter().map(|row| row.into_iter().map(|i| i as usize).collect()).collect())
    };
    let pairs: Vec<_> = rows("idx1")?.into_iter().zip(rows("idx2")?).collect();
    let measured = kid::over_subsets(&a, &b, kernel, &pairs)?;
    let mut answer = Answer::new();
    answer.insert_values("out.mmd2", measured.subsets, subsets)?;
    answer.insert_scalar("out.mean", measured.mean)?;
    answer.insert_scalar("out.std", measured.std)?;
    if case.expects("out.mmd2_all") {
        answer.insert_scalar("out.mmd2_all", kid::mmd2(&a, &b, kernel)?)?;
    }
    Ok(answer)
}

fn inception(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let splits = config.get::<usize>("splits")?;
    config.finish()?;
    let (probabilities, classes) = match case.input_opt("logits") {
        Some(logits) => {
            let classes = logits.dim(1)?;
            (inception_score::softmax(&logits.flatten_all()?.to_vec1::<f32>()?, classes), classes)
        }
        None => {
            let given = case.input("probs")?;
            (given.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?, given.dim(1)?)
        }
    };
    let score = inception_score::inception_score(&probabilities, classes, splits)?;
    let mut answer = Answer::new();
    answer.insert_values("out.scores", score.splits, splits)?;
    answer.insert_scalar("out.mean", score.mean)?;
    answer.insert_scalar("out.std", score.std)?;
    Ok(answer)
}

fn precision_recall(case: &Case) -> Result<Answer> {
    let config = case.config()?;
    let k = config.get::<usize>("nearest_k")?;
    config.finish()?;
    let (real, fake) = (features(case, "real")?, features(case, "fake")?);
    let (of_real, of_fake) = (radii(&real, k)?, radii(&fake, k)?);
    let measured = manifold::compare(&real, &fake, [&of_real, &of_fake], k)?;
    let mut answer = Answer::new();
    answer.insert_values("out.radii_real", of_real, real.len())?;
    answer.insert_values("out.radii_fake", of_fake, fake.len())?;
    answer.insert_scalar("out.precision", measured.precision)?;
    answer.insert_scalar("out.recall", measured.recall)?;
    answer.insert_scalar("out.density", measured.density)?;
    answer.insert_scalar("out.coverage", measured.coverage)?;
    Ok(answer)
}

fn features(case: &Case, name: &str) -> Result<Features> {
    let rows: Tensor = case.input(name)?;
    Ok(Features::from_rows(rows.dim(1)?, rows.flatten_all()?.to_vec1::<f32>()?)?)
}
