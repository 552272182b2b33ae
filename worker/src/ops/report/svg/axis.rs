//! Scales, ticks that people would choose, and the two axes of a plot.

use super::{
    super::format::{fixed, short},
    Canvas,
};

/// Maps values to coordinates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) struct Scale {
    log: bool,
    lo: f64,
    hi: f64,
    from: f64,
    to: f64,
    /// Distance of the ticks that the ends were widened to.
    step: Option<f64>,
}

impl Scale {
    /// Makes a linear scale from values `lo..hi` to coordinates `from..to`. An empty range is widened.
    pub fn linear((lo, hi): (f64, f64), (from, to): (f64, f64)) -> Self {
        let (lo, hi) = if lo.is_finite() && hi.is_finite() { (lo.min(hi), hi.max(lo)) } else { (0.0, 1.0) };
        let (lo, hi) = if hi - lo > f64::EPSILON * hi.abs().max(1.0) { (lo, hi) } else { (lo - 0.5, hi + 0.5) };
        Self { log: false, lo, hi, from, to, step: None }
    }

    /// Makes a logarithmic scale. Values at or below zero lie at its lower end.
    pub fn log((lo, hi): (f64, f64), (from, to): (f64, f64)) -> Self {
        let lo = if lo.is_finite() && lo > 0.0 { lo } else { 1.0 };
        let hi = if hi.is_finite() && hi > lo { hi } else { lo };
        // Less than a third of a decade would have no tick on it.
        let (lo, hi) = if hi / lo < 2.2 { (lo / 1.5, lo * 2.0) } else { (lo, hi) };
        Self { log: true, lo, hi, from, to, step: None }
    }

    /// Makes a scale of either kind.
    pub fn new(log: bool, range: (f64, f64), onto: (f64, f64)) -> Self {
        if log { Self::log(range, onto) } else { Self::linear(range, onto) }
    }

    /// Widens a linear scale to whole ticks.
    pub fn nice(mut self, wanted: usize) -> Self {
        if !self.log {
            let step = step(self.hi - self.lo, wanted);
            self.lo = (self.lo / step).floor() * step;
            self.hi = (self.hi / step).ceil() * step;
            self.step = Some(step);
        }
        self
    }

    /// Gives the coordinate of a value, held within the axis.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.lo) / self.lo).ln() / (self.hi / self.lo).ln()
        } else {
            (value - self.lo) / (self.hi - self.lo)
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Gives about `wanted` round values on the axis.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        if self.log { self.log_ticks(wanted) } else { self.linear_ticks(wanted) }
    }

    fn linear_ticks(&self, wanted: usize) -> Vec<f64> {
        let step = self.step.unwrap_or_else(|| step(self.hi - self.lo, wanted));
        let first = (self.lo / step - 1e-9).ceil();
        let mut ticks = Vec::new();
        let mut i = 0.0;
        while (first + i) * step <= self.hi + step * 1e-9 && ticks.len() < 50 {
            let tick = (first + i) * step;
            ticks.push(if tick.abs() < step * 1e-9 { 0.0 } else { tick });
            i += 1.0;
        }
        ticks
    }

    fn log_ticks(&self, wanted: usize) -> Vec<f64> {
        let (low, high) = (self.lo.log10(), self.hi.log10());
        let decades = high - low;
        let every = (decades / wanted.max(1) as f64).ceil().max(1.0);
        // Few decades leave room for steps between them.
        let steps: &[f64] = if decades < 2.0 {
            &[1.0, 2.0, 5.0]
        } else if decades < 3.0 {
            &[1.0, 3.0]
        } else {
            &[1.0]
        };
        let mut ticks = Vec::new();
        let mut power = low.floor();
        while power <= high {
            if power.rem_euclid(every) < 0.5 {
                ticks.extend(
                    steps
                        .iter()
                        .map(|s| s * 10_f64.powf(power))
                        .filter(|t| *t >= self.lo * 0.999 && *t <= self.hi * 1.001),
                );
            }
            power += 1.0;
        }
        ticks
    }
}

/// Writes ticks short, with more decimals where two of them would read the same.
pub(in super::super) fn labels(ticks: &[f64]) -> Vec<String> {
    let plain: Vec<String> = ticks.iter().map(|t| short(*t)).collect();
    if plain.windows(2).all(|pair| pair[0] != pair[1]) {
        return plain;
    }
    let told = |decimals: usize| -> Vec<String> { ticks.iter().map(|t| fixed(*t, decimals)).collect() };
    (0..9).map(told).find(|all| all.windows(2).all(|pair| pair[0] != pair[1])).unwrap_or(plain)
}

/// Gives a step of 1, 2 or 5 times a power of ten.
fn step(range: f64, wanted: usize) -> f64 {
    let rough = range / wanted.max(1) as f64;
    if !(rough.is_finite() && rough > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| rough <= f * power * 1.000_001).unwrap_or(10.0);
    factor * power
}

/// The area of a plot and its scales.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Frame {
    pub x: Scale,
    pub y: Scale,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub bottom: f64,
}

impl Frame {
    /// Draws grid, tick labels and axis titles.
    pub fn draw(&self, canvas: &mut Canvas, (x_label, y_label): (&str, &str), (x_ticks, y_ticks): (usize, usize)) {
        self.draw_y(canvas, y_label, y_ticks);
        self.draw_x(canvas, x_label, x_ticks);
    }

    /// Draws the vertical axis alone, as lines across the plot.
    pub fn draw_y(&self, canvas: &mut Canvas, label: &str, ticks: usize) {
        let ticks = self.y.ticks(ticks);
        for (tick, text) in ticks.iter().zip(labels(&ticks)) {
            let y = self.y.at(*tick);
            canvas.line((self.left, y), (self.right, y), "grid");
            canvas.text((self.left - 7.0, y + 4.0), "end", "", &text);
        }
        canvas.text_up((14.0, f64::midpoint(self.top, self.bottom)), "label", label);
    }

    /// Draws the horizontal axis alone.
    pub fn draw_x(&self, canvas: &mut Canvas, label: &str, ticks: usize) {
        canvas.line((self.left, self.bottom), (self.right, self.bottom), "axis");
        let ticks = self.x.ticks(ticks);
        for (tick, text) in ticks.iter().zip(labels(&ticks)) {
            let x = self.x.at(*tick);
            canvas.line((x, self.bottom), (x, self.bottom + 5.0), "axis");
            canvas.text((x, self.bottom + 20.0), "middle", "", &text);
        }
        canvas.text((f64::midpoint(self.left, self.right), self.bottom + 41.0), "middle", "label", label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_ticks_are_round_and_inside() {
        let scale = Scale::linear((0.0, 97.0), (0.0, 100.0));
        assert_eq!(scale.ticks(5), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(scale.nice(5).ticks(5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
    }

    #[test]
    fn log_ticks_are_powers_of_ten_where_there_are_many_decades() {
        let scale = Scale::log((0.5, 200_000.0), (0.0, 100.0));
        assert_eq!(scale.ticks(6), [1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0]);
    }

    #[test]
    fn ticks_that_lie_close_get_the_decimals_that_tell_them_apart() {
        assert_eq!(labels(&[0.2698, 0.27, 0.2702]), ["0.2698", "0.2700", "0.2702"]);
        assert_eq!(labels(&[0.0, 1000.0]), ["0", "1k"]);
    }

    #[test]
    fn an_empty_or_broken_range_still_gives_a_scale() {
        for range in [(3.0, 3.0), (f64::NAN, 1.0), (0.0, 0.0), (f64::INFINITY, f64::NEG_INFINITY)] {
            for log in [false, true] {
                let scale = Scale::new(log, range, (10.0, 20.0));
                assert!((10.0..=20.0).contains(&scale.at(3.0)), "{range:?} {log}");
                assert!(!scale.ticks(5).is_empty(), "{range:?} {log}");
            }
        }
    }
}
