//! Turns a page of the documentation into the sections of a manual page. Supports the Markdown that the reference uses: headings,
//! paragraphs, lists, code blocks, and tables, whose rows become tagged paragraphs.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

/// Appends the page without its title.
pub(super) fn append(markdown: &str, roff: &mut Roff) {
    let mut lines = markdown.lines().peekable();
    let mut headings: Vec<String> = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("## ") {
            let text = text.replace('`', "");
            // Names of sections are case-sensitive.
            let heading = if text.starts_with('[') { text } else { text.to_uppercase() };
            roff.control("SH", [heading.as_str()]);
        } else if line.starts_with("```") {
            let code: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            roff.control("nf", []);
            roff.text([roman(code.join("\n"))]);
            roff.control("fi", []);
        } else if line.starts_with("|---") {
            // The line below the headings of a table.
        } else if let Some(row) = line.strip_prefix("| ") {
            let cells: Vec<String> =
                row.trim_end_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
            if lines.peek().is_some_and(|next| next.starts_with("|---")) {
                headings = cells;
            } else {
                append_row(&headings, &cells, roff);
            }
        } else if !line.is_empty() && !line.starts_with('#') {
            let mut text = line.to_owned();
            while let Some(next) = lines.next_if(|next| continues(next)) {
                text = format!("{text} {}", next.trim_start());
            }
            append_paragraph(&text, roff);
        }
    }
}

/// Whether a line belongs to the paragraph or the element of a list before it.
fn continues(line: &str) -> bool {
    let begins_block = ["- ", "#", "|", "```"].iter().any(|mark| line.starts_with(mark));
    !line.is_empty() && !begins_block && numbered(line).is_none()
}

fn numbered(line: &str) -> Option<(&str, &str)> {
    line.split_once(". ")
        .filter(|(number, _)| !number.is_empty() && number.chars().all(|c| c.is_ascii_digit()))
}

fn append_paragraph(text: &str, roff: &mut Roff) {
    let text = if let Some(element) = text.strip_prefix("- ") {
        roff.control("IP", ["\\(bu", "2"]);
        element
    } else if let Some((number, element)) = numbered(text) {
        roff.control("IP", [format!("{number}.").as_str(), "4"]);
        element
    } else {
        roff.control("PP", []);
        text
    };
    roff.text(inlines(text));
}

/// Appends a row: its first cell as the tag, its last as the text, the others before the text with their headings.
fn append_row(headings: &[String], cells: &[String], roff: &mut Roff) {
    let [tag, facts @ .., text] = cells else { return };
    let named = facts.iter().zip(headings.iter().skip(1)).filter(|(fact, _)| !fact.is_empty());
    let named = named.map(|(fact, heading)| match heading.as_str() {
        "type" => fact.clone(),
        heading => format!("{heading}: {fact}"),
    });
    roff.control("TP", []);
    roff.text(inlines(tag));
    roff.text(inlines(&format!("{}. {text}", named.collect::<Vec<_>>().join("; "))));
}

/// Splits a text at its marks for code, links and emphasis.
fn inlines(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    for (n, part) in text.split('`').enumerate() {
        match n % 2 {
            0 => inlines.extend(emphasized(&without_links(part))),
            _ => inlines.push(bold(part)),
        }
    }
    inlines
}

/// The text with links replaced by their texts. A link around code is split by the code, so its ends are removed one by one.
fn without_links(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](") {
        let (before, label) = before.rsplit_once('[').unwrap_or(("", before));
        result += before;
        result += label;
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    result + rest
}

fn emphasized(text: &str) -> Vec<Inline> {
    let text = text.replace("**", "*");
    let parts = text.split('*').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(n, part)| if n % 2 == 0 { roman(part) } else { italic(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_their_macros() {
        let markdown = "# Title\n\nOne\nparagraph with `code` and [a link](x.md).\n\n## The `[web]` part\n\n- first\n  line\n- *second*\n\n\
                        1. one\n\n| key | type | default | meaning |\n|---|---|---|---|\n| `a` | text | none | What |\n\n```sh\nrun\n```\n";
        let mut roff = Roff::new();
        append(markdown, &mut roff);
        let text = roff.render();
        let expected = ".PP\nOne paragraph with \\fBcode\\fR and a link.\n.SH \"THE [WEB] PART\"\n.IP \\(bu 2\nfirst line\n.IP \\(bu 2\n\
                        \\fIsecond\\fR\n.IP 1. 4\none\n.TP\n\\fBa\\fR\ntext; default: none. What\n.nf\nrun\n.fi\n";
        assert!(text.ends_with(expected), "{text}");
    }
}
