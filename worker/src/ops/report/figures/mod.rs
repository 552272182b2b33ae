//! The figures of the report: each is an output of its own and a part of the page.

mod clusters;
mod orders;
pub(super) mod value;

pub(super) use self::clusters::{PITCH, YAW, turnable};
use super::{data::Data, svg::Figure};

/// Outputs and what they show.
pub(super) const NAMES: [(&str, &str); 11] = [
    ("fig_quantity", "histogram of Quantity with a box above"),
    ("fig_total_sales", "histogram of TotalSales with a box above"),
    ("fig_scatter", "Quantity against TotalSales"),
    ("fig_rfm", "distributions of the customer features"),
    ("fig_silhouette", "silhouette and inertia by number of clusters"),
    ("fig_heatmap", "standardised means of the clusters"),
    ("fig_pca", "customers on three principal components"),
    ("fig_tsne", "customers on the t-SNE map"),
    ("fig_monetary", "box plots of Monetary by cluster"),
    ("fig_clv", "histogram of the predicted spend"),
    ("fig_quality", "quality of the spend models against the baselines"),
];

/// Every figure, in the order of [`NAMES`].
pub(super) struct Figures {
    pub all: Vec<Figure>,
}

impl Figures {
    /// Gives a figure by its output.
    pub fn get(&self, name: &str) -> Option<&Figure> {
        self.all.iter().find(|figure| figure.name == name)
    }
}

/// Draws every figure; one whose input is missing says so.
pub(super) fn draw(data: &Data) -> Figures {
    let all = vec![
        orders::histogram(data, "fig_quantity", "Quantity", "Quantity per order line", "pieces per order line"),
        orders::histogram(data, "fig_total_sales", "TotalSales", "Sales per order line", "sales per order line"),
        orders::scatter(data),
        orders::features(data),
        clusters::silhouette(data),
        clusters::heatmap(data),
        clusters::pca(data),
        clusters::tsne(data),
        clusters::monetary(data),
        value::predicted(data),
        value::quality(data),
    ];
    Figures { all }
}
