//! A profile of a few calls: the times of the crates' tracing spans, summed by name and fields.
//!
//! Spans on several threads at the same time all count, so their sum can exceed the time of the
//! calls.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Subscriber, subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

/// Number of calls and total time of one label, without the time of inner spans.
#[derive(Clone, Copy, Default)]
pub(crate) struct Share {
    pub calls: usize,
    pub time: Duration,
}

/// Runs `f` and returns its result and the time in each span, the longest first.
pub(crate) fn profile<R>(f: impl FnOnce() -> R) -> (R, Vec<(String, Share)>) {
    // The subscriber is global, because networks run on the threads of the kernels.
    static TIMES: LazyLock<Times> = LazyLock::new(|| {
        let times = Times::default();
        // No other subscriber is set in this program.
        subscriber::set_global_default(Registry::default().with(times.clone()))
            .expect("the only subscriber");
        times
    });
    TIMES.lock().shares.clear();
    let result = f();
    let shares = std::mem::take(&mut TIMES.lock().shares);
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by_key(|(_, share)| std::cmp::Reverse(share.time));
    (result, shares)
}

/// The layer that measures the spans.
#[derive(Clone, Default)]
struct Times(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    shares: HashMap<String, Share>,
    /// The spans that are open on each thread: their start, and the time of their inner spans.
    open: HashMap<ThreadId, Vec<(Instant, Duration)>>,
}

impl Times {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name and the fields of a span.
struct Label(String);

impl Visit for Label {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, ": {value:?}");
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Times {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut label = Label(attributes.metadata().name().to_owned());
        attributes.record(&mut label);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(label);
        }
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        let open = (Instant::now(), Duration::ZERO);
        self.lock().open.entry(thread::current().id()).or_default().push(open);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let mut state = self.lock();
        let open = state.open.entry(thread::current().id()).or_default();
        let Some((begin, inside)) = open.pop() else { return };
        let total = begin.elapsed();
        if let Some((_, inside)) = open.last_mut() {
            *inside += total;
        }
        if let Some(label) =
            context.span(id).and_then(|span| Some(span.extensions().get::<Label>()?.0.clone()))
        {
            let share = state.shares.entry(label).or_default();
            share.calls += 1;
            share.time += total.saturating_sub(inside);
        }
    }
}
