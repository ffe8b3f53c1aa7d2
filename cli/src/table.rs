//! Tables for a terminal and for other programs.

use crate::report::Table;

impl Table {
    /// Columns one below the other, numbers to the right, two spaces between.
    pub fn text(&self) -> String {
        let all = || std::iter::once(&self.columns).chain(&self.rows);
        let columns = all().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| all().filter_map(|row| row.get(i)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let numeric: Vec<bool> =
            (0..columns).map(|i| self.rows.iter().all(|row| row.get(i).is_none_or(|c| is_number(c)))).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(widths.iter().zip(&numeric));
            let cells = cells.map(|(cell, (w, number))| if *number { format!("{cell:>w$}") } else { format!("{cell:<w$}") });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
        };
        all().map(line).collect()
    }

    /// As RFC 4180 has it: commas between cells, quotes where a cell needs them.
    pub fn csv(&self) -> String {
        let cell = |c: &String| {
            if c.contains([',', '"', '\n']) { format!("\"{}\"", c.replace('"', "\"\"")) } else { c.clone() }
        };
        let line = |row: &Vec<String>| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
    }
}

fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_eyes_and_for_programs() {
        let row = |cells: [&str; 3]| cells.map(ToString::to_string).to_vec();
        let rows = vec![row(["churn:a=1,b=2", "5", "0.25"]), row(["euler", "20", ""])];
        let table = Table { columns: row(["sampler", "steps", "fid"]), rows, ..Table::default() };
        assert_eq!(table.text(), "sampler        steps   fid\nchurn:a=1,b=2      5  0.25\neuler             20\n");
        assert_eq!(table.csv(), "sampler,steps,fid\n\"churn:a=1,b=2\",5,0.25\neuler,20,\n");
    }
}
