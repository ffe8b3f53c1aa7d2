//! How an error reaches a person: the chain of causes, and a hint where the next action is known.

/// An error with a hint.
#[derive(Debug)]
pub struct Hinted {
    message: String,
    hint: String,
}

impl std::fmt::Display for Hinted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// An error that says what to do next.
pub fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { message: message.into(), hint: hint.into() })
}

/// Writes the error, its causes and the hint to stderr.
pub fn print(error: &anyhow::Error) {
    eprintln!("error: {error}");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // A transparent error repeats its cause.
        if text != last {
            eprintln!("  because: {text}");
        }
        last = text;
    }
    if let Some(hinted) = error.chain().find_map(|e| e.downcast_ref::<Hinted>()) {
        eprintln!("hint: {}", hinted.hint);
    }
}
