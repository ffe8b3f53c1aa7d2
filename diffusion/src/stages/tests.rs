//! Whole divisions: what they find, and what they say when there is nothing to find.
#![allow(clippy::unwrap_used)]

use candle_core::Device;
use strata_nn::random::Key;
use strata_training::{Interrupt, NoProgress};

use super::*;
use crate::schedule::Schedule;

/// 300 points in 24 dimensions around 8 centres: coarse structure and fine structure.
fn clusters() -> Vec<f32> {
    let centres = Key::new(1, "centres").normal(8 * 24);
    let fine = Key::new(1, "fine").normal(300 * 24);
    fine.iter().enumerate().map(|(i, f)| centres[i / 24 % 8 * 24 + i % 24] + 0.1 * f).collect()
}

fn run(data: &[f32], config: &DivideConfig) -> crate::Result<Division> {
    divide(&Rows::new(data, 24)?, config, &Device::Cpu, &NoProgress, &Interrupt::new())
}

fn config() -> DivideConfig {
    DivideConfig { samples: 600, eta: 0.05, levels: 15, ..DivideConfig::default() }
}

fn complaint(data: &[f32], config: &DivideConfig) -> String {
    run(data, config).err().map(|e| e.to_string()).unwrap_or_default()
}

#[test]
fn three_stages_by_the_papers_algorithm() {
    let division = run(&clusters(), &config()).unwrap();
    let stages = &division.stages;
    assert_eq!((stages.count(), stages.method, stages.intervals.len()), (3, Method::Algorithm1, 2));
    for (b, [low, high]) in stages.boundaries.iter().zip(&stages.intervals) {
        assert!(low <= high && *low < b * 1.2 && *high > b / 1.2, "{stages:?}");
    }
    let curves = &division.curves;
    // At both ends eps* is nearly eps itself, so both similarities are high there; in between they are low.
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(curves.to_data[0] > 0.95 && least(&curves.to_data) < 0.5, "{curves:?}");
    assert!(curves.to_noise[curves.t.len() - 1] > 0.95 && least(&curves.to_noise) < 0.5);
    assert_eq!(division.matrix.values.len(), 15 * 15);
    assert_eq!(run(&clusters(), &config()).unwrap().stages, *stages);
    assert_ne!(run(&clusters(), &DivideConfig { seed: 1, ..config() }).unwrap().stages, *stages);
}

#[test]
fn every_schedule_and_number_of_stages() {
    for name in ["vp", "ve", "edm", "ldm", "sub-vp"] {
        let schedule: Schedule = name.parse().unwrap();
        for stages in [2, 5] {
            let division =
                run(&clusters(), &DivideConfig { schedule: schedule.clone(), stages, samples: 60, ..config() }).unwrap();
            assert_eq!((division.stages.count(), division.stages.method), (stages, Method::Similarity), "{name}");
        }
        let found = run(&clusters(), &DivideConfig { schedule, alpha: 0.8, ..config() });
        assert!(found.is_ok(), "{name}: {:?}", found.err());
    }
}

#[test]
fn the_same_boundaries_in_sigma_under_another_name_of_the_same_levels() {
    // alpha averages over the levels that the schedule draws, so schedules differ; the same one must not.
    let by_t = run(&clusters(), &config()).unwrap().stages.boundaries;
    let schedule = Schedule::VpLinear { beta_min: 0.1, beta_max: 20.0, t_min: 1e-3 };
    assert_eq!(run(&clusters(), &DivideConfig { schedule, ..config() }).unwrap().stages.boundaries, by_t);
}

#[test]
fn more_levels_of_a_pair_narrow_the_intervals() {
    let width = |levels_per_pair| {
        let stages = run(&clusters(), &DivideConfig { levels_per_pair, ..config() }).unwrap().stages;
        stages.rows()[..2].iter().map(|r| r.interval_t.unwrap()[1] - r.interval_t.unwrap()[0]).sum::<f64>()
    };
    assert!(width(6) < width(1));
}

#[test]
fn the_similarity_partition_cuts_off_no_single_levels() {
    let stages = run(&clusters(), &DivideConfig { stages: 4, levels: 41, ..config() }).unwrap().stages;
    assert!(stages.rows().iter().all(|r| r.t_high - r.t_low > 0.05), "{stages:?}");
}

#[test]
fn settles_early_and_says_so() {
    let division = run(&clusters(), &DivideConfig { samples: 5000, settled: 0.2, ..config() }).unwrap();
    assert!(division.settled && division.stages.parameters.samples < 5000);
    let division = run(&clusters(), &DivideConfig { settled: 0.0, ..config() }).unwrap();
    assert!(!division.settled && division.stages.parameters.samples == 600);
}

#[test]
fn baselines_do_not_depend_on_the_data() {
    for method in [Method::Uniform, Method::UniformLogSnr, Method::LogSnr] {
        for stages in [2, 3, 4] {
            let with = DivideConfig { method: Some(method), stages, levels: 41, ..config() };
            assert_eq!(run(&clusters(), &with).unwrap().stages.count(), stages, "{method:?}");
        }
    }
    let with = DivideConfig { method: Some(Method::Uniform), schedule: "edm".parse().unwrap(), stages: 2, ..config() };
    let middle = run(&clusters(), &with).unwrap().stages.boundaries[0];
    assert!((middle - (0.002f64 * 80.0).sqrt()).abs() < 1e-12);
}

#[test]
fn degenerate_data_are_explained() {
    let one = clusters()[..24].to_vec();
    assert!(complaint(&one, &config()).contains("a single point"));
    assert!(complaint(&one.repeat(5), &config()).contains("all 5 points of the data set are equal"));
    assert!(complaint(&[], &config()).contains("0 points"));
    let mut broken = clusters();
    broken[24 * 17 + 3] = f32::NAN;
    assert!(complaint(&broken, &config()).contains("coordinate 3 of point 17"));
    let mut doubled = clusters();
    doubled.extend_from_within(..24 * 20);
    let division = run(&doubled, &config()).unwrap();
    assert_eq!((division.summary.count, division.summary.distinct), (320, 300));
}

#[test]
fn an_alpha_without_a_boundary_is_explained() {
    let strict = complaint(&clusters(), &DivideConfig { alpha: 1.0, eta: 1e-300, ..config() });
    assert!(strict.contains("alpha 1") && strict.contains("the highest is") && strict.contains("Lower alpha"), "{strict}");
    let loose = complaint(&clusters(), &DivideConfig { alpha: 0.05, ..config() });
    assert!(loose.contains("nothing is left for stage 2") && loose.contains("Raise alpha"), "{loose}");
}

#[test]
fn settings_out_of_range_are_explained() {
    for (config, words) in [
        (DivideConfig { stages: 1, ..config() }, "at least 2"),
        (DivideConfig { stages: 16, ..config() }, "16 stages cannot be cut from a grid of 15"),
        (DivideConfig { stages: 4, method: Some(Method::Algorithm1), ..config() }, "use method `similarity`"),
        (DivideConfig { method: Some(Method::GradientAffinity), ..config() }, "gradients of a trained network"),
        (DivideConfig { alpha: 1.5, ..config() }, "`alpha` is 1.5"),
        (DivideConfig { eta: f64::NAN, ..config() }, "`eta` is NaN"),
        (DivideConfig { samples: 0, ..config() }, "`samples` is 0"),
    ] {
        let complaint = complaint(&clusters(), &config);
        assert!(complaint.contains(words), "{complaint}");
    }
}

#[test]
fn an_interrupt_is_answered() {
    let interrupt = Interrupt::new();
    interrupt.trigger();
    let data = clusters();
    let answer = divide(&Rows::new(&data, 24).unwrap(), &config(), &Device::Cpu, &NoProgress, &interrupt);
    assert!(matches!(answer, Err(crate::Error::Interrupted)));
}
