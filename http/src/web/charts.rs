//! Charts of a few lines over time, drawn here: the browser gets points, and needs no script.

use super::figures::{UNKNOWN, scaled, utc};

/// The plot's edges in the picture, which is 600 by 140.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 596.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 116.0;
/// The most points of a line.
const MAX_POINTS: usize = 520;
/// The looks of the lines, in their order.
const LOOKS: [&str; 3] = ["first", "second", "third"];

/// A chart as its template draws it.
pub(crate) struct ChartPicture {
    pub title: &'static str,
    /// The newest values.
    pub latest: String,
    /// All of it in words.
    pub description: String,
    pub grid: Vec<GridLine>,
    pub series: Vec<SeriesPicture>,
    pub ticks: Vec<TimeTick>,
}

/// A line across the plot, with its value.
pub(crate) struct GridLine {
    pub y: String,
    pub text_y: String,
    pub label: String,
}

/// A line of values.
pub(crate) struct SeriesPicture {
    pub label: &'static str,
    pub class: &'static str,
    pub points: String,
    pub latest: String,
}

/// A time below the plot.
pub(crate) struct TimeTick {
    pub x: String,
    pub anchor: &'static str,
    pub label: String,
}

/// Values to draw: times in milliseconds since 1970, in their order.
pub(crate) struct ChartLine {
    label: &'static str,
    points: Vec<(u64, f64)>,
}

impl ChartLine {
    /// A line with its name.
    pub fn new(label: &'static str, points: Vec<(u64, f64)>) -> Self {
        ChartLine { label, points }
    }
}

impl ChartPicture {
    /// Draws lines between two times. `units`: of the values, each a thousand times the one before.
    pub fn new(title: &'static str, times: (u64, u64), units: &[&str], lines: Vec<ChartLine>) -> Self {
        let values = lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value));
        let top = round_up(values.fold(0.0, f64::max));
        let y = |value: f64| BOTTOM - (BOTTOM - TOP) * (value / top).clamp(0.0, 1.0);
        let grid = [0.0, 0.5, 1.0].map(|share| GridLine {
            y: format!("{:.1}", y(top * share)),
            text_y: format!("{:.1}", y(top * share) + 4.0),
            label: scaled(top * share, units),
        });
        let text = |value: Option<f64>| value.map_or_else(|| UNKNOWN.into(), |value| scaled(value, units));
        let mut series = Vec::new();
        let mut described = Vec::new();
        for (line, class) in lines.into_iter().zip(LOOKS) {
            let latest = text(line.points.last().map(|(_, value)| *value));
            let most = line
                .points
                .iter()
                .map(|(_, value)| *value)
                .fold(None, |most: Option<f64>, value| Some(most.map_or(value, |most| most.max(value))));
            described.push(format!("{}: now {latest}, at most {}", line.label, text(most)));
            let points = thinned(&line.points).map(|(at, value)| format!("{:.1},{:.1}", x(times, *at), y(*value)));
            let points = points.collect::<Vec<_>>().join(" ");
            series.push(SeriesPicture { label: line.label, class, points, latest });
        }
        ChartPicture {
            title,
            latest: series.first().map(|first| first.latest.clone()).unwrap_or_default(),
            description: format!("{title} from {} to {} UTC. {}", utc(times.0), utc(times.1), described.join("; ")),
            grid: grid.into(),
            series,
            ticks: ticks(times).into(),
        }
    }
}

fn x((from, to): (u64, u64), at: u64) -> f64 {
    let share = at.saturating_sub(from) as f64 / to.saturating_sub(from).max(1) as f64;
    LEFT + (RIGHT - LEFT) * share.clamp(0.0, 1.0)
}

/// At most so many points as the plot is wide, the last among them.
fn thinned(points: &[(u64, f64)]) -> impl Iterator<Item = &(u64, f64)> {
    let step = points.len().div_ceil(MAX_POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(move |(at, _)| (last - at).is_multiple_of(step)).map(|(_, point)| point)
}

fn ticks(times: (u64, u64)) -> [TimeTick; 3] {
    let (from, to) = times;
    let is_one_day = to.saturating_sub(from) < 24 * 3_600_000;
    let label = |at: u64| {
        let text = utc(at);
        // Of a short time the hours, of a long one the days.
        let part = if is_one_day { text.get(11..16) } else { text.get(..10) };
        part.unwrap_or(&text).to_string()
    };
    let middle = from + to.saturating_sub(from) / 2;
    let tick = |at, anchor| TimeTick { x: format!("{:.1}", x(times, at)), anchor, label: label(at) };
    [tick(from, "start"), tick(middle, "middle"), tick(to, "end")]
}

/// 1, 2 or 5 times a power of ten that is no less.
fn round_up(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|round| *round >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_goes_from_edge_to_edge() {
        let points = vec![(1000, 0.0), (2000, 150.0), (3000, 100.0)];
        let chart = ChartPicture::new("Sent", (1000, 3000), &["B/s", "kB/s"], vec![ChartLine::new("sent", points)]);
        assert_eq!(chart.series[0].points, "76.0,116.0 336.0,35.0 596.0,62.0");
        assert_eq!(
            chart.grid.iter().map(|line| line.label.as_str()).collect::<Vec<_>>(),
            ["0 B/s", "100 B/s", "200 B/s"]
        );
        assert!(chart.description.contains("sent: now 100 B/s, at most 150 B/s"), "{}", chart.description);
        assert_eq!(chart.ticks.iter().map(|tick| tick.label.as_str()).collect::<Vec<_>>(), ["00:00"; 3]);
    }

    #[test]
    fn chart_without_values_is_empty() {
        let chart = ChartPicture::new("Sent", (0, 0), &[""], vec![ChartLine::new("sent", Vec::new())]);
        assert_eq!((chart.series[0].points.as_str(), chart.latest.as_str()), ("", "–"));
    }

    #[test]
    fn long_line_is_thinned_and_keeps_its_end() {
        let points: Vec<(u64, f64)> = (0..2000).map(|at| (at, at as f64)).collect();
        let shown: Vec<_> = thinned(&points).collect();
        assert!(shown.len() <= MAX_POINTS && shown.last() == Some(&&(1999, 1999.0)));
        assert_eq!([0.0, 0.3, 7.0, 50.0, 51.0].map(round_up), [1.0, 0.5, 10.0, 50.0, 100.0]);
    }
}
