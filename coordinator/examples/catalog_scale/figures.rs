//! What the stages measure: figures with their goals, as lines of JSON and as a table in Markdown.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FigureUnit {
    Seconds,
    Bytes,
    Count,
    Ratio,
    PerSecond,
}

/// The limit that a value should keep, in the value's unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FigureGoal {
    AtMost(f64),
    AtLeast(f64),
}

/// One measured value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleFigure {
    pub stage: String,
    pub name: String,
    pub value: f64,
    pub unit: FigureUnit,
    pub goal: Option<FigureGoal>,
}

impl ScaleFigure {
    /// Sets the goal: at most this.
    pub fn at_most(&mut self, limit: f64) {
        self.goal = Some(FigureGoal::AtMost(limit));
    }

    /// Sets the goal: at least this.
    pub fn at_least(&mut self, limit: f64) {
        self.goal = Some(FigureGoal::AtLeast(limit));
    }

    /// Whether the value keeps its goal; true if it has none.
    pub fn keeps_goal(&self) -> bool {
        match self.goal {
            None => true,
            Some(FigureGoal::AtMost(limit)) => self.value <= limit,
            Some(FigureGoal::AtLeast(limit)) => self.value >= limit,
        }
    }
}

/// The figures of one stage.
pub struct FigureList {
    stage: &'static str,
    figures: Vec<ScaleFigure>,
}

impl FigureList {
    pub fn new(stage: &'static str) -> Self {
        FigureList { stage, figures: Vec::new() }
    }

    pub fn into_figures(self) -> Vec<ScaleFigure> {
        self.figures
    }

    pub fn seconds(&mut self, name: impl Into<String>, took: Duration) -> &mut ScaleFigure {
        self.add(name.into(), took.as_secs_f64(), FigureUnit::Seconds)
    }

    pub fn bytes(&mut self, name: impl Into<String>, bytes: u64) -> &mut ScaleFigure {
        self.add(name.into(), bytes as f64, FigureUnit::Bytes)
    }

    pub fn count(&mut self, name: impl Into<String>, count: u64) -> &mut ScaleFigure {
        self.add(name.into(), count as f64, FigureUnit::Count)
    }

    /// `part` divided by `whole`; 1 if both are 0.
    pub fn ratio(&mut self, name: impl Into<String>, part: u64, whole: u64) -> &mut ScaleFigure {
        let ratio = if part == whole { 1.0 } else { part as f64 / whole as f64 };
        self.add(name.into(), ratio, FigureUnit::Ratio)
    }

    pub fn per_second(&mut self, name: impl Into<String>, count: u64, took: Duration) -> &mut ScaleFigure {
        self.add(name.into(), count as f64 / took.as_secs_f64(), FigureUnit::PerSecond)
    }

    fn add(&mut self, name: String, value: f64, unit: FigureUnit) -> &mut ScaleFigure {
        let at = self.figures.len();
        self.figures.push(ScaleFigure { stage: self.stage.into(), name, value, unit, goal: None });
        &mut self.figures[at]
    }
}

/// A table in Markdown.
pub fn markdown(figures: &[ScaleFigure]) -> String {
    let mut text = String::from("| stage | what | measured | goal |\n|---|---|---|---|\n");
    for figure in figures {
        let limit = match figure.goal {
            None => String::new(),
            Some(FigureGoal::AtMost(limit)) => format!("at most {}", shown(limit, figure.unit)),
            Some(FigureGoal::AtLeast(limit)) => format!("at least {}", shown(limit, figure.unit)),
        };
        let missed = if figure.keeps_goal() { "" } else { ": **missed**" };
        let value = shown(figure.value, figure.unit);
        text += &format!("| {} | {} | {value} | {limit}{missed} |\n", figure.stage, figure.name);
    }
    text
}

fn shown(value: f64, unit: FigureUnit) -> String {
    match unit {
        FigureUnit::Seconds if value < 0.001 => format!("{:.1} µs", value * 1e6),
        FigureUnit::Seconds if value < 1.0 => format!("{:.1} ms", value * 1e3),
        FigureUnit::Seconds => format!("{value:.1} s"),
        FigureUnit::Bytes if value < 1024.0 => format!("{value:.0} bytes"),
        FigureUnit::Bytes if value < f64::from(1 << 20) => format!("{:.1} KiB", value / 1024.0),
        FigureUnit::Bytes if value < f64::from(1 << 30) => format!("{:.1} MiB", value / f64::from(1 << 20)),
        FigureUnit::Bytes => format!("{:.2} GiB", value / f64::from(1 << 30)),
        FigureUnit::Count => format!("{value:.0}"),
        FigureUnit::Ratio => format!("{value:.3}"),
        FigureUnit::PerSecond => format!("{value:.0}/s"),
    }
}

/// The duration that this many percent of the durations do not exceed; zero if there are none.
pub fn percentile(durations: &[Duration], percent: usize) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// This process's memory, bytes.
pub struct ProcessMemory {
    /// Anonymous memory now.
    pub anonymous: u64,
    /// The most resident memory so far.
    pub peak: u64,
}

impl ProcessMemory {
    pub fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let bytes = |key: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
        };
        ProcessMemory { anonymous: bytes("RssAnon"), peak: bytes("VmHWM") }
    }
}
