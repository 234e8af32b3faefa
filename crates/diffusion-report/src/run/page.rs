//! The HTML of `index.html`.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diffusion_files::read_file;
use diffusion_train::{Checkpoint, StepMetrics};

use super::{RunPage, last_evaluation, spread};
use crate::{Chart, ReportError};

/// The largest number of sample grids on the page.
const MAX_GRIDS: usize = 9;

const STYLE: &str = "body{font:16px/1.5 sans-serif;margin:2em auto;max-width:62em;padding:0 1em;color:#222;background:#fff}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}\
table{border-collapse:collapse}td{padding:.15em 1.2em .15em 0;vertical-align:top}\
pre{background:#f4f4f4;padding:.8em;overflow:auto}\
figure{display:inline-block;margin:0 1em 1em 0}figcaption{font-size:.85em}img,svg{max-width:100%;height:auto}\
.grid img{width:17em;image-rendering:pixelated}";

/// The page as HTML, with all pictures embedded.
pub(super) fn html(
    page: &RunPage<'_>,
    metrics: &[StepMetrics],
    losses: Option<&Chart>,
    quality: Option<&Chart>,
) -> Result<String, ReportError> {
    let folder = page.run.path();
    let name = folder.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy());
    let name = escaped(&name);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n<h1>{name}</h1>\n"
    );
    html.push_str("<table>\n");
    for (label, value) in summary(metrics) {
        write_row(&mut html, label, &value);
    }
    if let Ok(state) =
        page.run.layout().latest_checkpoint().and_then(|path| Checkpoint::read_state(&path))
    {
        let per_step = state.elapsed_seconds / state.step.max(1) as f64;
        let time = format!(
            "{:.1} min at step {}, {per_step:.3} s per step",
            state.elapsed_seconds / 60.0,
            state.step
        );
        write_row(&mut html, "training time", &time);
    }
    for note in &page.notes {
        write_row(&mut html, "", note);
    }
    html.push_str("</table>\n");
    if !page.commands.is_empty() {
        let commands: Vec<String> = page.commands.iter().map(|command| escaped(command)).collect();
        push(
            &mut html,
            format_args!("<h2>Next commands</h2>\n<pre>{}</pre>\n", commands.join("\n")),
        );
    }
    if let Some(chart) = losses {
        push(&mut html, format_args!("<h2>Loss</h2>\n{}\n", chart.to_svg()?));
    }
    if let Some(chart) = quality {
        push(&mut html, format_args!("<h2>Sample quality</h2>\n{}\n", chart.to_svg()?));
        if let Some(last) = last_evaluation(metrics) {
            html.push_str("<table>\n");
            write_row(&mut html, "step", &last.step.to_string());
            if let Some(judge) = &last.judge {
                write_row(&mut html, "computed with", judge);
            }
            for (name, value) in &last.samples {
                let label = match name.as_str() {
                    "sure" => "classified confidently".to_owned(),
                    "as_asked" => "class accuracy".to_owned(),
                    name => name.replace('_', " "),
                };
                write_row(&mut html, &label, &format!("{}", (value * 1e4).round() / 1e4));
            }
            html.push_str("</table>\n");
        }
    }
    let grids = page.run.grids()?;
    if !grids.is_empty() {
        html.push_str(
            "<h2>Samples</h2>\n\
             <p>Sampled from the same noise at each step, with the EMA weights.</p>\n\
             <div class=\"grid\">\n",
        );
        let animation = page.run.layout().animation();
        if animation.is_file() {
            figure(&mut html, "all steps", "gif", &animation)?;
        }
        for (step, path) in spread(&grids, MAX_GRIDS) {
            figure(&mut html, &format!("step {step}"), "png", path)?;
        }
        html.push_str("</div>\n");
    }
    let config = page.run.config_text()?;
    push(
        &mut html,
        format_args!("<h2>Configuration</h2>\n<pre>{}</pre>\n</body></html>\n", escaped(&config)),
    );
    Ok(html)
}

/// The metrics in a few lines: label and text.
fn summary(metrics: &[StepMetrics]) -> Vec<(&'static str, String)> {
    let Some(last) = metrics.last() else { return vec![("steps", "none yet".to_owned())] };
    let tail = &metrics[metrics.len() - (metrics.len() / 20).clamp(1, 100).min(metrics.len())..];
    let mean = |of: fn(&StepMetrics) -> f64| tail.iter().map(of).sum::<f64>() / tail.len() as f64;
    let mut rates: Vec<f64> =
        metrics.iter().map(|m| m.images_per_second).filter(|rate| *rate > 0.0).collect();
    rates.sort_by(f64::total_cmp);
    let mut lines = vec![
        ("steps", format!("{} ({} passes over the data)", last.step, last.epoch)),
        ("loss", format!("{:.4} (mean of the last {} steps)", mean(|m| m.loss), tail.len())),
        ("learning rate", format!("{:.2e}", last.lr)),
        ("gradient norm", format!("{:.3}", mean(|m| m.grad_norm))),
    ];
    if let Some(loss) = metrics.iter().rev().find_map(|m| m.validation_loss) {
        lines.push(("validation loss", format!("{loss:.4}")));
    }
    let copies = |m: &StepMetrics| m.samples.get("copies").copied();
    if let Some(share) = metrics.iter().rev().find_map(copies) {
        let first = metrics.iter().find(|m| m.shows_copies());
        let from =
            first.map_or_else(String::new, |m| format!("; copying begins at step {}", m.step));
        let text = format!("{:.1} % of the samples{from}", share * 100.0);
        lines.push(("copies of training pictures", text));
    }
    let evaluated =
        |m: &StepMetrics| Some((*m.samples.get("frechet_distance")?, *m.samples.get("count")?));
    if let Some((distance, count)) = metrics.iter().rev().find_map(evaluated) {
        lines.push(("Fréchet distance of samples", format!("{distance:.3} ({count} images)")));
    }
    if let Some(rate) = rates.get(rates.len() / 2) {
        lines.push(("speed", format!("{rate:.0} images per second (median)")));
    }
    lines
}

fn push(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = html.write_fmt(text);
}

fn write_row(html: &mut String, label: &str, value: &str) {
    push(html, format_args!("<tr><td>{}</td><td>{}</td></tr>\n", escaped(label), escaped(value)));
}

fn figure(html: &mut String, caption: &str, kind: &str, path: &Path) -> Result<(), ReportError> {
    let bytes = read_file(path)?;
    let data = STANDARD.encode(bytes);
    push(
        html,
        format_args!(
            "<figure><img alt=\"{caption}\" src=\"data:image/{kind};base64,{data}\"><figcaption>{caption}</figcaption></figure>\n"
        ),
    );
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn markup_in_names_and_configurations_is_escaped() {
        assert_eq!(escaped("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
