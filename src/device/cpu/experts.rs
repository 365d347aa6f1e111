//! A mixture of experts on the CPU: rows choose experts, the rows of one expert are gathered and
//! multiplied together, each row's results are added up. Sums run in an order that no other row has
//! a say in, as everywhere on this device.

use super::buffer::Tensor;
use super::panels::Panels;
use super::weight::Weight;
use super::{numbers, Cpu};
use crate::device::{Activation, ExpertOps, RouteGroups, RouteScore, Routing, SPARSE_MIXER_SPAN};
use crate::error::Result;
use crate::internal;

impl ExpertOps for Cpu {
    fn routes_tensor(&mut self, rows: usize, routing: &Routing) -> Result<Tensor> {
        Tensor::new(rows, 2 * routing.top_k)
    }

    fn route(
        &mut self,
        gate: &Weight,
        bias: Option<&Weight>,
        choice_bias: Option<&Weight>,
        routing: &Routing,
        x: &Tensor,
        routes: &mut Tensor,
    ) -> Result<()> {
        let (rows, experts, top_k) = (self.rows(), routing.experts, routing.top_k);
        let panels = gate.panels();
        if panels.lanes.outputs != experts || routes.width != 2 * top_k || top_k > experts {
            return Err(internal!(
                "{top_k} of {experts} experts by {} outputs",
                panels.lanes.outputs
            ));
        }
        let mut logits = vec![0.0; rows * experts];
        if rows > 0 {
            self.multiply(rows, panels, bias.map(Weight::vector), None, &x.data, &mut logits);
        }
        for (r, row) in logits.chunks_exact_mut(experts).enumerate() {
            let products = row.to_vec();
            let mut total = score(routing.score, row);
            let by_products = routing.score == RouteScore::SigmoidOfChosen;
            let mut worth = if by_products { products } else { row.to_vec() };
            if let Some(bias) = choice_bias {
                let shares = row.iter().zip(bias.vector()).map(|(e, b)| e / total + b);
                worth.iter_mut().zip(shares).for_each(|(worth, share)| *worth = share);
            }
            if let Some(groups) = &routing.groups {
                keep_groups(groups, choice_bias.is_some(), &mut worth);
            }

            let (numbers, weights) = routes.row_mut(r).split_at_mut(top_k);
            for (number, weight) in numbers.iter_mut().zip(weights.iter_mut()) {
                // The first of the largest.
                let best =
                    (1..experts).fold(0, |best, e| if worth[e] > worth[best] { e } else { best });
                (*number, *weight) = (best as f32, row[best]);
                if routing.score == RouteScore::SparseMixer {
                    *weight = share_of_near(&worth, best);
                }
                worth[best] = f32::NEG_INFINITY;
            }
            if routing.renormalise {
                total = weights.iter().sum();
            }
            weights.iter_mut().for_each(|w| *w = *w / total * routing.scale);
        }
        Ok(())
    }

    fn scale_routes(
        &mut self,
        scales: &Weight,
        routing: &Routing,
        routes: &mut Tensor,
    ) -> Result<()> {
        let scales = scales.vector();
        for r in 0..self.rows() {
            let (numbers, weights) = routes.row_mut(r).split_at_mut(routing.top_k);
            let chosen = numbers.iter().map(|&number| scales[number as usize]);
            weights.iter_mut().zip(chosen).for_each(|(weight, scale)| *weight *= scale);
        }
        Ok(())
    }

    fn weigh_inputs(&mut self, routes: &mut Tensor, x: &Tensor, out: &mut Tensor) -> Result<()> {
        if routes.width != 2 {
            return Err(internal!("inputs by the weights of {} choices", routes.width / 2));
        }
        for r in 0..self.rows() {
            let weight = std::mem::replace(&mut routes.row_mut(r)[1], 1.0);
            out.row_mut(r).iter_mut().zip(x.row(r)).for_each(|(o, x)| *o = weight * x);
        }
        Ok(())
    }

    fn experts_act(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        act: Activation,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        multiply(self, (weight, bias), Some(act), routes, x, out)
    }

    fn experts(
        &mut self,
        weight: &Weight,
        bias: Option<&Weight>,
        routes: &Tensor,
        x: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        multiply(self, (weight, bias), None, routes, x, out)
    }

    fn combine(
        &mut self,
        down: &Weight,
        routes: &Tensor,
        parts: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let top_k = routes.width / 2;
        let rows = self.rows();
        for r in 0..rows {
            let out = out.row_mut(r);
            out.fill(0.0);
            for (j, &weight) in routes.row(r)[top_k..].iter().enumerate() {
                let part = parts.row(r * top_k + j);
                out.iter_mut().zip(part).for_each(|(o, p)| *o += weight * p);
            }
        }
        self.join_sums(down, rows, out)
    }

    fn experts_sum(
        &mut self,
        down: &Weight,
        bias: Option<&Weight>,
        routes: &Tensor,
        x: &Tensor,
        parts: &mut Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        self.experts(down, bias, routes, x, parts)?;
        self.combine(down, routes, parts, out)
    }

    fn add_gated(
        &mut self,
        gate: &Weight,
        x: &Tensor,
        delta: &Tensor,
        out: &mut Tensor,
    ) -> Result<()> {
        let rows = self.rows();
        for r in 0..rows {
            let share = 1.0 / (1.0 + numbers::exp(-numbers::dot(gate.vector(), x.row(r))));
            out.row_mut(r).iter_mut().zip(delta.row(r)).for_each(|(o, d)| *o += share * d);
        }
        self.join_sums(gate, rows, out)
    }
}

/// The scores of a row in place of its products; what they are to be divided by.
fn score(kind: RouteScore, row: &mut [f32]) -> f32 {
    match kind {
        RouteScore::Softmax => {
            let top = numbers::max(row);
            row.iter_mut().for_each(|l| *l = numbers::exp(*l - top));
            numbers::sum_by(row, |e| e)
        }
        RouteScore::Sigmoid | RouteScore::SigmoidOfChosen => {
            row.iter_mut().for_each(|l| *l = 1.0 / (1.0 + numbers::exp(-*l)));
            1.0
        }
        RouteScore::SparseMixer => 1.0,
    }
}

/// The share of the best expert among those left that come near to it.
fn share_of_near(left: &[f32], best: usize) -> f32 {
    let best = left[best];
    // Those that are taken are infinitely far.
    let is_far = |x: f32| (best - x) / x.abs().max(best) > SPARSE_MIXER_SPAN;
    let near = left.iter().filter(|x| x.is_finite() && !is_far(**x));
    1.0 / near.map(|x| numbers::exp(x - best)).sum::<f32>()
}

/// Take away the experts outside of the best groups; of equals the first is the better one.
fn keep_groups(groups: &RouteGroups, by_two: bool, worth: &mut [f32]) {
    let size = worth.len() / groups.count;
    let of_group = |group: &[f32]| {
        let mut best = [f32::NEG_INFINITY; 2];
        for &x in group {
            if x > best[0] {
                best = [x, best[0]];
            } else if x > best[1] {
                best[1] = x;
            }
        }
        if by_two && size > 1 {
            best[0] + best[1]
        } else {
            best[0]
        }
    };
    let of_groups: Vec<f32> = worth.chunks_exact(size).map(of_group).collect();

    for (g, group) in worth.chunks_exact_mut(size).enumerate() {
        let own = of_groups[g];
        let better = |(other, &x): (usize, &f32)| x > own || (x == own && other < g);
        let rank = of_groups.iter().enumerate().filter(|of| better(*of)).count();
        if rank >= groups.top {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Row r, choice j of `out` = [act](x W^T + b) by the expert of that choice. `x` has a row for each
/// row (with an activation) or for each choice (without).
fn multiply(
    dev: &Cpu,
    (weight, bias): (&Weight, Option<&Weight>),
    act: Option<Activation>,
    routes: &Tensor,
    x: &Tensor,
    out: &mut Tensor,
) -> Result<()> {
    let stack = weight.stack();
    let top_k = routes.width / 2;
    let rows_of = chosen(dev.rows(), top_k, routes, stack.len())?;
    let (mut input, mut output) = (Vec::new(), Vec::new());
    for (expert, (panels, choices)) in stack.iter().zip(&rows_of).enumerate() {
        if choices.is_empty() {
            continue;
        }

        input.clear();
        for &choice in choices {
            let row = if act.is_some() { choice / top_k } else { choice };
            input.extend_from_slice(x.row(row));
        }

        let width = width(panels);
        output.resize(choices.len() * width, 0.0);
        let outputs = panels.lanes.outputs;
        let bias = bias.map(|bias| &bias.vector()[expert * outputs..(expert + 1) * outputs]);
        dev.multiply(choices.len(), panels, bias, act, &input, &mut output);
        for (&choice, row) in choices.iter().zip(output.chunks_exact(width)) {
            out.row_mut(choice).copy_from_slice(row);
        }
    }
    Ok(())
}

fn width(panels: &Panels) -> usize {
    if panels.lanes.gated {
        panels.lanes.outputs / 2
    } else {
        panels.lanes.outputs
    }
}

/// For each expert the choices that fell on it, in the order of rows.
fn chosen(rows: usize, top_k: usize, routes: &Tensor, experts: usize) -> Result<Vec<Vec<usize>>> {
    let mut of = vec![Vec::new(); experts];
    for r in 0..rows {
        for (j, &number) in routes.row(r)[..top_k].iter().enumerate() {
            let list = of.get_mut(number as usize);
            let list = list.ok_or_else(|| internal!("expert {number} of {experts}"))?;
            list.push(r * top_k + j);
        }
    }
    Ok(of)
}
