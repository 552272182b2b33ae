//! Pieces of the page. Text from the data passes through [`escape`] or [`embed`], and nowhere else into the page.

use std::fmt::Write as _;

use serde_json::Value;

use super::svg::{PALETTE, Panel};

/// Makes text safe for HTML and XML, in elements and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            // Not allowed in XML at all, and of no use in HTML.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Embeds data for the script. Nothing in it can end the element, open a comment or be read as markup.
pub(super) fn embed(id: &str, value: &Value) -> String {
    let mut json = String::new();
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    format!("<script type=\"application/json\" id=\"{}\">{json}</script>\n", escape(id))
}

/// Wraps a section.
pub(super) fn section(id: &str, title: &str, body: &str) -> String {
    format!(
        "<section id=\"{id}\" aria-labelledby=\"{id}-h\">\n<h2 id=\"{id}-h\">{}</h2>\n{body}</section>\n",
        escape(title)
    )
}

/// Says that something was not part of this pipeline.
pub(super) fn absent(what: &str, port: &str) -> String {
    format!(
        "<p class=\"absent\">{} was not part of this pipeline: the report's input <code>{}</code> is not connected.</p>\n",
        escape(what),
        escape(port)
    )
}

/// Makes a sentence of a remark: a capital first, a full stop last.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.trim().chars();
    let first: String = letters.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    let rest = letters.as_str();
    format!("{first}{rest}{}", if rest.ends_with('.') { "" } else { "." })
}

/// Writes a paragraph of plain text.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// Writes a paragraph in small type.
pub(super) fn note(text: &str) -> String {
    format!("<p class=\"note\">{}</p>\n", escape(text))
}

/// Shows a panel with its title, legend and note.
pub(super) fn figure(id: &str, panel: &Panel) -> String {
    let mut out = format!("<figure><figcaption>{}</figcaption>{}", escape(&panel.title), legend(&panel.legend));
    out.push_str(&panel.inline(id));
    if !panel.note.is_empty() {
        let _ = write!(out, "<p class=\"note\">{}</p>", escape(&panel.note));
    }
    out.push_str("</figure>\n");
    out
}

/// Lists the colours of categories.
pub(super) fn legend(entries: &[(usize, String)]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let items: String =
        entries.iter().map(|(series, name)| format!("<li>{}{}</li>", swatch(*series), escape(name))).collect();
    format!("<ul class=\"legend\">{items}</ul>")
}

/// Draws the colour of a category.
pub(super) fn swatch(series: usize) -> String {
    let round = if (series / PALETTE).is_multiple_of(2) { "" } else { " sq" };
    format!("<i class=\"sw k{}{round}\"></i>", series % PALETTE)
}

/// Sets panels beside each other where there is room.
pub(super) fn grid(class: &str, parts: &[String]) -> String {
    let cells: String =
        parts.iter().filter(|part| !part.is_empty()).map(|part| format!("<div>{part}</div>\n")).collect();
    if cells.is_empty() { String::new() } else { format!("<div class=\"grid {class}\">\n{cells}</div>\n") }
}

/// A table; cells are HTML.
pub(super) struct Table {
    caption: String,
    head: Vec<(String, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Starts a table. A header that begins with `#` names a column of numbers.
    pub fn new(caption: &str, head: &[&str]) -> Self {
        let head = head
            .iter()
            .map(|title| title.strip_prefix('#').map_or(((*title).to_owned(), false), |t| (t.to_owned(), true)))
            .collect();
        Self { caption: caption.to_owned(), head, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn html(&self) -> String {
        // The caption stands outside: within a table that scrolls sideways it would scroll out of sight.
        let mut out = String::new();
        let caption = escape(&self.caption);
        if caption.is_empty() {
            out.push_str("<div class=\"scroll\"><table><thead><tr>");
        } else {
            let _ = write!(
                out,
                "<p class=\"caption\" aria-hidden=\"true\">{caption}</p><div class=\"scroll\"><table aria-label=\"{caption}\"><thead><tr>"
            );
        }
        let class = |number: bool| if number { " class=\"n\"" } else { "" };
        for (title, number) in &self.head {
            let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(*number), escape(title));
        }
        out.push_str("</tr></thead><tbody>\n");
        for row in &self.rows {
            out.push_str("<tr>");
            for (i, cell) in row.iter().enumerate() {
                let number = self.head.get(i).is_some_and(|(_, number)| *number);
                if i == 0 {
                    let _ = write!(out, "<th scope=\"row\"{}>{cell}</th>", class(number));
                } else {
                    let _ = write!(out, "<td{}>{cell}</td>", class(number));
                }
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        out
    }
}

/// Draws a share as a bar behind its text.
pub(super) fn meter(share: f64, text: &str) -> String {
    let width = if share.is_finite() { (share * 100.0).clamp(0.0, 100.0) } else { 0.0 };
    format!("<span class=\"meter\"><i style=\"width:{width:.1}%\"></i></span><span>{}</span>", escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hostile_text_cannot_leave_its_place() {
        assert_eq!(escape("</script><b a='\"'>&\u{1}"), "&lt;/script&gt;&lt;b a=&#39;&quot;&#39;&gt;&amp;\u{fffd}");
        let html = embed("d", &json!({"t": ["</script><!-- <script>", "\u{2028}&"]}));
        let inner = html.strip_prefix("<script type=\"application/json\" id=\"d\">");
        let inner = inner.and_then(|rest| rest.strip_suffix("</script>\n")).unwrap_or_default();
        assert!(!inner.is_empty() && !inner.contains(['<', '>', '&', '\u{2028}']), "{inner}");
        let back: Value = serde_json::from_str(inner).unwrap_or_default();
        assert_eq!(back["t"][0], "</script><!-- <script>");
    }
}
