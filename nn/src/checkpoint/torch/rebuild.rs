//! The calls by which a pickle rebuilds tensors, turned into checked views.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        budget::Budget,
        pickle::{Id, Pickle, Value},
    },
    legacy::Stream,
    storage::{Storage, Storages, dtype_of_name},
    view::View,
};

/// Every tensor of `pickle`, by the number of its value.
///
/// # Errors
/// If any of them does not fit its storage, reached by a name or not.
pub(super) fn tensors(pickle: &Pickle, storages: &mut Storages, budget: &mut Budget) -> Result<HashMap<Id, Arc<View>>, String> {
    let contents = 4 * budget.limit() as u64;
    let mut rebuild = Rebuild { pickle, storages, budget, contents, found: HashMap::new(), nested: HashMap::new() };
    for id in 0..pickle.len() as Id {
        rebuild.tensor(id)?;
    }
    Ok(rebuild.found)
}

struct Rebuild<'a> {
    pickle: &'a Pickle,
    storages: &'a mut Storages,
    budget: &'a mut Budget,
    /// Bytes that all tensors together may still have; several may share a storage, but not ever more.
    contents: u64,
    found: HashMap<Id, Arc<View>>,
    /// Storages inside of the pickle.
    nested: HashMap<Id, Storage>,
}

/// A table's entry with what it points to.
const ENTRY: usize = 2 * (size_of::<(Id, Arc<View>)>() + size_of::<View>());

impl Rebuild<'_> {
    /// The tensor that the value is, if it is one. A value's parts have smaller numbers than itself, so that they are found.
    fn tensor(&mut self, id: Id) -> Result<(), String> {
        let Some(name) = self.pickle.class(id).filter(|_| self.pickle.object(id).is_some()) else { return Ok(()) };
        let args = self.pickle.args(id).unwrap_or_default();
        let view = match (name, args) {
            ("torch._tensor._rebuild_from_type_v2", [function, _, args, ..]) => {
                let name = self.pickle.class(*function).unwrap_or_default();
                self.call(name, self.pickle.items(*args).unwrap_or_default())?
            }
            _ => self.call(name, args)?,
        };
        if let Some(view) = view {
            self.budget.claim(ENTRY + view.shape().len() * 16)?;
            self.found.insert(id, view);
        }
        Ok(())
    }

    fn call(&mut self, name: &str, args: &[Id]) -> Result<Option<Arc<View>>, String> {
        let (storage, parts, dtype) = match (name, args) {
            ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", [storage, parts @ ..]) => (storage, parts, None),
            ("torch._utils._rebuild_tensor_v3", [storage, parts @ ..]) => (storage, parts, parts.get(5)),
            ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [data, ..])
            | ("torch.nn.parameter.Parameter" | "torch.Tensor._make_subclass", [data, ..]) => {
                return Ok(self.found.get(data).cloned());
            }
            _ => return Ok(None),
        };
        let [offset, size, strides, ..] = parts else { return Err("a tensor without a shape".to_string()) };
        let mut storage = self.storage(*storage)?;
        if let Some(&dtype) = dtype {
            let name = self.pickle.class(dtype).unwrap_or_default();
            storage = storage.retyped(dtype_of_name(name).ok_or_else(|| format!("dtype `{name}` is not known"))?)?;
        }
        let offset = self.pickle.int(*offset).ok_or("a tensor whose offset is no number")?;
        let (size, strides) = (self.numbers(*size)?, self.numbers(*strides)?);
        let view = View::new(storage, offset, &size, &strides, self.budget)?;
        self.contents = self.contents.checked_sub(view.bytes()).ok_or("its tensors are many times larger than the file")?;
        Ok(Some(Arc::new(view)))
    }

    fn numbers(&self, id: Id) -> Result<Vec<i64>, String> {
        let items = self.pickle.items(id).filter(|items| items.len() <= 64).ok_or("a tensor whose shape is no list")?;
        items
            .iter()
            .map(|&n| self.pickle.int(n).ok_or_else(|| "a tensor whose shape is no list of numbers".to_string()))
            .collect()
    }

    /// Outside of the pickle, or a legacy stream of its own inside of it.
    fn storage(&mut self, id: Id) -> Result<Storage, String> {
        if let Some(storage) = self.nested.get(&id) {
            return Ok(storage.clone());
        }
        if let Value::Persistent(_) = self.pickle.get(id) {
            return self.storages.find(self.pickle, id);
        }
        let Some("torch.storage._load_from_bytes") = self.pickle.class(id) else {
            return Err("a tensor without a storage".to_string());
        };
        let stream = match self.pickle.args(id).and_then(|args| args.first()).map(|&arg| self.pickle.get(arg)) {
            Some(Value::Bytes(bytes) | Value::Text(bytes)) => bytes.clone(),
            _ => return Err("a storage without contents".to_string()),
        };
        let mut stream = Stream::read(&stream, self.budget).map_err(|why| format!("a storage inside of the pickle: {why}"))?;
        let storage = stream.storages.find(&stream.pickle, stream.pickle.root())?;
        self.nested.insert(id, storage.clone());
        Ok(storage)
    }
}
