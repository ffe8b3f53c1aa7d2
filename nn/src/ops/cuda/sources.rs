//! The kernels' sources. They are compiled by NVRTC at first use, once a process, card and element type: one build then serves every
//! card natively, building needs no more than candle itself does, and only what is used is compiled. What that costs is some
//! tenths of a second at the first use of each source, and `libnvrtc` at run time, which candle links anyway.

use candle_core::{DType, Result};

/// One source file.
#[derive(Debug)]
pub(super) struct Source {
    /// Its name, without the ending.
    pub name: &'static str,
    text: &'static str,
}

const PRELUDE: &str = include_str!("kernels/prelude.cu");

macro_rules! sources {
    ($($constant:ident $name:literal,)*) => {
        $(pub(super) static $constant: Source = Source { name: $name, text: include_str!(concat!("kernels/", $name, ".cu")) };)*

        /// All of them.
        #[cfg(feature = "emulate")]
        pub(super) static ALL: &[&Source] = &[$(&$constant),*];
    };
}

sources! {
    ACTIVATION "activation",
    ATTENTION "attention",
    CONVOLUTION "convolution",
    DROPOUT "dropout",
    GROUP_NORM "group_norm",
    LAYER_NORM "layer_norm",
    LOSS "loss",
    OPTIMIZER "optimizer",
    RESAMPLE "resample",
    SUMS "sums",
}

/// What `T` is called in the sources.
pub(super) fn element(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("float"),
        DType::BF16 => Ok("bf16"),
        other => candle_core::bail!("kernels know float32 and bfloat16, not {other:?}"),
    }
}

impl Source {
    /// The name of the source compiled for elements of `dtype`.
    pub fn module(&self, dtype: DType) -> Result<String> {
        Ok(format!("{}_{}", self.name, element(dtype)?))
    }

    /// What the run-time compiler gets.
    #[cfg(feature = "cuda")]
    pub fn full_text(&self, dtype: DType) -> Result<String> {
        Ok(format!("{PRELUDE}\ntypedef {} T;\n{}", element(dtype)?, self.text))
    }

    /// All sources for both element types as one C++ text, each in a namespace named by its module.
    #[cfg(feature = "emulate")]
    pub fn emulation() -> Result<String> {
        let mut all = format!("{}\n{PRELUDE}\n", include_str!("kernels/emulation.cpp"));
        for source in ALL {
            for dtype in [DType::F32, DType::BF16] {
                let (module, element) = (source.module(dtype)?, element(dtype)?);
                all += &format!(
                    "#undef MODULE\n#define MODULE \"{module}\"\nnamespace {module} {{\ntypedef {element} T;\n{}\n}}\n",
                    source.text
                );
            }
        }
        Ok(all)
    }
}
