//! The fields of a cron expression, to say which one is wrong.

use std::ops::RangeInclusive;

/// One of the six fields.
struct Field {
    name: &'static str,
    range: RangeInclusive<u32>,
    /// How often a single value of it comes.
    cycle: &'static str,
}

const FIELDS: [Field; 6] = [
    field("second", 0..=59, "once a minute"),
    field("minute", 0..=59, "once an hour"),
    field("hour", 0..=23, "once a day"),
    field("day of the month", 1..=31, "once a month"),
    field("month", 1..=12, "once a year"),
    // Both 0 and 7 are Sunday.
    field("day of the week", 0..=7, "once a week"),
];

const fn field(name: &'static str, range: RangeInclusive<u32>, cycle: &'static str) -> Field {
    Field { name, range, cycle }
}

/// The parts of each field that commas separate.
fn parts(six_fields: &str) -> impl Iterator<Item = (&'static Field, &str)> {
    let fields = FIELDS.iter().zip(six_fields.split(' '));
    fields.flat_map(|(field, written)| written.split(',').map(move |part| (field, part)))
}

/// The first number that is not in the range of its field, or range that ends before it begins. Everything else is left to the
/// parser.
pub(super) fn problem(six_fields: &str) -> Option<String> {
    parts(six_fields).find_map(|(Field { name, range, .. }, part)| {
        let values = part.split(['/', '#']).next().unwrap_or_default();
        let numbers: Vec<u32> = values.split('-').filter_map(|number| number.parse().ok()).collect();
        let (least, most) = (range.start(), range.end());
        if let Some(wrong) = numbers.iter().find(|number| !range.contains(number)) {
            return Some(format!("the {name} is {wrong}, but goes from {least} to {most}"));
        }
        match numbers[..] {
            [first, last] if first > last => Some(format!(
                "the {name} range {first}-{last} ends before it begins; write {first}-{most},{least}-{last}"
            )),
            _ => None,
        }
    })
}

/// What each step does that is larger than its field. `*/90` is accepted, and means 0.
pub(super) fn large_steps(six_fields: &str) -> impl Iterator<Item = String> {
    parts(six_fields).filter_map(|(Field { name, range, cycle }, part)| {
        let (values, step) = part.split_once('/')?;
        let step: u32 = step.parse().ok()?;
        let (first, last) = match values.split_once('-') {
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None if values == "*" => (*range.start(), *range.end()),
            None => (values.parse().ok()?, *range.end()),
        };
        // A range of one value has any step.
        (first < last && step > last - first).then(|| {
            format!("the step of {part} is larger than the field: it matches only {name} {first}, {cycle}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_out_of_range_is_named_with_its_field() {
        for (fields, expected) in [
            ("60 * * * * *", "the second is 60, but goes from 0 to 59"),
            ("0 5,61 * * * *", "the minute is 61, but goes from 0 to 59"),
            ("0 0 8-24/2 * * *", "the hour is 24, but goes from 0 to 23"),
            ("0 0 0 0 * *", "the day of the month is 0, but goes from 1 to 31"),
            ("0 0 0 1 13 *", "the month is 13, but goes from 1 to 12"),
            ("0 0 0 * * 8", "the day of the week is 8, but goes from 0 to 7"),
            ("0 0 22-6 * * *", "the hour range 22-6 ends before it begins; write 22-23,0-6"),
        ] {
            assert_eq!(problem(fields).as_deref(), Some(expected), "{fields}");
        }
        for fields in ["*/90 0-59 8-20/4 1,L JAN-DEC 5#3", "0 0 0 15W * 5L", "0 0 0 * * MON-FRI"] {
            assert_eq!(problem(fields), None, "{fields}");
        }
    }

    #[test]
    fn step_larger_than_its_field_is_explained() {
        let steps = |fields| large_steps(fields).collect::<Vec<_>>();
        assert_eq!(
            steps("*/90 30/45 8-20/13 * * *"),
            [
                "the step of */90 is larger than the field: it matches only second 0, once a minute",
                "the step of 30/45 is larger than the field: it matches only minute 30, once an hour",
                "the step of 8-20/13 is larger than the field: it matches only hour 8, once a day",
            ]
        );
        assert_eq!(steps("*/59 */30 8-20/12 1-1/5 * *"), [""; 0]);
    }
}
