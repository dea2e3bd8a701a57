//! Finds what was probably meant by a misspelled word.

use strsim::osa_distance;

/// The candidate that was probably meant, if one is similar.
pub(crate) fn closest<'a>(text: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let distances = candidates.iter().map(|candidate| (osa_distance(text, candidate), *candidate));
    let close = distances.filter(|(distance, candidate)| *distance <= 1 + candidate.chars().count() / 5);
    close.min_by_key(|(distance, _)| *distance).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapped_letters_are_one_mistake() {
        assert_eq!(closest("wbe", &["api", "web"]), Some("web"));
        assert_eq!(closest("token", &["web", "store"]), None);
    }

    #[test]
    fn short_chinese_names_are_not_alike() {
        assert_eq!(closest("小明", &["张三"]), None);
        assert_eq!(closest("客服小张", &["张三", "客服小李"]), Some("客服小李"));
    }
}
