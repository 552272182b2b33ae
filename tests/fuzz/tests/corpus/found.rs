//! Inputs that once broke something, each with what must come of it now. Their files are in the corpus too.

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use segue_coordinator::server::desk::Desk;
use segue_fuzz::{honest, scratch::Scratch, targets::store::unpack};
use segue_worker::{
    kernels::sentence::{ModelBytes, SentenceModel},
    ops::tables,
};

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
fn a_tokenizer_that_adds_ids_beyond_the_words_of_the_model_is_refused_before_they_are_looked_up() {
    let files = ModelBytes {
        weights: include_bytes!("../../corpus/model/small.safetensors").to_vec(),
        tokenizer: include_bytes!("../../corpus/model/found-template-beyond-the-vocabulary.json").to_vec(),
        config: include_bytes!("../../corpus/model/small-config.json").to_vec(),
    };
    let model = SentenceModel::load(files, &Device::Cpu).unwrap();
    let refused = model.embed(&["heart"], &AtomicBool::new(false), &mut |_, _| {}).unwrap_err().to_string();
    assert!(refused.contains("config.json has 7 words"), "{refused}");
}

#[test]
fn a_table_that_the_reader_gives_up_on_is_refused_by_its_path() {
    let broken: [&[u8]; 4] = [
        include_bytes!("../../corpus/model/found-table-with-a-short-bitmap.parquet"),
        include_bytes!("../../corpus/model/found-table-with-a-broken-statistic.parquet"),
        include_bytes!("../../corpus/model/found-table-with-a-broken-column.parquet"),
        include_bytes!("../../corpus/model/found-table-without-a-path.parquet"),
    ];
    let scratch = Scratch::new();
    for bytes in broken {
        let path = scratch.file("customers.parquet", bytes);
        let refused = tables::read(&path).unwrap_err().0.message;
        assert!(refused.contains("customers.parquet is not a Parquet table: "), "{refused}");
    }
}

#[test]
fn a_part_of_the_feed_without_events_stops_the_start_and_not_the_first_event_after_it() {
    let rows = unpack(include_bytes!("../../corpus/store/found-part-of-the-feed-without-events"));
    let refused = Desk::start(rows, honest::LEASE_MS, honest::BEGINNING).unwrap_err().to_string();
    assert!(refused.contains("events/") && refused.contains("without events"), "{refused}");
}

#[test]
fn a_part_of_the_feed_at_the_end_of_all_numbers_stops_the_start_and_not_the_first_event_after_it() {
    let rows = unpack(include_bytes!("../../corpus/store/found-part-of-the-feed-at-the-end-of-numbers"));
    let refused = Desk::start(rows, honest::LEASE_MS, honest::BEGINNING).unwrap_err().to_string();
    assert!(refused.contains("events/") && refused.contains("more events than there can be"), "{refused}");
}
