//! What of the data a model learns to be told.

use serde::{Deserialize, Serialize};

use super::TrainingData;
use crate::{Error, Result};

/// What a model learns to be told: the class of a sample, by a vector for each and one for "no class"; its attributes, by a
/// vector for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conditioning {
    /// Classes and attributes, if the data have them.
    #[default]
    Auto,
    /// Classes; data without them are refused.
    Class,
    /// Attributes; data without them are refused.
    Attributes,
    /// Captions, by the embeddings that `strata encode --text-encoder` stores; latents without them are refused.
    Text,
    /// Pictures, by the embeddings that `strata encode --picture-encoder` stores; latents without them are refused.
    Picture,
    /// Nothing.
    None,
}

impl Conditioning {
    /// Names of the classes and of the attributes of `data` that a model learns to be told.
    pub(super) fn of(self, data: TrainingData<'_>) -> Result<(Vec<String>, Vec<String>)> {
        let (classes, attributes) = (data.class_names(), data.attribute_names());
        let (wanted, missing) = match self {
            Self::Class => ("class", classes.is_empty()),
            Self::Attributes => ("attributes", attributes.is_empty()),
            Self::Text => ("text", data.contexts().is_none_or(|c| c.source().pictures)),
            Self::Picture => ("picture", data.contexts().is_none_or(|c| !c.source().pictures)),
            Self::Auto | Self::None => ("", false),
        };
        if missing {
            return Err(Error::Config(format!(
                "`conditioning` is {wanted}, but the data have none: use {}, or leave it at auto",
                match self {
                    Self::Text => "a data set with captions and `strata encode --text-encoder`",
                    Self::Picture => "`strata encode --picture-encoder`",
                    _ => "a data set with labels",
                }
            )));
        }
        let with = |kinds: [Self; 2], names: &[String]| if kinds.contains(&self) { names.to_vec() } else { Vec::new() };
        Ok((with([Self::Auto, Self::Class], classes), with([Self::Auto, Self::Attributes], attributes)))
    }
}
