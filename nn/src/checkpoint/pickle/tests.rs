//! Data is read, code is not, and damage is an error.

use super::*;

fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let source = Bytes::copy_from_slice(bytes);
    Pickle::read(&source, &mut Budget::of(bytes.len())).map(|(pickle, _)| pickle)
}

fn data(bytes: &[u8]) -> Pickle {
    read(bytes).unwrap_or_else(|why| unreachable!("{why}"))
}

#[test]
fn every_protocol_writes_the_same_table() {
    // {"a": [1, 2.5, None], "b": b"\x00\xff"} as Python writes it.
    let protocols: [&[u8]; 4] = [
        b"(dp0\nVa\np1\n(lp2\nI1\naF2.5\naNasVb\np3\nc_codecs\nencode\np4\n(V\\u0000\xff\np5\nVlatin1\np6\ntp7\nRp8\ns.",
        b"\x80\x02}q\0(X\x01\0\0\0aq\x01]q\x02(K\x01G@\x04\0\0\0\0\0\0NeX\x01\0\0\0bq\x03c_codecs\nencode\nq\x04X\x03\0\0\0\0\xc3\xbfq\x05X\x06\0\0\0latin1q\x06\x86q\x07Rq\x08u.",
        b"\x80\x03}q\0(X\x01\0\0\0aq\x01]q\x02(K\x01G@\x04\0\0\0\0\0\0NeX\x01\0\0\0bq\x03C\x02\0\xffq\x04u.",
        b"\x80\x04\x95\x1d\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01G@\x04\0\0\0\0\0\0Ne\x8c\x01b\x94C\x02\0\xff\x94u.",
    ];
    for bytes in protocols {
        let pickle = data(bytes);
        let list = pickle.entry(pickle.root(), "a").unwrap_or_default();
        let items: Vec<&Value> = pickle.items(list).unwrap_or_default().iter().map(|&id| pickle.get(id)).collect();
        assert!(matches!(items[..], [Value::Int(1), Value::Float(2.5), Value::None]), "{items:?}");
        let b = pickle.entry(pickle.root(), "b").unwrap_or_default();
        assert!(matches!(pickle.get(b), Value::Bytes(b) if b.as_ref() == [0, 255]), "{:?}", pickle.get(b));
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn what_only_an_attack_names_refuses_the_file() {
    let globals: [&[u8]; 7] = [
        b"cos\nsystem\n.",
        b"cos.path\njoin\n.",
        b"(ios\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        b"c__builtin__\nexec\n0N.",
        b"cbuiltins\ngetattr\n.",
        b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.",
    ];
    for bytes in globals {
        let why = read(bytes).err().unwrap_or_default();
        assert!(why.contains("refused"), "{}: {why}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn an_unknown_class_is_an_object_that_was_never_made() {
    // Thing.__new__(Thing, 1), with a state, an item and an entry.
    let pickle = data(b"\x80\x02capp.models\nThing\nK\x01\x85\x81}X\x01\0\0\0xK\x02sbK\x03aX\x01\0\0\0kK\x04s.");
    let root = pickle.root();
    assert_eq!(pickle.class(root), Some("app.models.Thing"));
    assert_eq!(pickle.args(root).map(|args| pickle.int(args[0])), Some(Some(1)));
    let state = pickle.object(root).and_then(|object| object.state).unwrap_or_default();
    assert_eq!(pickle.entry(state, "x").and_then(|x| pickle.int(x)), Some(2));
    assert_eq!(pickle.entry(root, "k").and_then(|k| pickle.int(k)), Some(4));
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let pickle = data(b"\x80\x02}(X\x01\0\0\0aK\x01X\x01\0\0\0aK\x02u.");
    assert_eq!(pickle.entry(pickle.root(), "a").and_then(|a| pickle.int(a)), Some(2));
}

#[test]
fn a_file_cannot_claim_much_more_memory_than_its_size() {
    // A list that is copied again and again.
    let copies = [&b"]("[..], &b"K\x01".repeat(1000), b"e\x85q\0", &b"c__builtin__\nlist\nh\0R".repeat(1 << 14)].concat();
    let bombs = [b"]".repeat(1 << 20), copies];
    for bomb in bombs {
        let why = read(&bomb).err().unwrap_or_default();
        assert!(why.contains("four times its size"), "{why}");
    }
}

#[test]
fn the_stack_does_not_run_below_a_mark() {
    for bytes in [&b"a."[..], b"N(a.", b"(N0.", b"K\x01(\x86.", b"t.", b"R.", b"h\x07.", b"\xff.", b"N"] {
        assert!(read(bytes).is_err(), "{bytes:?}");
    }
}
