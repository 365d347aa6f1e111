//! The server's metric families and series, owned once per process. The server hands out the same
//! series for equal names and labels, and counts its users per family *object* only: whoever makes
//! a family of its own and deletes its series takes it from under everyone else. A model that is
//! loaded again lives beside its old version for a while, with the same labels. So families are
//! made once and kept, a series goes with its last user, and both happen under one lock (the
//! server's own count has a gap between finding a series and counting its user). Used by `metrics`;
//! it knows no model.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::internal;
use crate::triton::error::{c_text, call, check};
use crate::triton::sys::{self, *};

/// The server keeps its metrics, as this does, until the process or the library goes.
static REGISTRY: Mutex<Registry> =
    Mutex::new(Registry { families: BTreeMap::new(), series: BTreeMap::new(), users: 0 });

struct Registry {
    families: BTreeMap<&'static CStr, MetricFamily>,
    /// Each with the number of its users.
    series: BTreeMap<Key, (Arc<Series>, usize)>,
    /// Users so far of all series, for their numbers.
    users: u64,
}

/// Name and labels.
type Key = (&'static CStr, Vec<(&'static CStr, String)>);

struct MetricFamily(*mut TRITONSERVER_MetricFamily);

// SAFETY: the server guards its families; this pointer is only used under the registry's lock.
unsafe impl Send for MetricFamily {}

/// A series of the server with all its users.
struct Series {
    metric: *mut TRITONSERVER_Metric,
    /// What each user of a gauge says, by the user's number.
    parts: Mutex<Vec<(u64, f64)>>,
}

// SAFETY: the server guards metrics against several threads.
unsafe impl Send for Series {}
unsafe impl Sync for Series {}

/// What a family is, and how the series of one is made.
#[derive(Clone, Copy)]
pub(super) enum Kind<'a> {
    Counter,
    Gauge(Join),
    /// Its buckets' upper ends; a series that lives already keeps those it has.
    Histogram(&'a [f64]),
}

/// What a gauge shows of its users' values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Join {
    Sum,
    Least,
    Most,
}

impl Join {
    fn of(self, parts: &[(u64, f64)]) -> f64 {
        let values = parts.iter().map(|(_, value)| *value);
        match self {
            Join::Sum => values.sum(),
            Join::Least => values.fold(f64::INFINITY, f64::min),
            Join::Most => values.fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// Labels that tell the series of a family apart.
#[derive(Clone)]
pub(super) struct Labels(Vec<(&'static CStr, String)>);

impl Labels {
    pub(super) fn new(model: &str, version: u64) -> Labels {
        Labels(vec![(c"model", model.into()), (c"version", version.to_string())])
    }

    /// The same of one engine of several.
    pub(super) fn of_engine(self, number: Option<usize>) -> Labels {
        match number {
            Some(number) => self.with(c"engine", &number.to_string()),
            None => self,
        }
    }

    pub(super) fn with(&self, name: &'static CStr, value: &str) -> Labels {
        let mut labels = self.clone();
        labels.0.push((name, value.into()));
        labels
    }
}

/// One user's share of a series.
pub(super) struct Metric {
    key: Key,
    series: Arc<Series>,
    join: Option<Join>,
    user: u64,
}

impl Metric {
    /// Find the series or have the server make it.
    ///
    /// # Errors
    /// Unsupported: a histogram on a server without them. Internal: what the server says.
    pub(super) fn new(
        name: &'static CStr,
        help: &CStr,
        labels: &Labels,
        kind: Kind,
    ) -> Result<Metric> {
        let join = match kind {
            Kind::Gauge(join) => Some(join),
            _ => None,
        };
        let key = (name, labels.0.clone());

        let mut registry = REGISTRY.lock();
        registry.users += 1;
        let user = registry.users;
        if let Some((series, users)) = registry.series.get_mut(&key) {
            *users += 1;
            return Ok(Metric { series: Arc::clone(series), key, join, user });
        }
        let metric = make_series(registry.family(name, help, kind)?, labels, kind)?;
        let series = Arc::new(Series { metric, parts: Mutex::default() });
        registry.series.insert(key.clone(), (Arc::clone(&series), 1));
        Ok(Metric { key, series, join, user })
    }

    pub(super) fn add(&self, by: f64) {
        let _ = call!(TRITONSERVER_MetricIncrement(self.series.metric, by));
    }

    /// This user's part of a gauge.
    pub(super) fn set(&self, value: f64) {
        let mut parts = self.series.parts.lock();
        match parts.iter_mut().find(|(user, _)| *user == self.user) {
            Some(part) => part.1 = value,
            None => parts.push((self.user, value)),
        }
        self.show(&parts);
    }

    fn show(&self, parts: &[(u64, f64)]) {
        if let Some(join) = self.join.filter(|_| !parts.is_empty()) {
            let _ = call!(TRITONSERVER_MetricSet(self.series.metric, join.of(parts)));
        }
    }

    pub(super) fn observe(&self, value: f64) {
        if let Some(Ok(observe)) = sys::api().map(|api| &api.newer.TRITONSERVER_MetricObserve) {
            // SAFETY: the series lives as long as it has users, and this is one.
            let _ = check(unsafe { observe(self.series.metric, value) });
        }
    }
}

impl Drop for Metric {
    fn drop(&mut self) {
        let mut registry = REGISTRY.lock();
        let Some((_, users)) = registry.series.get_mut(&self.key) else { return };
        *users -= 1;
        if *users == 0 {
            registry.series.remove(&self.key);
            let _ = call!(TRITONSERVER_MetricDelete(self.series.metric));
            return;
        }
        // Still under the lock: nobody else's end may delete the series meanwhile.
        let mut parts = self.series.parts.lock();
        parts.retain(|(user, _)| *user != self.user);
        self.show(&parts);
    }
}

impl Registry {
    fn family(
        &mut self,
        name: &'static CStr,
        help: &CStr,
        kind: Kind,
    ) -> Result<*mut TRITONSERVER_MetricFamily> {
        if let Some(family) = self.families.get(name) {
            return Ok(family.0);
        }
        let mut family = ptr::null_mut();
        let kind = match kind {
            Kind::Counter => sys::TRITONSERVER_METRIC_KIND_COUNTER,
            Kind::Gauge(_) => sys::TRITONSERVER_METRIC_KIND_GAUGE,
            Kind::Histogram(_) => sys::TRITONSERVER_METRIC_KIND_HISTOGRAM,
        };
        call!(TRITONSERVER_MetricFamilyNew(&mut family, kind, name.as_ptr(), help.as_ptr()))?;
        self.families.insert(name, MetricFamily(family));
        Ok(family)
    }
}

/// Give the families back that nobody uses: the server unloads the library.
pub(in crate::triton) fn close() {
    let mut registry = REGISTRY.lock();
    if registry.series.is_empty() {
        for family in std::mem::take(&mut registry.families).into_values() {
            let _ = call!(TRITONSERVER_MetricFamilyDelete(family.0));
        }
    }
}

fn make_series(
    family: *mut TRITONSERVER_MetricFamily,
    labels: &Labels,
    kind: Kind,
) -> Result<*mut TRITONSERVER_Metric> {
    let labels = Parameters::new(labels)?;
    let mut given: Vec<_> = labels.0.iter().map(|label| label.cast_const()).collect();
    let first = given.as_mut_ptr();
    let count = given.len() as u64;

    let mut metric = ptr::null_mut();
    match kind {
        Kind::Histogram(buckets) => make_histogram(&mut metric, family, first, count, buckets)?,
        _ => call!(TRITONSERVER_MetricNew(&mut metric, family, first, count))?,
    }
    Ok(metric)
}

fn make_histogram(
    metric: &mut *mut TRITONSERVER_Metric,
    family: *mut TRITONSERVER_MetricFamily,
    labels: *mut *const TRITONSERVER_Parameter,
    label_count: u64,
    buckets: &[f64],
) -> Result<()> {
    let missing = || Error::Unsupported("histograms".into());
    let newer = &sys::api().ok_or_else(missing)?.newer;
    let (Ok(make), Ok(set), Ok(delete), Ok(new)) = (
        &newer.TRITONSERVER_MetricArgsNew,
        &newer.TRITONSERVER_MetricArgsSetHistogram,
        &newer.TRITONSERVER_MetricArgsDelete,
        &newer.TRITONSERVER_MetricNewWithArgs,
    ) else {
        return Err(missing());
    };
    let mut args: *mut TRITONSERVER_MetricArgs = ptr::null_mut();
    // SAFETY: out-parameters are the caller's and ours, buckets and labels live through the calls
    // that read them, and the arguments are deleted once.
    unsafe {
        check(make(&mut args))?;
        let made = check(set(args, buckets.as_ptr(), buckets.len() as u64))
            .and_then(|()| check(new(metric, family, labels, label_count, args)));
        check(delete(args))?;
        made
    }
}

/// Labels as the server's parameters, while a series is made.
struct Parameters(Vec<*mut TRITONSERVER_Parameter>);

impl Parameters {
    fn new(labels: &Labels) -> Result<Parameters> {
        let Some(api) = sys::api() else { return Err(internal!("metrics without a server")) };
        let make = |(name, value): &(&CStr, String)| {
            let value = c_text(value);
            let kind = sys::TRITONSERVER_PARAMETER_STRING;
            // SAFETY: both texts are NUL-terminated and copied by the server.
            unsafe {
                api.required.TRITONSERVER_ParameterNew(name.as_ptr(), kind, value.as_ptr().cast())
            }
        };
        Ok(Parameters(labels.0.iter().map(make).collect()))
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        if let Some(api) = sys::api() {
            for label in self.0.drain(..).filter(|label| !label.is_null()) {
                // SAFETY: ParameterNew made it and only we hold it.
                unsafe { api.required.TRITONSERVER_ParameterDelete(label) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Join;

    #[test]
    fn a_gauge_shows_all_its_users() {
        let parts = [(1, 3.0), (2, 0.5)];
        assert_eq!(Join::Sum.of(&parts), 3.5);
        assert_eq!(Join::Least.of(&parts), 0.5);
        assert_eq!(Join::Most.of(&parts), 3.0);
    }
}
