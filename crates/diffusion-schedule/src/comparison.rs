//! Several schedules beside each other.

use crate::NoiseSchedule;

/// Where a schedule has as much noise as signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossing {
    /// The first index whose signal-to-noise ratio is below 0 dB.
    pub index: usize,
    /// Where the ratio is exactly 0 dB, with the decibels between two indices taken as a straight line, in (index − 1, index].
    /// For a schedule that begins below 0 dB, 0.
    pub interpolated: f64,
}

/// What one schedule says of one timestep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// ᾱ.
    pub alpha_cumprod: f64,
    /// 10·log₁₀(ᾱ/(1 − ᾱ)).
    pub snr_db: f64,
}

/// Named schedules, of the same length or not, and the questions that one asks of them together.
///
/// ```
/// use diffusion_schedule::{BetaSchedule, ScheduleComparison, ScheduleConfig};
///
/// let cosine = ScheduleConfig { beta_schedule: BetaSchedule::Cosine, ..ScheduleConfig::default() };
/// let comparison = ScheduleComparison::new([
///     ("linear".to_owned(), ScheduleConfig::default().build()?),
///     ("cosine".to_owned(), cosine.build()?),
/// ]);
/// assert_eq!(comparison.crossings().map(|crossing| crossing.unwrap().index).collect::<Vec<_>>(), [259, 496]);
/// assert_eq!(comparison.longest_signal(), [1]);
/// # Ok::<(), diffusion_schedule::ScheduleError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ScheduleComparison {
    schedules: Vec<(String, NoiseSchedule)>,
}

impl ScheduleComparison {
    /// Schedules with the names that tables and charts call them by.
    pub fn new(schedules: impl IntoIterator<Item = (String, NoiseSchedule)>) -> Self {
        Self { schedules: schedules.into_iter().collect() }
    }

    /// The schedules, in the order in which they were given.
    pub fn schedules(&self) -> &[(String, NoiseSchedule)] {
        &self.schedules
    }

    /// The number of steps of the longest schedule.
    pub fn longest(&self) -> usize {
        self.schedules.iter().map(|(_, schedule)| schedule.len()).max().unwrap_or(0)
    }

    /// What each schedule says of index `t`; `None` where it ends before.
    pub fn at(&self, t: usize) -> impl Iterator<Item = Option<Sample>> {
        self.schedules.iter().map(move |(_, schedule)| {
            (t < schedule.len()).then(|| Sample {
                alpha_cumprod: schedule.alphas_cumprod()[t],
                snr_db: schedule.snr_db(t),
            })
        })
    }

    /// Where each schedule falls below 0 dB; `None` for one that never does.
    pub fn crossings(&self) -> impl Iterator<Item = Option<Crossing>> {
        self.schedules.iter().map(|(_, schedule)| crossing(schedule))
    }

    /// The positions of the schedules that keep more signal than noise for the largest share of their steps: one, or several
    /// that keep it for the same share.
    pub fn longest_signal(&self) -> Vec<usize> {
        let shares: Vec<f64> = self
            .schedules
            .iter()
            .map(|(_, schedule)| {
                crossing(schedule).map_or(1.0, |c| c.interpolated / schedule.len() as f64)
            })
            .collect();
        let best = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (0..shares.len()).filter(|&i| shares[i] == best).collect()
    }
}

fn crossing(schedule: &NoiseSchedule) -> Option<Crossing> {
    let index = schedule.first_below_0_db()?;
    let interpolated = match index.checked_sub(1) {
        None => 0.0,
        Some(before) => {
            let (above, below) = (schedule.snr_db(before), schedule.snr_db(index));
            // A last step without any signal lies at −∞ dB: the line to it falls at once.
            before as f64 + if below.is_finite() { above / (above - below) } else { 0.0 }
        }
    };
    Some(Crossing { index, interpolated })
}
