//! A check of well-formedness that covers what figures use: elements, quoted attributes, the five entities.

/// Says where a document breaks the rules of XML.
pub fn check(text: &str) -> Result<(), String> {
    let mut open: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        characters(&rest[..start])?;
        let inside = &rest[start + 1..];
        let end = tag_end(inside).ok_or_else(|| format!("a tag never ends: {}", clip(inside)))?;
        let tag = &inside[..end];
        rest = &inside[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let last = open.pop().ok_or_else(|| format!("</{name}> closes nothing"))?;
            if last != name.trim() {
                return Err(format!("</{name}> closes <{last}>"));
            }
            continue;
        }
        let name: String = tag.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
        if name.is_empty() {
            return Err(format!("not a tag: <{}", clip(tag)));
        }
        attributes(tag[name.len()..].trim_end_matches('/'))?;
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    characters(rest)?;
    match open.pop() {
        Some(name) => Err(format!("<{name}> is never closed")),
        None => Ok(()),
    }
}

/// Finds the `>` outside quotes.
fn tag_end(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(at, c)| {
        if c == '"' {
            quoted = !quoted;
        }
        (c == '>' && !quoted).then_some(at)
    })
}

fn attributes(text: &str) -> Result<(), String> {
    let mut seen = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").ok_or_else(|| format!("not an attribute: {}", clip(rest)))?;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') || seen.contains(&name) {
            return Err(format!("bad or repeated attribute: {}", clip(name)));
        }
        seen.push(name);
        let (value, after) = after.split_once('"').ok_or_else(|| format!("no closing quote: {}", clip(after)))?;
        if value.contains('<') {
            return Err(format!("`<` in an attribute: {}", clip(value)));
        }
        characters(value)?;
        if !after.is_empty() && !after.starts_with(' ') {
            return Err(format!("no space after an attribute: {}", clip(after)));
        }
        rest = after.trim_start();
    }
    Ok(())
}

fn characters(text: &str) -> Result<(), String> {
    for part in text.split('&').skip(1) {
        if !["amp;", "lt;", "gt;", "quot;", "#39;"].iter().any(|entity| part.starts_with(entity)) {
            return Err(format!("not an entity: &{}", clip(part)));
        }
    }
    match text.chars().find(|c| c.is_control() && *c != '\n') {
        Some(c) => Err(format!("control character {:04x}", u32::from(c))),
        None => Ok(()),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

#[test]
fn the_check_finds_faults() {
    assert!(check("<a b=\"1\"><c/>x &amp; y</a>").is_ok());
    for bad in
        ["<a>", "<a></b>", "<a b=1/>", "<a b=\"<\"/>", "<a>& </a>", "<a b=\"1\" b=\"2\"/>", "</a>", "<a>\u{1}</a>"]
    {
        assert!(check(bad).is_err(), "{bad}");
    }
}
