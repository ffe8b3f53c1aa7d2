//! All pictures in one file: a zip of the PNG files, or NumPy's npz as the published evaluations read it.

use std::io::Write;

use anyhow::ensure;
use strata_datasets::RgbImage;

use super::folder::Folder;
use crate::{
    grid,
    npz::{archive, header, stored},
};

/// Writes the PNG files of `seeds`, each under its name in the folder, to `samples.zip`.
///
/// # Errors
/// If a picture cannot be read or the file not be written.
pub fn zip(folder: &Folder, seeds: &[u64]) -> anyhow::Result<()> {
    archive(&folder.path().join("samples.zip"), |archive| {
        for seed in seeds {
            archive.start_file(folder.name(*seed), stored())?;
            archive.write_all(&std::fs::read(folder.picture(*seed))?)?;
        }
        Ok(())
    })
}

/// Writes the pixels of `seeds`, which must be of one size, to `samples.npz` as `arr_0`, uint8 `[N, H, W, 3]`; and where all have a label,
/// `arr_1`, int64 `[N]`.
///
/// # Errors
/// If a picture cannot be read or is of another size, or the file cannot be written.
pub fn npz(folder: &Folder, seeds: &[u64], labels: &[Option<u32>]) -> anyhow::Result<()> {
    let first = grid::read_png(&folder.picture(seeds[0]))?;
    let RgbImage { width, height, .. } = first;
    archive(&folder.path().join("samples.npz"), |archive| {
        archive.start_file("arr_0.npy", stored().large_file(true))?;
        archive.write_all(&header("|u1", &[seeds.len(), height, width, 3]))?;
        for seed in seeds {
            let picture = grid::read_png(&folder.picture(*seed))?;
            ensure!(
                (picture.width, picture.height) == (width, height),
                "picture {seed} is of another size than picture {}",
                seeds[0]
            );
            archive.write_all(&picture.pixels)?;
        }
        let Some(labels) = labels.iter().copied().collect::<Option<Vec<u32>>>() else { return Ok(()) };
        archive.start_file("arr_1.npy", stored())?;
        archive.write_all(&header("<i8", &[labels.len()]))?;
        archive.write_all(&labels.iter().flat_map(|l| i64::from(*l).to_le_bytes()).collect::<Vec<u8>>())?;
        Ok(())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs::File, io::Read, path::Path};

    use serde_json::json;

    use super::*;

    fn folder(path: &Path) -> Folder {
        let mut folder = Folder::open(path, &json!({}), true, &[]).unwrap();
        folder.announce(&[(3, Some(1)), (1002, Some(0))]).unwrap();
        for (seed, value) in [(3, 30), (1002, 102)] {
            let image = RgbImage { width: 2, height: 1, pixels: vec![value; 6] };
            grid::write_png(&image, &folder.picture(seed)).unwrap();
        }
        folder
    }

    fn entry(archive: &Path, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut archive = zip::ZipArchive::new(File::open(archive).unwrap()).unwrap();
        archive.by_name(name).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_zip_holds_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        zip(&folder, &[3, 1002]).unwrap();
        let file = dir.path().join("samples.zip");
        assert_eq!(entry(&file, "001000/001002.png"), std::fs::read(folder.picture(1002)).unwrap());
        let before = std::fs::read(&file).unwrap();
        zip(&folder, &[3, 1002]).unwrap();
        assert!(before == std::fs::read(&file).unwrap(), "the same content, the same bytes");
    }

    #[test]
    fn an_npz_holds_pixels_and_labels() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        npz(&folder, &[1002, 3], &[Some(0), Some(1)]).unwrap();
        let file = dir.path().join("samples.npz");
        let pixels = entry(&file, "arr_0.npy");
        assert!(pixels.starts_with(b"\x93NUMPY\x01\x00") && (pixels.len() - 12).is_multiple_of(64));
        assert!(String::from_utf8_lossy(&pixels).contains("'descr': '|u1', 'fortran_order': False, 'shape': (2, 1, 2, 3,), }"));
        assert_eq!(pixels[pixels.len() - 12..], [[102; 6], [30; 6]].concat());
        let labels = entry(&file, "arr_1.npy");
        assert_eq!(labels[labels.len() - 16..], [0i64.to_le_bytes(), 1i64.to_le_bytes()].concat());
        npz(&folder, &[3], &[None]).unwrap();
        assert!(zip::ZipArchive::new(File::open(&file).unwrap()).unwrap().by_name("arr_1.npy").is_err());
    }
}
