//! Error messages.

use candle_core::{Result, Tensor};

use super::{norm_of, random};
use crate::arith::isa::available;
use crate::{AdamW, FeatureMap, GroupNorm, Muon, ParameterState, conv2d, group_norm, linear};

fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn mismatched_shapes_are_errors_that_name_them() {
    let conv_transpose2d = |x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, stride, padding| {
        super::conv_transpose2d(available()[0], x, weight, bias, stride, padding)
    };
    let x = random(1, &[2, 3, 5, 5]);
    let weight = random(2, &[4, 3, 3, 3]);
    let wrong = random(3, &[4, 2, 3, 3]);
    let oblong = random(4, &[4, 3, 3, 2]);
    let bias = random(5, &[3]);
    assert!(message(conv2d(&x, &wrong, None, 1, 1)).contains("have 3 channels"));
    assert!(message(conv2d(&x, &oblong, None, 1, 1)).contains("square"));
    assert!(message(conv2d(&x, &weight, Some(&bias), 1, 1)).contains("bias"));
    assert!(message(conv2d(&x, &weight, None, 0, 1)).contains("stride"));
    assert!(
        message(conv2d(&x.flatten_from(2).unwrap(), &weight, None, 1, 1))
            .contains("images (N, C, H, W)")
    );
    assert!(message(conv2d(&random(1, &[1, 3, 2, 9]), &weight, None, 1, 0)).contains("larger"));
    assert!(
        message(conv2d(&random(1, &[0, 3, 9, 9]), &weight, None, 1, 0))
            .contains("non-empty images")
    );
    assert!(message(conv_transpose2d(&x, &weight, None, 2, 1)).contains("needs 4"));
    let fitting = random(6, &[3, 4, 3, 3]);
    assert!(message(conv_transpose2d(&x, &fitting, None, 0, 1)).contains("stride"));
    assert!(message(conv_transpose2d(&x, &fitting, None, 1, 9)).contains("output would be empty"));
    assert!(message(conv_transpose2d(&x, &fitting, Some(&bias), 1, 1)).contains("bias"));
    assert!(message(group_norm(&x, &norm_of(2, &bias, &bias))).contains("do not divide"));
    assert!(message(group_norm(&x, &norm_of(0, &bias, &bias))).contains("groups"));
    let four = random(7, &[4]);
    assert!(message(group_norm(&x, &norm_of(3, &four, &bias))).contains("3 channels"));
    assert!(message(group_norm(&bias, &norm_of(3, &bias, &bias))).contains("expected (N, C"));
    let modulation = random(8, &[2, 3]);
    let modulated = GroupNorm { modulation: Some(&modulation), ..norm_of(3, &bias, &bias) };
    assert!(message(group_norm(&x, &modulated)).contains("modulation (N, 2·C) = [2, 6]"));
    let map = |x: &Tensor| FeatureMap::from_images(x).unwrap();
    assert!(
        message(map(&x).add_channel_embedding(&random(8, &[2, 4])))
            .contains("need an embedding (N, C)")
    );
    assert!(message(map(&x).avg_pool2()).contains("must be even"));
    assert!(
        message(map(&x).attention(&map(&x), &map(&x), 2)).contains("do not divide into 2 heads")
    );
    let other = map(&random(8, &[2, 4, 5, 6]));
    assert!(message(map(&x).attention(&other, &other, 1)).contains("same shape"));
    assert!(message(map(&x).add(&other)).contains("same shape"));
    assert!(message(map(&x).cat(&other)).contains("differ in their channels only"));
    let double = random(8, &[2, 4, 5, 5]).to_dtype(candle_core::DType::F64).unwrap();
    assert!(message(map(&x).cat(&map(&double))).contains("same type"));
    let rows = random(8, &[2, 3]);
    assert!(message(linear(&rows, &random(9, &[4, 5]), &four)).contains("linear: expected"));
    assert!(message(linear(&rows, &random(9, &[4, 3]), &bias)).contains("bias"));
    assert!(
        message(conv2d(&x, &weight, None, 1, usize::MAX)).contains("padding must be at most 65536")
    );
    let far =
        conv_transpose2d(&random(9, &[1, 1, 1, 1]), &random(8, &[1, 1, 2, 2]), None, 1_000_000, 0)
            .unwrap();
    assert_eq!(far.dims(), [1, 1, 2, 2]);
}

#[test]
fn updates_of_tensors_that_share_memory_are_errors() {
    let [weight, first, second] = [1, 2, 3].map(|seed| random(seed, &[9]));
    let constants = AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.0,
        step: 1,
        gradient_scale: 1.0,
    };
    let parameter =
        ParameterState { weight: &weight, first: &first, second: &second, average: None };
    assert!(message(crate::adamw(&weight, &parameter, &constants)).contains("share memory"));
    let gradient = random(4, &[9]);
    let aliased = ParameterState { average: Some((&weight, 0.1)), ..parameter };
    assert!(message(crate::adamw(&gradient, &aliased, &constants)).contains("share memory"));
    let early = AdamW { step: 0, ..constants };
    assert!(message(crate::adamw(&gradient, &parameter, &early)).contains("counted from 1"));
    crate::adamw(&gradient, &parameter, &constants).unwrap();
}

#[test]
fn muon_needs_matrices_that_share_no_memory() {
    let constants =
        Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.0, update_rms: 0.2, gradient_scale: 1.0 };
    let [weight, first, second] = [1, 2, 3].map(|seed| random(seed, &[3, 4]));
    let parameter =
        ParameterState { weight: &weight, first: &first, second: &second, average: None };
    let gradient = random(4, &[3, 4]);
    assert!(message(crate::muon(&[(&weight, parameter)], &constants)).contains("share memory"));
    let aliased = ParameterState { average: Some((&first, 0.1)), ..parameter };
    assert!(message(crate::muon(&[(&gradient, aliased)], &constants)).contains("share memory"));
    assert!(
        message(crate::muon(&[(&random(5, &[4, 3]), parameter)], &constants))
            .contains("shape [3, 4]")
    );
    let [weight, first, second] = [1, 2, 3].map(|seed| random(seed, &[9]));
    let vector = ParameterState { weight: &weight, first: &first, second: &second, average: None };
    assert!(message(crate::muon(&[(&random(4, &[9]), vector)], &constants)).contains("matrices"));
    crate::muon(&[(&gradient, parameter)], &constants).unwrap();
}
