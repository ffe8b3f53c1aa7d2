//! What cannot be built, and why.

use super::{
    config::UNetConfig,
    family::Family,
    plan::{Plan, Step},
};
use crate::{Error, Result};

/// More than any network has of levels, of blocks or decoders, and of channels or classes.
const MANY_LEVELS: usize = 16;
const MANY_PARTS: usize = 1000;
const MANY_CHANNELS: usize = 1 << 20;

impl UNetConfig {
    /// Checks everything that can be known before an image is seen.
    ///
    /// # Errors
    /// One that lists every problem with the value and the reason.
    pub fn validate(&self) -> Result<()> {
        let mut problems = self.basic_problems();
        if problems.is_empty() {
            problems.extend(self.division_problems());
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::Config(format!("the U-Net cannot be built:\n  {}", problems.join("\n  "))))
    }

    /// Checks that there is a decoder for each of `stages` stages.
    ///
    /// # Errors
    /// If the counts differ.
    pub fn check_stages(&self, stages: usize) -> Result<()> {
        if self.decoders.len() == stages {
            return Ok(());
        }
        let widths: Vec<usize> = self.decoders.iter().map(|d| d.width).collect();
        Err(Error::Config(format!("{stages} stages need {stages} decoders, `decoders` has {} (widths {widths:?})", widths.len())))
    }

    /// Checks that images of this size can be halved as often as there are levels below the first.
    ///
    /// # Errors
    /// If a side is not a multiple of 2^(levels - 1).
    pub fn check_size(&self, height: usize, width: usize) -> Result<()> {
        let multiple = 1usize << (self.levels().max(1) - 1);
        match [("height", height), ("width", width)].into_iter().find(|(_, n)| *n == 0 || n % multiple != 0) {
            None => Ok(()),
            Some((side, n)) => Err(Error::Config(format!(
                "{side} {n}: {} levels halve it {} times, so it must be a multiple of {multiple}",
                self.levels(),
                self.levels() - 1
            ))),
        }
    }

    fn basic_problems(&self) -> Vec<String> {
        let positive = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("width", self.width),
            ("wave_multiplier", self.wave_multiplier),
            ("embedding_multiplier", self.embedding_multiplier),
            ("blocks", self.blocks),
            ("groups", self.groups),
            ("multipliers", self.multipliers.iter().copied().min().unwrap_or(0)),
            ("size", self.size.unwrap_or(1)),
            ("classes", self.classes.unwrap_or(1)),
            ("augment", self.augment.unwrap_or(1)),
            ("condition_width", self.condition_width.unwrap_or(1)),
            ("codebook", self.codebook.unwrap_or(1)),
            ("transformer.depth", self.transformer.as_ref().map_or(1, |t| t.depth)),
            ("transformer.context_width", self.transformer.as_ref().map_or(1, |t| t.context_width)),
            ("decoders", self.decoders.len()),
        ];
        let mut problems: Vec<String> =
            positive.iter().filter(|(_, n)| *n == 0).map(|(name, _)| format!("`{name}`: expected 1 or more, got 0")).collect();
        let too_large = self.size_problems(&positive);
        if !too_large.is_empty() {
            problems.extend(too_large);
            return problems;
        }
        if !self.wave_width().is_multiple_of(2) {
            problems.push(format!("`width`: expected an even number (half are cosines, half sines), got {}", self.wave_width()));
        }
        problems.extend(self.filter_problem());
        problems.extend(self.details.iter().flat_map(|d| d.problems(self.levels())));
        if self.details.is_some() && self.family != Family::Diffusers {
            problems.push("`details`: only the family `diffusers` departs from its rules".into());
        }
        if let Some(size) = self.size.filter(|_| self.levels() > 0)
            && let Err(e) = self.check_size(size, size)
        {
            problems.push(format!("`size`: {e}"));
        }
        if self.classes.is_some() && self.condition_width.is_some() {
            problems.push("`classes` and `condition_width`: only one of them can make the vector".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            problems.push(format!("`dropout`: expected a probability in [0, 1), got {}", self.dropout));
        }
        problems.extend(self.level_problems("attention", &self.attention));
        for (i, d) in self.decoders.iter().enumerate() {
            if d.width == 0 {
                problems.push(format!("`decoders.{i}.width`: expected 1 or more, got 0"));
            }
            problems.extend(self.level_problems(&format!("decoders.{i}.attention"), &d.attention));
        }
        problems
    }

    /// Numbers that no machine can build, and whose products would overflow.
    fn size_problems(&self, numbers: &[(&str, usize)]) -> Vec<String> {
        let largest = |name: &str| match name {
            "blocks" | "transformer.depth" | "decoders" => MANY_PARTS,
            _ => MANY_CHANNELS,
        };
        let multiplier = self.multipliers.iter().copied().max().unwrap_or(0);
        let width = self.decoders.iter().map(|d| d.width).max().unwrap_or(0);
        let levels = self.multipliers.len();
        let widest = width.max(self.width).saturating_mul(multiplier);
        let more = [("decoders.width", width), ("width times the largest of `multipliers`", widest)];
        let over = numbers.iter().chain(&more).filter(|(name, n)| *n > largest(name));
        let mut problems: Vec<String> =
            over.map(|(name, n)| format!("`{name}`: expected at most {}, got {n}", largest(name))).collect();
        if levels > MANY_LEVELS {
            problems.push(format!("`multipliers`: expected at most {MANY_LEVELS} levels, got {levels}"));
        }
        problems
    }

    fn level_problems(&self, name: &str, levels: &[usize]) -> Vec<String> {
        let last = self.levels().saturating_sub(1);
        let bad = levels.iter().filter(|&&level| level > last);
        bad.map(|level| format!("`{name}`: expected levels 0 to {last} (there are {} multipliers), got {level}", last + 1))
            .collect()
    }

    /// EDM's filters double an image exactly only if their length is even; a filter whose taps cancel out has no gain to divide by.
    fn filter_problem(&self) -> Option<String> {
        let (n, sum) = (self.filter.len(), self.filter.iter().sum::<f64>());
        let odd = self.family != Family::Ncsnpp && !n.is_multiple_of(2);
        let expected = match () {
            () if n < 2 => "2 taps or more",
            () if odd => "an even number of taps (an odd one is for the family `ncsnpp`)",
            () if !(sum.is_finite() && sum.abs() > 1e-6) => "taps whose sum is not 0",
            () => return None,
        };
        Some(format!("`filter`: expected {expected}, got {:?}", self.filter))
    }

    /// Channels that groups or heads do not divide.
    fn division_problems(&self) -> Vec<String> {
        let plan = Plan::new(self);
        let mut problems = Vec::new();
        for (path, step) in plan.steps() {
            for c in step.normed() {
                let groups = self.family.groups(self.groups, c);
                if groups == 0 || c % groups != 0 {
                    problems.push(format!("{path}: {c} channels cannot be divided into {groups} groups"));
                    break;
                }
            }
            if let Step::Block { c_out, mixer: Some(mixing), .. } = step
                && mixing.count(*c_out).is_none()
            {
                problems.push(format!("{path}: {c_out} channels cannot be divided into heads ({:?})", mixing.heads));
            }
        }
        problems
    }
}
