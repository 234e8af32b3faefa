//! Names and order of classes.
//!
//! If all names are numbers, classes are sorted as numbers, and a name is found by its value: `2`
//! is the class `2` or `02`, wherever it is in the list.

use std::collections::{BTreeSet, HashMap};

/// Class names 0, 1, … `last` for classes without names; empty if there is no `last`.
pub(crate) fn numbered_classes(last: Option<&u32>) -> Vec<String> {
    last.map_or_else(Vec::new, |last| (0..=*last).map(|class| class.to_string()).collect())
}

/// The classes of pictures with the given labels, and for each distinct label the index of its
/// class.
///
/// Tables write whole numbers as `2.0` if a label is missing elsewhere in the column. If all labels
/// are numbers, such a label is the class `2`.
pub(crate) fn classes_of<'a>(
    labels: impl IntoIterator<Item = &'a str>,
) -> (Vec<String>, HashMap<String, u32>) {
    let labels: BTreeSet<&str> = labels.into_iter().collect();
    let are_numbers = labels.iter().all(|label| number(label).is_some());
    let name = |label: &str| {
        let whole = number(label).filter(|value| {
            are_numbers && label.contains('.') && value.fract() == 0.0 && value.abs() < 1e15
        });
        whole.map_or_else(|| label.to_owned(), |value| (value as i64).to_string())
    };
    let mut classes: Vec<String> = labels.iter().map(|label| name(label)).collect();
    if are_numbers {
        let value = |class: &String| number(class).unwrap_or_default();
        classes.sort_by(|a, b| value(a).total_cmp(&value(b)).then_with(|| a.cmp(b)));
    } else {
        classes.sort();
    }
    classes.dedup();
    let index: HashMap<&str, u32> = classes.iter().map(String::as_str).zip(0..).collect();
    let by_label = labels.iter().map(|label| ((*label).to_owned(), index[name(label).as_str()]));
    let by_label = by_label.collect();
    (classes, by_label)
}

/// The index of the class with this name, or with this value if all classes are numbers.
pub(crate) fn find_class(classes: &[String], name: &str) -> Option<usize> {
    let same_value = || {
        let value = number(name)?;
        let values = classes.iter().map(|class| number(class)).collect::<Option<Vec<_>>>()?;
        values.iter().position(|other| *other == value)
    };
    classes.iter().position(|class| class == name).or_else(same_value)
}

fn number(name: &str) -> Option<f64> {
    name.trim().parse().ok().filter(|value: &f64| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_sorted_by_value_and_whole_ones_lose_their_fraction() {
        let classes = |labels: &[&str]| classes_of(labels.iter().copied()).0;
        assert_eq!(classes(&["10.0", "2.0", "1", "-1.0"]), ["-1", "1", "2", "10"]);
        assert_eq!(classes(&["2", "2.0", "10"]), ["2", "10"]);
        assert_eq!(classes(&["0.5", "0.25", "3.0"]), ["0.25", "0.5", "3"]);
        assert_eq!(classes(&["010", "9"]), ["9", "010"]);
        assert_eq!(classes(&["10", "9", "cat"]), ["10", "9", "cat"]);
        assert_eq!(classes(&["v1.0", "2.0"]), ["2.0", "v1.0"]);
        assert_eq!(classes(&[]), [""; 0]);
        let (_, index) = classes_of(["2.0", "2", "10.0"]);
        assert_eq!([index["2.0"], index["2"], index["10.0"]], [0, 0, 1]);
    }

    #[test]
    fn a_number_is_found_by_its_value() {
        let classes = ["1", "2", "010"].map(str::to_owned);
        let find = |name| find_class(&classes, name);
        assert_eq!(
            [find("1"), find("2.0"), find("10"), find("0")],
            [Some(0), Some(1), Some(2), None]
        );
        let mixed = ["1", "cat"].map(str::to_owned);
        assert_eq!([find_class(&mixed, "1"), find_class(&mixed, "1.0")], [Some(0), None]);
    }
}
