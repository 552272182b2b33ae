//! Parts of the customers for cross-validation.

/// Gives the fold of a customer: its number modulo `folds`; for an id that is no number, a hash that never changes.
pub(super) fn fold(id: &str, folds: u32) -> u32 {
    let number = id.parse::<u64>().unwrap_or_else(|_| {
        let hash = blake3::hash(id.as_bytes());
        hash.as_bytes()[..8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
    });
    (number % u64::from(folds)) as u32
}

#[cfg(test)]
mod tests {
    use super::fold;

    #[test]
    fn numbers_go_by_their_remainder_and_other_ids_by_a_fixed_hash() {
        assert_eq!([fold("12347", 5), fold("17850", 5)], [2, 0]);
        let parts: Vec<u32> = (0..100).map(|i| fold(&format!("customer-{i}"), 5)).collect();
        assert!((0..5).all(|part| parts.iter().filter(|&&p| p == part).count() > 5), "{parts:?}");
    }
}
