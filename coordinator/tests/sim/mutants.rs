//! Deliberate defects, each of which the auditor has to notice: a simulation that finds nothing proves nothing otherwise.

use crate::disk::Disk;

/// Those of the simulation's own disk. Those of the coordinator are in it only with the feature `defects`.
const OF_DISK: [&str; 2] = ["AckBeforeFlush", "TornBatch"];

/// Names all that this build has.
pub fn all() -> Vec<String> {
    let names = OF_DISK.into_iter().map(str::to_owned);
    #[cfg(feature = "defects")]
    let names = names.chain(segue_coordinator::defect::Defect::ALL.into_iter().map(|defect| format!("{defect:?}")));
    names.collect()
}

/// Switches one on.
pub fn switch_on(name: &str, disk: &Disk) {
    match name {
        "AckBeforeFlush" => disk.lie(),
        "TornBatch" => disk.tear(),
        _ => {
            #[cfg(feature = "defects")]
            if let Some(defect) =
                segue_coordinator::defect::Defect::ALL.into_iter().find(|defect| format!("{defect:?}") == name)
            {
                return defect.switch_on();
            }
            panic!("there is no defect {name} in this build: {:?}", all());
        }
    }
}
