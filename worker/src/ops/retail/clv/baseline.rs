//! The baseline of `retail.clv`: BG/NBD times Gamma-Gamma.

use super::features::Snapshot;
use crate::{
    kernels::buyers::{BgNbd, GammaGamma},
    models::BaselineModel,
};

/// Fits both models on the customers at `rows`. None where they cannot be fitted, as when nobody has bought twice.
pub(super) fn fit(snapshot: &Snapshot, rows: &[usize], horizon_days: u32) -> Option<BaselineModel> {
    let histories: Vec<_> = rows.iter().map(|&i| snapshot.histories[i]).collect();
    let spends: Vec<_> = rows.iter().map(|&i| snapshot.spends[i]).collect();
    let purchases = BgNbd::fit(&histories).ok()?;
    let spend = GammaGamma::fit(&spends).ok()?;
    Some(BaselineModel { purchases, spend, horizon_days })
}

/// Gives for every customer: expected purchases, chance of being there, expected spend per purchase, expected spend.
pub(super) fn columns(model: Option<&BaselineModel>, snapshot: &Snapshot) -> Vec<[f64; 4]> {
    let Some(model) = model else { return vec![[f64::NAN; 4]; snapshot.customers.len()] };
    snapshot
        .histories
        .iter()
        .zip(&snapshot.spends)
        .map(|(history, spend)| {
            let purchases = model.purchases.expected_purchases(history, f64::from(model.horizon_days));
            let each = model.spend.expected_spend(spend);
            [purchases, model.purchases.alive(history), each, purchases * each]
        })
        .collect()
}
