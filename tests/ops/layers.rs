//! What layers that differ from the usual do: attention over K and V of another layer, v made of k,
//! norms of columns, scaled residuals, routes and inputs; buffers whose rows change their width.
//! Part of `ops`.

use triton_vllm::device::{KvRow, RouteScore, Routing};

use super::*;

/// A head of q, k and v, of two elements.
const ONE_HEAD: AttnSpec = AttnSpec {
    heads: 1,
    kv_heads: 1,
    head_dim: 2,
    scale: 1.0,
    window: None,
    chunk: None,
    softcap: None,
    kv_scales: KvScales::ONE,
    q_only: false,
};

#[test]
fn q_alone_reads_what_another_layer_stored() {
    let (heads, kv_heads, head_dim, rows) = (4, 2, 24, 37);
    let own = AttnSpec {
        heads,
        kv_heads,
        head_dim,
        scale: 0.3,
        window: Some(9),
        chunk: None,
        softcap: None,
        kv_scales: KvScales::ONE,
        q_only: false,
    };
    let other = AttnSpec { q_only: true, ..own.clone() };
    assert_eq!((own.row_width(), other.row_width()), (8 * 24, 4 * 24));

    // Layers of other shapes lie before and behind it.
    let row = KvRow::Heads { kv_heads, head_dim };
    let rows_of = vec![KvRow::Heads { kv_heads: 1, head_dim: 40 }, row, row];
    let kv = KvShape { rows: rows_of, dtype: KvType::F32 };
    assert_eq!(kv.page_bytes(16), (2 * 40 + 2 * 2 * 2 * 24) * 16 * 4);
    let mut dev = device(Isa::detect(), 2, rows, 0, kv);
    let rope =
        Rope { rotary_dim: 24, inv_freq: inverse(24), magnitude: 1.0, growth: None, axes: None };
    let x = Noise(5).values(rows * own.row_width());
    let queries: Vec<f32> =
        x.chunks(own.row_width()).flat_map(|row| &row[..own.q_width()]).copied().collect();
    let mut qkv = tensor(&mut dev, rows, own.row_width(), &x);
    let mut q = tensor(&mut dev, rows, other.row_width(), &queries);
    let mut want = dev.tensor(rows, own.q_width()).unwrap();
    let mut got = dev.tensor(rows, own.q_width()).unwrap();

    for layer in [0, 2] {
        let noise = Noise(9).values(rows * own.row_width());
        let mut qkv = tensor(&mut dev, rows, own.row_width(), &noise);
        let narrow = AttnSpec { kv_heads: 1, head_dim: 40, heads: 1, ..own.clone() };
        let spec = if layer == 0 { &narrow } else { &own };
        dev.reshape(&mut qkv, spec.row_width()).unwrap();
        dev.rope_store(layer, spec, None, &mut qkv).unwrap();
    }
    dev.rope_store(1, &own, Some(&rope), &mut qkv).unwrap();
    dev.attend(1, &own, None, &qkv, &mut want).unwrap();
    dev.rope_store(1, &other, Some(&rope), &mut q).unwrap();
    dev.attend(1, &other, None, &q, &mut got).unwrap();
    assert!(dev.read(&got, rows).unwrap() == dev.read(&want, rows).unwrap());
    let f64s = attention_f64(&own, Some(&rope), own.row_width(), &x, None, &|x, _| x);
    close("attend", &dev.read(&got, rows).unwrap(), &f64s, 3e-6);
}

#[test]
fn v_is_k_and_columns_are_normed() {
    let mut dev = device(Isa::detect(), 1, 2, 0, no_kv());
    let spec = ONE_HEAD;
    let qk = tensor(&mut dev, 2, 4, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let mut qkv = dev.tensor(2, 6).unwrap();
    dev.values_of_keys(&spec, &qk, &mut qkv).unwrap();
    let spread = [1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 7.0, 8.0];
    assert_eq!(dev.read(&qkv, 2).unwrap(), spread);

    let weight = upload(&mut dev, WeightKind::Vector, DType::F32, (2, 1), &[1.0, 10.0]);
    let norm = Norm { kind: NormKind::Rms, eps: 0.0, weight, bias: None };
    dev.norm_parts(&norm, 4..6, &mut qkv).unwrap();
    dev.scale(2.0, &mut qkv).unwrap();
    let [a, b] = [12.5f32.sqrt(), 56.5f32.sqrt()];
    let want = [2.0, 4.0, 6.0, 8.0, 6.0 / a, 80.0 / a, 10.0, 12.0, 14.0, 16.0, 14.0 / b, 160.0 / b];
    close("norm_parts", &dev.read(&qkv, 2).unwrap(), &want.map(f64::from), 1e-6);
}

#[test]
fn routes_and_inputs_are_weighted() {
    let mut dev = device(Isa::detect(), 1, 2, 0, no_kv());
    let routing = Routing::softmax(3, 1, false);
    let x = tensor(&mut dev, 2, 2, &[1.0, 0.0, 0.0, 2.0]);
    let router =
        upload(&mut dev, WeightKind::Linear, DType::F32, (3, 2), &[0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    let mut routes = dev.routes_tensor(2, &routing).unwrap();
    dev.route(&router, None, None, &routing, &x, &mut routes).unwrap();
    let shares = dev.read(&routes, 2).unwrap();
    assert_eq!((shares[0], shares[2]), (1.0, 2.0));

    let scales = upload(&mut dev, WeightKind::Vector, DType::F32, (3, 1), &[7.0, 3.0, 0.5]);
    dev.scale_routes(&scales, &routing, &mut routes).unwrap();
    let scaled = [1.0, 3.0 * shares[1], 2.0, 0.5 * shares[3]];
    assert_eq!(dev.read(&routes, 2).unwrap(), scaled);
    let mut out = dev.tensor(2, 2).unwrap();
    dev.weigh_inputs(&mut routes, &x, &mut out).unwrap();
    assert_eq!(dev.read(&out, 2).unwrap(), [scaled[1], 0.0, 0.0, 2.0 * scaled[3]]);
    assert_eq!(dev.read(&routes, 2).unwrap(), [1.0, 1.0, 2.0, 1.0]);
}

/// Sigmoids that are 1 to the last bit do not hide which product is larger.
#[test]
fn experts_are_chosen_by_products() {
    let mut dev = device(Isa::detect(), 1, 1, 0, no_kv());
    let x = tensor(&mut dev, 1, 1, &[1.0]);
    let router = upload(&mut dev, WeightKind::Linear, DType::F32, (3, 1), &[40.0, 60.0, -2.0]);
    for (score, chosen) in [(RouteScore::Sigmoid, 0.0), (RouteScore::SigmoidOfChosen, 1.0)] {
        let routing = Routing { score, ..Routing::softmax(3, 1, false) };
        let mut routes = dev.routes_tensor(1, &routing).unwrap();
        dev.route(&router, None, None, &routing, &x, &mut routes).unwrap();
        assert_eq!(dev.read(&routes, 1).unwrap(), [chosen, 1.0], "{score:?}");
    }
}

#[test]
fn q_that_does_not_turn_grows_ahead_of_its_position() {
    let spec = ONE_HEAD;
    let growth = Some(QueryGrowth { beta: 0.5, ahead: 1, length: 2 });
    let rope = Rope { rotary_dim: 0, inv_freq: Vec::new(), magnitude: 1.0, growth, axes: None };
    let kv = KvShape::heads(1, 1, 2, KvType::F32);
    let mut dev = device(Isa::detect(), 1, 4, 0, kv);
    let mut qkv = tensor(&mut dev, 4, 6, &[1.0; 24]);
    dev.rope_store(0, &spec, Some(&rope), &mut qkv).unwrap();
    let q: Vec<f32> = dev.read(&qkv, 4).unwrap().chunks(6).map(|row| row[0]).collect();
    let [one, two] = [1.0 + 0.5 * 2f32.ln(), 1.0 + 0.5 * 3f32.ln()];
    assert_eq!(q, [1.0, one, one, two]);
    assert_eq!(dev.read(&qkv, 4).unwrap()[6 * 3 + 2..], [1.0; 4]);
}

#[test]
fn rows_are_standardised_column_by_column() {
    let mut dev = device(Isa::detect(), 1, 2, 0, no_kv());
    let mut x = tensor(&mut dev, 2, 2, &[1.0, 2.0, -3.0, 0.5]);
    let mut column =
        |values: &[f32]| upload(&mut dev, WeightKind::Vector, DType::F32, (2, 1), values);
    let (bias, scale) = (column(&[0.5, -1.0]), column(&[2.0, 10.0]));
    dev.standardise(4.0, &bias, &scale, &mut x).unwrap();
    assert_eq!(dev.read(&x, 2).unwrap(), [7.0, 90.0, -25.0, 30.0]);
}

#[test]
fn rows_change_their_width_within_what_there_is() {
    let mut dev = device(Isa::detect(), 1, 2, 0, no_kv());
    let mut x = dev.tensor(2, 6).unwrap();
    dev.reshape(&mut x, 4).unwrap();
    assert_eq!(dev.read(&x, 2).unwrap().len(), 8);
    dev.reshape(&mut x, 6).unwrap();
    assert!(dev.reshape(&mut x, 7).is_err());
}
