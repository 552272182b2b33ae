//! Figures of the clustering: choice of k, profiles, maps, spend by cluster.

use super::super::{
    data::{Data, Placed, items, number, numbers, text},
    format::{integer, percent},
    svg::{
        Canvas, Figure, HALF,
        boxes::{self, Group, Summary},
        heatmap::{self, Row},
        line::{self, Point},
        scatter::{self, Series},
    },
};

/// Draws silhouette and inertia by k.
pub(super) fn silhouette(data: &Data) -> Figure {
    const NAME: &str = "fig_silhouette";
    const TITLE: &str = "Silhouette by number of clusters";
    let Some(kmeans) = &data.kmeans else {
        return Figure::missing(NAME, TITLE, "Not part of this pipeline: the report's input kmeans is not connected.");
    };
    let chosen = number(kmeans, "/chosen_k");
    let points = |field: &str| -> Vec<Point> {
        items(kmeans, "/candidates")
            .iter()
            .filter_map(|candidate| {
                let x = number(candidate, "/k")?;
                let ineligible = candidate.get("eligible").and_then(serde_json::Value::as_bool) == Some(false);
                let y = number(candidate, field).unwrap_or(f64::NAN);
                Some(Point { x, y, chosen: Some(x) == chosen, ineligible })
            })
            .collect()
    };
    let scores = points("/silhouette");
    if scores.is_empty() {
        return Figure::missing(NAME, TITLE, "The clustering lists no candidates.");
    }
    let hollow = scores.iter().any(|p| p.ineligible);
    let note = if hollow { "Hollow points are ruled out: their smallest cluster is too small." } else { "" };
    let labels = ("number of clusters k", "mean silhouette");
    let first = line::panel(TITLE, labels, &scores, false, 0.1).with_note(note);
    let labels = ("number of clusters k", "inertia");
    let second = line::panel("Inertia by number of clusters", labels, &points("/inertia"), true, 0.0);
    Figure::new(NAME, vec![first, second])
}

/// Draws the standardised means.
pub(super) fn heatmap(data: &Data) -> Figure {
    const NAME: &str = "fig_heatmap";
    const TITLE: &str = "How the segments differ from the average customer";
    let Some(summary) = &data.summary else {
        return Figure::missing(
            NAME,
            TITLE,
            "Not part of this pipeline: the report's input segments_summary is not connected.",
        );
    };
    let columns: Vec<String> = items(summary, "/heatmap/features")
        .iter()
        .filter_map(|f| f.as_str())
        .map(|f| super::super::sections::short_name(f).to_owned())
        .collect();
    let rows: Vec<Row> = items(summary, "/heatmap/rows")
        .iter()
        .map(|row| Row { name: text(row, "/name").unwrap_or_default(), values: numbers(row, "/values") })
        .collect();
    if columns.is_empty() || rows.is_empty() {
        return Figure::missing(NAME, TITLE, "The summary of the segments holds no heatmap.");
    }
    let note = text(summary, "/heatmap/unit").map(|unit| format!("Cells: {unit}.")).unwrap_or_default();
    Figure::new(NAME, vec![heatmap::panel(TITLE, &columns, &rows).with_note(note)])
}

/// The cloud of customers that the page lets people turn.
pub(in super::super) struct Turnable {
    pub points: Vec<Placed<3>>,
    /// Half the width of the view, in units of the components.
    pub reach: f64,
    /// Points outside the view until it is zoomed out.
    pub outside: usize,
}

/// Prepares the cloud: a fixed sample, and a view that a few extreme customers do not set.
pub(in super::super) fn turnable(all: &[Placed<3>]) -> Turnable {
    let points = scatter::thin(all);
    let mut lengths: Vec<f64> = points.iter().map(|(at, _)| at.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
    lengths.sort_by(f64::total_cmp);
    let reach = (boxes::quantile(&lengths, 0.995) * 1.08).max(1e-9);
    let outside = lengths.len() - lengths.partition_point(|l| *l <= reach);
    Turnable { points, reach, outside }
}

/// The first view: turned to the left, seen from a little above. The page starts from the same one.
pub(in super::super) const YAW: f64 = -0.6;
pub(in super::super) const PITCH: f64 = 0.35;

/// Draws the first three components in perspective-free projection.
pub(super) fn pca(data: &Data) -> Figure {
    const NAME: &str = "fig_pca";
    const TITLE: &str = "Customers on three principal components";
    let Some(points) = &data.pca else {
        return Figure::missing(NAME, TITLE, "Not part of this pipeline: the report's input pca is not connected.");
    };
    let cloud = turnable(points);
    let size = (HALF.0, 440.0);
    let mut canvas = Canvas::default();
    let half = 190.0;
    let place = |[x, y, z]: [f64; 3]| {
        let (x, z) = (x * YAW.cos() - z * YAW.sin(), x * YAW.sin() + z * YAW.cos());
        let y = y * PITCH.cos() - z * PITCH.sin();
        (size.0 / 2.0 + x / cloud.reach * half, size.1 / 2.0 - y / cloud.reach * half)
    };
    for axis in 0..3 {
        let end = |sign: f64| {
            let mut at = [0.0; 3];
            at[axis] = sign * cloud.reach;
            place(at)
        };
        canvas.line(end(-1.0), end(1.0), "axis");
    }
    let inside = |at: &[f64; 3]| at.iter().map(|v| v * v).sum::<f64>().sqrt() <= cloud.reach;
    for (series, _) in data.groups.iter().enumerate() {
        let own = cloud.points.iter().filter(|(at, group)| *group == series && inside(at));
        let placed: Vec<(f64, f64)> = own.map(|(at, _)| place(*at)).collect();
        canvas.dots(&placed, &scatter::class(series));
    }
    for axis in 0..3 {
        let mut at = [0.0; 3];
        at[axis] = cloud.reach * 1.04;
        canvas.text(place(at), "middle", "halo", &format!("PC{}", axis + 1));
    }
    let desc = format!("Projection of {} customers, coloured by segment. {}", points.len(), explained(data));
    let note = match cloud.outside {
        0 => String::new(),
        outside => format!("{} extreme customers lie outside this view.", integer(outside as f64)),
    };
    let panel = canvas.panel(size, TITLE, &desc).with_legend(data.legend()).with_note(note);
    Figure::new(NAME, vec![panel])
}

/// Says how much of the variance the components hold.
fn explained(data: &Data) -> String {
    let ratios = data.pca_summary.as_ref().map(|s| numbers(s, "/ratio")).unwrap_or_default();
    if ratios.is_empty() {
        return String::new();
    }
    let parts: Vec<String> = ratios.iter().take(3).map(|r| percent(*r)).collect();
    format!("The components explain {} of the variance.", parts.join(", "))
}

/// Draws the t-SNE map.
pub(super) fn tsne(data: &Data) -> Figure {
    const NAME: &str = "fig_tsne";
    const TITLE: &str = "Customers on the t-SNE map";
    let Some(points) = &data.tsne else {
        return Figure::missing(NAME, TITLE, "Not part of this pipeline: the report's input tsne is not connected.");
    };
    let shown = scatter::thin(points);
    let series: Vec<Series> = data
        .groups
        .iter()
        .enumerate()
        .map(|(series, group)| Series {
            name: group.name.clone(),
            series,
            points: shown.iter().filter(|(_, g)| *g == series).map(|([x, y], _)| (*x, *y)).collect(),
        })
        .collect();
    let desc = format!("Map of {} customers by likeness, coloured by segment.", points.len());
    let panel = scatter::map(TITLE, &series, &desc)
        .with_legend(data.legend())
        .with_note("Neighbours on the map are alike; distances between far groups and the axes mean nothing.");
    Figure::new(NAME, vec![panel])
}

/// Draws Monetary by cluster.
pub(super) fn monetary(data: &Data) -> Figure {
    const NAME: &str = "fig_monetary";
    const TITLE: &str = "Sales per customer, by segment";
    let Some(groups) = data.by_group("Monetary") else {
        return Figure::missing(NAME, TITLE, "The segments table holds no column Monetary.");
    };
    let boxes: Vec<Group<'_>> = groups
        .iter()
        .enumerate()
        .filter_map(|(series, values)| {
            Some(Group { name: &data.groups[series].name, series, summary: Summary::of(values)? })
        })
        .collect();
    if boxes.is_empty() {
        return Figure::missing(NAME, TITLE, "There are no customers to draw.");
    }
    let all = || groups.iter().flatten().copied().filter(|v| v.is_finite());
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let log = least > 0.0 && most / least > 50.0;
    let label = if log { "sales per customer (log axis)" } else { "sales per customer" };
    let panel = boxes::panel(TITLE, label, &boxes, log).with_note(
        "Box: quartiles and median. Whiskers: 1.5 times the interquartile range. Dots: customers beyond, thinned.",
    );
    Figure::new(NAME, vec![panel])
}
