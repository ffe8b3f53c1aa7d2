//! Seeds as typed: `7`, `0-63`, `1,5,10-19`.

use anyhow::{Context as _, bail};

/// More pictures than anyone asks for in one call; it keeps a typo from filling the memory.
const MAX_SEEDS: u64 = 10_000_000;

/// The seeds in order, without repetitions.
///
/// # Errors
/// If the text is no list of numbers and ranges.
pub fn parse(text: &str) -> anyhow::Result<Vec<u64>> {
    let mut seeds = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for part in text.split(',') {
        let (first, last) =
            range(part.trim()).with_context(|| format!("--seeds: expected for example 0-63 or 1,5,10-19, got `{text}`"))?;
        if last < first || last - first >= MAX_SEEDS {
            bail!("--seeds: `{part}` is not a range of at most {MAX_SEEDS} ascending numbers");
        }
        seeds.extend((first..=last).filter(|s| seen.insert(*s)));
    }
    Ok(seeds)
}

fn range(part: &str) -> anyhow::Result<(u64, u64)> {
    match part.split_once('-') {
        Some((first, last)) => Ok((first.trim().parse()?, last.trim().parse()?)),
        None => part.parse().map(|n| (n, n)).map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() -> anyhow::Result<()> {
        assert_eq!(parse("7")?, [7]);
        assert_eq!(parse("1, 5,3-6")?, [1, 5, 3, 4, 6]);
        for wrong in ["", "a", "5-3", "1-", "0-99999999999"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
