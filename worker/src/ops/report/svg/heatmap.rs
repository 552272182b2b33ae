//! Heatmaps of standardised means: blue below the average, orange above, the number in each cell.

use super::{Canvas, Panel};
use crate::ops::report::format::fixed;

/// A row of a heatmap.
pub(in super::super) struct Row {
    pub name: String,
    pub values: Vec<f64>,
}

/// Draws a heatmap. Colours reach their end at two standard deviations.
pub(in super::super) fn panel(title: &str, columns: &[String], rows: &[Row]) -> Panel {
    const ROW: f64 = 46.0;
    const HEAD: f64 = 44.0;
    const LEFT: f64 = 112.0;
    let size = (super::HALF.0, HEAD + ROW * rows.len() as f64 + 50.0);
    let mut canvas = Canvas::default();
    let width = (size.0 - LEFT - 6.0) / columns.len().max(1) as f64;
    let column_at = |j: usize| LEFT + width * j as f64;
    for (j, name) in columns.iter().enumerate() {
        // Names break at spaces: a narrow column has room for one word.
        for (line, word) in name.split(' ').rev().enumerate() {
            let y = HEAD - 10.0 - 16.0 * line as f64;
            canvas.text((column_at(j) + width / 2.0, y), "middle", "name head", word);
        }
    }
    let mut words = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let y = HEAD + ROW * i as f64;
        canvas.text((LEFT - 8.0, y + ROW / 2.0 + 4.0), "end", "name", &row.name);
        for (j, &value) in row.values.iter().enumerate().take(columns.len()) {
            canvas.tile((column_at(j) + 1.0, y + 1.0), (width - 2.0, ROW - 2.0), &colour(value));
            let class = if dark(value) { "cell inv" } else { "cell" };
            let at = (column_at(j) + width / 2.0, y + ROW / 2.0 + 4.5);
            canvas.text(at, "middle", class, &signed(value));
        }
        let cells: Vec<String> =
            columns.iter().zip(&row.values).map(|(name, value)| format!("{name} {}", signed(*value))).collect();
        words.push(format!("{}: {}", row.name, cells.join(", ")));
    }
    key(&mut canvas, (LEFT, size.1 - 34.0), size.0 - LEFT - 6.0);
    canvas.panel(size, title, &format!("{}.", words.join("; ")))
}

fn key(canvas: &mut Canvas, (x, y): (f64, f64), width: f64) {
    const STEPS: u8 = 9;
    let step = width / f64::from(STEPS);
    for i in 0..STEPS {
        let value = -2.0 + 4.0 * f64::from(i) / f64::from(STEPS - 1);
        canvas.tile((x + step * f64::from(i), y), (step, 8.0), &colour(value));
    }
    canvas.text((x, y + 25.0), "start", "", "below average");
    canvas.text((x + width, y + 25.0), "end", "", "above average");
}

fn signed(value: f64) -> String {
    if value > 0.004 { format!("+{}", fixed(value, 2)) } else { fixed(value, 2) }
}

/// White at 0, blue or orange at two standard deviations: a pair that every kind of colour vision tells apart.
fn colour(value: f64) -> String {
    let share = if value.is_finite() { (value / 2.0).clamp(-1.0, 1.0) } else { 0.0 };
    let end: [f64; 3] = if share < 0.0 { [0.0, 92.0, 158.0] } else { [204.0, 92.0, 0.0] };
    let mix = |to: f64| 247.0 + (to - 247.0) * share.abs();
    format!("#{:02x}{:02x}{:02x}", byte(mix(end[0])), byte(mix(end[1])), byte(mix(end[2])))
}

// Mixed from two bytes.
fn byte(value: f64) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// Says whether white text reads better on the colour.
fn dark(value: f64) -> bool {
    !(-1.1..=1.55).contains(&value)
}
