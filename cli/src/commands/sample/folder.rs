//! The folder of pictures: what it was drawn with, which seeds are there, and of which class they are.

use std::{
    collections::{BTreeMap, HashSet},
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use strata_nn::weights::write_atomic;

use crate::{hint::hinted, lines::whole_lines};

/// What a folder of pictures was drawn with.
const ORIGIN: &str = "sampling.json";
/// Seed, file and class of every picture, a line each.
const LISTING: &str = "samples.jsonl";
/// Seeds in a sub-folder.
const PER_FOLDER: u64 = 1000;

/// A folder of pictures that are named by their seeds.
pub struct Folder {
    path: PathBuf,
    /// Whether pictures lie in folders of [`PER_FOLDER`].
    sorted: bool,
    class_names: Vec<String>,
    /// The class of every seed that was ever begun here.
    listed: BTreeMap<u64, Option<u32>>,
}

impl Folder {
    /// Creates the folder and writes down what it is drawn with, or compares `origin` with what is written there.
    ///
    /// # Errors
    /// If it holds something else, or pictures of another origin: the first difference.
    pub fn open(path: &Path, origin: &Value, sorted: bool, class_names: &[String]) -> anyhow::Result<Self> {
        settle_origin(path, origin)?;
        let listed = read_listing(&path.join(LISTING))?;
        Ok(Self { path: path.to_path_buf(), sorted, class_names: class_names.to_vec(), listed })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the picture of a seed lies.
    pub fn picture(&self, seed: u64) -> PathBuf {
        self.path.join(self.name(seed))
    }

    /// The same, from the folder.
    pub fn name(&self, seed: u64) -> String {
        if self.sorted { format!("{:06}/{seed:06}.png", seed - seed % PER_FOLDER) } else { format!("{seed:06}.png") }
    }

    /// The seeds whose pictures are there, after checking that each was of the class that is asked for now.
    ///
    /// # Errors
    /// If one was drawn with another class.
    pub fn present(&self, seeds: &[u64], labels: &[Option<u32>]) -> anyhow::Result<HashSet<u64>> {
        let mut present = HashSet::new();
        for (seed, label) in seeds.iter().zip(labels) {
            let Some(there) = self.listed.get(seed).filter(|_| self.picture(*seed).is_file()) else { continue };
            if there != label {
                let words = |l: &Option<u32>| l.map_or("no class".to_string(), |c| format!("class {c}"));
                let file = self.picture(*seed);
                let message = format!("{}: was drawn with {}, but {} was asked for", file.display(), words(there), words(label));
                return Err(hinted(message, "choose another --out or other seeds"));
            }
            present.insert(*seed);
        }
        Ok(present)
    }

    /// Announces pictures before they are written, so that a picture without a class is never found later.
    ///
    /// # Errors
    /// If the listing cannot be written.
    pub fn announce(&mut self, rows: &[(u64, Option<u32>)]) -> anyhow::Result<()> {
        let file = self.path.join(LISTING);
        let text: String = rows.iter().map(|(seed, label)| self.line(*seed, *label)).collect();
        let context = || file.display().to_string();
        let mut listing = OpenOptions::new().create(true).append(true).open(&file).with_context(context)?;
        listing.write_all(text.as_bytes()).with_context(context)?;
        self.listed.extend(rows.iter().copied());
        for (seed, _) in rows.iter().filter(|_| self.sorted) {
            let folder = self.path.join(format!("{:06}", seed - seed % PER_FOLDER));
            std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        Ok(())
    }

    /// Puts the listing in the order of the seeds, one line for each picture that is there.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn settle_listing(&mut self) -> anyhow::Result<()> {
        let there: BTreeMap<u64, Option<u32>> =
            self.listed.iter().filter(|(seed, _)| self.picture(**seed).is_file()).map(|(s, l)| (*s, *l)).collect();
        let text: String = there.iter().map(|(seed, label)| self.line(*seed, *label)).collect();
        self.listed = there;
        Ok(write_atomic(&self.path.join(LISTING), text.as_bytes())?)
    }

    fn line(&self, seed: u64, label: Option<u32>) -> String {
        let class = label.and_then(|l| self.class_names.get(l as usize));
        json!({ "seed": seed, "file": self.name(seed), "label": label, "class": class }).to_string() + "\n"
    }
}

fn settle_origin(path: &Path, origin: &Value) -> anyhow::Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("{}: cannot be created", path.display()))?;
    let file = path.join(ORIGIN);
    if !file.is_file() {
        if std::fs::read_dir(path)?.next().is_some() {
            let message = format!("{}: is not empty and holds no samples of Strata", path.display());
            return Err(hinted(message, "choose another --out"));
        }
        return Ok(write_atomic(&file, serde_json::to_string_pretty(origin)?.as_bytes())?);
    }
    let there: Value = serde_json::from_slice(&std::fs::read(&file)?).with_context(|| file.display().to_string())?;
    for (key, asked) in origin.as_object().into_iter().flatten() {
        let found = there.get(key).unwrap_or(&Value::Null);
        if found != asked {
            let what = "holds samples of another origin";
            let message = format!("{}: {what}: `{key}` is {found} there, but {asked} was asked for", path.display());
            return Err(hinted(message, "choose another --out"));
        }
    }
    Ok(())
}

fn read_listing(file: &Path) -> anyhow::Result<BTreeMap<u64, Option<u32>>> {
    let row = |line: String| -> anyhow::Result<_> {
        let row: Value = serde_json::from_str(&line).with_context(|| file.display().to_string())?;
        let label = row["label"].as_u64().map(|v| v as u32);
        Ok((row["seed"].as_u64().with_context(|| format!("{}: a line has no seed", file.display()))?, label))
    };
    // The pictures of a line that is cut were not begun.
    whole_lines(file)?.into_iter().map(row).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn open(path: &Path, steps: u64, sorted: bool) -> anyhow::Result<Folder> {
        Folder::open(path, &json!({ "steps": steps, "mask": null }), sorted, &["cat".into(), "dog".into()])
    }

    #[test]
    fn pictures_are_there_when_they_are_listed_and_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = open(dir.path(), 20, true).unwrap();
        folder.announce(&[(999, Some(0)), (1000, Some(1)), (7, None)]).unwrap();
        assert_eq!(folder.name(1000), "001000/001000.png");
        for seed in [999, 1000] {
            std::fs::write(folder.picture(seed), "x").unwrap();
        }
        std::fs::write(dir.path().join("000000/000003.png"), "never announced").unwrap();
        let again = open(dir.path(), 20, true).unwrap();
        let present = again.present(&[7, 999, 1000, 3], &[None, Some(0), Some(1), None]).unwrap();
        assert_eq!(present, HashSet::from([999, 1000]));
        let message = again.present(&[999], &[Some(1)]).unwrap_err().to_string();
        assert!(message.contains("drawn with class 0, but class 1"), "{message}");
    }

    #[test]
    fn another_origin_is_refused_with_the_difference() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), 20, false).unwrap();
        let message = open(dir.path(), 30, false).err().unwrap().to_string();
        assert!(message.contains("`steps` is 20 there, but 30"), "{message}");
        let foreign = tempfile::tempdir().unwrap();
        std::fs::write(foreign.path().join("letter.txt"), "mine").unwrap();
        assert!(open(foreign.path(), 20, false).is_err());
    }

    #[test]
    fn a_torn_line_is_forgotten_and_the_listing_is_put_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = open(dir.path(), 20, false).unwrap();
        folder.announce(&[(5, Some(1)), (2, None)]).unwrap();
        let file = dir.path().join(LISTING);
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str("{\"seed\":9,\"fi");
        std::fs::write(&file, text).unwrap();
        let mut folder = open(dir.path(), 20, false).unwrap();
        for seed in [2, 5, 9] {
            std::fs::write(folder.picture(seed), "x").unwrap();
        }
        folder.announce(&[(1, Some(0))]).unwrap();
        folder.settle_listing().unwrap();
        let lines = std::fs::read_to_string(&file).unwrap();
        let expected = "{\"class\":null,\"file\":\"000002.png\",\"label\":null,\"seed\":2}\n\
                        {\"class\":\"dog\",\"file\":\"000005.png\",\"label\":1,\"seed\":5}\n";
        assert_eq!(lines, expected);
    }
}
