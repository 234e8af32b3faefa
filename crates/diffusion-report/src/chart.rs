//! Charts as data, and how they are drawn as PNG and SVG.

use std::ops::Range;
use std::path::Path;
use std::sync::Once;

use diffusion_files::write_file;
use diffusion_picture::Picture;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::ReportError;

/// The scale of an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Equal distances for equal differences.
    #[default]
    Linear,
    /// Equal distances for equal ratios; for numbers above 0.
    Logarithmic,
}

/// A named line through points.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The name in the legend.
    pub name: String,
    /// (x, y), from left to right. Points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// Half the height of the error bar at each point; `None` for no error bars.
    pub errors: Option<Vec<f64>>,
}

impl Curve {
    /// A curve without error bars.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self { name: name.into(), points: points.into_iter().collect(), errors: None }
    }
}

/// One pair of axes with its curves.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// The label of the y axis, with its unit.
    pub y: String,
    /// The scale of the y axis.
    pub y_scale: Scale,
    /// The smallest and largest y to show. Default (`None`): the range of the points.
    pub y_range: Option<(f64, f64)>,
    /// The curves.
    pub curves: Vec<Curve>,
}

/// A chart of panels above each other that share their x axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// The title.
    pub title: String,
    /// The label of the x axis, with its unit.
    pub x: String,
    /// The scale of the x axis. A logarithmic one is labelled at the points.
    pub x_scale: Scale,
    /// The panels from top to bottom.
    pub panels: Vec<Panel>,
}

/// Colours and dashes of curves. Neighbours differ in lightness; colours of equal lightness differ
/// in their dashes.
const STYLES: [(RGBColor, Option<i32>); 6] = [
    (RGBColor(0, 0, 0), None),
    (RGBColor(214, 92, 0), None),
    (RGBColor(0, 84, 166), Some(9)),
    (RGBColor(150, 205, 90), None),
    (RGBColor(140, 20, 90), Some(3)),
    (RGBColor(90, 180, 210), Some(9)),
];

/// The colour and the dashes of curve `i`. From the seventh curve on, colours repeat with other
/// dashes.
fn style_of(i: usize) -> (RGBColor, Option<i32>) {
    let (colour, dash) = STYLES[i % STYLES.len()];
    match i / STYLES.len() {
        0 => (colour, dash),
        round => (colour, Some(dash.unwrap_or(2) + 4 * round as i32)),
    }
}

/// Curves of at most this many points have a mark at each point.
const MAX_MARKED: usize = 40;

// Sizes in pixels.
const WIDTH: u32 = 960;
const TITLE: u32 = 44;
const LEGEND: u32 = 30;
const PANEL: u32 = 300;
pub(crate) const FONT: &str = "sans-serif";

/// Registers the included font with the drawing library, once.
pub(crate) fn with_font() {
    static ONCE: Once = Once::new();
    static BYTES: &[u8] = include_bytes!("../font/DejaVuSans-subset.ttf");
    // This cannot fail: the font is part of the program, and the tests draw with it.
    ONCE.call_once(|| drop(register_font(FONT, FontStyle::Normal, BYTES)));
}

fn drawing_error(error: impl std::fmt::Display) -> ReportError {
    ReportError::Drawing(error.to_string())
}

/// A figure of fixed size that can be drawn as pixels and as SVG.
pub(crate) trait Canvas {
    /// The width and height in pixels.
    fn size(&self) -> (u32, u32);

    /// Draws the figure.
    ///
    /// # Errors
    /// Fails if there is nothing to draw.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), ReportError>;
}

/// The canvas as an RGB picture.
fn picture(canvas: &impl Canvas) -> Result<Picture, ReportError> {
    let (width, height) = canvas.size();
    let mut pixels = vec![255; (width * height * 3) as usize];
    let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    canvas.draw(&area)?;
    area.present().map_err(drawing_error)?;
    drop(area);
    Ok(Picture { width: width as usize, height: height as usize, channels: 3, pixels })
}

/// The canvas as the text of an SVG file.
fn svg(canvas: &impl Canvas) -> Result<String, ReportError> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, canvas.size()).into_drawing_area();
    canvas.draw(&area)?;
    area.present().map_err(drawing_error)?;
    drop(area);
    Ok(text)
}

/// Writes the canvas to `path`: a PNG or an SVG, by its extension.
pub(crate) fn write_canvas(canvas: &impl Canvas, path: &Path) -> Result<(), ReportError> {
    match path.extension().unwrap_or_default().to_string_lossy().to_lowercase().as_str() {
        "png" => Ok(picture(canvas)?.write_png(path)?),
        "svg" => Ok(write_file(path, svg(canvas)?.as_bytes())?),
        _ => Err(ReportError::Format(path.to_owned())),
    }
}

impl Chart {
    /// Writes the chart to `path`: a PNG or an SVG, by its extension.
    ///
    /// # Errors
    /// If the extension is neither `.png` nor `.svg`. If the chart has no points. An I/O error of
    /// the operating system.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        write_canvas(self, path)
    }

    /// The chart as the text of an SVG file.
    ///
    /// # Errors
    /// If the chart has no points.
    pub(crate) fn to_svg(&self) -> Result<String, ReportError> {
        svg(self)
    }
}

impl Canvas for Chart {
    fn size(&self) -> (u32, u32) {
        let panel = if self.panels.len() == 1 { PANEL + PANEL / 2 } else { PANEL };
        (WIDTH, TITLE + LEGEND + panel * self.panels.len() as u32)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), ReportError> {
        with_font();
        let points =
            || self.panels.iter().flat_map(|panel| &panel.curves).flat_map(|curve| &curve.points);
        let Some((left, right)) = range(points().map(|(x, _)| *x)) else {
            return Err(ReportError::Invalid(format!("the chart `{}` has no points", self.title)));
        };
        // Marks at the ends of the curves need a margin.
        let marked = self
            .panels
            .iter()
            .flat_map(|panel| &panel.curves)
            .all(|curve| curve.points.len() <= MAX_MARKED);
        let margin = if marked { 0.03 } else { 0.0 };
        let x_range = match self.x_scale {
            Scale::Linear => {
                let margin = margin * (right - left);
                left - margin..right + margin
            }
            Scale::Logarithmic => {
                let margin = (right / left).powf(margin);
                left / margin..right * margin
            }
        };
        let mut x_ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
        x_ticks.sort_by(f64::total_cmp);
        x_ticks.dedup();
        let x_axis = XAxis { scale: self.x_scale, range: x_range, ticks: x_ticks };
        area.fill(&WHITE).map_err(drawing_error)?;
        let area = area.titled(&self.title, (FONT, 22)).map_err(drawing_error)?;
        let (legend, area) = area.split_vertically(LEGEND);
        draw_legend(&legend, &self.panels)?;
        for (i, (part, panel)) in
            area.split_evenly((self.panels.len(), 1)).iter().zip(&self.panels).enumerate()
        {
            let x_name = if i + 1 == self.panels.len() { self.x.as_str() } else { "" };
            let ys = || panel.curves.iter().flat_map(|curve| curve.points.iter().map(|(_, y)| *y));
            match panel.y_scale {
                Scale::Linear => {
                    let (low, high) = panel.y_range.or_else(|| range(ys())).unwrap_or((0.0, 1.0));
                    // A margin above and below, but not below 0 if all values are at least 0.
                    let margin = if panel.y_range.is_some() { 0.0 } else { 0.05 * (high - low) };
                    let floor = if low >= 0.0 { (low - margin).max(0.0) } else { low - margin };
                    draw_panel(part, panel, x_name, &x_axis, floor..high + margin)?;
                }
                Scale::Logarithmic => {
                    let positive = ys().filter(|y| *y > 0.0);
                    let (low, high) =
                        panel.y_range.or_else(|| range(positive)).unwrap_or((0.1, 1.0));
                    let (low, high) = (low * 0.8, high * 1.25);
                    let axis = (low..high).log_scale().with_key_points(ticks(low, high));
                    draw_panel(part, panel, x_name, &x_axis, axis)?;
                }
            }
        }
        Ok(())
    }
}

/// The smallest and largest finite value, widened by 0.5 on each side if they are equal. `None` if
/// there is no finite value.
fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return None;
    }
    Some(if low == high { (low - 0.5, high + 0.5) } else { (low, high) })
}

/// Ticks between two numbers above 0: 1, 2 and 5 times the powers of ten, or only the powers if
/// there are many.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let steps: &[f64] = if powers.clone().count() > 4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let all = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    all.filter(|tick| (low..=high).contains(tick)).collect()
}

/// A number as short text for an axis.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.0e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

/// The x axis of all panels.
struct XAxis {
    scale: Scale,
    range: Range<f64>,
    /// The labels of a logarithmic scale.
    ticks: Vec<f64>,
}

fn draw_panel<B: DrawingBackend, Y>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    x_name: &str,
    x_axis: &XAxis,
    y_axis: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
) -> Result<(), ReportError>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let range = x_axis.range.clone();
    match x_axis.scale {
        Scale::Linear => draw_curves(area, panel, x_name, range, y_axis),
        Scale::Logarithmic => {
            let axis = range.log_scale().with_key_points(x_axis.ticks.clone());
            draw_curves(area, panel, x_name, axis, y_axis)
        }
    }
}

fn draw_curves<B: DrawingBackend, X, Y>(
    area: &DrawingArea<B, Shift>,
    panel: &Panel,
    x_name: &str,
    x_axis: impl AsRangedCoord<CoordDescType = X, Value = f64>,
    y_axis: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
) -> Result<(), ReportError>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(24)
        .x_label_area_size(if x_name.is_empty() { 26 } else { 46 })
        .y_label_area_size(84)
        .build_cartesian_2d(x_axis, y_axis)
        .map_err(drawing_error)?;
    let x_range = chart.x_range();
    let y_range = chart.y_range();
    chart
        .configure_mesh()
        .x_desc(x_name)
        .y_desc(&panel.y)
        .axis_desc_style((FONT, 16))
        .label_style((FONT, 14))
        .x_label_formatter(&|x| short(*x))
        .y_label_formatter(&|y| short(*y))
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(222, 222, 222))
        .draw()
        .map_err(drawing_error)?;
    if y_range.start < 0.0 && y_range.end > 0.0 {
        // A line at 0, if values have both signs.
        let zero = [(x_range.start, 0.0), (x_range.end, 0.0)];
        chart.draw_series(LineSeries::new(zero, RGBColor(120, 120, 120))).map_err(drawing_error)?;
    }
    for (i, curve) in panel.curves.iter().enumerate() {
        let (colour, dash) = style_of(i);
        let style = colour.stroke_width(2);
        let points: Vec<(f64, f64)> =
            curve.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        match dash {
            None => chart
                .draw_series(LineSeries::new(points.iter().copied(), style))
                .map_err(drawing_error)?,
            Some(dash) => chart
                .draw_series(DashedLineSeries::new(points.iter().copied(), dash, dash, style))
                .map_err(drawing_error)?,
        };
        if let Some(errors) = &curve.errors {
            let bars = curve
                .points
                .iter()
                .zip(errors)
                .filter(|((_, y), error)| y.is_finite() && error.is_finite());
            let bar = |(&(x, y), &error): (&(f64, f64), &f64)| {
                PathElement::new(vec![(x, y - error), (x, y + error)], style)
            };
            chart.draw_series(bars.map(bar)).map_err(drawing_error)?;
        }
        if points.len() <= MAX_MARKED {
            chart
                .draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))
                .map_err(drawing_error)?;
        }
    }
    Ok(())
}

/// The legend: a row of curve names, each after a sample of its line.
fn draw_legend<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    panels: &[Panel],
) -> Result<(), ReportError> {
    const LINE: i32 = 30;
    let font = (FONT, 15).into_font();
    let mut left = 84;
    let longest = panels.iter().max_by_key(|panel| panel.curves.len());
    for (i, curve) in longest.iter().flat_map(|panel| panel.curves.iter().enumerate()) {
        let (colour, dash) = style_of(i);
        // Three pieces: they touch for a solid line and have gaps for a dashed one.
        let piece = dash.map_or(LINE / 3, |dash| dash.min(7));
        for from in [0, LINE / 3, 2 * LINE / 3] {
            let ends = vec![(left + from, 14), (left + from + piece, 14)];
            area.draw(&PathElement::new(ends, colour.stroke_width(2))).map_err(drawing_error)?;
        }
        let style = TextStyle::from(font.clone()).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(curve.name.clone(), (left + LINE + 6, 13), style))
            .map_err(drawing_error)?;
        let width = font.box_size(&curve.name).map_or(60, |(width, _)| width as i32);
        left += LINE + width + 30;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)], y_scale: Scale) -> Chart {
        let curves = vec![
            Curve::new("first & last", points.iter().copied()),
            Curve::new("flat", [(0.0, 1.0), (9.0, 1.0)]),
        ];
        let panel = Panel { y: "loss".to_owned(), y_scale, y_range: None, curves };
        Chart {
            title: "A chart".to_owned(),
            x: "step".to_owned(),
            x_scale: Scale::Linear,
            panels: vec![panel],
        }
    }

    #[test]
    fn a_chart_shows_its_labels_and_curves() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            // Points that cannot be drawn are left out: NaN, and 0 on a logarithmic axis.
            let chart = chart(&[(0.0, 2.0), (3.0, f64::NAN), (6.0, 0.0), (9.0, 0.5)], scale);
            let svg = chart.to_svg().unwrap();
            for name in ["A chart", "first &amp; last", "flat", "loss", "step"] {
                assert!(svg.contains(name), "{name}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf"));
            let picture = picture(&chart).unwrap();
            let dark = picture.pixels.iter().filter(|value| **value < 64).count();
            assert!(dark > 1000, "{dark} dark values");
        }
    }

    /// A logarithmic x axis has a label at each point and equal distances for equal ratios.
    #[test]
    fn a_logarithmic_x_axis_is_labelled_at_the_points() {
        let curve = Curve::new("time", [(16.0, 1.0), (64.0, 4.0), (256.0, 9.0)]);
        let panel = Panel {
            y: "ms".to_owned(),
            y_scale: Scale::Linear,
            y_range: None,
            curves: vec![curve],
        };
        let chart = Chart {
            title: "Times".to_owned(),
            x: "size".to_owned(),
            x_scale: Scale::Logarithmic,
            panels: vec![panel],
        };
        let svg = chart.to_svg().unwrap();
        for label in ["16", "64", "256"] {
            assert!(svg.contains(&format!("\n{label}\n")), "{label}");
        }
        assert!(!svg.contains("\n128\n"));
        let centres = svg.split("<circle cx=\"").skip(1);
        let centres: Vec<f64> =
            centres.map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        let [a, b, c] = centres[..] else { panic!("three marks, not {centres:?}") };
        assert!((b - a - (c - b)).abs() <= 1.0, "{centres:?}");
    }

    /// A letter without a glyph would be drawn as nothing, so two such letters look the same.
    #[test]
    fn the_font_has_the_letters_of_european_names() {
        let drawn = |letter: &str| {
            let mut chart = chart(&[(0.0, 0.0), (1.0, 1.0)], Scale::Linear);
            letter.clone_into(&mut chart.title);
            picture(&chart).unwrap().pixels
        };
        let letters = ["", "é", "è", "ö", "ñ", "ł", "σ", "ε", "α", "·", "₀", "−"];
        for (i, a) in letters.iter().enumerate() {
            for b in &letters[..i] {
                assert!(drawn(a) != drawn(b), "`{a}` looks like `{b}`");
            }
        }
    }

    #[test]
    fn empty_charts_and_unknown_extensions_are_errors() {
        let empty = Chart { panels: Vec::new(), ..chart(&[], Scale::Linear) };
        assert!(empty.to_svg().is_err());
        let chart = chart(&[(1.0, 1.0)], Scale::Linear);
        assert!(matches!(chart.write(Path::new("chart.pdf")), Err(ReportError::Format(_))));
        assert!(chart.write(Path::new("no/such/folder/chart.png")).is_err());
        let folder = tempfile::tempdir().unwrap();
        for name in ["chart.PNG", "chart.svg"] {
            chart.write(&folder.path().join(name)).unwrap();
            assert!(folder.path().join(name).is_file());
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(ticks(0.15, 1.3), [0.2, 0.5, 1.0]);
        assert_eq!(ticks(2e-5, 2.0).len(), 5);
    }

    #[test]
    fn numbers_on_axes_are_short() {
        let numbers = [0.0, 0.5, -12.25, 0.1 + 0.2, 1234.4, 1e-4, 2e6];
        assert_eq!(numbers.map(short), ["0", "0.5", "-12.25", "0.3", "1234", "1e-4", "2e6"]);
    }
}
