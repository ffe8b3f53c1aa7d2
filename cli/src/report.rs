//! One page of HTML: words, pictures and tables of numbers, complete in itself.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, Result};

/// A page.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The page's title and first heading.
    pub title: String,
    /// A sentence or two below it.
    pub summary: String,
    /// What follows.
    pub sections: Vec<Section>,
}

/// A heading and what is below it.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// Top to bottom.
    pub blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A picture, read when the page is written and made part of it.
    Figure {
        /// A PNG or JPEG file.
        file: PathBuf,
        /// What it shows.
        caption: String,
    },
    /// Numbers.
    Table(Table),
}

/// Rows below named columns; cells that begin with a digit are set to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Above it.
    pub caption: String,
    /// Names of the columns; none: the table has no head.
    pub columns: Vec<String>,
    /// Cells, row by row.
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// Writes the page, beside its place first.
    ///
    /// # Errors
    /// If a picture cannot be read or the page cannot be written.
    pub fn write(&self, path: &std::path::Path) -> Result<()> {
        Ok(strata_nn::weights::write_atomic(path, self.html()?.as_bytes())?)
    }

    /// The page.
    ///
    /// # Errors
    /// If a picture cannot be read.
    pub fn html(&self) -> Result<String> {
        let title = escape(&self.title);
        let mut page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        );
        if !self.summary.is_empty() {
            let _ = writeln!(page, "<p class=\"summary\">{}</p>", escape(&self.summary));
        }
        for section in &self.sections {
            let _ = writeln!(page, "<h2>{}</h2>", escape(&section.title));
            for block in &section.blocks {
                page.push_str(&block.html()?);
            }
        }
        page.push_str("</body>\n</html>\n");
        Ok(page)
    }
}

impl Block {
    fn html(&self) -> Result<String> {
        Ok(match self {
            Self::Text(text) => format!("<p>{}</p>\n", escape(text)),
            Self::Figure { file, caption } => {
                let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
                let kind = if bytes.starts_with(&[0xFF, 0xD8]) { "jpeg" } else { "png" };
                let caption = escape(caption);
                let data = base64(&bytes);
                format!(
                    "<figure><img alt=\"{caption}\" src=\"data:image/{kind};base64,{data}\"><figcaption>{caption}</figcaption></figure>\n"
                )
            }
            Self::Table(table) => table.html(),
        })
    }
}

impl Table {
    fn html(&self) -> String {
        let mut text = String::from("<div class=\"table\"><table>\n");
        if !self.caption.is_empty() {
            let _ = writeln!(text, "<caption>{}</caption>", escape(&self.caption));
        }
        if !self.columns.is_empty() {
            let cells: String = self.columns.iter().map(|c| format!("<th>{}</th>", escape(c))).collect();
            let _ = writeln!(text, "<tr>{cells}</tr>");
        }
        for row in &self.rows {
            let cells: String = row.iter().map(|c| format!("<td{}>{}</td>", class(c), escape(c))).collect();
            let _ = writeln!(text, "<tr>{cells}</tr>");
        }
        text.push_str("</table></div>\n");
        text
    }
}

fn class(cell: &str) -> &'static str {
    let is_number = cell.trim_start_matches(['-', '+', '\u{2212}']).starts_with(|c: char| c.is_ascii_digit());
    if is_number { " class=\"number\"" } else { "" }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0u32, |word, (i, byte)| word | u32::from(*byte) << (16 - 8 * i));
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i)) as usize & 63] as char;
            text.push(if i <= chunk.len() { letter } else { '=' });
        }
    }
    text
}

const CSS: &str = "\
:root { color-scheme: light dark; --ink: #24292f; --faint: #656d76; --page: #ffffff; --rule: #d0d7de; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --page: #0d1117; --rule: #3d444d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.8rem; margin-bottom: 0.3rem; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid var(--rule); padding-bottom: 0.2rem; }
.summary, figcaption, caption { color: var(--faint); }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--rule); border-radius: 4px; }
figcaption { font-size: 0.9rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.3rem; }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
.number { text-align: right; }
";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc() {
        let pairs = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

    #[test]
    fn the_page_is_complete_in_itself() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.png");
        std::fs::write(&file, [0x89, b'P', b'N', b'G']).unwrap();
        let table = Table {
            caption: "Speed".to_string(),
            columns: vec!["stage".to_string(), "s/step".to_string()],
            rows: vec![vec!["<1>".to_string(), "0.25".to_string()]],
        };
        let figure = Block::Figure { file: file.clone(), caption: "64 \"samples\"".to_string() };
        let section =
            Section { title: "A & B".to_string(), blocks: vec![figure, Block::Table(table), Block::Text("end".to_string())] };
        let report = Report { title: "Strata".to_string(), summary: "In short.".to_string(), sections: vec![section] };
        let page = report.html().unwrap();
        for part in [
            "<h2>A &amp; B</h2>",
            "src=\"data:image/png;base64,iVBORw==\"",
            "alt=\"64 &quot;samples&quot;\"",
            "<tr><td>&lt;1&gt;</td><td class=\"number\">0.25</td></tr>",
            "<p>end</p>",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(!page.contains("http"), "no resource from elsewhere");
        std::fs::remove_file(&file).unwrap();
        let message = report.write(&folder.path().join("report.html")).unwrap_err().to_string();
        assert!(message.contains("a.png"), "{message}");
        assert!(!folder.path().join("report.html").exists());
    }
}
