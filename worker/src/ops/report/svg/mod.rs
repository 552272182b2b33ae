//! Figures as SVG: panels that a page shows in its own colours, and files that render alone.

pub(super) mod axis;
pub(super) mod bars;
pub(super) mod boxes;
pub(super) mod heatmap;
pub(super) mod histogram;
pub(super) mod line;
pub(super) mod scatter;

use std::fmt::Write as _;

use super::html::escape;

/// Size of a panel that takes half the width of the page.
pub(super) const HALF: (f64, f64) = (560.0, 340.0);
/// Size of a panel that takes a third of it.
pub(super) const THIRD: (f64, f64) = (380.0, 250.0);

/// Colours that a clustering may use before they come round again, as squares instead of dots.
pub(super) const PALETTE: usize = 8;

/// Classes of figures, with `$name` for colours: values in a file of its own, variables in the page.
const FIGURE_CSS: &str = include_str!("../assets/figure.css");

/// Colours on white. Categories: Okabe and Ito, who chose them to be told apart with any colour vision; their yellow is
/// darkened, because it fades on white.
pub(super) const LIGHT: [(&str, &str); 16] = [
    ("ink", "#1b2330"),
    ("muted", "#566170"),
    ("line", "#aab3bf"),
    ("grid", "#e6e9ee"),
    ("paper", "#ffffff"),
    ("accent", "#1d5fa8"),
    ("soft", "#d5e3f3"),
    ("warn", "#b4480f"),
    ("c0", "#0072b2"),
    ("c1", "#d98200"),
    ("c2", "#009e73"),
    ("c3", "#c0578f"),
    ("c4", "#48a3d9"),
    ("c5", "#c94a00"),
    ("c6", "#a08c00"),
    ("c7", "#5b5b66"),
];

/// One drawing with axes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Panel {
    pub width: f64,
    pub height: f64,
    pub title: String,
    /// What the drawing shows, for those who cannot see it.
    pub desc: String,
    /// What a reader must know, such as a logarithmic axis or values that are not drawn.
    pub note: String,
    /// Palette number and name of each category.
    pub legend: Vec<(usize, String)>,
    body: String,
}

/// A named figure: one panel or several.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// The output it is written to.
    pub name: &'static str,
    pub panels: Vec<Panel>,
    /// Why there is nothing to draw; empty where there is.
    pub missing: String,
}

impl Figure {
    pub fn new(name: &'static str, panels: Vec<Panel>) -> Self {
        Self { name, panels, missing: String::new() }
    }

    /// Makes a figure that says why it is empty.
    pub fn missing(name: &'static str, title: &str, why: &str) -> Self {
        let mut canvas = Canvas::default();
        canvas.text((HALF.0 / 2.0, 60.0), "middle", "", why);
        let panel = canvas.panel((HALF.0, 110.0), title, why);
        Self { name, panels: vec![panel], missing: why.to_owned() }
    }

    /// Gives a file that renders alone: own style, white ground, titles and legends drawn.
    pub fn standalone(&self) -> String {
        const GAP: f64 = 16.0;
        let across = if self.panels.len() > 2 && self.panels[0].width < HALF.0 { 3 } else { 2 }.min(self.panels.len());
        let (mut width, mut height) = (GAP, GAP);
        let mut placed = String::new();
        for row in self.panels.chunks(across.max(1)) {
            let (mut x, mut tallest) = (GAP, 0.0_f64);
            for panel in row {
                let (head, top) = panel.heading();
                let below = if panel.note.is_empty() { 0.0 } else { 22.0 };
                let _ = write!(placed, r#"<g transform="translate({} {})">{head}"#, n(x), n(height));
                let _ = write!(placed, r#"<g transform="translate(0 {})">{}</g>"#, n(top), panel.body);
                if below > 0.0 {
                    let y = n(top + panel.height + 14.0);
                    let _ = write!(placed, r#"<text class="note" x="4" y="{y}">{}</text>"#, escape(&panel.note));
                }
                placed.push_str("</g>");
                x += panel.width.max(width_of(&panel.note) * 0.92) + GAP;
                tallest = tallest.max(top + panel.height + below);
            }
            width = width.max(x);
            height += tallest + GAP;
        }
        let titles: Vec<&str> = self.panels.iter().map(|p| p.title.as_str()).collect();
        let descs: Vec<&str> = self.panels.iter().map(|p| p.desc.as_str()).collect();
        let (w, h) = (n(width), n(height));
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="fig" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img"><title>{}</title><desc>{}</desc><style>{}</style><rect width="{w}" height="{h}" fill="{}"/>{placed}</svg>
"#,
            escape(&titles.join("; ")),
            escape(&descs.join(" ")),
            css(|name| LIGHT.iter().find(|(have, _)| *have == name).map_or("#000", |(_, hex)| hex).to_owned()),
            LIGHT[4].1,
        )
    }
}

impl Panel {
    /// Gives the drawing for a page, which brings the classes, the title and the legend.
    pub fn inline(&self, id: &str) -> String {
        let (w, h) = (n(self.width), n(self.height));
        let wide = if self.width >= HALF.0 { " wide" } else { "" };
        format!(
            r#"<svg class="fig{wide}" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{id}-t {id}-d"><title id="{id}-t">{}</title><desc id="{id}-d">{}</desc>{}</svg>"#,
            escape(&self.title),
            escape(&self.desc),
            self.body,
        )
    }

    /// Adds what a reader must know.
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Adds the names of the categories.
    pub fn with_legend(mut self, legend: Vec<(usize, String)>) -> Self {
        self.legend = legend;
        self
    }

    /// Draws title and legend, and gives the height they take.
    fn heading(&self) -> (String, f64) {
        let mut out = format!(r#"<text class="title" x="4" y="16">{}</text>"#, escape(&self.title));
        let (mut x, mut y) = (4.0, 38.0);
        for (series, name) in &self.legend {
            let wanted = 32.0 + width_of(name);
            if x > 4.0 && x + wanted > self.width {
                (x, y) = (4.0, y + 18.0);
            }
            let _ = write!(
                out,
                r#"<rect class="f{}" x="{}" y="{}" width="10" height="10" rx="2"/><text x="{}" y="{}">{}</text>"#,
                series % PALETTE,
                n(x),
                n(y - 9.0),
                n(x + 15.0),
                n(y),
                escape(name),
            );
            x += wanted;
        }
        (out, if self.legend.is_empty() { 26.0 } else { y + 10.0 })
    }
}

/// Fills the colours of the figure classes in.
pub(super) fn css(colour: impl Fn(&str) -> String) -> String {
    let mut names: Vec<&str> = LIGHT.iter().map(|(name, _)| *name).collect();
    // The longest first, so that no name is replaced inside another.
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    names.iter().fold(FIGURE_CSS.replace('\n', ""), |css, name| css.replace(&format!("${name}"), &colour(name)))
}

/// Estimates the width of a text of 12 px.
pub(super) fn width_of(text: &str) -> f64 {
    text.chars().map(|c| if matches!(c, 'i' | 'l' | '.' | ',' | ' ' | '1' | 't' | 'f' | 'r') { 4.6 } else { 7.4 }).sum()
}

/// Writes a coordinate: two decimals at most, never NaN.
pub(super) fn n(value: f64) -> String {
    if !value.is_finite() {
        return "0".to_owned();
    }
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Collects the elements of a drawing.
#[derive(Debug, Default)]
pub(super) struct Canvas {
    body: String,
}

impl Canvas {
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let (x1, y1, x2, y2) = (n(from.0), n(from.1), n(to.0), n(to.1));
        let _ = write!(self.body, r#"<path class="{class}" d="M{x1} {y1}L{x2} {y2}"/>"#);
    }

    /// Draws a rectangle between two corners.
    pub fn rect(&mut self, a: (f64, f64), b: (f64, f64), class: &str) {
        let (x, y, w, h) = (a.0.min(b.0), a.1.min(b.1), (a.0 - b.0).abs(), (a.1 - b.1).abs());
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{}" y="{}" width="{}" height="{}"/>"#,
            n(x),
            n(y),
            n(w),
            n(h)
        );
    }

    /// Draws a rectangle of a computed colour.
    pub fn tile(&mut self, at: (f64, f64), size: (f64, f64), fill: &str) {
        let (x, y, w, h) = (n(at.0), n(at.1), n(size.0), n(size.1));
        let _ = write!(self.body, r#"<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="{fill}"/>"#);
    }

    pub fn text(&mut self, at: (f64, f64), anchor: &str, class: &str, text: &str) {
        let (x, y) = (n(at.0), n(at.1));
        let class = if class.is_empty() { String::new() } else { format!(r#" class="{class}""#) };
        let _ = write!(self.body, r#"<text{class} x="{x}" y="{y}" text-anchor="{anchor}">{}</text>"#, escape(text));
    }

    /// Draws a text that runs upwards.
    pub fn text_up(&mut self, at: (f64, f64), class: &str, text: &str) {
        let (x, y) = (n(at.0), n(at.1));
        let _ = write!(
            self.body,
            r#"<text class="{class}" transform="translate({x} {y}) rotate(-90)" text-anchor="middle">{}</text>"#,
            escape(text)
        );
    }

    pub fn circle(&mut self, at: (f64, f64), radius: f64, class: &str) {
        let _ = write!(self.body, r#"<circle class="{class}" cx="{}" cy="{}" r="{}"/>"#, n(at.0), n(at.1), n(radius));
    }

    /// Draws a polyline.
    pub fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, n(*x), n(*y));
        }
        let _ = write!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// Draws dots as one path, a tenth of the bytes of as many circles. `class` sets size and colour of the stroke.
    pub fn dots(&mut self, points: &[(f64, f64)], class: &str) {
        if points.is_empty() {
            return;
        }
        let mut d = String::new();
        for (x, y) in points {
            let _ = write!(d, "M{} {}h0", n(*x), n(*y));
        }
        let _ = write!(self.body, r#"<path class="{class}" d="{d}"/>"#);
    }

    /// Ends the drawing.
    pub fn panel(self, size: (f64, f64), title: &str, desc: &str) -> Panel {
        Panel {
            width: size.0,
            height: size.1,
            title: title.to_owned(),
            desc: desc.to_owned(),
            note: String::new(),
            legend: Vec::new(),
            body: self.body,
        }
    }
}
