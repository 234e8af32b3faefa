//! Measures the order of every deterministic sampler on an equation with a known solution, and
//! writes a table and a plot: `cargo run -p diffusion-sample --example orders [-- FILE.svg]`.

mod law;

use std::error::Error;

use law::{cases, slope};
use plotters::prelude::*;

const STEPS: [usize; 6] = [10, 20, 40, 80, 160, 320];

/// Also distinct in grey: dark to light, each with its own marker.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 0, 0),
    RGBColor(0, 70, 160),
    RGBColor(200, 60, 0),
    RGBColor(120, 120, 120),
    RGBColor(60, 160, 60),
];

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "orders.svg".to_owned());
    println!("{:24} {:>6} {:>9}   error with {STEPS:?} steps", "sampler", "theory", "measured");
    let measured: Vec<_> =
        cases().iter().map(|case| (case.name, case.theory, case.errors(&STEPS))).collect();
    for (name, theory, errors) in &measured {
        let errors_text: Vec<String> = errors.iter().map(|error| format!("{error:.1e}")).collect();
        // A range in which neither a small number of steps nor rounding distorts the slope.
        let order = slope(&STEPS[2..5], &errors[2..5]);
        println!("{name:24} {theory:>6} {order:>9.2}   {}", errors_text.join(" "));
    }
    plot(&path, &measured)?;
    println!("{path}");
    Ok(())
}

fn plot(path: &str, measured: &[(&str, f64, Vec<f64>)]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(path, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let steps = (STEPS[0] as f64..STEPS[STEPS.len() - 1] as f64 * 9.0).log_scale();
    let mut chart = ChartBuilder::on(&area)
        .caption("Error of deterministic samplers on Gaussian data", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(steps, (3e-8..1.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("steps")
        .y_desc("distance from the exact solution")
        .y_label_formatter(&|y| format!("{y:.0e}"))
        .label_style(("sans-serif", 14))
        .light_line_style(WHITE)
        .draw()?;
    for (i, (name, theory, errors)) in measured.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points: Vec<(f64, f64)> =
            STEPS.iter().map(|&n| n as f64).zip(errors.iter().copied()).collect();
        let style = colour.stroke_width(1 + (i / COLOURS.len()) as u32);
        chart.draw_series(LineSeries::new(points.clone(), style))?;
        let mark = move |point| -> DynElement<'static, SVGBackend<'_>, (f64, f64)> {
            match i / COLOURS.len() {
                0 => Circle::new(point, 4, colour.filled()).into_dyn(),
                1 => TriangleMarker::new(point, 6, colour.filled()).into_dyn(),
                _ => Cross::new(point, 5, colour).into_dyn(),
            }
        };
        chart
            .draw_series(points.into_iter().map(mark))?
            .label(format!("{name}: order {theory}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.4))
        .label_font(("sans-serif", 13))
        .draw()?;
    area.present()?;
    Ok(())
}
