//! The comparison of several schedules.

use crate::NoiseSchedule;

/// The point at which a schedule has as much noise as signal (0 dB).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossing {
    /// The first index whose signal-to-noise ratio is below 0 dB.
    pub index: usize,
    /// The fractional index at which the ratio is exactly 0 dB, in (index − 1, index]. Decibels are
    /// interpolated linearly between two indices. 0 if the schedule begins below 0 dB.
    pub interpolated: f64,
}

/// The values of a schedule at one timestep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SchedulePoint {
    /// ᾱ, the share of the signal in the variance.
    pub alpha_cumprod: f64,
    /// The signal-to-noise ratio in decibels: 10·log₁₀(ᾱ/(1 − ᾱ)).
    pub snr_db: f64,
}

/// Several named schedules, which may differ in length, and their signal-to-noise ratios.
///
/// ```
/// use diffusion_schedule::{BetaSchedule, ScheduleComparison, ScheduleConfig};
///
/// let cosine =
///     ScheduleConfig { beta_schedule: BetaSchedule::Cosine, ..ScheduleConfig::default() };
/// let comparison = ScheduleComparison::new([
///     ("linear".to_owned(), ScheduleConfig::default().build()?),
///     ("cosine".to_owned(), cosine.build()?),
/// ]);
/// let crossings = comparison.crossings().map(|crossing| crossing.unwrap().index);
/// assert_eq!(crossings.collect::<Vec<_>>(), [259, 496]);
/// assert_eq!(comparison.longest_signal(), [1]);
/// # Ok::<(), diffusion_schedule::ScheduleError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ScheduleComparison {
    schedules: Vec<(String, NoiseSchedule)>,
}

impl ScheduleComparison {
    /// A comparison of `schedules`, each with its name for tables and charts.
    pub fn new(schedules: impl IntoIterator<Item = (String, NoiseSchedule)>) -> Self {
        Self { schedules: schedules.into_iter().collect() }
    }

    /// The schedules and their names, in their original order.
    pub fn schedules(&self) -> &[(String, NoiseSchedule)] {
        &self.schedules
    }

    /// The number of steps of the longest schedule.
    pub fn longest(&self) -> usize {
        self.schedules.iter().map(|(_, schedule)| schedule.len()).max().unwrap_or(0)
    }

    /// The values of each schedule at index `t`; `None` for a schedule that is not that long.
    pub fn at(&self, t: usize) -> impl Iterator<Item = Option<SchedulePoint>> {
        self.schedules.iter().map(move |(_, schedule)| {
            (t < schedule.len()).then(|| SchedulePoint {
                alpha_cumprod: schedule.alphas_cumprod()[t],
                snr_db: schedule.snr_db(t),
            })
        })
    }

    /// The point at which each schedule falls below 0 dB; `None` if it never does.
    pub fn crossings(&self) -> impl Iterator<Item = Option<Crossing>> {
        self.schedules.iter().map(|(_, schedule)| crossing(schedule))
    }

    /// The positions of the schedules that have more signal than noise for the largest share of
    /// their steps. More than one position if several schedules share the maximum.
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
            // A last step without any signal is at −∞ dB, so the line to it falls at once.
            before as f64 + if below.is_finite() { above / (above - below) } else { 0.0 }
        }
    };
    Some(Crossing { index, interpolated })
}
