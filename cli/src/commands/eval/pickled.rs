//! Statistics as a pickle: EDM2's table `{"fid": {"mu", "sigma"}}`, and torch-fidelity's `{"mu", "sigma"}` in PyTorch's archive.

use std::{io::Write as _, path::Path};

use strata_diffusion::evaluation::moments::Statistics;

use crate::npz;

/// `{"fid": {"mu": array, "sigma": array}}`.
///
/// # Errors
/// If the file cannot be written.
pub fn write_edm(path: &Path, statistics: &Statistics) -> anyhow::Result<()> {
    let mut bytes = b"\x80\x03}".to_vec();
    text("fid", &mut bytes);
    table(statistics, &mut bytes);
    bytes.extend(b"s.");
    Ok(strata_nn::weights::write_atomic(path, &bytes)?)
}

/// `{"mu": array, "sigma": array}` as `torch.save` puts it into an archive.
///
/// # Errors
/// If the file cannot be written.
pub fn write_torch(path: &Path, statistics: &Statistics) -> anyhow::Result<()> {
    let mut bytes = b"\x80\x03".to_vec();
    table(statistics, &mut bytes);
    bytes.push(b'.');
    npz::archive(path, |archive| {
        for (name, content) in [("data.pkl", bytes.as_slice()), ("byteorder", b"little"), ("version", b"3\n")] {
            archive.start_file(format!("archive/{name}"), npz::stored())?;
            archive.write_all(content)?;
        }
        Ok(())
    })
}

/// A table of mean and covariance, left on the pickle's stack.
fn table(statistics: &Statistics, out: &mut Vec<u8>) {
    let d = statistics.dim();
    out.push(b'}');
    text("mu", out);
    array(&[d], &statistics.mean, out);
    out.push(b's');
    text("sigma", out);
    array(&[d, d], &statistics.covariance, out);
    out.push(b's');
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Numbers below 2^31 in the short forms of the format.
fn integer(n: usize, out: &mut Vec<u8>) {
    out.push(b'J');
    out.extend((n as u32).to_le_bytes());
}

/// A NumPy array of float64: made empty, then given version, shape, type, order and content.
fn array(shape: &[usize], values: &[f64], out: &mut Vec<u8>) {
    out.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n");
    integer(0, out);
    out.extend(b"\x85C\x01b\x87R(");
    integer(1, out);
    out.push(b'(');
    shape.iter().for_each(|n| integer(*n, out));
    out.push(b't');
    out.extend(b"cnumpy\ndtype\n");
    text("f8", out);
    out.extend(b"\x89\x88\x87R(");
    integer(3, out);
    text("<", out);
    out.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff");
    integer(0, out);
    out.extend(b"tb\x89B");
    out.extend((8 * values.len() as u32).to_le_bytes());
    out.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    out.extend(b"tb");
}
