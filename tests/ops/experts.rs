//! The ops of a mixture of experts: against naive loops in f64, and bit for bit whatever other
//! rows are there. Unequal numbers of rows for each expert, experts that nobody chose, one row.

use super::*;
use triton_vllm::device::{RouteGroups, RouteScore, Routing};

/// (rows, hidden, ffn, experts, top_k)
const MIXTURES: [(usize, usize, usize, usize, usize); 5] =
    [(1, 8, 5, 4, 2), (9, 16, 33, 6, 1), (30, 40, 24, 7, 7), (64, 20, 40, 33, 4), (5, 7, 3, 64, 8)];

struct Case {
    rows: usize,
    hidden: usize,
    ffn: usize,
    routing: Routing,
    x: Vec<f32>,
    router: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
    act: Activation,
    /// Of the router, of gates and ups, and of downs; or none.
    biases: Option<[Vec<f32>; 3]>,
    choice_bias: Option<Vec<f32>>,
}

impl Case {
    fn new(shape: (usize, usize, usize, usize, usize), renormalise: bool, biased: bool) -> Case {
        let (rows, hidden, ffn, experts, top_k) = shape;
        let mut noise = Noise((rows * experts) as u64);
        let mut router = noise.values(experts * hidden);
        // Larger and larger, so that some experts get most rows and some none.
        for (e, row) in router.chunks_exact_mut(hidden).enumerate() {
            row.iter_mut().for_each(|w| *w *= (1 + e) as f32 / experts as f32);
        }
        Case {
            rows,
            hidden,
            ffn,
            routing: Routing::softmax(experts, top_k, renormalise),
            x: noise.values(rows * hidden),
            router,
            up: noise.values(experts * 2 * ffn * hidden),
            down: noise.values(experts * hidden * ffn),
            act: Activation::SiluGated,
            biases: None,
            choice_bias: biased
                .then(|| noise.values(experts).iter().map(|b| b / experts as f32).collect()),
        }
    }

    /// The same with biases everywhere, the other activation, and rows large enough for its clamps.
    fn biased(shape: (usize, usize, usize, usize, usize)) -> Case {
        let case = Case::new(shape, true, false);
        let Routing { experts, .. } = case.routing;
        let mut noise = Noise(77);
        let mut values = |n: usize| noise.values(n);
        let biases =
            [values(experts), values(experts * 2 * case.ffn), values(experts * case.hidden)];
        Case {
            x: case.x.iter().map(|x| 6.0 * x).collect(),
            act: Activation::SwigluOai,
            biases: Some(biases),
            ..case
        }
    }

    /// The same by sigmoid, out of some groups if the experts make groups, and scaled.
    fn grouped(self, count: usize, top: usize) -> Case {
        let groups = (count > 1).then_some(RouteGroups { count, top });
        let routing = Routing { score: RouteScore::Sigmoid, groups, scale: 1.7, ..self.routing };
        Case { routing, ..self }
    }

    fn bias(&self, of: usize, n: usize) -> f64 {
        self.biases.as_ref().map_or(0.0, |biases| f64::from(biases[of][n]))
    }

    /// Routes and the mixture of rows `from..from + rows`.
    fn run(&self, isa: Isa, threads: usize, from: usize, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let Case { hidden, ffn, routing, .. } = *self;
        let Routing { experts, top_k, .. } = routing;
        let mut dev = device(isa, threads, rows, 0, no_kv());
        let x = tensor(&mut dev, rows, hidden, &self.x[from * hidden..(from + rows) * hidden]);
        let shape = (experts, hidden);
        let router = upload(&mut dev, WeightKind::Linear, DType::F32, shape, &self.router);
        let stack = |gated| WeightKind::Experts { count: experts, gated };
        let shape = (experts * 2 * ffn, hidden);
        let up = upload(&mut dev, stack(true), DType::F32, shape, &self.up);
        let shape = (experts * hidden, ffn);
        let down = upload(&mut dev, stack(false), DType::F32, shape, &self.down);

        let mut routes = dev.routes_tensor(rows, &routing).unwrap();
        let mut middle = dev.tensor(rows * top_k, ffn).unwrap();
        let mut parts = dev.tensor(rows * top_k, hidden).unwrap();
        let mut out = dev.tensor(rows, hidden).unwrap();

        let mut bias = |of: usize| {
            let values = self.biases.as_ref().map(|biases| &biases[of]);
            let shape = |values: &Vec<f32>| (values.len(), 1);
            values.map(|v| upload(&mut dev, WeightKind::Vector, DType::F32, shape(v), v))
        };
        let (of_router, of_up, of_down) = (bias(0), bias(1), bias(2));
        let choice = self.choice_bias.as_ref();
        let choice =
            choice.map(|b| upload(&mut dev, WeightKind::Vector, DType::F32, (experts, 1), b));
        let biases = (of_router.as_ref(), choice.as_ref());
        dev.route(&router, biases.0, biases.1, &routing, &x, &mut routes).unwrap();
        dev.experts_act(&up, of_up.as_ref(), self.act, &routes, &x, &mut middle).unwrap();
        dev.experts(&down, of_down.as_ref(), &routes, &middle, &mut parts).unwrap();
        dev.combine(&down, &routes, &parts, &mut out).unwrap();
        (dev.read(&routes, rows).unwrap(), dev.read(&out, rows).unwrap())
    }

    /// The experts of a row with their weights, largest first.
    fn routes_f64(&self, r: usize) -> Vec<(usize, f64)> {
        let x = &self.x[r * self.hidden..(r + 1) * self.hidden];
        let rows = self.router.chunks_exact(self.hidden).enumerate();
        let sigmoid = self.routing.score == RouteScore::Sigmoid;
        let score = |x: f64| if sigmoid { 1.0 / (1.0 + (-x).exp()) } else { x.exp() };
        let scores = rows.map(|(e, w)| (e, score(dot_f64(x, w) + self.bias(0, e))));
        let mut scores: Vec<(usize, f64)> = scores.collect();
        let all: f64 = if sigmoid { 1.0 } else { scores.iter().map(|s| s.1).sum() };
        let bias = |e: usize| self.choice_bias.as_ref().map_or(0.0, |bias| f64::from(bias[e]));
        let worth = |&(e, score): &(usize, f64)| score / all + bias(e);

        if let Some(RouteGroups { count, top }) = self.routing.groups {
            let group = |e: usize| e * count / self.routing.experts;
            let of_group = |g: usize| {
                let members = scores.iter().filter(|s| group(s.0) == g);
                let mut worths: Vec<f64> = members.map(worth).collect();
                worths.sort_by(|a, b| b.total_cmp(a));
                worths.iter().take(if self.choice_bias.is_some() { 2 } else { 1 }).sum::<f64>()
            };
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| of_group(b).total_cmp(&of_group(a)));
            scores.retain(|s| order[..top].contains(&group(s.0)));
        }

        scores.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        scores.truncate(self.routing.top_k);
        let chosen: f64 = scores.iter().map(|s| s.1).sum();
        let total = if self.routing.renormalise { chosen } else { all };
        let scale = f64::from(self.routing.scale);
        scores.iter().map(|&(e, s)| (e, s / total * scale)).collect()
    }

    fn mixture_f64(&self, r: usize) -> Vec<f64> {
        let Case { hidden, ffn, .. } = *self;
        let x = &self.x[r * hidden..(r + 1) * hidden];
        let mut out = vec![0.0; hidden];
        for (e, weight) in self.routes_f64(r) {
            let up = &self.up[e * 2 * ffn * hidden..][..2 * ffn * hidden];
            let row = |n: usize| {
                dot_f64(x, &up[n * hidden..(n + 1) * hidden]) + self.bias(1, e * 2 * ffn + n)
            };
            let middle: Vec<f64> =
                (0..ffn).map(|n| gated_f64(self.act, row(n), row(ffn + n))).collect();
            for (h, out) in out.iter_mut().enumerate() {
                let w = &self.down[(e * hidden + h) * ffn..][..ffn];
                let sum: f64 = middle.iter().zip(w).map(|(m, w)| m * f64::from(*w)).sum();
                *out += weight * (sum + self.bias(2, e * hidden + h));
            }
        }
        out
    }
}

fn dot_f64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[test]
fn a_mixture_equals_f64() {
    for shape in MIXTURES {
        for (renormalise, biased) in [(false, false), (true, false), (true, true)] {
            let case = Case::new(shape, renormalise, biased);
            let top_k = case.routing.top_k;
            let what = format!("{shape:?} renormalise {renormalise} biased {biased}");
            let (routes, out) = case.run(Isa::detect(), 2, 0, case.rows);
            let mut hits = vec![0; case.routing.experts];
            for (r, row) in routes.chunks_exact(2 * top_k).enumerate() {
                let want = case.routes_f64(r);
                let numbers: Vec<f32> = want.iter().map(|w| w.0 as f32).collect();
                assert_eq!(row[..top_k], numbers, "{what}: row {r}");
                let weights: Vec<f64> = want.iter().map(|w| w.1).collect();
                close(&what, &row[top_k..], &weights, 1e-6);
                want.iter().for_each(|w| hits[w.0] += 1);
            }
            let want: Vec<f64> = (0..case.rows).flat_map(|r| case.mixture_f64(r)).collect();
            close(&what, &out, &want, 2e-6);
            // The table has what it is for.
            let (most, least) = (hits.iter().max().unwrap(), hits.iter().min().unwrap());
            assert!(top_k == hits.len() || most > least, "{what}: {hits:?}");
            assert!(shape.0 > 1 || *least == 0);
        }
    }
}

/// Sigmoid scores, the best groups by one or by two, a scale.
#[test]
fn experts_out_of_groups_equal_f64() {
    for (shape, count, top) in [
        ((9, 16, 33, 6, 2), 1, 1),
        ((30, 40, 24, 8, 3), 4, 2),
        ((64, 20, 40, 33, 4), 3, 1),
        ((20, 24, 8, 64, 8), 8, 4),
        ((12, 24, 8, 16, 2), 16, 5),
    ] {
        for (renormalise, biased) in [(false, false), (true, false), (true, true), (false, true)] {
            let case = Case::new(shape, renormalise, biased).grouped(count, top);
            let top_k = case.routing.top_k;
            let what = format!("{shape:?}, {top} of {count} groups, biased {biased}");
            let (routes, out) = case.run(Isa::detect(), 1, 0, case.rows);
            for (r, row) in routes.chunks_exact(2 * top_k).enumerate() {
                let want = case.routes_f64(r);
                let numbers: Vec<f32> = want.iter().map(|w| w.0 as f32).collect();
                assert_eq!(row[..top_k], numbers, "{what}: row {r}");
                let weights: Vec<f64> = want.iter().map(|w| w.1).collect();
                close(&what, &row[top_k..], &weights, 1e-6);
            }
            let want: Vec<f64> = (0..case.rows).flat_map(|r| case.mixture_f64(r)).collect();
            close(&what, &out, &want, 2e-6);
        }
    }
}

#[test]
fn a_mixture_with_biases_equals_f64() {
    for shape in MIXTURES {
        let case = Case::biased(shape);
        let (_, out) = case.run(Isa::detect(), 2, 0, case.rows);
        let want: Vec<f64> = (0..case.rows).flat_map(|r| case.mixture_f64(r)).collect();
        close(&format!("{shape:?}"), &out, &want, 2e-6);
    }
}

/// Neither company, nor instruction set, nor threads change a bit (docs/architecture.md, Laws:
/// row-invariant CPU products).
#[test]
fn a_mixture_is_row_invariant() {
    // The last one is big enough to be shared between threads.
    for shape in [(30, 40, 24, 7, 3), (64, 20, 40, 33, 4), (96, 256, 320, 3, 2)] {
        let case = Case::new(shape, true, true);
        let want = case.run(Isa::all()[0], 1, 0, case.rows);
        for isa in Isa::all() {
            assert!(case.run(isa, 2, 0, case.rows) == want, "{shape:?} {}", isa.name());
            for (from, rows) in [(0, 1), (3, 1), (5, 7), (11, 16)] {
                let got = case.run(isa, 1, from, rows);
                let (routes, hidden) = (2 * case.routing.top_k, case.hidden);
                let part = |all: &[f32], width| all[from * width..(from + rows) * width].to_vec();
                assert!(got.0 == part(&want.0, routes), "{shape:?}: routes {from} + {rows}");
                assert!(got.1 == part(&want.1, hidden), "{shape:?}: rows {from} + {rows}");
            }
        }
    }
}

#[test]
fn equal_experts_are_taken_in_order() {
    let mut dev = device(Isa::detect(), 1, 2, 0, no_kv());
    let x = tensor(&mut dev, 2, 1, &[1.0, -1.0]);
    let weights = [0.5, 2.0, 2.0, 0.5];
    let router = upload(&mut dev, WeightKind::Linear, DType::F32, (4, 1), &weights);
    let routing = Routing::softmax(4, 3, true);
    let mut routes = dev.routes_tensor(2, &routing).unwrap();
    dev.route(&router, None, None, &routing, &x, &mut routes).unwrap();
    let routes = dev.read(&routes, 2).unwrap();
    assert_eq!((&routes[..3], &routes[6..9]), (&[1.0, 2.0, 0.0][..], &[0.0, 3.0, 1.0][..]));
}

#[test]
fn a_shared_expert_is_added_by_its_gate() {
    let (rows, width) = (5, 21);
    let mut noise = Noise(12);
    let (x, delta) = (noise.values(rows * width), noise.values(rows * width));
    let (gate, old) = (noise.values(width), noise.values(rows * width));
    let mut dev = device(Isa::detect(), 1, rows, 0, no_kv());
    let weight = upload(&mut dev, WeightKind::Vector, DType::F32, (width, 1), &gate);
    let [xt, dt] = [&x, &delta].map(|v| tensor(&mut dev, rows, width, v));
    let mut out = tensor(&mut dev, rows, width, &old);
    dev.add_gated(&weight, &xt, &dt, &mut out).unwrap();
    let mut want = Vec::new();
    for (r, row) in x.chunks_exact(width).enumerate() {
        let share = 1.0 / (1.0 + (-dot_f64(row, &gate)).exp());
        let at = |i| r * width + i;
        want.extend((0..width).map(|i| f64::from(old[at(i)]) + share * f64::from(delta[at(i)])));
    }
    close("add_gated", &dev.read(&out, rows).unwrap(), &want, 1e-6);
}
