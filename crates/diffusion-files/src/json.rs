//! JSON as Python writes it.

/// Numbers that Python's `json` writes and JSON does not have.
const PYTHON_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// `text` with `write(number)` in place of each `NaN`, `Infinity` and `-Infinity` outside of
/// strings. Python's `json` writes these numbers, but JSON does not have them.
pub fn replace_python_numbers(text: &str, write: impl Fn(&str) -> &'static str) -> String {
    let mut standard = String::with_capacity(text.len());
    let (mut rest, mut in_string, mut escaped) = (text, false, false);
    while let Some(next) = rest.chars().next() {
        let number = PYTHON_NUMBERS.iter().find(|number| !in_string && rest.starts_with(**number));
        if let Some(number) = number {
            standard.push_str(write(number));
            rest = &rest[number.len()..];
            continue;
        }
        in_string ^= next == '"' && !escaped;
        escaped = in_string && next == '\\' && !escaped;
        standard.push(next);
        rest = &rest[next.len_utf8()..];
    }
    standard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_outside_of_strings_are_replaced() {
        let text =
            r#"{"a": -Infinity, "b": [NaN, Infinity], "NaN": "NaN \" Infinity\\", "c": NaN}"#;
        let expected = r#"{"a": null, "b": [null, null], "NaN": "NaN \" Infinity\\", "c": null}"#;
        assert_eq!(replace_python_numbers(text, |_| "null"), expected);
    }
}
