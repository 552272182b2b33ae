//! A catalogue like that of the built-in operators, for tests that must not link them.

use segue_proto::operator::{Catalogue, OperatorSpec, ParamSpec, ParamType};

/// Gives the operators of the shipped pipelines.
pub fn catalogue() -> Catalogue {
    use ParamType::{Float, Int, List, Path, String};
    let int = |name: &str, default: i64, min: f64, max: f64| ParamSpec::default(name, Int, default, "").range(min, max);
    let text = |name: &str, default: &str| ParamSpec::default(name, String, default, "");
    let id = || text("id", "CustomerID");
    let seed = || ParamSpec::default("seed", Int, 42, "seed of every random draw");
    let mut clean = OperatorSpec::new("retail.clean", "1", "reads and cleans order lines")
        .output("orders", "table", "")
        .output("products", "table", "")
        .output("quality", "json", "")
        .param(ParamSpec::required("path", Path, "CSV of order lines"))
        .param(text("date_format", "auto").one_of(&["auto", "iso", "dmy", "mdy"]))
        .param(text("encoding", "auto").one_of(&["auto", "utf-8", "iso-8859-1"]));
    for (name, default) in [("customer_column", "CustomerID"), ("country_column", "Country")] {
        clean = clean.param(text(name, default));
    }
    [
        clean,
        OperatorSpec::new("retail.eda", "1", "").input("orders", "table", "").output("stats", "json", ""),
        OperatorSpec::new("retail.rfm", "1", "")
            .input("orders", "table", "")
            .output("customers", "table", "")
            .output("summary", "json", "")
            .param(text("frequency", "orders").one_of(&["orders", "lines"]))
            .param(ParamSpec::optional("snapshot", String, "")),
        OperatorSpec::new("ml.scale", "1", "")
            .input("features", "table", "")
            .output("scaled", "table", "")
            .output("model", "model", "")
            .param(ParamSpec::optional("columns", List, ""))
            .param(id())
            .param(text("transform", "none").one_of(&["none", "log1p"])),
        OperatorSpec::new("ml.kmeans", "1", "")
            .input("features", "table", "")
            .optional_input("scaler", "model", "")
            .output("customers", "table", "")
            .output("summary", "json", "")
            .output("model", "model", "")
            .param(id())
            .param(int("k_min", 2, 2.0, 50.0))
            .param(int("k_max", 9, 2.0, 50.0))
            .param(int("n_init", 10, 1.0, 1_000.0))
            .param(ParamSpec::default("tolerance", Float, 1e-4, "").range(0.0, 1.0))
            .param(seed())
            .param(ParamSpec::default("min_cluster_share", Float, 0.0, "").range(0.0, 0.5)),
        OperatorSpec::new("ml.pca", "1", "")
            .input("features", "table", "")
            .output("coordinates", "table", "")
            .output("summary", "json", "")
            .param(id())
            .param(int("components", 3, 1.0, 100.0)),
        OperatorSpec::new("ml.tsne", "1", "")
            .input("features", "table", "")
            .output("coordinates", "table", "")
            .output("summary", "json", "")
            .param(id())
            .param(ParamSpec::default("perplexity", Float, 30.0, "").range(1.0, 1_000.0))
            .param(int("iterations", 1_000, 1.0, 100_000.0))
            .param(seed()),
        OperatorSpec::new("text.embed", "1", "")
            .input("texts", "table", "")
            .output("vectors", "matrix", "")
            .output("index", "table", "")
            .param(text("column", "Description"))
            .param(ParamSpec::optional("model_dir", String, "")),
        OperatorSpec::new("text.similar", "1", "")
            .input("vectors", "matrix", "")
            .input("index", "table", "")
            .output("neighbours", "table", "")
            .param(int("k", 5, 1.0, 100.0)),
        OperatorSpec::new("retail.clv", "1", "")
            .input("orders", "table", "")
            .input("customers", "table", "")
            .output("predictions", "table", "")
            .output("summary", "json", "")
            .output("model", "model", "")
            .output("features", "table", "")
            .param(text("mode", "holdout").one_of(&["holdout", "in_sample"]))
            .param(ParamSpec::optional("cut_date", String, ""))
            .param(int("horizon_days", 90, 1.0, 3_650.0))
            .param(seed()),
        OperatorSpec::new("retail.segments", "1", "")
            .input("customers", "table", "")
            .input("clusters", "table", "")
            .optional_input("predictions", "table", "")
            .output("segments", "table", "")
            .output("summary", "json", "")
            .param(ParamSpec::default("high_value_share", Float, 0.1, "").range(0.0, 1.0)),
        OperatorSpec::new("model.register", "1", "")
            .optional_input("scaler", "model", "")
            .optional_input("kmeans", "model", "")
            .optional_input("clv", "model", "")
            .output("registered", "json", "")
            .param(text("prefix", "customer"))
            .param(text("alias", "champion"))
            .impure(),
        report(),
        OperatorSpec::new("core.noop", "1", "does nothing"),
        OperatorSpec::new("test.join", "1", "joins")
            .joined_input("parts", "table", "")
            .optional_input("extra", "json", "")
            .output("whole", "table", ""),
        OperatorSpec::new("core.sleep", "1", "waits")
            .param(ParamSpec::required("seconds", Float, "how long").range(0.0, 86_400.0))
            .impure(),
    ]
    .into_iter()
    .collect()
}

fn report() -> OperatorSpec {
    let optional = [
        ("quality", "json"),
        ("stats", "json"),
        ("customers", "table"),
        ("kmeans", "json"),
        ("clusters", "table"),
        ("pca", "table"),
        ("pca_summary", "json"),
        ("tsne", "table"),
        ("tsne_summary", "json"),
        ("neighbours", "table"),
        ("index", "table"),
        ("predictions", "table"),
        ("clv", "json"),
        ("segments_summary", "json"),
        ("registered", "json"),
    ];
    let spec = OperatorSpec::new("report.html", "1", "").input("segments", "table", "").output("page", "page", "");
    optional.into_iter().fold(spec, |spec, (name, kind)| spec.optional_input(name, kind, "")).impure().with_run_facts()
}
