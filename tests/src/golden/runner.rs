//! Walks a directory of cases and runs them.

use std::{
    fmt::Write as _,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, ensure};
use rayon::prelude::*;

use super::{Answer, Case, mismatches};
use crate::kinds;

/// The areas; each is a folder of the root.
pub const AREAS: [&str; 13] = [
    "autoencoder",
    "checkpoints",
    "clustering",
    "conditioning",
    "data",
    "edm_unet",
    "features",
    "ldm_unet",
    "metrics",
    "optim",
    "samplers",
    "schedules",
    "score_sde_unet",
];

/// The variable that names another directory of cases.
const VARIABLE: &str = "STRATA_GOLDEN_DIR";

/// A directory of cases and how strictly they are run.
#[derive(Clone, Debug)]
pub struct Golden {
    root: PathBuf,
    strict: bool,
}

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything agrees.
    Passed,
    /// No code implements the kind yet.
    Pending,
    /// A file that is fetched, not stored, is not here.
    NotRun(String),
    /// One line per problem.
    Failed(Vec<String>),
}

/// One case and its verdict.
#[derive(Clone, Debug)]
pub struct Report {
    /// `area/case`.
    pub case: String,
    /// Its kind; `?` when the case cannot be read.
    pub kind: String,
    /// What became of it.
    pub verdict: Verdict,
}

impl Golden {
    /// The cases of the project; kinds that no code implements yet are pending.
    pub fn own() -> Self {
        Self { root: Path::new(env!("CARGO_MANIFEST_DIR")).join("golden"), strict: false }
    }

    /// Another directory of the same form; there a pending kind is a failure.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), strict: true }
    }

    /// The directory named by `STRATA_GOLDEN_DIR`, or the project's own. Tests run in their package's folder, so a relative path
    /// that is not found there is taken from the workspace.
    pub fn from_environment() -> Self {
        let Some(given) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return Self::own() };
        let in_workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&given);
        Self::at(if given.exists() || !in_workspace.exists() { given } else { in_workspace })
    }

    /// The directory that holds the areas.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The case folders of `area`, sorted; none where the root has no such area.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn cases(&self, area: &str) -> Result<Vec<PathBuf>> {
        let folder = self.root.join(area);
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let has = |dir: &Path, file: &str| dir.join(file).exists();
        Ok(folders(&folder)?.into_iter().filter(|dir| has(dir, "case.json") || has(dir, "tensors.safetensors")).collect())
    }

    /// Runs every case of `area`, in parallel.
    ///
    /// # Errors
    /// If the area's folder cannot be read.
    pub fn run_area(&self, area: &str) -> Result<Vec<Report>> {
        Ok(self.cases(area)?.par_iter().map(|dir| self.run(dir)).collect())
    }

    /// Runs the case in `dir`.
    pub fn run(&self, dir: &Path) -> Report {
        let name = dir.strip_prefix(&self.root).unwrap_or(dir).display().to_string();
        match Case::read(dir, &self.root) {
            Ok(case) => Report { case: name, verdict: self.verdict(&case), kind: case.kind },
            Err(error) => Report { case: name, kind: "?".to_string(), verdict: Verdict::Failed(vec![format!("{error:#}")]) },
        }
    }

    fn verdict(&self, case: &Case) -> Verdict {
        let kind = &case.kind;
        let Some(run) = kinds::implementation(kind) else {
            return match kinds::PENDING.contains(&kind.as_str()) {
                true if !self.strict => Verdict::Pending,
                true => Verdict::Failed(vec![format!("no code implements the kind `{kind}` yet")]),
                false => Verdict::Failed(vec![format!("unknown kind `{kind}`")]),
            };
        };
        let problems = match answer(run, case) {
            Ok(Answer { not_run: Some(why), .. }) if case.json.get("requires_file").is_some() => return Verdict::NotRun(why),
            Ok(answer) => mismatches(case, &answer),
            Err(error) => vec![format!("{error:#}")],
        };
        if problems.is_empty() { Verdict::Passed } else { Verdict::Failed(problems) }
    }

    /// Whether the directory can be what it is meant to be: it holds cases, all of them in known areas.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<()> {
        let mut count = 0;
        for folder in folders(&self.root)? {
            let area = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let cases = self.cases(&area)?.len();
            ensure!(cases == 0 || AREAS.contains(&area.as_str()), "{}: unknown area", folder.display());
            count += cases;
        }
        ensure!(count > 0, "{}: no golden case in it", self.root.display());
        Ok(())
    }
}

/// Runs a kind; a panic in it is a failure of the case alone.
fn answer(run: kinds::Run, case: &Case) -> Result<Answer> {
    std::panic::catch_unwind(AssertUnwindSafe(|| run(case))).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        Err(anyhow!("panicked: {}", text.unwrap_or_default()))
    })
}

fn folders(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(parent).with_context(|| parent.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.retain(|path| path.is_dir());
    paths.sort();
    Ok(paths)
}

/// One line: how many cases passed, are pending, were not run and failed, with the kinds and files named.
pub fn summary(area: &str, reports: &[Report]) -> String {
    let count = |f: fn(&Verdict) -> bool| reports.iter().filter(|r| f(&r.verdict)).count();
    let passed = count(|v| matches!(v, Verdict::Passed));
    let mut line = format!("golden {area}: {passed} of {} cases passed", reports.len());
    let pending = count(|v| matches!(v, Verdict::Pending));
    if pending > 0 {
        let mut kinds: Vec<&str> = reports.iter().filter(|r| r.verdict == Verdict::Pending).map(|r| r.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let _ = write!(line, ", {pending} pending ({})", kinds.join(", "));
    }
    for report in reports {
        if let Verdict::NotRun(why) = &report.verdict {
            let _ = write!(line, ", {} not run ({why})", report.case);
        }
    }
    let failed = count(|v| matches!(v, Verdict::Failed(_)));
    if failed > 0 {
        let _ = write!(line, ", {failed} FAILED");
    }
    line
}

/// Every problem of every failed case, a case a paragraph; empty when none failed.
pub fn failures(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        if let Verdict::Failed(problems) = &report.verdict {
            let _ = write!(text, "\n{} ({}):\n  {}\n", report.case, report.kind, problems.join("\n  "));
        }
    }
    text
}
