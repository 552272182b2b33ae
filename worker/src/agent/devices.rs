//! Which GPUs a process sees: those of its lease, and no others.

use std::collections::BTreeMap;

use segue_proto::v1;

/// The variable that CUDA looks at.
pub const CUDA: &str = "CUDA_VISIBLE_DEVICES";

/// Those that name the same list to CUDA, to NVIDIA's container tools and to ROCm.
const VARIABLES: [&str; 3] = [CUDA, "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"];

/// Gives the devices of a lease by index; `None` where it holds GPUs and does not say which.
pub fn leased(resources: Option<&v1::Resources>) -> Option<Vec<u32>> {
    let Some(resources) = resources else { return Some(Vec::new()) };
    (resources.gpu_milli == 0 || !resources.devices.is_empty()).then(|| resources.devices.clone())
}

/// Names these devices as the drivers want it. `own` is what this worker itself may see: a lease counts within that. An
/// empty list hides every GPU.
pub fn variables(devices: &[u32], own: Option<&str>) -> BTreeMap<String, String> {
    let visible: Vec<&str> = own.map(|own| own.split(',').map(str::trim).collect()).unwrap_or_default();
    let name = |&index: &u32| match visible.get(index as usize) {
        Some(name) => (*name).to_owned(),
        None => index.to_string(),
    };
    let list = devices.iter().map(name).collect::<Vec<_>>().join(",");
    let value = |variable: &str| match (variable, devices.is_empty()) {
        // Its word for none: an empty value means that nothing was said.
        ("NVIDIA_VISIBLE_DEVICES", true) => "none".to_owned(),
        _ => list.clone(),
    };
    VARIABLES.iter().map(|variable| ((*variable).to_owned(), value(variable))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_on_gpus_names_them_within_what_the_worker_sees() {
        assert_eq!(variables(&[0, 2], None)[CUDA], "0,2");
        assert_eq!(variables(&[0, 2], Some("4, GPU-a ,7"))["HIP_VISIBLE_DEVICES"], "4,7");
    }

    #[test]
    fn a_lease_without_gpus_hides_them() {
        let hidden = variables(&[], Some("0,1"));
        assert_eq!((hidden[CUDA].as_str(), hidden["NVIDIA_VISIBLE_DEVICES"].as_str()), ("", "none"));
    }

    #[test]
    fn a_lease_that_does_not_say_which_gpus_it_holds_hides_none() {
        let held = v1::Resources { gpu_milli: 500, ..v1::Resources::default() };
        assert_eq!(leased(Some(&held)), None);
        assert_eq!(leased(Some(&v1::Resources { devices: vec![1], ..held })), Some(vec![1]));
        assert_eq!(leased(Some(&v1::Resources::default())), Some(vec![]));
        assert_eq!(leased(None), Some(vec![]));
    }
}
