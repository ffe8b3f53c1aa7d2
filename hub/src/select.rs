//! Which files of a repository are wanted.

use std::collections::HashSet;

use crate::glob;

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// What one of these patterns fits (`*` also stands for slashes; one that ends in a slash is a folder).
    Matching(Vec<String>),
    /// What Strata loads a model from: no second copy of weights in other formats or precisions.
    Weights,
}

/// Weights that are passed over where the same folder has safetensors.
const OTHERS: [&str; 11] = ["bin", "ckpt", "pt", "pth", "msgpack", "h5", "onnx", "onnx_data", "pb", "ot", "tflite"];
/// Words in the names of copies in another precision, or of the weights before averaging.
const VARIANTS: [&str; 4] = [".fp16.", ".bf16.", ".non_ema.", ".ema."];

impl Wanted {
    /// The paths that are wanted.
    pub(crate) fn of<'a>(&self, paths: impl Iterator<Item = &'a str> + Clone) -> HashSet<String> {
        let keep: Box<dyn Fn(&str) -> bool> = match self {
            Self::All => Box::new(|_| true),
            Self::Matching(patterns) => Box::new(|path| patterns.iter().any(|pattern| glob::matches(pattern, path))),
            Self::Weights => weights(paths.clone()),
        };
        paths.filter(|path| keep(path)).map(ToString::to_string).collect()
    }
}

fn weights<'a>(paths: impl Iterator<Item = &'a str>) -> Box<dyn Fn(&str) -> bool> {
    let there: HashSet<String> = paths.map(ToString::to_string).collect();
    let with_safetensors: HashSet<String> =
        there.iter().filter(|path| path.ends_with(".safetensors")).map(|path| folder(path).to_string()).collect();
    Box::new(move |path| {
        let other = OTHERS.iter().any(|end| path.ends_with(&format!(".{end}")));
        let variant = VARIANTS.iter().any(|word| path.contains(word) && there.contains(&path.replace(word, ".")));
        !(variant || (other && with_safetensors.contains(folder(path))))
    })
}

fn folder(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_fetched_once() {
        let all = [
            "model_index.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.bin",
            "vae/diffusion_pytorch_model.non_ema.bin",
            "only.fp16.safetensors",
            "sd.ckpt",
        ];
        let mut wanted: Vec<String> = Wanted::Weights.of(all.into_iter()).into_iter().collect();
        wanted.sort();
        let expected = [
            "model_index.json",
            "only.fp16.safetensors",
            "unet/config.json",
            "unet/diffusion_pytorch_model.safetensors",
            "vae/diffusion_pytorch_model.bin",
        ];
        assert_eq!(wanted, expected);
        assert_eq!(Wanted::Matching(vec!["unet/".into()]).of(all.into_iter()).len(), 4);
        assert_eq!(Wanted::All.of(all.into_iter()).len(), all.len());
    }
}
