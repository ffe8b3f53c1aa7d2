//! The names that mean something in a pickle: those of constructors of plain data, and those that can only serve an attack.

use bytes::Bytes;

use super::{Id, Object, Value, scan::short};

/// Modules that no checkpoint needs and every attack does.
const FORBIDDEN_MODULES: [&str; 11] =
    ["os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "importlib", "runpy", "ctypes", "pty"];

/// Built-in functions of the same kind.
const FORBIDDEN_BUILTINS: [&str; 13] = [
    "eval",
    "exec",
    "compile",
    "open",
    "__import__",
    "getattr",
    "setattr",
    "delattr",
    "globals",
    "vars",
    "input",
    "breakpoint",
    "execfile",
];

/// Refuses a file that names what only an attack names, even if the name would never be used.
pub(super) fn refuse(module: &str, name: &str) -> Result<(), String> {
    let first = module.split('.').next().unwrap_or_default();
    // A dotted name walks through attributes: `builtins` `type.__base__`, or `torch` `os.system`.
    let mut parts = name.split('.');
    let builtin = ["builtins", "__builtin__"].contains(&first) && parts.any(|part| FORBIDDEN_BUILTINS.contains(&part));
    let walks = name.contains('.') && name.split('.').any(|part| FORBIDDEN_MODULES.contains(&part));
    if builtin || walks || FORBIDDEN_MODULES.contains(&first) {
        let (module, name) = (short(module), short(name));
        return Err(format!("`{module}.{name}` would run code; no checkpoint needs it, the file is refused"));
    }
    Ok(())
}

/// A constructor of plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    Dict,
    DefaultDict,
    List,
    Tuple,
    Set,
    Bytes,
    /// `copyreg._reconstructor(class, base, state)`.
    Reconstructor,
    /// `copyreg.__newobj__(class, ...)`.
    NewObject,
}

impl Maker {
    /// The constructor of that name; `None` where it is not known to make data.
    pub(super) fn named(name: &str) -> Option<Self> {
        let plain = name.strip_prefix("__builtin__.").or_else(|| name.strip_prefix("builtins."));
        Some(match plain.unwrap_or(name) {
            "collections.OrderedDict" | "dict" => Self::Dict,
            "collections.defaultdict" => Self::DefaultDict,
            "list" => Self::List,
            "tuple" | "torch.Size" => Self::Tuple,
            "set" | "frozenset" => Self::Set,
            // Bytes of Python 3 in the protocols of Python 2: each character is a byte.
            "_codecs.encode" | "bytes" | "bytearray" => Self::Bytes,
            "copy_reg._reconstructor" | "copyreg._reconstructor" => Self::Reconstructor,
            "copy_reg.__newobj__" | "copyreg.__newobj__" => Self::NewObject,
            _ => return None,
        })
    }

    /// What a call makes.
    pub(super) fn make(self, values: &[Value], args: &[Id]) -> Result<Value, String> {
        let arg = |n: usize| args.get(n).map(|&id| &values[id as usize]);
        let object = |class: Id, object: Object| Value::Object(Box::new(Object { class, ..object }));
        Ok(match self {
            Self::Dict => Value::Dict(entries(values, arg(0))?),
            Self::DefaultDict => Value::Dict(entries(values, arg(1))?),
            Self::List => Value::List(items(arg(0))?),
            Self::Tuple => Value::Tuple(items(arg(0))?),
            Self::Set => Value::Set(items(arg(0))?),
            Self::Bytes => Value::Bytes(raw(arg(0))?),
            Self::Reconstructor => {
                let [class, _, state] = args else { return Err("a reconstruction of nothing".to_string()) };
                let (pairs, items) = match &values[*state as usize] {
                    Value::Dict(pairs) => (pairs.clone(), Vec::new()),
                    Value::List(items) => (Vec::new(), items.clone()),
                    _ => (Vec::new(), Vec::new()),
                };
                object(*class, Object { args: *state, pairs, items, ..Object::default() })
            }
            Self::NewObject => {
                let class = *args.first().ok_or("an object of no class")?;
                object(class, Object { args: class, ..Object::default() })
            }
        })
    }
}

/// What a value holds beside itself, in bytes; vectors may grow to twice what they hold.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => 2 * size_of_val(items.as_slice()),
        Value::Dict(pairs) => 2 * size_of_val(pairs.as_slice()),
        Value::Bytes(bytes) | Value::Text(bytes) => bytes.len(),
        _ => 0,
    }
}

fn items(value: Option<&Value>) -> Result<Vec<Id>, String> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::List(items) | Value::Tuple(items) | Value::Set(items)) => Ok(items.clone()),
        Some(_) => Err("a list of what is none".to_string()),
    }
}

/// Of a dictionary, or of a list of pairs.
fn entries(values: &[Value], value: Option<&Value>) -> Result<Vec<(Id, Id)>, String> {
    let pair = |&id: &Id| match &values[id as usize] {
        Value::List(pair) | Value::Tuple(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
        _ => Err("a dictionary of what are no pairs".to_string()),
    };
    match value {
        None | Some(Value::None) => Ok(Vec::new()),
        Some(Value::Dict(pairs)) => Ok(pairs.clone()),
        Some(Value::List(items) | Value::Tuple(items)) => items.iter().map(pair).collect(),
        Some(_) => Err("a dictionary of what is none".to_string()),
    }
}

fn raw(value: Option<&Value>) -> Result<Bytes, String> {
    let text = match value {
        None => return Ok(Bytes::new()),
        Some(Value::Bytes(bytes)) => return Ok(bytes.clone()),
        Some(Value::Text(text)) => std::str::from_utf8(text).map_err(|_| "a text that is not UTF-8")?,
        Some(_) => return Err("bytes of what are none".to_string()),
    };
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        bytes.push(u8::try_from(u32::from(c)).map_err(|_| "bytes with characters beyond latin-1")?);
    }
    Ok(bytes.into())
}
