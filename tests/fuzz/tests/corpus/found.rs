//! Inputs that once broke something, each with what must come of it now. Their files are in the corpus too.

use candle_core::Device;
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
