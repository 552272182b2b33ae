//! Inputs that once broke something, each with what must come of it now. Their files are in the corpus too.

use candle_core::Device;
use segue_coordinator::server::desk::Desk;
use segue_fuzz::{honest, targets::store::unpack};
use segue_worker::kernels::sentence::{ModelBytes, SentenceModel};

#[test]
fn a_tokenizer_whose_decoder_breaks_off_is_refused_by_name() {
    let files = ModelBytes {
        weights: include_bytes!("../../corpus/model/small.safetensors").to_vec(),
        tokenizer: include_bytes!("../../corpus/model/found-decoder-that-breaks-off.json").to_vec(),
        config: include_bytes!("../../corpus/model/small-config.json").to_vec(),
    };
    let refused = SentenceModel::load(files, &Device::Cpu).unwrap_err().to_string();
    assert!(refused.contains("tokenizer.json cannot be used"), "{refused}");
}

#[test]
fn a_part_of_the_feed_without_events_stops_the_start_and_not_the_first_event_after_it() {
    let rows = unpack(include_bytes!("../../corpus/store/found-part-of-the-feed-without-events"));
    let refused = Desk::start(rows, honest::LEASE_MS, honest::BEGINNING).unwrap_err().to_string();
    assert!(refused.contains("events/") && refused.contains("without events"), "{refused}");
}
