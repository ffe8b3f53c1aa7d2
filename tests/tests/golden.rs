//! Runs every golden case, an area a test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;

use strata_tests::golden::{Golden, failures, summary};

fn run(area: &str) {
    let started = std::time::Instant::now();
    let reports = Golden::from_environment().run_area(area).unwrap();
    // Past the harness's capture: what is pending must be seen in a run that passes too.
    let _ = writeln!(std::io::stderr(), "{} in {:.1} s", summary(area, &reports), started.elapsed().as_secs_f64());
    let failures = failures(&reports);
    assert!(failures.is_empty(), "{failures}");
}

macro_rules! areas {
    ($($test:ident $area:literal),* $(,)?) => {
        $(#[test]
        fn $test() {
            run($area);
        })*

        #[test]
        fn golden_every_area_has_a_test() {
            assert_eq!([$($area),*], strata_tests::golden::AREAS);
            Golden::from_environment().check().unwrap();
        }
    };
}

areas! {
    golden_autoencoder "autoencoder",
    golden_checkpoints "checkpoints",
    golden_clustering "clustering",
    golden_conditioning "conditioning",
    golden_data "data",
    golden_edm_unet "edm_unet",
    golden_features "features",
    golden_ldm_unet "ldm_unet",
    golden_metrics "metrics",
    golden_optim "optim",
    golden_samplers "samplers",
    golden_schedules "schedules",
    golden_score_sde_unet "score_sde_unet",
}
