//! Writing NumPy's npz archives.

use std::{fs::File, io::Write, path::Path};

use anyhow::Context as _;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// Members are stored; and the same content gives the same bytes, whatever the clock says.
pub fn stored() -> SimpleFileOptions {
    SimpleFileOptions::default().compression_method(CompressionMethod::Stored).last_modified_time(zip::DateTime::default())
}

/// Written beside its place, then renamed: it may be larger than the memory.
///
/// # Errors
/// If the file cannot be written.
pub fn archive(path: &Path, fill: impl FnOnce(&mut ZipWriter<File>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let beside = path.with_extension("partial");
    let write = || -> anyhow::Result<()> {
        let mut archive = ZipWriter::new(File::create(&beside)?);
        fill(&mut archive)?;
        archive.finish()?.sync_all()?;
        Ok(std::fs::rename(&beside, path)?)
    };
    write().with_context(|| format!("{}: cannot be written", path.display()))
}

/// Adds the array `name` of float64 numbers.
///
/// # Errors
/// If the file cannot be written.
pub fn add_numbers(archive: &mut ZipWriter<File>, name: &str, shape: &[usize], values: &[f64]) -> anyhow::Result<()> {
    archive.start_file(format!("{name}.npy"), stored())?;
    archive.write_all(&header("<f8", shape))?;
    Ok(archive.write_all(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?)
}

/// The header of a NumPy array file, version 1.0: padded so that the data begin at a multiple of 64.
pub fn header(dtype: &str, shape: &[usize]) -> Vec<u8> {
    let dims: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    let total = (10 + text.len() + 1).next_multiple_of(64);
    text.extend(std::iter::repeat_n(' ', total - 11 - text.len()));
    text.push('\n');
    [b"\x93NUMPY\x01\x00".as_slice(), (text.len() as u16).to_le_bytes().as_slice(), text.as_bytes()].concat()
}
