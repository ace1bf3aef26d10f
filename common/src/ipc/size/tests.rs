#![allow(clippy::unwrap_used)]
use super::*;
use crate::ipc::encode::encode_batch;
use crate::ipc::shrink::shrink_to_fit;
use crate::ipc::test_data;

#[test]
fn data_bytes_is_at_most_2_kib_over_the_encoded_body() {
    let mut rng = test_data::rng(3);
    for data_type in test_data::types() {
        let whole = test_data::batch_of(&mut rng, std::slice::from_ref(&data_type), 500);
        let slice = shrink_to_fit(&whole.slice(100, 300));
        let (_, message) = encode_batch(&slice).unwrap();
        let (encoded, computed) = (message.body.len(), data_bytes(&slice));
        assert!(computed >= encoded && computed <= encoded + 2048, "{data_type}: {computed} for {encoded}");
    }
}
