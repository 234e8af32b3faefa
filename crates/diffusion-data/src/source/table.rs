//! Tables of labels beside pictures: csv, jsonl and parquet files.

use diffusion_files::replace_python_numbers;
use serde_json::Value;

/// The names of tables of labels. A later one overrides the labels of an earlier one in the same
/// folder.
pub(super) const NAMES: [&str; 4] =
    ["metadata.parquet", "metadata.jsonl", "labels.csv", "metadata.csv"];
/// The names of the column of files, in any case, in order of priority.
pub(super) const FILE_COLUMNS: [&str; 5] = ["file_name", "filename", "file", "image", "path"];
/// The names of the column of labels, in any case, in order of priority.
pub(super) const LABEL_COLUMNS: [&str; 6] =
    ["label", "labels", "class", "category", "target", "fine_label"];
/// The maximum size of a table in bytes.
pub(super) const MAX_BYTES: u64 = 1 << 28;

/// The labels in a table.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Names of files and their labels; a file without a label has `None`.
    pub(super) rows: Vec<(String, Option<String>)>,
    /// Why the table, or a part of it, gives no labels.
    pub(super) problem: Option<String>,
}

/// Reads the table called `name`.
///
/// # Errors
/// If it is invalid, with the reason as text and, for JSON lines, the number of the line.
pub(super) fn read(name: &str, content: &[u8]) -> Result<Table, String> {
    if content.len() as u64 > MAX_BYTES {
        return Err(format!("a table of labels has at most {MAX_BYTES} bytes"));
    }
    if name.strip_suffix(".parquet").is_some() {
        // A parquet file may be anything; only its content says that it is a table of labels.
        let problem = |problem| Table { rows: Vec::new(), problem: Some(problem) };
        return Ok(read_parquet(content).unwrap_or_else(problem));
    }
    // Some editors write a byte order mark.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if content.trim_ascii().is_empty() {
        return Ok(Table { rows: Vec::new(), problem: Some("it is empty".to_owned()) });
    }
    if name.strip_suffix(".csv").is_some() { read_csv(content) } else { read_jsonl(content) }
}

fn no_labels(columns: &[&str]) -> Table {
    let problem = format!(
        "it has no column of labels, such as label; its columns are {}",
        columns.join(", ")
    );
    Table { rows: Vec::new(), problem: Some(problem) }
}

fn read_csv(content: &[u8]) -> Result<Table, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(content);
    let headers = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |candidates: &[&str]| {
        let position = |candidate: &&str| {
            headers.iter().position(|name| name.trim().eq_ignore_ascii_case(candidate))
        };
        candidates.iter().find_map(position)
    };
    let Some(file) = column(&FILE_COLUMNS) else {
        let found = headers.iter().collect::<Vec<_>>().join(", ");
        return Err(format!(
            "its first line must name the columns file_name and label; it names {found}"
        ));
    };
    let Some(label) = column(&LABEL_COLUMNS) else {
        return Ok(no_labels(&headers.iter().collect::<Vec<_>>()));
    };
    let rows = reader.records().map(|row| {
        let row = row.map_err(|e| e.to_string())?;
        let label = row.get(label).unwrap_or("").trim();
        Ok((normalised(row.get(file).unwrap_or("")), non_empty(label)))
    });
    Ok(Table { rows: rows.collect::<Result<_, String>>()?, problem: None })
}

fn read_jsonl(content: &[u8]) -> Result<Table, String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not UTF-8".to_owned())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let mut rows = Vec::new();
    let (mut columns, mut unusable) = (Vec::new(), 0);
    let mut has_labels = false;
    for (number, line) in lines {
        let line_error = |problem: String| format!("line {}: {problem}", number + 1);
        let row = parse_line(line)
            .map_err(|e| line_error(e.to_string().replace(" line 1 column", " column")))?;
        let fields = row.as_object();
        let field = |candidates: &[&str]| {
            let value = |name: &&str| {
                let mut pairs = fields?.iter();
                pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
            };
            candidates.iter().find_map(value)
        };
        let file = field(&FILE_COLUMNS).and_then(Value::as_str);
        let file = file.ok_or_else(|| line_error("it must have a file_name".to_owned()))?;
        let label = field(&LABEL_COLUMNS);
        has_labels |= label.is_some();
        let label = match label {
            Some(Value::String(label)) => non_empty(label.trim()),
            Some(Value::Number(label)) => Some(label.to_string()),
            Some(Value::Bool(label)) => Some(label.to_string()),
            None | Some(Value::Null) => None,
            Some(Value::Array(_) | Value::Object(_)) => {
                unusable += 1;
                None
            }
        };
        rows.push((normalised(file), label));
        if columns.is_empty() {
            columns = fields.into_iter().flat_map(|fields| fields.keys().cloned()).collect();
        }
    }
    if !has_labels {
        return Ok(no_labels(&columns.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    let problem = (unusable > 0).then(|| {
        format!("the labels of {unusable} rows are lists or objects, not the name of one class")
    });
    Ok(Table { rows, problem })
}

/// A row of JSON. Python writes a missing number as NaN, which JSON does not have.
fn parse_line(line: &str) -> serde_json::Result<Value> {
    let parsed = serde_json::from_str(line);
    parsed.or_else(|error| {
        serde_json::from_str(&replace_python_numbers(line, |_| "null")).map_err(|_| error)
    })
}

#[cfg(feature = "parquet")]
fn read_parquet(content: &[u8]) -> Result<Table, String> {
    super::parquet::read_table(content)
}

#[cfg(not(feature = "parquet"))]
fn read_parquet(_: &[u8]) -> Result<Table, String> {
    let problem = "this program was built without parquet; build it with the feature `parquet`";
    Ok(Table { rows: Vec::new(), problem: Some(problem.to_owned()) })
}

/// A label, unless it is empty.
pub(super) fn non_empty(label: &str) -> Option<String> {
    (!label.is_empty()).then(|| label.to_owned())
}

/// A name from a table in the form of the listing: `/` as separator, without empty parts and `.`.
pub(super) fn normalised(name: &str) -> String {
    let name = name.trim().replace('\\', "/");
    let parts: Vec<&str> = name.split('/').filter(|part| !["", "."].contains(part)).collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, label: &str) -> (String, Option<String>) {
        (name.to_owned(), non_empty(label))
    }

    #[test]
    fn rows_are_read_from_csv_and_json_lines() {
        let csv =
            b"\xef\xbb\xbfFile_Name,split,Label\na.png,x,cat\n\"./sub/b, c.png\",x,dog\nd.png,x,\n";
        let table = read("metadata.csv", csv).unwrap();
        assert_eq!(table.rows, [row("a.png", "cat"), row("sub/b, c.png", "dog"), row("d.png", "")]);
        let jsonl = b"{\"file_name\": \"a.png\", \"target\": 3}\n\n{\"file_name\": \"b.png\", \"target\": true}\n\
                      {\"file_name\": \"c.png\", \"target\": [1, 2]}\n";
        let table = read("metadata.jsonl", jsonl).unwrap();
        assert_eq!(table.rows, [row("a.png", "3"), row("b.png", "true"), row("c.png", "")]);
        assert!(table.problem.unwrap().contains("the labels of 1 rows are lists"));
    }

    #[test]
    fn an_invalid_table_is_an_error_and_one_without_labels_a_problem() {
        let problem = read("labels.csv", b"name,kind\nx,y\n").unwrap_err();
        assert!(problem.contains("file_name and label; it names name, kind"), "{problem}");
        let problem = read("metadata.jsonl", b"{}\n").unwrap_err();
        assert!(problem.starts_with("line 1: it must have a file_name"), "{problem}");
        for (name, content) in [
            ("metadata.csv", &b"file_name,text\na.png,hello\n"[..]),
            ("metadata.jsonl", b"{\"file_name\": \"a.png\", \"text\": \"hello\"}\n"),
        ] {
            let table = read(name, content).unwrap();
            assert_eq!(table.rows, []);
            let problem = table.problem.unwrap();
            assert!(problem.ends_with("its columns are file_name, text"), "{problem}");
        }
    }
}
