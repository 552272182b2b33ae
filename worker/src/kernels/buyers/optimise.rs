//! Minimising a smooth function of a few unknowns without derivatives.

/// Where a search ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Minimum {
    pub point: Vec<f64>,
    pub value: f64,
}

/// Most evaluations of one descent; four unknowns take a few hundred.
const EVALUATIONS: usize = 3000;

/// Finds a local minimum by Nelder and Mead's simplex (Computer Journal 7, 1965), started again at each end until that gains nothing.
///
/// `f` may answer infinity or NaN for points that are not allowed. Deterministic: ties keep the older point. `tolerance` is
/// on the value of `f`. Cost: some hundred evaluations of `f` for four unknowns.
pub(super) fn minimise(f: impl Fn(&[f64]) -> f64, start: &[f64], step: f64, tolerance: f64) -> Minimum {
    let mut best = descend(&f, start, step, tolerance);
    // A simplex can collapse away from the minimum, or lie around it with equal values; a fresh one at the same point shows it.
    for _ in 0..4 {
        let again = descend(&f, &best.point, step / 2.0, tolerance);
        let gained = best.value - again.value;
        if again.value < best.value {
            best = again;
        }
        if gained.is_nan() || gained <= tolerance * 10.0 {
            break;
        }
    }
    best
}

fn descend(f: &impl Fn(&[f64]) -> f64, start: &[f64], step: f64, tolerance: f64) -> Minimum {
    let n = start.len();
    let eval = |point: &[f64]| {
        let value = f(point);
        if value.is_nan() { f64::INFINITY } else { value }
    };
    let mut simplex: Vec<Minimum> = Vec::with_capacity(n + 1);
    simplex.push(Minimum { point: start.to_vec(), value: eval(start) });
    for i in 0..n {
        let mut point = start.to_vec();
        point[i] += step;
        let value = eval(&point);
        simplex.push(Minimum { point, value });
    }
    let mut evaluations = n + 1;
    while evaluations < EVALUATIONS {
        simplex.sort_by(|a, b| a.value.total_cmp(&b.value));
        let (lowest, second, highest) = (simplex[0].value, simplex[n - 1].value, simplex[n].value);
        if highest - lowest <= tolerance {
            break;
        }
        let centre: Vec<f64> =
            (0..n).map(|i| simplex[..n].iter().map(|v| v.point[i]).sum::<f64>() / n as f64).collect();
        // Moves the worst corner along the line through the centre of the others.
        let along = |factor: f64| -> Minimum {
            let point: Vec<f64> = centre.iter().zip(&simplex[n].point).map(|(c, w)| c + factor * (c - w)).collect();
            let value = eval(&point);
            Minimum { point, value }
        };
        let reflected = along(1.0);
        evaluations += 1;
        let replacement = if reflected.value < lowest {
            evaluations += 1;
            let expanded = along(2.0);
            Some(if expanded.value < reflected.value { expanded } else { reflected })
        } else if reflected.value < second {
            Some(reflected)
        } else {
            evaluations += 1;
            let outside = reflected.value < highest;
            let contracted = along(if outside { 0.5 } else { -0.5 });
            (contracted.value < highest.min(reflected.value)).then_some(contracted)
        };
        if let Some(corner) = replacement {
            simplex[n] = corner;
        } else {
            // Nothing better on that line: shrink towards the best corner.
            let anchor = simplex[0].point.clone();
            for corner in &mut simplex[1..] {
                for (x, a) in corner.point.iter_mut().zip(&anchor) {
                    *x = f64::midpoint(*x, *a);
                }
                corner.value = eval(&corner.point);
            }
            evaluations += n;
        }
    }
    simplex.sort_by(|a, b| a.value.total_cmp(&b.value));
    simplex.swap_remove(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curved_valley_of_rosenbrock_is_followed_to_its_end() {
        let found = minimise(|p| (1.0 - p[0]).powi(2) + 100.0 * (p[1] - p[0] * p[0]).powi(2), &[-1.2, 1.0], 0.5, 1e-14);
        assert!((found.point[0] - 1.0).abs() < 1e-4 && (found.point[1] - 1.0).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn points_that_are_not_allowed_are_avoided() {
        let found = minimise(|p| if p[0] < 0.5 { f64::NAN } else { p[0] * p[0] }, &[3.0], 1.0, 1e-14);
        assert!((found.point[0] - 0.5).abs() < 1e-3, "{found:?}");
    }

    #[test]
    fn a_function_without_any_finite_value_ends_where_it_began() {
        assert_eq!(minimise(|_| f64::NAN, &[1.0, 2.0], 1.0, 1e-9).value, f64::INFINITY);
    }
}
