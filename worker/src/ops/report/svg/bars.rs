//! Bars for named things: across for comparisons, upwards for a series in time.

use super::{
    Canvas, Panel,
    axis::{Frame, Scale},
};
use crate::ops::report::format::{amount, fixed};

/// A named number.
#[derive(Debug, Clone)]
pub(in super::super) struct Bar {
    pub name: String,
    pub value: f64,
    /// In the accent colour; others step back.
    pub strong: bool,
}

/// Draws bars from left to right, each with its name and number.
pub(in super::super) fn across(size_x: f64, title: &str, bars: &[Bar], decimals: usize) -> Panel {
    const ROW: f64 = 46.0;
    let size = (size_x, 14.0 + ROW * bars.len() as f64);
    let mut canvas = Canvas::default();
    let finite = || bars.iter().map(|b| b.value).filter(|v| v.is_finite());
    let range = (finite().fold(0.0, f64::min), finite().fold(0.0, f64::max));
    let x = Scale::linear(range, (4.0, size.0 - 74.0));
    for (row, bar) in bars.iter().enumerate() {
        let y = 8.0 + ROW * row as f64;
        canvas.text((4.0, y + 10.0), "start", "name", &bar.name);
        let value = if bar.value.is_finite() { bar.value } else { 0.0 };
        if bar.value.is_finite() {
            canvas.rect((x.at(0.0), y + 18.0), (x.at(value), y + 32.0), if bar.strong { "bar" } else { "bar dim" });
        }
        let class = if bar.strong { "strong" } else { "" };
        canvas.text((x.at(value.max(0.0)) + 7.0, y + 30.0), "start", class, &fixed(bar.value, decimals));
    }
    let words: Vec<String> = bars.iter().map(|b| format!("{} {}", b.name, fixed(b.value, decimals))).collect();
    canvas.panel(size, title, &format!("{}.", words.join(", ")))
}

/// Draws bars side by side.
pub(in super::super) fn upwards(title: &str, labels: (&str, &str), bars: &[Bar]) -> Panel {
    let size = super::HALF;
    let mut canvas = Canvas::default();
    let (left, right, top, bottom) = (62.0, size.0 - 14.0, 10.0, size.1 - 50.0);
    let highest = bars.iter().map(|b| b.value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let y = Scale::linear((0.0, highest), (bottom, top)).nice(5);
    let frame = Frame { x: Scale::linear((0.0, 1.0), (left, right)), y, left, right, top, bottom };
    frame.draw_y(&mut canvas, labels.1, 5);
    canvas.line((left, bottom), (right, bottom), "axis");
    let step = (frame.right - frame.left) / bars.len().max(1) as f64;
    let every = bars.len().div_ceil(6).max(1);
    for (i, bar) in bars.iter().enumerate() {
        let x = left + step * i as f64;
        canvas.rect((x + step * 0.12, y.at(bar.value)), (x + step * 0.88, bottom), "bar");
        if i % every == 0 {
            canvas.text((x + step / 2.0, bottom + 20.0), "middle", "", &bar.name);
        }
    }
    canvas.text((f64::midpoint(left, right), bottom + 41.0), "middle", "label", labels.0);
    let words: Vec<String> = bars.iter().map(|b| format!("{} {}", b.name, amount(b.value))).collect();
    canvas.panel(size, title, &format!("{}.", words.join(", ")))
}
