//! Temporal action proposals: from one score per frame to the segments with an action.
//!
//! Frames above a threshold become segments. Segments close to each other are merged and short ones
//! are dropped. Then non-maximum suppression keeps the best of overlapping segments.
//!
//! `cargo run -p diffusion-eval --example proposals`

const THRESHOLD: f64 = 0.5;
/// Segments with fewer frames than this between them are merged.
const MERGE_GAP: usize = 2;
/// The smallest number of frames of a segment; shorter ones are noise.
const MIN_DURATION: usize = 3;
/// A segment is dropped if its overlap with a better one is above this.
const MAX_OVERLAP: f64 = 0.3;

/// The frames `start..end` with the mean and the maximum of their scores.
#[derive(Clone, Debug, PartialEq)]
struct Segment {
    start: usize,
    end: usize,
    mean: f64,
    peak: f64,
}

impl Segment {
    fn new(scores: &[f64], start: usize, end: usize) -> Self {
        let frames = &scores[start..end];
        let mean = frames.iter().sum::<f64>() / frames.len() as f64;
        Self { start, end, mean, peak: frames.iter().copied().fold(f64::MIN, f64::max) }
    }

    fn duration(&self) -> usize {
        self.end - self.start
    }

    /// The number of shared frames divided by that of the shorter segment.
    fn overlap(&self, other: &Self) -> f64 {
        let shared = self.end.min(other.end).saturating_sub(self.start.max(other.start));
        shared as f64 / self.duration().min(other.duration()) as f64
    }
}

/// Segments of frames with a score of at least [`THRESHOLD`].
fn proposals(scores: &[f64]) -> Vec<Segment> {
    let mut bounds: Vec<(usize, usize)> = Vec::new();
    for (frame, _) in scores.iter().enumerate().filter(|(_, score)| **score >= THRESHOLD) {
        match bounds.last_mut() {
            // `end` is exclusive: adjacent frames have 0 frames between them.
            Some((_, end)) if frame - *end < MERGE_GAP => *end = frame + 1,
            _ => bounds.push((frame, frame + 1)),
        }
    }
    bounds.retain(|(start, end)| end - start >= MIN_DURATION);
    bounds.into_iter().map(|(start, end)| Segment::new(scores, start, end)).collect()
}

/// Drops segments that overlap a better one. The best mean comes first.
fn suppress(mut segments: Vec<Segment>) -> Vec<Segment> {
    segments.sort_by(|a, b| b.mean.total_cmp(&a.mean));
    let mut best: Vec<Segment> = Vec::new();
    for segment in segments {
        if best.iter().all(|better| better.overlap(&segment) <= MAX_OVERLAP) {
            best.push(segment);
        }
    }
    best
}

/// Scores of 200 frames: actions at 20–40, 80–110 and 150–170, spikes at 55–57 and 130–132, low
/// scores elsewhere.
fn example_scores() -> Vec<f64> {
    let mut scores: Vec<f64> =
        (0..200).map(|frame| 0.15 + 0.05 * (f64::from(frame) * 1.7).sin()).collect();
    for (start, end, height) in
        [(20, 40, 0.85), (80, 110, 0.9), (150, 170, 0.75), (55, 57, 0.7), (130, 132, 0.65)]
    {
        for (i, score) in scores[start..end].iter_mut().enumerate() {
            *score = height + 0.05 * (i as f64).sin();
        }
    }
    scores
}

fn main() {
    let scores = example_scores();
    let segments = proposals(&scores);
    println!("{:>5} {:>5} {:>9} {:>6} {:>6}", "start", "end", "duration", "mean", "peak");
    for segment in suppress(segments) {
        let Segment { start, end, mean, peak } = segment;
        println!("{start:>5} {end:>5} {:>9} {mean:>6.3} {peak:>6.3}", segment.duration());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_found_and_spikes_are_not() {
        let found = suppress(proposals(&example_scores()));
        let bounds: Vec<_> = found.iter().map(|segment| (segment.start, segment.end)).collect();
        assert_eq!(bounds, [(80, 110), (20, 40), (150, 170)], "best mean first");
        for segment in &found {
            let frames = &example_scores()[segment.start..segment.end];
            assert!((segment.mean * frames.len() as f64 - frames.iter().sum::<f64>()).abs() < 1e-9);
            assert!(
                frames.iter().all(|score| *score <= segment.peak) && frames.contains(&segment.peak)
            );
        }
    }

    #[test]
    fn gaps_of_one_frame_are_merged_and_short_segments_dropped() {
        let scores =
            |text: &str| text.chars().map(|c| if c == '#' { 0.9 } else { 0.1 }).collect::<Vec<_>>();
        let bounds =
            |text| proposals(&scores(text)).iter().map(|s| (s.start, s.end)).collect::<Vec<_>>();
        assert_eq!(bounds(".##.##..###."), [(1, 6), (8, 11)]);
        assert_eq!(bounds("##..##"), []);
        assert_eq!(proposals(&[0.5, 0.5, 0.5]).len(), 1, "the threshold itself counts");
    }

    #[test]
    fn suppression_keeps_the_better_of_overlapping_segments() {
        let segment = |start, end, mean| Segment { start, end, mean, peak: mean };
        let kept = suppress(vec![segment(0, 10, 0.6), segment(6, 16, 0.8), segment(13, 23, 0.7)]);
        // The first pair shares 4 of 10 frames, the second pair 3 of 10, which is not above 0.3.
        assert_eq!(kept, [segment(6, 16, 0.8), segment(13, 23, 0.7)]);
    }
}
