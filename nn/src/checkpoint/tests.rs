//! What the golden cases do not reach: other ways to write a file, and what a message says.

use super::*;

fn open(bytes: &[u8]) -> std::result::Result<Checkpoint, String> {
    Checkpoint::from_bytes("weights.bin".as_ref(), bytes.to_vec()).map_err(|e| e.to_string())
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints").join(file)
}

#[test]
fn a_message_says_what_the_file_is_instead() {
    for (case, part) in [
        ("file_html/w.ckpt", "web page"),
        ("file_lfs_pointer/diffusion_pytorch_model.safetensors", "git-lfs"),
        ("file_empty/w.pt", "is empty"),
        ("zip_truncated/w.pt", "cut short"),
        ("zip_no_data_pkl/w.pt", "data.pkl"),
        ("evil_reduce_os_system_zip/w.pt", "posix.system"),
    ] {
        let message = Checkpoint::open(&golden(case)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains(part) && message.contains(case), "{message}");
    }
}

#[test]
fn contents_that_lie_in_the_file_as_they_are_are_not_copied() -> Result<()> {
    let path = golden("torch_zip_dtypes_views/weights.pt");
    let file = Checkpoint::open(&path)?;
    let read = |name: &str| file.get(name).and_then(|t| t.read().ok()).unwrap_or_default();
    let (whole, row) = (read("big"), read("big_row2"));
    assert_eq!(whole.as_ptr().wrapping_add(2 * 8 * 4), row.as_ptr());
    assert_eq!(whole[2 * 8 * 4..][..row.len()], row[..]);
    Ok(())
}

#[test]
fn integers_and_booleans_become_tensors() -> Result<()> {
    let file = Checkpoint::open(&golden("torch_zip_dtypes_views/weights.pt"))?;
    let weights = file.load(&Device::Cpu)?;
    for (name, dtype) in
        [("i8", "I64"), ("i16", "I64"), ("i32", "I64"), ("i64", "I64"), ("u8", "U8"), ("bool", "U8"), ("f16", "F16")]
    {
        assert_eq!(format!("{:?}", weights.tensors[name].dtype()), dtype, "{name}");
    }
    let raw = file.get("i8").and_then(|t| t.read().ok()).unwrap_or_default();
    let expected: Vec<i64> = raw.iter().map(|&b| i64::from(b.cast_signed())).collect();
    assert_eq!(weights.tensors["i8"].to_vec1::<i64>()?, expected);
    Ok(())
}

#[test]
fn every_way_to_cut_a_safetensors_file_is_noticed() {
    let header = br#"{"__metadata__":{"a":"b"},"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let whole = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    assert!(open(&whole).is_ok());
    assert!(open(&[&whole[..], &[0]].concat()).is_err_and(|why| why.contains("belong to nothing")));
    for length in 0..whole.len() {
        assert!(open(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_storage_under_another_dtype() -> std::result::Result<(), String> {
    // torch.save of a uint16 tensor: _rebuild_tensor_v3 over an untyped storage of bytes.
    let pickle = b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v3\n((X\x07\0\0\0storagectorch\nUntypedStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK\x01K\x02\x85K\x01\x85\x89}ctorch\nuint16\n}tRs.";
    let mut file = Vec::new();
    let mut writer = tests_zip::Writer::new(&mut file);
    writer.add("a/data.pkl", pickle);
    writer.add("a/data/0", &[1, 0, 2, 0, 3, 0]);
    writer.finish();
    let file = open(&file)?;
    let x = file.get("x").ok_or("no x")?;
    assert_eq!((x.dtype(), x.shape(), &x.read()?[..]), (Dtype::U16, &[2][..], &[2, 0, 3, 0][..]));
    Ok(())
}

/// Archives for tests.
mod tests_zip {
    pub struct Writer<'a> {
        out: &'a mut Vec<u8>,
        directory: Vec<u8>,
        count: u16,
    }

    impl<'a> Writer<'a> {
        pub fn new(out: &'a mut Vec<u8>) -> Self {
            Self { out, directory: Vec::new(), count: 0 }
        }

        pub fn add(&mut self, name: &str, contents: &[u8]) {
            let mut crc = flate2::Crc::new();
            crc.update(contents);
            let (size, length) = ((contents.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
            let fields = [&crc.sum().to_le_bytes()[..], &size, &size, &length].concat();
            let at = (self.out.len() as u32).to_le_bytes();
            self.out.extend([b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0", &fields[..], b"\0\0", name.as_bytes(), contents].concat());
            let start = b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0";
            self.directory.extend([start, &fields[..], &[0; 12], &at, name.as_bytes()].concat());
            self.count += 1;
        }

        pub fn finish(self) {
            let (at, size) = ((self.out.len() as u32).to_le_bytes(), (self.directory.len() as u32).to_le_bytes());
            let count = self.count.to_le_bytes();
            self.out.extend([&self.directory[..], b"PK\x05\x06\0\0\0\0", &count, &count, &size, &at, b"\0\0"].concat());
        }
    }
}
